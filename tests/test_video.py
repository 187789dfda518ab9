"""Frames in and out: what is written is read back exactly, what cannot be read is refused in one line."""

import base64
import errno
import os
import re
import socket
import subprocess
import sys
import tempfile
import tracemalloc

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vidjax import video as video_module
from vidjax.errors import MediaError
from vidjax.image import read_image
from vidjax.video import (
    Video,
    check_writable,
    from_uint8,
    iter_frames,
    open_writer,
    read_video,
    to_uint8,
    video_size,
)

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 120, 40]], np.uint8)


def clip(num_frames=6, height=32, width=48, fps=16) -> Video:
    """Frames of one colour each, so that order, number and colour can be told after lossy coding."""
    colours = COLOURS[np.arange(num_frames) % len(COLOURS)]
    return Video(np.broadcast_to(colours[:, None, None], (num_frames, height, width, 3)), fps)


def ffmpeg(*args) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True).stderr


# The clip itself


def test_video_describes_itself():
    """Wrong length or rate here would be printed by the command line and shown in notebooks."""
    video = clip(num_frames=8, fps=16)
    assert (video.num_frames, video.duration, video.fps) == (8, 0.5, 16.0)
    assert repr(video) == "Video(8 frames of 32x48, 16 fps, 0.50 s)"


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_video_needs_a_rate(fps, refused):
    """A clip without a positive rate would divide by zero, or fail inside ffmpeg, long after it was made."""
    refused("fps", Video, clip().frames, fps)


def test_video_needs_frames(refused):
    """No frames would become an unreadable file; floats would be written as noise."""
    refused("at least one frame", Video, clip().frames[:0], 16.0)
    with pytest.raises((MediaError, TypeError)):  # TypeError where annotations are checked
        Video(clip().frames.astype(np.float32), 16.0)


def test_video_shows_itself_in_a_notebook():
    """Otherwise the cell shows a broken player: the tag must loop and hold a whole mp4."""
    html = clip()._repr_html_()
    assert re.match(r"<video [^>]*\bloop\b[^>]*></video>$", html)
    assert b"ftyp" in base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])[:16]


# mp4


@pytest.mark.parametrize(("num_frames", "fps"), [(1, 16), (6, 24000 / 1001), (37, 23.976), (49, 30)])
def test_mp4_keeps_frames_and_rate(tmp_path, num_frames, fps):
    """A lost last frame, a repeated one or a rounded rate would put the clip out of step."""
    video = clip(num_frames, fps=fps)
    back = read_video(video.save(tmp_path / "a.mp4"))
    assert back.num_frames == num_frames
    assert back.fps == pytest.approx(fps, rel=1e-9)


def test_mp4_keeps_colours_and_order(tmp_path):
    """A missing colour matrix or tag shifts every colour: red comes back as orange."""
    video = clip()
    back = read_video(video.save(tmp_path / "a.mp4"))
    assert np.abs(back.frames.astype(int) - video.frames).max() <= 3


def test_mp4_plays_everywhere(tmp_path):
    """Browsers need H.264 in yuv420p, and the index in front of the data to start before all is loaded."""
    path = clip().save(tmp_path / "a.mp4")
    assert re.search(r"Video: h264.*yuv420p\(tv, bt709", ffmpeg("-i", path))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 47), (1, 1)])
def test_mp4_of_odd_size_grows_by_one(tmp_path, height, width):
    """H.264 in yuv420p refuses odd sizes; a black or shifted border would show."""
    video = clip(height=height, width=width)
    back = read_video(video.save(tmp_path / "a.mp4"))
    assert back.frames.shape[1:3] == (height + height % 2, width + width % 2)
    assert np.abs(back.frames.astype(int) - video.frames[:, :1, :1]).max() <= 3


def test_writer_takes_chunks(tmp_path):
    """Frames of a stream must come out one after another whatever the chunks were."""
    frames = clip(11).frames
    with open_writer(tmp_path / "a.mp4", 16, 32, 48) as writer:
        for start, stop in [(0, 1), (1, 6), (6, 11)]:
            writer.write(frames[start:stop])
    assert writer.num_frames == 11
    assert np.abs(read_video(tmp_path / "a.mp4").frames.astype(int) - frames).max() <= 3


