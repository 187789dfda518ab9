"""Cutting clips and pictures to pieces: rates, sizes, durations."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from vidjax.data.buckets import Bucket
from vidjax.data.clips import cut_file, picture_buckets
from vidjax.errors import MediaError
from vidjax.video import Video

SHORT, LONG = Bucket(5, 16, 16), Bucket(9, 16, 16)
STEP = 6


def counting(num_frames: int, height: int = 16, width: int = 16) -> np.ndarray:
    """Frame i is grey, of brightness STEP i."""
    grey = (STEP * np.arange(num_frames)).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (num_frames, height, width, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of `counting` these are."""
    return np.round(frames.astype(float).mean(axis=(1, 2, 3)) / STEP).astype(int).tolist()


def cut(path, *buckets, fps=8, max_pieces=None, rng=None):
    return list(cut_file(path, buckets, fps, max_pieces, rng))


def test_cut_longest_first(tmp_path):
    """Frames that are in no piece are lost, frames in two are learnt twice as often."""
    Video(counting(25), 8).save(tmp_path / "a.mp4")
    pieces = cut(tmp_path / "a.mp4", SHORT, LONG)
    assert [p.bucket for p in pieces] == [LONG, LONG, SHORT]
    assert [p.start for p in pieces] == [0.0, 9 / 8, 18 / 8]
    assert [n for p in pieces for n in numbers(p.frames)] == list(range(23))
    [only] = cut(tmp_path / "a.mp4", SHORT, LONG, max_pieces=1)
    assert numbers(only.frames) == list(range(9))
    assert [p.bucket for p in cut(tmp_path / "a.mp4", SHORT, LONG, max_pieces=2)] == [LONG, LONG]


def test_longest_duration_that_is_filled(tmp_path):
    """A clip a frame shorter than a bucket must not be made up, nor be left out where a shorter one is."""
    Video(counting(8), 8).save(tmp_path / "a.mp4")
    assert [p.bucket for p in cut(tmp_path / "a.mp4", LONG, SHORT)] == [SHORT]
    with pytest.raises(MediaError, match="8 frames at 8 fps, fewer than the 9"):
        cut(tmp_path / "a.mp4", LONG)
    with pytest.raises(MediaError, match="no bucket has more than one frame"):
        cut(tmp_path / "a.mp4", Bucket(1, 16, 16))


