"""Attention: one call, with the kernel picked for the device it is lowered for."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vidjax.typing import Array, Float

# Above this many keys the CPU walks over them in chunks, so that memory stays linear in tokens.
CPU_CHUNK = 1024


def attention(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    bias: Float[Array, "#B heads #N M"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B N heads D"]:
    """softmax(q k^T scale + bias) v.

    ``scale`` defaults to ``D ** -0.5``. The softmax runs in float32. With a ``bias`` (short text only) the weights
    are materialised; without one, memory is linear in ``N + M`` on every backend that has a fused kernel.
    """
    if bias is not None or k.shape[1] <= CPU_CHUNK:
        return jax.nn.dot_product_attention(q, k, v, bias=bias, scale=scale)
    return lax.platform_dependent(
        q,
        k,
        v,
        cpu=functools.partial(chunked_attention, scale=scale, chunk=CPU_CHUNK),
        default=functools.partial(jax.nn.dot_product_attention, scale=scale),
    )


def chunked_attention(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    scale: float | None = None,
    chunk: int = CPU_CHUNK,
) -> Float[Array, "B N heads D"]:
    """Attention with a running softmax over chunks of keys (Rabe and Staats, 2112.05682; Dao et al., 2205.14135).

    Equal to plain attention up to rounding; holds ``N x chunk`` weights instead of ``N x M``.
    """
    B, N, heads, D = q.shape
    M = k.shape[1]
    scale = D**-0.5 if scale is None else scale
    count = -(-M // chunk)
    pad = ((0, 0), (0, count * chunk - M), (0, 0), (0, 0))
    keys = jnp.pad(k, pad).reshape(B, count, chunk, heads, D).swapaxes(0, 1)
    values = jnp.pad(v, pad).reshape(B, count, chunk, heads, D).swapaxes(0, 1)
    valid = (jnp.arange(count * chunk) < M).reshape(count, chunk)
    q = q.astype(jnp.float32) * scale

    @jax.checkpoint
    def step(carry, inputs):
        total, norm, peak = carry
        key, value, mask = inputs
        logits = jnp.einsum("bnhd,bmhd->bhnm", q, key.astype(jnp.float32))
        logits = jnp.where(mask, logits, -jnp.inf)
        new_peak = jnp.maximum(peak, logits.max(-1))
        weights = jnp.exp(logits - new_peak[..., None])
        decay = jnp.exp(peak - new_peak)
        norm = norm * decay + weights.sum(-1)
        total = total * decay[..., None] + jnp.einsum("bhnm,bmhd->bhnd", weights, value.astype(jnp.float32))
        return (total, norm, new_peak), None

    start = (
        jnp.zeros((B, heads, N, D), jnp.float32),
        jnp.zeros((B, heads, N), jnp.float32),
        jnp.full((B, heads, N), -jnp.inf, jnp.float32),
    )
    (total, norm, _), _ = lax.scan(step, start, (keys, values, valid))
    return (total / norm[..., None]).swapaxes(1, 2).astype(v.dtype)
