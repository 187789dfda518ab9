"""The legend of dimensions, and the array types used in annotations.

Pixels ``B F H W C``: clips x frames x height x width x colour (float in [-1, 1] inside, uint8 at the edges).
Latents ``B f h w c``; ``F = 1 + 4 (f - 1)`` for fourfold temporal compression.
Text ``B L D``: clips x text tokens x width. Video tokens ``B N D``, ``N = f h w`` after the patch embedding.
``t`` is diffusion time: 1 = noise, 0 = video. ``x_t = (1 - t) x_0 + t noise``; velocity ``v = noise - x_0``.
"""

from typing import Any

from jax import Array
from jaxtyping import Bool, Float, Int, UInt8, UInt32

PyTree = Any
Params = dict[str, Any]
"""A nested dict of arrays, as Flax Linen returns it under ``'params'``."""

__all__ = ["Array", "Bool", "Float", "Int", "Params", "PyTree", "UInt8", "UInt32"]