def test_writer_never_holds_the_clip(tmp_path):
    """A minute of video must cost the memory of a frame: here 30 MB pass through."""
    frames = np.broadcast_to(np.uint8(90), (200, 225, 225, 3))
    with open_writer(tmp_path / "a.mp4", 16, 225, 225) as writer:
        tracemalloc.start()
        try:
            writer.write(frames)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 10 * frames[0].size


@pytest.mark.parametrize("error", [RuntimeError, BrokenPipeError, KeyboardInterrupt])
def test_writer_leaves_nothing_after_an_exception(tmp_path, error):
    """A half-written clip under the final name would be taken for a whole one."""

    def interrupted():
        with open_writer(tmp_path / "a.mp4", 16, 32, 48) as writer:
            writer.write(clip().frames)
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_writer_refuses_what_does_not_fit(tmp_path, refused):
    """Frames of another size would shear the picture; an empty clip cannot be played."""

    def write(frames):
        with open_writer(tmp_path / "a.mp4", 16, 32, 48) as writer:
            if len(frames):
                writer.write(frames)

    refused("do not fit", write, clip(height=48, width=32).frames)
    refused("no frames", write, [])
    with pytest.raises(MediaError, match=r"\.mp4 only"), open_writer(tmp_path / "a.gif", 16, 32, 48):
        pass
    assert os.listdir(tmp_path) == []


def test_writer_reports_a_failing_encoder(tmp_path, monkeypatch, refused):
    """A full disk shows as a broken pipe; the user must be told the reason, and the old file must survive."""
    (tmp_path / "a.mp4").write_bytes(b"old")
    encoder = tmp_path / "ffmpeg"
    encoder.write_text("#!/bin/sh\necho '[mp4 @ 0x1] No space left on device' >&2\nexit 1\n")
    encoder.chmod(0o755)
    monkeypatch.setattr(video_module, "_ffmpeg", lambda: str(encoder))
    refused("No space left on device", clip(60, 128, 128).save, tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "ffmpeg"]


# gif and png


def test_gif_loops_with_one_palette_and_keeps_time(tmp_path):
    """A palette per frame flickers; rounding 1/16 s to 6 hundredths every time plays 4 % too fast."""
    video = clip(16, fps=16)
    path = video.save(tmp_path / "a.gif")
    with Image.open(path) as image:
        assert (image.n_frames, image.info["loop"]) == (16, 0)
        delays, colours = [], []
        for index in range(image.n_frames):
            image.seek(index)
            delays.append(image.info["duration"])
            colours.append(np.asarray(image.convert("RGB"))[0, 0])
    assert sum(delays) == 1000
    assert np.abs(np.array(colours).astype(int) - video.frames[:, 0, 0]).max() <= 3
    # An image descriptor's last byte has its top bit set where a palette of its own follows.
    descriptors = re.findall(rb"\x21\xf9\x04.{4}\x00\x2c.{8}(.)", path.read_bytes(), re.DOTALL)
    assert len(descriptors) == 16
    assert not any(byte[0] & 0x80 for byte in descriptors)


@pytest.mark.parametrize(("num_frames", "shape"), [(1, (1, 1)), (6, (2, 3)), (81, (4, 4))])
def test_png_is_a_contact_sheet(tmp_path, num_frames, shape):
    """The sheet reads left to right, first frame first and last frame last, and stays a size one can open."""
    video = clip(num_frames)
    sheet = read_image(video.save(tmp_path / "a.png"))
    rows, columns = shape
    assert sheet.shape == (32 * rows, 48 * columns, 3)
    cells = sheet.reshape(rows, 32, columns, 48, 3).swapaxes(1, 2).reshape(-1, 32, 48, 3)
    np.testing.assert_array_equal(cells[0], video.frames[0])
    np.testing.assert_array_equal(cells[min(num_frames, 16) - 1], video.frames[-1])


