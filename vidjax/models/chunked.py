"""Attention in chunks of queries and keys, in plain JAX: memory linear in tokens, forward and backward.

The softmax runs along as in Rabe and Staats (2112.05682); the gradient is that of Dao et al. (2205.14135).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vidjax.typing import Array, Bool, Float

CHUNK = 2048

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
    counts = _counts(k, mask, chunk)

    def head(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        q, k, v = inputs
        blocks = _split(k, chunk), _split(v, chunk), counts

        def rows(q: Float[Array, "n D"]) -> tuple[Array, Array]:
            def step(carry, block):
                total, norm, peak = carry
                key, value, counts = block
                logits = jnp.where(counts, q @ key.T, MASKED)
                new_peak = jnp.maximum(peak, logits.max(-1))
                weights = jnp.exp(logits - new_peak[:, None])
                decay = jnp.exp(peak - new_peak)
                norm = norm * decay + weights.sum(-1)
                return (total * decay[:, None] + weights @ value, norm, new_peak), None

            n = q.shape[0]
            start = jnp.zeros((n, v.shape[1])), jnp.zeros(n), jnp.full(n, -jnp.inf)
            (total, norm, peak), _ = lax.scan(step, start, blocks)
            return total / norm[:, None], peak + jnp.log(norm)

        return tuple(_join(x, N) for x in lax.map(rows, _split(q, chunk)))

    out, lse = lax.map(head, (_heads(q) * _scale(q, scale), _heads(k), _heads(v)))
    return _unheads(out, q.shape), lse.reshape(q.shape[0], q.shape[2], N)


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
    counts = _counts(k, mask, chunk)

    def head(inputs: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        k, v, *queries = inputs
        rows = [_split(x, chunk) for x in queries]

        def keys(dq, block):
            key, value, counts = block

            def step(carry, row):
                dk, dv = carry
                (q, gradient, slope, lse), dq = row
                weights = jnp.where(counts, jnp.exp(q @ key.T - lse[:, None]), 0.0)
                change = weights * (gradient @ value.T - slope[:, None])
                return (dk + change.T @ q, dv + weights.T @ gradient), dq + change @ key

            start = jnp.zeros_like(key), jnp.zeros_like(value)
            (dk, dv), dq = lax.scan(step, start, (rows, dq))
            return dq, (dk, dv)

        blocks = _split(k, chunk), _split(v, chunk), counts
        dq, (dk, dv) = lax.scan(keys, jnp.zeros_like(rows[0]), blocks)
        return _join(dq, N), _join(dk, M), _join(dv, M)

    slope = jnp.sum(gradient.astype(jnp.float32) * out.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    flat = (x.astype(jnp.float32).reshape(-1, N) for x in (slope, lse))
    scale = _scale(q, scale)
    dq, dk, dv = lax.map(head, (_heads(k), _heads(v), _heads(q) * scale, _heads(gradient), *flat))
    return _unheads(dq, q.shape) * scale, _unheads(dk, k.shape), _unheads(dv, v.shape)


def _heads(x: Float[Array, "B N heads D"]) -> Float[Array, "Bh N D"]:
    # One head after another: products of plain matrices are the fastest on CPU, and their weights stay in its cache.
    return x.astype(jnp.float32).swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _unheads(x: Float[Array, "Bh N D"], shape: tuple[int, ...]) -> Float[Array, "B N heads D"]:
    return x.reshape(shape[0], shape[2], shape[1], -1).swapaxes(1, 2)


def _scale(q: Array, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _split(x: Array, chunk: int) -> Array:
    """`[N, ...]` as `[count, n, ...]` with `n` at most `chunk`; padded with zeros, by less than `count`."""
    count = -(-x.shape[0] // chunk)
    size = -(-x.shape[0] // count)
    pad = [(0, count * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, pad).reshape(count, size, *x.shape[1:])


def _join(x: Array, tokens: int) -> Array:
    """Inverse of `_split`."""
    return x.reshape(-1, *x.shape[2:])[:tokens]


def _counts(k: Array, mask: Array | None, chunk: int) -> Bool[Array, "count n"]:
    """Which keys count, a chunk at a time; padding does not."""
    return _split(jnp.ones(k.shape[1], bool) if mask is None else mask, chunk)
