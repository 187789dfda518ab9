"""Frames at twice their size, by a model's upsampler; large ones in tiles."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.model import Model, ModelConfig, spread_batch
from vidjax.parallel.gathering import to_host
from vidjax.tiles import make_tiling
from vidjax.typing import Array, Params, UInt8
from vidjax.video import from_uint8, to_uint8

TILE = 256
"""The side, in pixels of the small frame, of what is worked on at once."""


def upsample(model: Model, frames: UInt8[np.ndarray, "B n h w 3"]) -> UInt8[np.ndarray, "B n h2 w2 3"]:
    """Frames at twice their height and width; one of each clip at a time, so memory does not grow with their number."""
    B, n, h, w, _ = frames.shape
    reach = model.config.upsampler.reach
    tiling = make_tiling((h, w), TILE, 2 * reach)
    (height, width), (tops, lefts) = tiling.tile, tiling.starts
    rows, columns = _seen(tops, height, h, reach), _seen(lefts, width, w, reach)
    large = np.empty((B, n, 2 * h, 2 * w, 3), np.uint8)
    for i in range(n):
        for top, (first, last) in zip(tops, rows, strict=True):
            for left, (start, end) in zip(lefts, columns, strict=True):
                tile = spread_batch(model, jnp.asarray(frames[:, i, top : top + height, left : left + width]))
                found = to_host(_upsample(model.config, model.params["upsampler"], tile))
                there = slice(2 * first, 2 * last), slice(2 * start, 2 * end)
                inside = slice(2 * (first - top), 2 * (last - top)), slice(2 * (start - left), 2 * (end - left))
                large[:, i, *there] = found[:, *inside]
    return large


def _seen(starts: Sequence[int], tile: int, size: int, reach: int) -> list[tuple[int, int]]:
    """Which cells are taken of each tile of a row: those that are as if they had seen the whole picture."""
    return [(start + reach if start else 0, start + tile - reach if start + tile < size else size) for start in starts]


@functools.partial(jax.jit, static_argnames="config")
def _upsample(config: ModelConfig, params: Params, frames: UInt8[Array, "B h w 3"]) -> UInt8[Array, "B h2 w2 3"]:
    large = config.modules.upsampler.upsample(config.upsampler, params, from_uint8(frames))
    return to_uint8(large)
