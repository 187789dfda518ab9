"""A spatial upsampler: frames at twice their height and width, each for itself."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax.checks import whole
from vidjax.typing import Array, Float, Params


@dataclasses.dataclass(frozen=True)
class UpsamplerConfig:
    """``num_res_blocks`` of two convolutions each, all of ``dim`` channels and at the small size."""

    dim: int = 32
    num_res_blocks: int = 4

    @property
    def reach(self) -> int:
        """How many pixels of the small frame, to each side, what comes of one pixel depends on."""
        return 2 + 2 * self.num_res_blocks


def check_config(config: UpsamplerConfig) -> None:
    """Whether there is such a network.

    Raises:
      InputError: there is none.
    """
    whole("dim", config.dim, 1, 2**16)
    whole("num_res_blocks", config.num_res_blocks, 0, 2**10)


class Upsampler(nn.Module):
    """What it adds to bicubic interpolation: EDSR (Lim et al., 1707.02921) without a layer at the large size."""

    config: UpsamplerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "N h w 3"]) -> Float[Array, "N h2 w2 3"]:
        N, h, w, _ = x.shape
        y = nn.Conv(self.config.dim, (3, 3), name="conv_in")(x)
        for i in range(self.config.num_res_blocks):
            z = nn.relu(nn.Conv(self.config.dim, (3, 3), name=f"blocks.{i}.conv1")(y))
            y = y + nn.Conv(self.config.dim, (3, 3), name=f"blocks.{i}.conv2")(z)
        # Nothing at first, so that training begins with what it is to improve on.
        y = nn.Conv(4 * 3, (3, 3), kernel_init=nn.initializers.zeros, name="conv_out")(y)
        return jax.image.resize(x, (N, 2 * h, 2 * w, 3), "cubic") + cells(y)


def cells(x: Float[Array, "N h w c4"]) -> Float[Array, "N h2 w2 c"]:
    """Channels, ordered (row, column, channel), laid out as cells of 2 x 2 (Shi et al., 1609.05158)."""
    N, h, w, c = x.shape
    return x.reshape(N, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(N, 2 * h, 2 * w, c // 4)


def init(config: UpsamplerConfig, key: Array) -> Params:
    """Random parameters."""
    return Upsampler(config).init(key, jnp.zeros((1, 1, 1, 3)))["params"]


def upsample(config: UpsamplerConfig, params: Params, frames: Float[Array, "N h w 3"]) -> Float[Array, "N h2 w2 3"]:
    """Frames in [-1, 1] at twice their size, not yet clamped."""
    return Upsampler(config).apply({"params": params}, frames)
