"""Frames in and out: a clip in memory, mp4, gif and png on disk, uint8 and [-1, 1] on the device."""

import base64
import math
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, UInt8

from vidjax.checks import try_folder
from vidjax.errors import MediaError
from vidjax.image import MAX_PIXELS, check_readable

SUFFIXES = (".mp4", ".gif", ".png")
MAX_CLIP_BYTES = 2**33
SHEET_FRAMES = 16


@dataclass(frozen=True, eq=False, repr=False)
class Video:
    """A clip: frames uint8 [F, H, W, 3] and how many of them are shown per second."""

    frames: UInt8[np.ndarray, "F H W 3"]
    fps: float | int

    def __post_init__(self):
        _check_frames(self.frames)
        object.__setattr__(self, "fps", _check_fps(self.fps))

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.fps

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the clip to `path`, replacing what is there only once all is written; returns the path.

        .mp4: H.264, every frame (see `open_writer`). .gif: looping, one palette for all frames; delays are
        whole hundredths of a second whose errors do not add up, at least two: more than 50 fps play slower.
        .png: a contact sheet of up to 16 evenly spaced frames; with %d or %04d in the name a file per frame.
        """
        path = check_writable(path)
        try:
            if path.suffix.lower() == ".mp4":
                with open_writer(path, self.fps, *self.frames.shape[1:3]) as writer:
                    writer.write(self.frames)
            elif path.suffix.lower() == ".gif":
                _save_gif(self, path)
            elif _NUMBER.search(path.name):
                _save_sequence(self, path)
            else:
                _save_sheet(self, path)
        except OSError as error:
            raise MediaError(f"{str(path)!r} could not be written: {error.strerror or error}.") from error
        return path

    def __repr__(self) -> str:
        F, H, W, _ = self.frames.shape
        return f"Video({F} frames of {H}x{W}, {self.fps:.6g} fps, {self.duration:.2f} s)"

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            data = base64.b64encode(self.save(Path(folder) / "clip.mp4").read_bytes()).decode()
        width = self.frames.shape[2] * max(1, 256 // self.frames.shape[2])  # a tiny clip is shown enlarged
        return (
            f'<video width="{width}" style="max-width: 100%" controls autoplay loop muted playsinline '
            f'src="data:video/mp4;base64,{data}"></video>'
        )


def check_writable(path: str | os.PathLike) -> Path:
    """Returns `path` as a Path if a clip can be written there; raises MediaError if not.

    Call it before anything expensive: it looks at the suffix, the folder and what is already at `path`.
    """
    if not isinstance(path, str | os.PathLike):
        raise MediaError(f"{path!r:.80} is no path; give the name of a file, as in 'clip.mp4'.")
    path = Path(path)
    folder, name = path.parent, repr(str(path))
    if path.suffix.lower() not in SUFFIXES:
        raise MediaError(f"{name} does not end in one of {', '.join(SUFFIXES)}, so its format is not known.")
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long a name, a NUL in it, a folder that may not be entered
        raise MediaError(f"{name} cannot be written: {getattr(error, 'strerror', None) or error}.") from None
    if not folder.is_dir():
        nearest = next(parent for parent in folder.absolute().parents if parent.is_dir())
        fault = "is not a folder" if folder.exists() else "does not exist"
        raise MediaError(f"{name}: its folder {fault}; the nearest that exists is {str(nearest)!r}.")
    if path.is_dir():
        raise MediaError(f"{name} is a folder; give the name of a file.")
    try:
        try_folder(folder)
    except OSError as error:
        raise MediaError(f"{name}: the folder {str(folder)!r} may not be written to ({error.strerror}).") from None
    return path


class _EncoderStopped(Exception):  # noqa: N818
    """ffmpeg closed its input early; its log says why."""


class VideoWriter:
    """Takes frames one chunk after another; made by `open_writer`. `num_frames` counts what was written."""

    def __init__(self, pipe: IO[bytes], height: int, width: int):
        self._pipe, self._size = pipe, (height, width)
        self.num_frames = 0

    def write(self, frames: UInt8[np.ndarray, "n H W 3"]) -> None:
        """Appends uint8 frames [n, H, W, 3] of the size that the writer was opened with."""
        _check_frames(frames)
        H, W = self._size
        if frames.shape[1:3] != (H, W):
            raise MediaError(f"Frames of {frames.shape[1]}x{frames.shape[2]} do not fit a clip of {H}x{W}.")
        for frame in frames:
            even = np.pad(frame, ((0, H % 2), (0, W % 2), (0, 0)), mode="edge")
            rest = memoryview(np.ascontiguousarray(even)).cast("B")
            try:
                while rest:
                    rest = rest[self._pipe.write(rest) :]
            except BrokenPipeError as error:
                raise _EncoderStopped from error
            self.num_frames += 1


@contextmanager
def open_writer(path: str | os.PathLike, fps: float | int, height: int, width: int) -> Iterator[VideoWriter]:
    """Opens an mp4 (H.264, yuv420p, BT.709, index in front) for writing, a frame in memory at a time.

    yuv420p has even sizes only: an odd height or width grows by one, its last row or column repeated.
    The file appears under its name when the context ends well; after an exception inside, nothing is left.
    """
    path = check_writable(path)
    if path.suffix.lower() != ".mp4":
        raise MediaError(f"{str(path)!r}: frames can be streamed to .mp4 only.")
    if height < 1 or width < 1:
        raise MediaError(f"A clip cannot be {height}x{width}: both must be at least 1.")
    rate = Fraction(_check_fps(fps)).limit_denominator(1001)
    size = f"{width + width % 2}x{height + height % 2}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-framerate", str(rate), "-i", "pipe:0"]
    colour = ["-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_inp"]
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    codec = ["-c:v", "libx264", "-preset", "medium", "-crf", "18", "-pix_fmt", "yuv420p"]

    with _replacing(path) as temporary, tempfile.TemporaryFile() as log:
        target = ["-movflags", "+faststart", "-f", "mp4", f"file:{temporary}"]
        command = [_ffmpeg(), "-hide_banner", "-v", "error", *source, *colour, *tags, *codec, *target]
        # Unbuffered, so that closing the pipe has nothing left to write and cannot fail.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, bufsize=0) as process:
            writer, stopped = VideoWriter(process.stdin, height, width), False
            try:
                yield writer
            except _EncoderStopped:
                stopped = True
            except BaseException:
                process.kill()
                raise
        if not writer.num_frames and not stopped:
            raise MediaError(f"{str(path)!r}: no frames were written.")
        if process.returncode or stopped:
            raise MediaError(f"{str(path)!r} could not be written: {_first_line(log)}.")


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> Video:
    """Decodes a local mp4/mov, mkv/webm, avi or gif clip, whole or its first `max_frames` frames.

    The frames are those stored, none repeated or dropped. fps is the container's nominal rate, or the average
    rate where frames are unevenly timed. The container is told from the contents and ffmpeg is held to it, so
    a playlist under a video's name opens nothing. Raises MediaError if the clip is missing, damaged or cut
    short, or takes more than MAX_CLIP_BYTES in memory.
    """
    path = check_readable(path)
    if max_frames is not None and max_frames < 1:
        raise MediaError(f"max_frames is at least 1, not {max_frames}.")
    source = _source(path)
    height, width, fps, _ = _probe(source, path)
    limit = [] if max_frames is None else ["-frames:v", str(max_frames)]
    colour = ["-vf", "scale=flags=accurate_rnd+full_chroma_int", "-fps_mode", "passthrough"]
    command = [*source, "-v", "error", *limit, *colour, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    data = bytearray()
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            while piece := process.stdout.read(2**20):
                data += piece
                if len(data) > MAX_CLIP_BYTES:
                    process.kill()
                    gigabytes = MAX_CLIP_BYTES // 2**30
                    raise MediaError(f"{str(path)!r} takes over {gigabytes} GiB in memory: set max_frames.")
        complaint = _first_line(log)
    if process.returncode or complaint:  # ffmpeg reports a file that was cut short, but often exits with 0
        raise MediaError(f"{str(path)!r} is damaged or cut short: {complaint}.")
    if not data:
        raise MediaError(f"{str(path)!r} has no frames.")
    return Video(np.frombuffer(data, np.uint8).reshape(-1, height, width, 3), fps)


def video_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of a clip as it is shown: turned upright, its pixels made square. Raises as `read_video`."""
    path = check_readable(path)
    height, width, _, pixel_aspect = _probe(_source(path), path)
    return height, max(round(width * pixel_aspect), 1)


