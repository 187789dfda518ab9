"""Buckets of clips: each has one shape, so that one compilation serves all of its batches."""

import bisect
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vidjax.errors import InputError

SAME_ASPECT = 0.05
"""Aspect ratios whose logarithms differ by no more are taken as equal: 480 x 832, 720 x 1280 are two sizes of one."""


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """A number of frames (1: pictures) and a size in pixels; written ``17x64x64``."""

    num_frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its clips: [F, H, W, 3]."""
        return (self.num_frames, self.height, self.width, 3)


def parse_bucket(text: str) -> Bucket:
    """``17x64x64``, frames x height x width, as a bucket.

    Raises:
      InputError: it is not one.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip())
    if not match:
        raise InputError(f"bucket {text!r}: FRAMESxHEIGHTxWIDTH is expected, such as 17x64x64")
    return Bucket(*map(int, match.groups()))


def check_frames(name: str, frames: int, temporal: int) -> None:
    """Raises InputError unless an autoencoder with this compression factor takes so many frames."""
    if frames < 1 or (frames - 1) % temporal:
        near = 1 + temporal * max(round((frames - 1) / temporal), 0)
        raise InputError(f"{name}={frames}: must be 1 + a multiple of {temporal}; nearest: {near}")


def check_buckets(buckets: Sequence[Bucket], temporal: int, spatial: int) -> None:
    """See that an autoencoder with these compression factors takes the buckets.

    Raises:
      InputError: it does not; the nearest that it takes is named.
    """
    for bucket in buckets:
        F, H, W, _ = bucket.shape
        check_frames("num_frames", F, temporal)
        for name, value in (("height", H), ("width", W)):
            if value % spatial or value < 1:
                near = max(round(value / spatial), 1) * spatial
                raise InputError(f"{name}={value}: must be a multiple of {spatial}; nearest: {near}")


def fitting(buckets: Sequence[Bucket], height: int, width: int) -> tuple[Bucket, ...]:
    """Of the buckets of the nearest aspect ratio one of each duration, the longest first.

    Where a duration has several sizes, it is the largest that pixels of height x width reach, or else the smallest.
    """
    distance = {b: abs(math.log(b.height / b.width * width / height)) for b in buckets}
    nearest = min(buckets, key=lambda b: distance[b])
    ratio = nearest.height / nearest.width
    same = [b for b in buckets if abs(math.log(b.height / b.width / ratio)) <= SAME_ASPECT]
    best: dict[int, Bucket] = {}
    for bucket in sorted(same, key=lambda b: b.height * b.width):
        reached = bucket.height <= height and bucket.width <= width
        if bucket.num_frames not in best or reached:
            best[bucket.num_frames] = bucket
    return tuple(sorted(best.values(), reverse=True))


def covering(height: int, width: int, bucket: Bucket) -> tuple[int, int]:
    """The size to which pixels of height x width are scaled so that they just cover the bucket's."""
    scale = max(bucket.height / height, bucket.width / width)
    # Rounded up to whole pixels, but not for a rounding error.
    return math.ceil(height * scale - 1e-6), math.ceil(width * scale - 1e-6)


def crop(
    frames: UInt8[np.ndarray, "F H W 3"], bucket: Bucket, rng: np.random.Generator | None
) -> UInt8[np.ndarray, "F h w 3"]:
    """The bucket's pixels of frames that cover it: around the centre, or where ``rng`` says."""
    _, H, W, _ = frames.shape
    down, right = H - bucket.height, W - bucket.width
    y, x = (down // 2, right // 2) if rng is None else (rng.integers(down + 1), rng.integers(right + 1))
    return frames[:, y : y + bucket.height, x : x + bucket.width]


@dataclasses.dataclass(frozen=True)
class Bucketed:
    """Sources one after another, each of examples of one shape; batches come from one at a time.

    ``weights`` say how often from each; None: as often as it has examples. A batch from one has ``multiples`` times as
    many rows as there are asked for; None: as many.
    """

    sources: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    multiples: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, index = self._find(index)
        return source[index]

    def about(self, index: int) -> dict[str, Any]:
        """The example without what its shape is of."""
        source, index = self._find(index)
        return source.about(index)

    def _find(self, index: int) -> tuple[Any, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        ends = list(itertools.accumulate(map(len, self.sources)))
        which = bisect.bisect_right(ends, index)
        return self.sources[which], index - (ends[which - 1] if which else 0)


def sources_of(source: Any) -> tuple[Any, ...]:
    """The sources of one shape that a source is made of; most are one."""
    return source.sources if isinstance(source, Bucketed) else (source,)


class Part(NamedTuple):
    """A source of one shape, with how often batches come from it, of how many times the rows asked for."""

    source: Any
    weight: float
    multiple: int


def parts_of(source: Any) -> list[Part]:
    """The sources of one shape that a source is made of, as batches come from them."""
    sources = sources_of(source)
    whole = source if isinstance(source, Bucketed) else Bucketed(sources)
    weights, multiples = whole.weights or map(len, sources), whole.multiples or [1] * len(sources)
    return [
        Part(one, weight if len(one) else 0, multiple)
        for one, weight, multiple in zip(sources, weights, multiples, strict=True)
    ]


def first_examples(source: Any, count: int) -> list[list[dict[str, Any]]]:
    """The first examples, ``count`` in all or one of each shape, in lists of one shape."""
    sources = [s for s in sources_of(source) if len(s)]
    share = max(count // max(len(sources), 1), 1)
    return [[s[i] for i in range(min(share, len(s)))] for s in sources]