def test_png_pattern_is_a_sequence(tmp_path):
    """Editors import numbered pictures: every frame, unchanged, under its number; another % stays."""
    video = clip(11)
    video.save(tmp_path / "50%_%03d.png")
    assert sorted(os.listdir(tmp_path)) == [f"50%_{index:03d}.png" for index in range(11)]
    np.testing.assert_array_equal(read_image(tmp_path / "50%_007.png"), video.frames[7])


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a_%d.png"])
def test_failed_save_leaves_nothing(tmp_path, monkeypatch, name, refused):
    """A full disk in the middle of writing must not leave a broken picture or a temporary file."""

    def save(self, path, **kwargs):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    refused("No space left", clip().save, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_check_writable_finds_faults_early(tmp_path, refused):
    """Each of these would otherwise be found after minutes of sampling."""
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("")
    refused(r"\.mp4, \.gif, \.png", check_writable, tmp_path / "a.webm")
    refused(r"\.mp4, \.gif, \.png", clip().save, tmp_path / "a")
    refused(f"nearest that exists is {str(tmp_path)!r}", check_writable, tmp_path / "no" / "such" / "a.mp4")
    refused("is not a folder", check_writable, tmp_path / "file" / "a.mp4")
    refused("is a folder", check_writable, tmp_path / "folder.mp4")
    refused("cannot be written", check_writable, tmp_path / f"{'a' * 300}.mp4")
    refused("cannot be written", check_writable, "a\0b.mp4")
    assert check_writable(str(tmp_path / "A.MP4")) == tmp_path / "A.MP4"


def test_check_writable_asks_for_permission(tmp_path, monkeypatch, refused, unchecked):
    """A read-only folder must be named before the clip is made. (Patched: a superuser may write anywhere.)"""

    def read_only(dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    refused(r"may not be written to \(Permission denied\)", check_writable, tmp_path / "a.mp4")
    refused("5 is no path", check_writable, 5)


# Reading clips


@pytest.fixture(scope="module")
def detailed(tmp_path_factory):
    """Twelve frames of a test pattern, in every container that is read."""
    folder = tmp_path_factory.mktemp("clips")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=64x48:r=25",
        "-frames:v",
        12,
        "-movflags",
        "+faststart",
        folder / "a.mp4",
    )
    ffmpeg("-i", folder / "a.mp4", "-c", "copy", folder / "a.mkv")
    ffmpeg("-i", folder / "a.mp4", "-c:v", "mjpeg", folder / "a.avi")
    ffmpeg("-i", folder / "a.mp4", folder / "a.gif")
    return folder


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "gif"])
def test_read_video_whole_or_in_part(detailed, suffix):
    """Every container gives all frames at its rate, or just the first ones, the same and writable."""
    whole, part = read_video(detailed / f"a.{suffix}"), read_video(detailed / f"a.{suffix}", max_frames=5)
    assert (whole.frames.shape, whole.fps) == ((12, 48, 64, 3), 25.0)
    np.testing.assert_array_equal(part.frames, whole.frames[:5])
    part.frames[:] = 0


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "gif"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_read_video_refuses_a_truncated_clip(detailed, tmp_path, suffix, part, refused):
    """ffmpeg exits with 0 on most broken downloads: training would go on with part of a clip."""
    data = (detailed / f"a.{suffix}").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(part * len(data))])
    refused("cut short", read_video, tmp_path / "cut")


def test_read_video_averages_an_uneven_rate(tmp_path):
    """Phones and screen recorders store uneven times; the nominal rate would change the speed."""
    pattern = "setpts='if(lt(N,10),N,10+(N-10)*3)/30/TB'"
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=30", "-vf", pattern, "-fps_mode", "vfr"]
    ffmpeg(*source, "-frames:v", 40, tmp_path / "a.mp4")
    video = read_video(tmp_path / "a.mp4")
    assert video.num_frames == 40
    assert video.duration == pytest.approx((10 + 30 * 3) / 30, rel=0.1)