@pytest.mark.parametrize(
    ("rate", "num_frames", "fps", "expected"),
    [
        (24, 27, 8, [0, 3, 6, 9, 12, 15, 18, 21, 24]),
        (8, 9, 8, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (4, 5, 8, [0, 0, 1, 1, 2, 2, 3, 3, 4]),
        (25, 29, 8, [0, 3, 7, 10, 13, 16, 19, 22, 25]),
        (24000 / 1001, 18, 12, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])  # whose times are whole milliseconds
def test_resampled_by_time(tmp_path, rate, num_frames, fps, expected, suffix):
    """Motion would be learnt too fast or too slow, or stutter where a frame is doubled."""
    Video(counting(num_frames), rate).save(tmp_path / "a.mp4")
    if suffix != "mp4":
        _ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / f"a.{suffix}")
    [piece] = cut(tmp_path / f"a.{suffix}", LONG, fps=fps)
    assert numbers(piece.frames) == expected


def test_uneven_times(tmp_path):
    """Telephones record them: frame k must be what is to be seen at k / fps, not the k-th that was stored."""
    Video(counting(14), 16).save(tmp_path / "even.mp4")
    # The second half plays at half the speed.
    _ffmpeg(
        "-i", tmp_path / "even.mp4", "-vf", r"setpts='(N+max(0\,N-6))/16/TB'", "-fps_mode", "vfr", tmp_path / "a.mp4"
    )
    [piece] = cut(tmp_path / "a.mp4", LONG)
    assert numbers(piece.frames) == [0, 2, 4, 6, 7, 8, 9, 10, 11]


def test_scaled_and_cropped_around_the_centre(tmp_path):
    """A stretched clip teaches wrong shapes."""
    frames = np.zeros((5, 32, 96, 3), np.uint8)
    frames[:, :, 32:64] = (200, 40, 40)
    Video(frames, 8).save(tmp_path / "a.mp4")
    [piece] = cut(tmp_path / "a.mp4", SHORT)
    assert piece.frames.shape == (5, 16, 16, 3)
    assert np.abs(piece.frames[:, :, 2:-2].astype(int) - (200, 40, 40)).max() < 25


def test_wide_pixels_are_made_square(tmp_path):
    """A film of 720 x 576 that is shown at 16:9 would be learnt squeezed."""
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    frames[:, :, 8:24] = 255
    Video(frames, 8).save(tmp_path / "square.mp4")
    _ffmpeg("-i", tmp_path / "square.mp4", "-vf", "setsar=2", tmp_path / "a.mp4")
    wide = Bucket(5, 16, 32)
    [piece] = cut(tmp_path / "a.mp4", SHORT, wide)
    assert piece.bucket == wide
    np.testing.assert_allclose(piece.frames[:, :, 10:22].mean(), 255, atol=8)
    np.testing.assert_allclose(piece.frames[:, :, :6].mean(), 0, atol=8)


def test_random_crops_are_decided_by_the_generator(tmp_path):
    """The dataset would be another at each making."""
    frames = np.zeros((10, 16, 64, 3), np.uint8)
    frames[...] = (4 * np.arange(64))[:, None]
    Video(frames, 8).save(tmp_path / "a.mp4")
    places = [
        [float(p.frames.mean()) for p in cut(tmp_path / "a.mp4", SHORT, rng=np.random.default_rng(seed))]
        for seed in (0, 0, 1)
    ]
    assert places[0] == places[1]
    assert places[0] != places[2]
    assert abs(places[0][0] - places[0][1]) > 4, "pieces of one clip are cropped apart"


def test_a_smaller_size_for_a_longer_duration(tmp_path):
    """Where durations have sizes of their own, a clip is read once and must fit both."""
    Video(counting(14, 32, 32), 8).save(tmp_path / "a.mp4")
    large = Bucket(5, 32, 32)
    long, short = cut(tmp_path / "a.mp4", LONG, large)
    assert (long.bucket, short.bucket) == (LONG, large)
    assert (long.frames.shape, short.frames.shape) == (LONG.shape, large.shape)
    assert numbers(long.frames) + numbers(short.frames) == list(range(14))


def test_pictures_are_clips_of_one_frame(tmp_path):
    """Pictures in a clip's bucket would be stills that never move."""
    Image.new("RGB", (48, 32), (10, 200, 30)).save(tmp_path / "a.png")
    [piece] = cut(tmp_path / "a.png", SHORT, LONG)
    assert piece.bucket == Bucket(1, 16, 16)
    np.testing.assert_array_equal(piece.frames, np.broadcast_to((10, 200, 30), (1, 16, 16, 3)))
    [piece] = cut(tmp_path / "a.png", SHORT, Bucket(1, 32, 48))
    assert piece.bucket == Bucket(1, 32, 48)
    assert picture_buckets([SHORT, LONG, Bucket(9, 16, 32)]) == (Bucket(1, 16, 16), Bucket(1, 16, 32))


def test_what_cannot_be_read(tmp_path):
    """One bad file of a hundred thousand must be named, not end the making or hang it."""
    Video(counting(20), 8).save(tmp_path / "a.mp4")
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\na.mp4\n")
    (tmp_path / "list.avi").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "notes.doc").write_text("notes")
    said = {
        "cut.mp4": "cut short",
        "empty.mp4": "empty",
        "list.mp4": "not a clip",
        "list.avi": "not a clip",
        "text.png": "not a picture",
        "notes.doc": "ends in neither",
        "none.mp4": "no file",
    }
    for name, reason in said.items():
        with pytest.raises(MediaError, match=reason):
            cut(tmp_path / name, SHORT)


def _ffmpeg(*arguments) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)