def iter_frames(
    path: str | os.PathLike, fps: float | int, height: int, width: int
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """A clip's frames, one in memory at a time, scaled (Lanczos) to height x width, at an even rate.

    Frame k is what is to be seen k / fps seconds after the first frame, by the stored times; a frame that comes up to
    a quarter of 1 / fps later is taken for on time, as times jitter. Reads what `read_video` reads, and raises as it
    does, a clip that is damaged or cut short at the end of what can be read.
    """
    path = check_readable(path)
    rate = Fraction(_check_fps(fps)).limit_denominator(1001)
    early = round(250_000 / rate)  # microseconds
    even = f"settb=AVTB,setpts=PTS-STARTPTS-{early},fps=fps={rate}:round=up:start_time=0"
    scale = f"scale={width}:{height}:flags=lanczos+accurate_rnd+full_chroma_int"
    filters = ["-vf", f"{even},{scale}", "-fps_mode", "passthrough"]
    command = [*_source(path, threads=1), "-v", "error", *filters, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    size, count = height * width * 3, 0
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            try:
                while len(data := process.stdout.read(size)) == size:
                    count += 1
                    yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            except BaseException:  # an end before the clip's too
                process.kill()
                raise
        complaint = _first_line(log)
    if process.returncode or complaint:
        raise MediaError(f"{str(path)!r} is damaged or cut short: {complaint}.")
    if not count:
        raise MediaError(f"{str(path)!r} has no frames.")


def to_uint8(x: Float[Any, "*shape"]) -> UInt8[Any, "*shape"]:
    """[-1, 1] -> 0..255, rounded, values outside clipped. Runs on the device, inside jit too."""
    import jax.numpy as jnp

    return jnp.clip(jnp.round((x.astype(jnp.float32) + 1) * 127.5), 0, 255).astype(jnp.uint8)


def from_uint8(x: UInt8[Any, "*shape"]) -> Float[Any, "*shape"]:
    """0..255 -> float32 in [-1, 1]; `to_uint8` gives the same integers back."""
    import jax.numpy as jnp

    return x.astype(jnp.float32) / 127.5 - 1


def _save_gif(video: Video, path: Path) -> None:
    from PIL import Image

    sample = video.frames[_spread(video.num_frames, SHEET_FRAMES)]
    palette = Image.fromarray(sample.reshape(-1, *sample.shape[2:])).quantize(255)
    first, *rest = (Image.fromarray(frame).quantize(palette=palette) for frame in video.frames)
    clock = np.round(np.arange(video.num_frames + 1) * 100 / video.fps)
    delays = [int(10 * max(2, delay)) for delay in np.diff(clock)]  # milliseconds; players take 10 for "slow"
    timing = {"duration": delays, "loop": 0}
    shared = palette.getpalette()  # without it Pillow writes one for every frame
    with _replacing(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, palette=shared, **timing)


def _save_sheet(video: Video, path: Path) -> None:
    from PIL import Image

    frames = video.frames[_spread(video.num_frames, SHEET_FRAMES)]
    n, H, W, _ = frames.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = np.full((rows * columns, H, W, 3), 255, np.uint8)
    cells[:n] = frames
    sheet = cells.reshape(rows, columns, H, W, 3).swapaxes(1, 2).reshape(rows * H, columns * W, 3)
    with _replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


def _save_sequence(video: Video, path: Path) -> None:
    from PIL import Image

    targets = [_numbered(path, index) for index in range(video.num_frames)]
    for target in targets:
        check_writable(target)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        files = [Path(folder) / target.name for target in targets]
        for frame, file in zip(video.frames, files, strict=True):
            Image.fromarray(frame).save(file, format="PNG")
        for file, target in zip(files, targets, strict=True):
            os.replace(file, target)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` if all goes well and is removed if not."""
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _source(path: Path, threads: int = 0) -> list[str]:
    """ffmpeg, held to reading the first picture stream of this file as what its first bytes say it is."""
    guard = ["-protocol_whitelist", "file,pipe", "-max_pixels", str(MAX_PIXELS), "-f", _container(path)]
    few = ["-threads", str(threads), "-filter_threads", str(threads)]
    quiet = [_ffmpeg(), "-hide_banner", "-nostdin", "-xerror", *few]
    return [*quiet, *guard, "-i", f"file:{path}", "-map", "0:V:0"]


def _probe(source: list[str], path: Path) -> tuple[int, int, float, float]:
    """Height and width (after rotation), frames per second, and how much wider than high a pixel is (YUV4MPEG2)."""
    command = [*source, "-frames:v", "1", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "pipe:1"]
    result = subprocess.run(command, capture_output=True)
    header = re.match(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+)(?: I\S+)?(?: A(\d+):(\d+))?", result.stdout)
    log = result.stderr.decode(errors="replace")
    if not header:
        if "matches no streams" in log:
            raise MediaError(f"{str(path)!r} holds no video, or is cut short.")
        if "max pixel count" in log:
            raise MediaError(f"{str(path)!r} has frames larger than {MAX_PIXELS / 1e6:g} megapixels.")
        raise MediaError(f"{str(path)!r} is damaged, cut short or without frames; it cannot be decoded.")
    width, height, rate, per, wide, high = (int(group or 0) for group in header.groups())
    fps = rate / per
    average = re.search(r"Stream #0.*Video:.* ([\d.]+) fps", log)  # rounded to two places
    if average and abs(float(average[1]) / fps - 1) > 0.01 and float(average[1]):
        fps = float(average[1])
    return height, width, fps, wide / high if wide and high else 1.0


def _container(path: Path) -> str:
    """ffmpeg's name for the container, told from the first bytes."""
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:] == b"AVI ":
        return "avi"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    raise MediaError(f"{str(path)!r} is not a clip: mp4, mov, mkv, webm, avi and gif are read.")


def _ffmpeg() -> str:
    """imageio-ffmpeg's own binary, whose version and encoders are known; if it has none, the one on PATH."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise MediaError("No ffmpeg was found: reinstall imageio-ffmpeg, or put ffmpeg on PATH.") from None


def _first_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    lines = [re.sub(r"^(\[[^\]]*\] )+", "", line).strip(" .") for line in lines]
    return next((line for line in lines if line), "")


def _check_frames(frames: np.ndarray) -> None:
    if not isinstance(frames, np.ndarray):
        raise MediaError(f"Frames are a numpy array, uint8 [F, H, W, 3], not {type(frames).__name__}.")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        given = f"{frames.dtype} {list(frames.shape)}"
        raise MediaError(f"Frames are uint8 [F, H, W, 3] with at least one frame, not {given}.")


def _check_fps(fps: float | int) -> float:
    if not 0.01 <= fps <= 1000:  # NaN fails too
        raise MediaError(f"fps lies between 0.01 and 1000, not {fps}.")
    return float(fps)


def _numbered(path: Path, index: int) -> Path:
    return path.with_name(_NUMBER.sub(lambda match: match[0] % index, path.name))


def _spread(num_frames: int, most: int) -> np.ndarray:
    """Indices of up to `most` evenly spaced frames, the first and the last among them."""
    return np.linspace(0, num_frames - 1, min(num_frames, most)).round().astype(int)


_NUMBER = re.compile(r"%(0\d+)?d")
