"""Clips and pictures cut to the shapes of buckets: an even rate, one size, pieces of whole length."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vidjax.data.buckets import Bucket, covering, crop, fitting
from vidjax.errors import MediaError
from vidjax.image import fit_image, read_image
from vidjax.video import iter_frames, video_size

CLIPS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

Crop = Literal["centre", "random"]


class Piece(NamedTuple):
    """Frames of a bucket's shape, and where in the clip they begin, in seconds."""

    bucket: Bucket
    start: float
    frames: UInt8[np.ndarray, "F H W 3"]


def cut_file(
    path: Path, buckets: Sequence[Bucket], fps: float, max_pieces: int | None, rng: np.random.Generator | None
) -> Iterator[Piece]:
    """The pieces of a clip, or the one of a picture, cropped around the centre or where ``rng`` says.

    A clip is resampled to ``fps`` and cut, from its beginning, into pieces of the longest bucket; what remains goes to
    the longest that it fills, and so on, up to ``max_pieces``. A picture goes to a bucket of one frame.

    Raises:
      MediaError: it cannot be read to its end (or to that of the last piece), or is shorter than every bucket.
    """
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        image = read_image(path)
        bucket = fitting(picture_buckets(buckets), *image.shape[:2])[0]
        yield Piece(bucket, 0.0, crop(fit_image(image, *covering(*image.shape[:2], bucket))[None], bucket, rng))
    elif suffix in CLIPS:
        height, width = video_size(path)
        read = lambda *size: iter_frames(path, fps, *size)  # noqa: E731
        yield from cut_frames(read, height, width, buckets, fps, max_pieces, rng)
    else:
        raise MediaError(f"{path.name!r} ends in neither {', '.join(CLIPS)} nor {', '.join(PICTURES)}.")


def cut_frames(
    read: Callable[[int, int], Generator[np.ndarray]],
    height: int,
    width: int,
    buckets: Sequence[Bucket],
    fps: float,
    max_pieces: int | None,
    rng: np.random.Generator | None,
) -> Iterator[Piece]:
    """`cut_file` for frames of height x width at ``fps``; ``read(h, w)`` gives them scaled to h x w.

    Raises:
      MediaError: no bucket is for clips, or all are longer.
    """
    for_clips = [b for b in buckets if b.num_frames > 1]
    if not for_clips:
        raise MediaError("It is a clip, and no bucket has more than one frame.")
    longest_first = fitting(for_clips, height, width)
    sizes = [covering(height, width, bucket) for bucket in longest_first]
    held: list[np.ndarray] = []
    taken = pieces = 0

    def piece(bucket: Bucket) -> Piece:
        frames = held[: bucket.num_frames]
        del held[: bucket.num_frames]
        size = covering(height, width, bucket)
        if frames[0].shape[:2] != size:
            frames = [fit_image(frame, *size) for frame in frames]
        return Piece(bucket, taken / fps, crop(np.stack(frames), bucket, rng))

    # The largest size serves every bucket: what needs less is scaled again.
    with contextlib.closing(read(*max(sizes))) as frames:
        for frame in frames:
            held.append(frame)
            if len(held) == longest_first[0].num_frames:
                yield piece(longest_first[0])
                taken, pieces = taken + longest_first[0].num_frames, pieces + 1
                if pieces == max_pieces:
                    return
    while pieces != max_pieces and (bucket := next((b for b in longest_first if b.num_frames <= len(held)), None)):
        yield piece(bucket)
        taken, pieces = taken + bucket.num_frames, pieces + 1
    if not pieces:
        shortest = longest_first[-1].num_frames
        raise MediaError(f"It has {len(held)} frames at {fps:g} fps, fewer than the {shortest} of the shortest bucket.")


def picture_buckets(buckets: Sequence[Bucket]) -> tuple[Bucket, ...]:
    """The buckets of one frame; where there are none, one of each size."""
    own = [b for b in buckets if b.num_frames == 1]
    return tuple(own or dict.fromkeys(Bucket(1, b.height, b.width) for b in buckets))
