"""Measures of pixels that need no word and no detector: likeness of two clips, flicker and motion of one."""

import numpy as np

from vidjax.errors import InputError
from vidjax.typing import Float, UInt8

WINDOW, SIGMA = 11, 1.5
"""SSIM's Gaussian window, in pixels."""
K1, K2, LEVELS = 0.01, 0.03, 255

Clip = UInt8[np.ndarray, "F H W 3"]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB, of uint8."""
    return float(10 * np.log10(LEVELS**2 / max(np.mean((a.astype(np.float32) - b) ** 2), 1e-3)))


def ssim(a: Clip, b: UInt8[np.ndarray, "_ _ _ 3"]) -> float:
    """Structural similarity of luma, 1 for equal clips (Wang et al., 2004): the mean over pixels and frames.

    Pixels whose window leaves the picture do not count, as in the authors' own program.

    Raises:
      InputError: the clips differ in shape, or a side is below 11 pixels.
    """
    if a.shape != b.shape:
        raise InputError(f"ssim of {a.shape} and {b.shape}: both clips must have one shape")
    if min(a.shape[1:3]) < WINDOW:
        raise InputError(f"ssim of frames of {a.shape[1]}x{a.shape[2]}: each side must be at least {WINDOW}")
    # Frame by frame: the maps are as large as the frames in float64.
    return float(np.mean([_similarity(luma(x), luma(y)).mean() for x, y in zip(a, b, strict=True)]))


def luma(frames: UInt8[np.ndarray, "*F H W 3"]) -> Float[np.ndarray, "*F H W"]:
    """Brightness, 0 to 255 (BT.601's weights)."""
    return frames @ np.array([0.299, 0.587, 0.114])


def flicker(frames: Clip) -> float:
    """Change that is taken back in the next frame, in levels of 255: the mean of |x[t] - median(x[t-1], x[t], x[t+1])|.

    An edge that passes, a fade or a cut is none: a pixel that changes once, or further and further, is its own median.
    What is thinner than its way from frame to frame counts, and so do textures in motion: compare with the figure of
    clips that are known to be right. Of at least 3 frames.
    """
    x = frames.astype(np.int16)
    before, after = x[1:-1] - x[:-2], x[1:-1] - x[2:]
    back = np.minimum(np.abs(before), np.abs(after))
    return float(np.where(before * np.sign(after) > 0, back, 0).mean())


def dynamic_degree(frames: Clip) -> float:
    """Motion: the mean absolute difference of neighbouring frames, in levels of 255. Of at least 2 frames."""
    return float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean())


def bends(frames: Clip) -> Float[np.ndarray, "F"]:
    """How far each frame is from midway between its neighbours, in levels of 255; not a number for the first and last.

    Half the second difference in time: steady change keeps it low, a jump raises it on both sides.
    """
    x = frames.astype(np.int16)
    second = np.abs(x[:-2] - 2 * x[1:-1] + x[2:]).mean((1, 2, 3)) / 2
    return np.concatenate([[np.nan], second, [np.nan]])


def _similarity(x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * LEVELS) ** 2, (K2 * LEVELS) ** 2
    brightness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return brightness * (2 * covariance + c2) / (var_x + var_y + c2)


def _blur(x: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
    """The Gaussian's mean around each pixel whose window lies within the picture."""
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis) @ weights
    return x
