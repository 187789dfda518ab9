"""Attention in chunks of queries and keys, in plain JAX: memory linear in tokens, forward and backward.

The softmax runs along as in Rabe and Staats (2112.05682); the gradient is that of Dao et al. (2205.14135).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vidjax.typing import Array, Bool, Float

CHUNK = 1024

MASKED = -1e30
"""Logit of a key that does not count: finite, so that a chunk of only such keys gives no NaN."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def chunked_attention(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    scale: float | None = None,
    chunk: int = CHUNK,
) -> Float[Array, "B N heads D"]:
    """Equal to plain attention up to rounding; holds ``chunk x chunk`` weights a head at a time."""
    return forward(q, k, v, None, scale, chunk)[0].astype(v.dtype)


def _save(q: Array, k: Array, v: Array, scale: float | None, chunk: int) -> tuple[Array, tuple]:
    out, lse = forward(q, k, v, None, scale, chunk)
    out = out.astype(v.dtype)
    return out, (q, k, v, out, lse)


def _pull_back(scale: float | None, chunk: int, saved: tuple, gradient: Array) -> tuple[Array, Array, Array]:
    q, k, v, out, lse = saved
    found = backward(q, k, v, None, out, lse, gradient, scale, chunk)
    return tuple(d.astype(x.dtype) for d, x in zip(found, (q, k, v), strict=True))


chunked_attention.defvjp(_save, _pull_back)


def forward(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    mask: Bool[Array, "M"] | None = None,
    scale: float | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "B N heads D"], Float[Array, "B heads N"]]:
    """The result in float32, and the log of the softmax's denominator; ``mask`` says which keys count."""
    N = q.shape[1]
    blocks = _split(k, chunk), _split(v, chunk), _counts(k, mask, chunk)

    def rows(q: Float[Array, "B n heads D"]) -> tuple[Array, Array]:
        B, n, heads, _ = q.shape

        def step(carry, block):
            total, norm, peak = carry
            key, value, counts = block
            logits = jnp.einsum("bnhd,bmhd->bhnm", q, key.astype(jnp.float32))
            logits = jnp.where(counts, logits, MASKED)
            new_peak = jnp.maximum(peak, logits.max(-1))
            weights = jnp.exp(logits - new_peak[..., None])
            decay = jnp.exp(peak - new_peak)
            norm = norm * decay + weights.sum(-1)
            total = total * decay[..., None] + jnp.einsum("bhnm,bmhd->bhnd", weights, value.astype(jnp.float32))
            return (total, norm, new_peak), None

        start = (
            jnp.zeros((B, heads, n, v.shape[-1]), jnp.float32),
            jnp.zeros((B, heads, n), jnp.float32),
            jnp.full((B, heads, n), -jnp.inf, jnp.float32),
        )
        (total, norm, peak), _ = lax.scan(step, start, blocks)
        return (total / norm[..., None]).swapaxes(1, 2), peak + jnp.log(norm)

    q = q.astype(jnp.float32) * _scale(q, scale)
    if chunk >= N:
        return rows(q)
    out, lse = lax.map(rows, _split(q, chunk))
    return _join(out, N), _join(lse.swapaxes(2, 3), N).swapaxes(1, 2)


def backward(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    mask: Bool[Array, "M"] | None,
    out: Float[Array, "B N heads D"],
    lse: Float[Array, "B heads N"],
    gradient: Float[Array, "B N heads D"],
    scale: float | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "B N heads D"], Float[Array, "B M heads D"], Float[Array, "B M heads D"]]:
    """Gradients in float32 from ``out`` and ``lse``, which may be of attention to more keys than these."""
    N, M = q.shape[1], k.shape[1]
    scale = _scale(q, scale)
    gradient = gradient.astype(jnp.float32)
    slope = jnp.sum(gradient * out.astype(jnp.float32), axis=-1)
    rows = [_split(x, chunk) for x in (q.astype(jnp.float32) * scale, gradient, slope, lse.swapaxes(1, 2))]

    def keys(dq, block):
        key, value, counts = block
        key, value = key.astype(jnp.float32), value.astype(jnp.float32)

        def queries(carry, row):
            dk, dv = carry
            q, g, slope, lse, dq = row
            logits = jnp.einsum("bnhd,bmhd->bhnm", q, key)
            weights = jnp.where(counts, jnp.exp(logits - lse.swapaxes(1, 2)[..., None]), 0.0)
            change = weights * (jnp.einsum("bnhd,bmhd->bhnm", g, value) - slope.swapaxes(1, 2)[..., None])
            dk = dk + jnp.einsum("bhnm,bnhd->bmhd", change, q)
            dv = dv + jnp.einsum("bhnm,bnhd->bmhd", weights, g)
            return (dk, dv), dq + jnp.einsum("bhnm,bmhd->bnhd", change, key)

        start = jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32)
        (dk, dv), dq = lax.scan(queries, start, (*rows, dq))
        return dq, (dk, dv)

    blocks = _split(k, chunk), _split(v, chunk), _counts(k, mask, chunk)
    dq, (dk, dv) = lax.scan(keys, jnp.zeros(rows[0].shape, jnp.float32), blocks)
    return _join(dq, N) * scale, _join(dk, M), _join(dv, M)


def _scale(q: Array, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _split(x: Array, chunk: int) -> Array:
    """`[B, N, ...]` as `[count, B, chunk, ...]`, padded with zeros; one chunk of all tokens if these are few."""
    chunk = min(chunk, x.shape[1])
    count = -(-x.shape[1] // chunk)
    pad = [(0, 0), (0, count * chunk - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, pad).reshape(x.shape[0], count, chunk, *x.shape[2:]).swapaxes(0, 1)


def _join(x: Array, tokens: int) -> Array:
    """Inverse of `_split`."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :tokens]


def _counts(k: Array, mask: Array | None, chunk: int) -> Bool[Array, "count chunk"]:
    """Which keys count, a chunk at a time; padding does not."""
    mask = jnp.ones(k.shape[1], bool) if mask is None else mask
    return _split(mask[None], chunk)[:, 0]
