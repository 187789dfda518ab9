"""A latent upsampler: a clip's latents at twice the height and width, without a trip through pixels.

A part of its own beside the autoencoder whose latents it knows. As there, convolutions look back only and keep their
last frames in a ``cache``: a clip goes through in pieces, and the results are those of the whole.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from vidjax.models.wan.conv3d import CausalConv
from vidjax.models.wan.vae import ChannelNorm, ResidualBlock, Split, choose_split, lay_out
from vidjax.typing import Array, Float, Params, PyTree


@dataclasses.dataclass(frozen=True)
class UpsamplerConfig:
    """``num_res_blocks`` of ``dim`` channels work at the small size, and as many at the large one."""

    z_dim: int = 16
    dim: int = 64
    num_res_blocks: int = 2


class Upsampler(nn.Module):
    """What it adds to the nearest latents of the small size; use :func:`upsample_chunk`."""

    config: UpsamplerConfig
    split: Split = (None, None)

    @nn.compact
    def __call__(self, x: Float[Array, "B f h w z"]) -> Float[Array, "B f h2 w2 z"]:
        c = self.config
        y = CausalConv(c.dim, name="conv_in")(x)
        for i in range(c.num_res_blocks):
            y = ResidualBlock(c.dim, name=f"small_blocks.{i}")(y)
        y = lay_out(doubled(CausalConv(4 * c.dim, (1, 3, 3), name="conv_up")(y)), self.split)
        for i in range(c.num_res_blocks):
            y = ResidualBlock(c.dim, name=f"large_blocks.{i}")(y)
        y = CausalConv(c.z_dim, name="conv_out")(nn.silu(ChannelNorm(name="norm_out")(y)))
        return jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3) + y


def doubled(x: Float[Array, "B f h w c4"]) -> Float[Array, "B f h2 w2 c"]:
    """Channels, ordered (row, column, channel), laid out as cells of 2 x 2 (Shi et al., 1609.05158)."""
    B, f, h, w, c = x.shape
    return x.reshape(B, f, h, w, 2, 2, c // 4).transpose(0, 1, 2, 4, 3, 5, 6).reshape(B, f, 2 * h, 2 * w, c // 4)


def init(config: UpsamplerConfig, key: Array) -> Params:
    """Random parameters."""
    return Upsampler(config).init(key, jnp.zeros((1, 1, 1, 1, config.z_dim)))["params"]


def upsample_chunk(
    config: UpsamplerConfig, params: Params, cache: PyTree | None, latents: Float[Array, "B f h w z"]
) -> tuple[Float[Array, "B f h2 w2 z"], PyTree]:
    """The next normalized latent frames at twice the size, and the cache to go on with, at the start of a clip None."""
    split = choose_split(*latents.shape[2:4])
    variables = {"params": params} if cache is None else {"params": params, "cache": cache}
    out, state = Upsampler(config, split).apply(variables, lay_out(latents, split), mutable=["cache"])
    return lay_out(out, split), jax.tree.map(lambda x: lay_out(x, split), state["cache"])
