"""What size a clip has, and at what size it is made.

A model makes what it was trained for: its own number of pixels, at any aspect ratio. Larger clips are made of such.
"""

import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

from vidjax.checks import number, whole
from vidjax.data.buckets import SAME_ASPECT
from vidjax.errors import InputError
from vidjax.image import read_image
from vidjax.model import ModelConfig

MAX_SIDE = 8192
MAX_RATIO = 8.0
NAMES = {"480p": 480, "720p": 720, "1080p": 1080, "4k": 2160}
"""Pixels of the shorter side."""
WIDE = 16 / 9
"""What names of resolutions are meant for: models whose own ratio is nearly this have it at other sizes."""

MAX_DOUBLINGS = 3
"""What is interpolated from eight times its size looks the same, and each doubling takes four times the one before."""

Size = tuple[int, int]


class Sizes(NamedTuple):
    """Height and width in pixels: those at which a clip is made, and those of the result."""

    base: Size
    result: Size


def clip_sizes(
    config: ModelConfig,
    height: int | None,
    width: int | None,
    resolution: str | int | None,
    aspect_ratio: str | float | None,
    image: Any = None,
    keyframes: Any = None,
) -> Sizes:
    """The sizes that are meant, see ``vidjax.generate``; ``image`` or the first of ``keyframes`` is for their ratio.

    Raises:
      InputError: two of them say different things, or one does not fit the model; with the nearest that would.
    """
    if resolution is not None and not height is width is None:
        raise InputError("resolution with height or width: give one, or resolution and aspect_ratio")
    ratio = None if aspect_ratio is None else _ratio(aspect_ratio, image, keyframes)
    if not height is width is None:
        if ratio is not None:
            height, width = _other_side(config, height, width, ratio)
        size = clip_size(config, height, width)
        return Sizes(size, size)
    base = base_size(config, ratio)
    if resolution is None:
        return Sizes(base, base)
    side = _side(config, resolution)
    if side == min(base):
        return Sizes(base, base)
    own = base[1] / base[0]
    if ratio is None:
        ratio = next((r for r in (WIDE, 1 / WIDE) if abs(math.log(own / r)) <= SAME_ASPECT), own)
    result = _sized(config, side, ratio)
    if max(result) > MAX_SIDE:
        near = math.floor(MAX_SIDE / max(ratio, 1 / ratio))
        raise InputError(f"resolution={resolution}: the longer side would have {max(result)} pixels; nearest: {near}")
    return Sizes(base if result[0] * result[1] > base[0] * base[1] else result, result)


def base_size(config: ModelConfig, ratio: float | None) -> Size:
    """Height and width of as many pixels as the model's own, at this ratio of width to height."""
    own = config.sampling.height, config.sampling.width
    if ratio is None:
        return own
    height = math.sqrt(own[0] * own[1] / ratio)
    return _rounded(config, height, height * ratio)


def clip_size(config: ModelConfig, height: int | None, width: int | None) -> Size:
    """Height and width in pixels, the model's own for None; InputError where they do not fit it."""
    defaults, multiples = config.sampling, config.size_multiple
    height = defaults.height if height is None else height
    width = defaults.width if width is None else width
    for name, value, multiple in zip(("height", "width"), (height, width), multiples, strict=True):
        whole(name, value, multiple, MAX_SIDE)
        if value % multiple:
            near = min(max(round(value / multiple), 1) * multiple, MAX_SIDE // multiple * multiple)
            raise InputError(f"{name}={value}: must be a multiple of {multiple}; nearest: {near}")
    return int(height), int(width)


def _rounded(config: ModelConfig, height: float, width: float) -> Size:
    """To the nearest multiples of the model's, up from the middle: 1080 is 1088."""
    pairs = zip((height, width), config.size_multiple, strict=True)
    return tuple(max(math.floor(n / multiple + 0.5), 1) * multiple for n, multiple in pairs)


def _sized(config: ModelConfig, side: int, ratio: float) -> Size:
    """The size whose shorter side has so many pixels."""
    return _rounded(config, side * max(1, 1 / ratio), side * max(1, ratio))


def _other_side(config: ModelConfig, height: int | None, width: int | None, ratio: float) -> tuple[int, int]:
    if height is not None and width is not None:
        raise InputError(f"height={height}, width={width} and aspect_ratio: give two of them")
    # What is given must fit as it is; what follows is made to.
    if width is None:
        clip_size(config, height, None)
        return height, _rounded(config, height, height * ratio)[1]
    clip_size(config, None, width)
    return _rounded(config, width / ratio, width)[0], width


def _side(config: ModelConfig, resolution: Any) -> int:
    """Pixels of the shorter side."""
    if isinstance(resolution, str):
        text = resolution.strip().lower()
        if text in NAMES:
            return NAMES[text]
        if not text.isdecimal() or len(text) > 9:
            raise InputError(
                f"resolution={resolution!r:.40}: choose one of {', '.join(NAMES)}, or the pixels of the shorter side"
            )
        resolution = int(text)
    return whole("resolution", resolution, max(config.size_multiple), MAX_SIDE)


def _ratio(aspect_ratio: Any, image: Any, keyframes: Any) -> float:
    """Width over height."""
    if isinstance(aspect_ratio, str) and aspect_ratio.strip() == "image":
        if image is None and not (isinstance(keyframes, Mapping) and keyframes):
            raise InputError("aspect_ratio='image': there is no picture to follow; give image, or W:H as in 16:9")
        if image is None:
            image = keyframes[min(keyframes, key=_frame)]
        height, width = read_image(image).shape[:2]
        return number("aspect_ratio='image'", width / height, 1 / MAX_RATIO, MAX_RATIO)
    parts = aspect_ratio.split(":") if isinstance(aspect_ratio, str) else [aspect_ratio]
    try:
        if isinstance(aspect_ratio, bool) or len(parts) > 2:
            raise ValueError
        if isinstance(aspect_ratio, str):
            parts = [float(part) for part in parts]
        ratio = parts[0] / (parts[1] if len(parts) == 2 else 1)
        if not isinstance(ratio, numbers.Real) or not math.isfinite(ratio):
            raise ValueError
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise InputError(
            f"aspect_ratio={aspect_ratio!r:.40}: W:H as in 16:9, the number W/H, or image, that of the picture"
        ) from None
    return number("aspect_ratio", ratio, 1 / MAX_RATIO, MAX_RATIO)


def _frame(key: Any) -> float:
    """JSON has no numbers for names; keys that are no numbers are refused elsewhere, by name."""
    try:
        return float(key)
    except (TypeError, ValueError):
        return math.inf


def doublings(config: ModelConfig, small: Size, large: Size) -> int:
    """How often the upsampler is used: to the size, in powers of two, that is nearest, or ``MAX_DOUBLINGS``."""
    if config.upsampler is None:
        return 0
    nearest = round(math.log2(min(b / a for a, b in zip(small, large, strict=True))))
    return min(max(0, nearest), MAX_DOUBLINGS)
