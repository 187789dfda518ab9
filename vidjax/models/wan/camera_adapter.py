"""The camera adapter of Wan's Fun-Camera models: rays to what is added to the denoiser's tokens.

Submodules carry the published tensor names.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vidjax.parallel.mesh import BATCH_AXES
from vidjax.parallel.rules import constrain, gathered
from vidjax.typing import Array, Float, Params

SPLIT = (None, None, None, "fsdp")
"""The axes of the mesh that split kernels."""


@dataclasses.dataclass(frozen=True)
class CameraAdapterConfig:
    """``dim`` and ``patch_size`` are those of the denoiser, ``in_channels`` the 6 numbers of a ray for each of the
    frames of a latent frame.

    Of each latent there are ``downscale_factor`` x ``downscale_factor`` rays: as many as pixels in the published ones.
    Rays change so little from one to the next that fewer tell the same, with smaller weights; a small model does
    without the residual blocks, which are most of these.
    """

    in_channels: int = 24
    dim: int = 5120
    patch_size: tuple[int, int] = (2, 2)
    downscale_factor: int = 8
    num_residual_blocks: int = 1


class Conv(nn.Module):
    """A convolution; its kernel is stored split over the mesh."""

    features: int
    window: tuple[int, int]
    dtype: DTypeLike
    stride: bool = False
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        drawn = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        kernel = self.param("kernel", drawn, (*self.window, x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        strides, padding = (self.window, "VALID") if self.stride else ((1, 1), "SAME")
        form = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, gathered(kernel, SPLIT), strides, padding, dimension_numbers=form) + bias


class CameraAdapter(nn.Module):
    """Rays of a latent as channels, a convolution to patches, and residual blocks."""

    config: CameraAdapterConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, rays: Float[Array, "B f H W C"]) -> Float[Array, "B f s D"]:
        B, f, H, W, C = rays.shape
        c, name = self.config, "control_adapter"
        # Once for a clip, and a window reaches beyond its patch: frames are whole on every device.
        cells = constrain(rays, BATCH_AXES).astype(self.dtype).reshape(B * f, H, W, C)
        # Zero: a new adapter changes nothing; its own gradient goes straight through the residual blocks.
        x = Conv(c.dim, c.patch_size, self.dtype, stride=True, zero=True, name=f"{name}.conv")(
            unshuffle(cells, c.downscale_factor)
        )
        for i in range(c.num_residual_blocks):
            block = f"{name}.residual_blocks.{i}"
            inside = nn.relu(Conv(c.dim, (3, 3), self.dtype, name=f"{block}.conv1")(x))
            x = x + Conv(c.dim, (3, 3), self.dtype, name=f"{block}.conv2")(inside)
        return x.reshape(B, f, -1, c.dim)


def unshuffle(x: Float[Array, "B H W C"], r: int) -> Float[Array, "B h w D"]:
    """Fold ``r x r`` cells into channels, ordered (channel, row, column) as published."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // r, r, W // r, r, C).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(B, H // r, W // r, C * r * r)


def init(config: CameraAdapterConfig, key: Array) -> Params:
    """Parameters of an adapter that changes nothing yet."""
    height, width = (config.downscale_factor * size for size in config.patch_size)
    return CameraAdapter(config).init(key, jnp.zeros((1, 1, height, width, config.in_channels)))["params"]


def apply(
    config: CameraAdapterConfig, params: Params, rays: Float[Array, "B f H W C"], dtype: DTypeLike = jnp.float32
) -> Float[Array, "B f s D"]:
    """What is added to the tokens of a clip: computed once per clip, as the keys and values of its text are.

    ``rays`` are packed, see ``conditioning.rays``; H and W are ``downscale_factor`` times those of the latents.
    """
    return CameraAdapter(config, dtype).apply({"params": params}, rays)
