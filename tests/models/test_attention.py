"""Attention in chunks of keys against plain attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models import attention


def plain(q, k, v, scale=None):
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits, axis=-1), v)


def tokens(queries: int, keys: int, size: float = 1.0):
    draw = lambda i, n: size * jax.random.normal(jax.random.key(i), (2, n, 3, 4))  # noqa: E731
    return draw(0, queries), draw(1, keys), draw(2, keys)


@pytest.mark.parametrize(("keys", "chunk", "scale"), [(12, 4, None), (13, 4, None), (7, 16, None), (9, 1, 0.3)])
def test_chunks_equal_plain_attention(keys, chunk, scale):
    """Forward and backward: a key counted twice, or padding that counts, would blur every clip of more than
    ``CPU_CHUNK`` tokens, and only those."""
    q, k, v = tokens(5, keys)

    def outcome(form):
        def value(q, k, v):
            y = form(q, k, v, scale=scale)
            return jnp.sum(jnp.sin(3 * y)), y

        return jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True))(q, k, v)

    chunked = functools.partial(attention.chunked_attention, chunk=chunk)
    for expected, found in zip(*map(jax.tree.leaves, map(outcome, (plain, chunked))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


def test_chunks_stay_finite():
    """Large logits must not overflow: the softmax is taken relative to its largest so far."""
    q, k, v = tokens(5, 10, size=40.0)
    found, gradient = jax.value_and_grad(lambda q: attention.chunked_attention(q, k, v, chunk=4).sum())(q)
    np.testing.assert_allclose(found, plain(q, k, v).sum(), rtol=1e-4)
    assert np.isfinite(gradient).all()


def test_long_rows_take_chunks(monkeypatch):
    """Above ``CPU_CHUNK`` keys memory must be linear: no array of queries x keys in the compiled program."""
    monkeypatch.setattr(attention, "CPU_CHUNK", 64)
    q, k, v = tokens(96, 200)
    compiled = jax.jit(attention.attention).lower(q, k, v).compile()
    assert "96,200]" not in compiled.as_text()
    np.testing.assert_allclose(compiled(q, k, v), plain(q, k, v), atol=1e-5)


def test_half_precision_keeps_its_type():
    """The softmax runs in float32, the result has the type of the values."""
    q, k, v = (x.astype(jnp.bfloat16) for x in tokens(5, 9))
    found = attention.chunked_attention(q, k, v, chunk=4)
    assert found.dtype == jnp.bfloat16
    exact = plain(*(x.astype(jnp.float32) for x in (q, k, v)))
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.02)


def test_bias_is_added():
    """The text encoder's mask and relative positions arrive as a bias."""
    q, k, v = tokens(5, 9)
    bias = jnp.where(jnp.arange(9) < 6, 0.0, -1e9) * jnp.ones((2, 3, 1, 1))
    np.testing.assert_allclose(attention.attention(q, k, v, bias), plain(q, k[:, :6], v[:, :6]), atol=1e-5)