def test_read_video_refuses_what_is_no_clip(detailed, tmp_path, monkeypatch, refused):
    """Each fault has its own line, so that the user knows what to mend."""
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("<html><body>404 not found</body></html>")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.1", tmp_path / "sound.mp4")
    refused("no file", read_video, tmp_path / "none.mp4")
    refused("no file", read_video, "https://example.com/a.mp4")
    refused("folder", read_video, tmp_path)
    refused("empty", read_video, tmp_path / "empty.mp4")
    refused("not a clip", read_video, tmp_path / "text.mp4")
    refused("no video", read_video, tmp_path / "sound.mp4")
    refused("max_frames", read_video, detailed / "a.mp4", max_frames=0)
    monkeypatch.setattr(video_module, "MAX_CLIP_BYTES", 64 * 48 * 3 * 4)
    refused("set max_frames", read_video, detailed / "a.mp4")
    monkeypatch.setattr(video_module, "MAX_PIXELS", 1000)
    refused("megapixels", read_video, detailed / "a.mp4")


def test_iter_frames_scales_and_ends_early(detailed):
    """A training set is made of these: other frames or sizes than `read_video`'s, or a decoder that goes on forever."""
    whole = read_video(detailed / "a.mp4")
    frames = np.stack(list(iter_frames(detailed / "a.mp4", whole.fps, 48, 64)))
    assert frames.shape == whole.frames.shape
    assert np.abs(frames.astype(int) - whole.frames).mean() < 2
    assert video_size(detailed / "a.mp4") == (48, 64)
    small = iter_frames(detailed / "a.mp4", whole.fps, 12, 20)
    assert next(small).shape == (12, 20, 3)
    small.close()


def test_iter_frames_refuses_as_read_video_does(detailed, tmp_path, refused):
    """The guards of one reader must not be missing in the other."""
    data = (detailed / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{detailed / 'a.mp4'}\n")
    (tmp_path / "empty.mp4").touch()
    faults = {"cut": "cut short", "list": "not a clip", "empty": "empty", "none": "no file"}
    for name, said in faults.items():
        refused(said, lambda name=name: list(iter_frames(tmp_path / f"{name}.mp4", 8, 16, 16)))
    refused("fps", lambda: list(iter_frames(detailed / "a.mp4", 0, 16, 16)))
    refused("not a clip", video_size, tmp_path / "list.mp4")


def test_read_video_follows_no_playlist(detailed, tmp_path, refused):
    """A playlist under a video's name could read private files into a clip, or call a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        for entry in (url, str(detailed / "a.mp4")):
            playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{entry}\n#EXT-X-ENDLIST\n"
            concat = f"ffconcat version 1.0\nfile '{entry}'\n"
            for text in (playlist, concat, "\0\0\0\x10ftypisom\n" + playlist):
                (tmp_path / "a.mp4").write_text(text)
                refused("not a clip|cannot be decoded", read_video, tmp_path / "a.mp4")
        with pytest.raises(TimeoutError):
            server.accept()


# On the device


def test_pixels_survive_the_device():
    """All 256 values come back exactly, values outside are clipped, and bfloat16 does not round twice."""
    values = jnp.arange(256, dtype=jnp.uint8)
    assert from_uint8(values).dtype == jnp.float32
    np.testing.assert_array_equal(jax.jit(lambda x: to_uint8(from_uint8(x)))(values), values)
    np.testing.assert_allclose(from_uint8(values)[jnp.array([0, 255])], [-1, 1])
    np.testing.assert_array_equal(to_uint8(jnp.array([-9.0, -1.0, 0.004, 1.0, 9.0])), [0, 0, 128, 255, 255])
    assert to_uint8(jnp.array([0.5], jnp.bfloat16)) == 191


def test_import_is_light():
    """`import vidjax` pays for whatever this module imports, and mediapy may be missing altogether."""
    heavy = {"jax", "PIL", "imageio_ffmpeg", "mediapy"}
    code = f"import sys, vidjax.video; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path_environment())
    assert result.returncode == 0, result.stderr


def path_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
