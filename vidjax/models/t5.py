"""The UMT5 text encoder (Raffel et al., 1910.10683; Chung et al., 2304.09151).

Submodules carry the published tensor names (a path joined by dots is the published name); the layers are stacked.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vidjax.models.attention import attention
from vidjax.models.layers import RMSNorm
from vidjax.typing import Array, Float, Int, Params


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Configuration, under the published names."""

    vocab_size: int = 256384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket [query, key] of each signed distance: half per sign, exact up to a quarter, then logarithmic."""
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    magnitude = np.abs(distance)
    # In float32, as published: rounding decides the bucket of some distances.
    ratio = np.log(np.maximum(magnitude, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(np.log(max_distance / exact)) * (half - exact)).astype(np.int64)
    return np.where(distance > 0, half, 0) + np.where(magnitude < exact, magnitude, np.minimum(far, half - 1))


class SelfAttention(nn.Module):
    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], bias: Float[Array, "B 1 1 L"]) -> Float[Array, "B L D"]:
        c = self.config
        B, L, _ = x.shape

        def project(name, scale=1.0):
            init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
            y = nn.Dense(c.num_heads * c.d_kv, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)(x)
            return y.reshape(B, L, c.num_heads, c.d_kv)

        buckets = relative_buckets(L, c.relative_attention_num_buckets, c.relative_attention_max_distance)
        table = nn.Embed(c.relative_attention_num_buckets, c.num_heads, name="relative_attention_bias")(buckets)
        bias = bias + table.transpose(2, 0, 1)[None].astype(bias.dtype)
        # Scores are not scaled, so queries begin small, as in T5: else distances drown and order is not learned.
        y = attention(project("q", 1.0 / c.d_kv), project("k"), project("v"), bias=bias, scale=1.0)
        return nn.Dense(c.d_model, use_bias=False, dtype=self.dtype, name="o")(y.reshape(B, L, -1))


class FeedForward(nn.Module):
    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        c = self.config
        gate = nn.Dense(c.d_ff, use_bias=False, dtype=self.dtype, name="wi_0")(x)
        value = nn.Dense(c.d_ff, use_bias=False, dtype=self.dtype, name="wi_1")(x)
        return nn.Dense(c.d_model, use_bias=False, dtype=self.dtype, name="wo")(nn.gelu(gate) * value)


class Block(nn.Module):
    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], bias: Float[Array, "B 1 1 L"]) -> tuple[Array, None]:
        eps = self.config.layer_norm_epsilon
        y = RMSNorm(eps, name="layer.0.layer_norm")(x)
        x = x + SelfAttention(self.config, self.dtype, name="layer.0.SelfAttention")(y, bias)
        y = RMSNorm(eps, name="layer.1.layer_norm")(x)
        return x + FeedForward(self.config, self.dtype, name="layer.1.DenseReluDense")(y), None


class TextEncoder(nn.Module):
    """Token ids to embeddings; what lies past the text's own length is zero."""

    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "B L"], lengths: Int[Array, "B"]) -> Float[Array, "B L D"]:
        c = self.config
        x = nn.Embed(c.vocab_size, c.d_model, dtype=self.dtype, name="shared")(tokens)
        inside = jnp.arange(tokens.shape[1]) < lengths[:, None]
        bias = jnp.where(inside, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.num_layers,
        )
        x, _ = blocks(c, self.dtype, name="encoder.block")(x, bias)
        x = RMSNorm(c.layer_norm_epsilon, name="encoder.final_layer_norm")(x)
        return jnp.where(inside[..., None], x, 0)


def init(config: T5Config, key: Array) -> Params:
    """Random parameters."""
    return TextEncoder(config).init(key, jnp.zeros((1, 2), jnp.int32), jnp.ones((1,), jnp.int32))["params"]


def encode(
    config: T5Config,
    params: Params,
    tokens: Int[Array, "B L"],
    lengths: Int[Array, "B"],
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "B L D"]:
    """Embeddings of padded token ids; ``lengths`` counts the tokens of each text, end mark included."""
    return TextEncoder(config, dtype).apply({"params": params}, tokens, lengths)
