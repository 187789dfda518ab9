"""Attention, and its kernels, against plain attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models import attention, chunked, splash


def plain(q, k, v, scale=None, mask=None):
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = logits if mask is None else jnp.where(mask, logits, -jnp.inf)
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits, axis=-1), v)


def tokens(queries: int, keys: int, size: float = 1.0, heads: int = 3, features: int = 4):
    draw = lambda i, n: size * jax.random.normal(jax.random.key(i), (2, n, heads, features))  # noqa: E731
    return draw(0, queries), draw(1, keys), draw(2, keys)


def agree(form, reference, *inputs):
    """Values and gradients, to 1e-5 of the largest."""

    def outcome(form):
        def value(*inputs):
            y = form(*inputs)
            return jnp.sum(jnp.sin(3 * y)), y

        return jax.jit(jax.value_and_grad(value, tuple(range(len(inputs))), has_aux=True))(*inputs)

    for expected, found in zip(*map(jax.tree.leaves, map(outcome, (reference, form))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize(
    ("queries", "keys", "chunk", "scale"),
    [(5, 12, 4, None), (9, 13, 4, None), (5, 7, 16, None), (3, 9, 1, 0.3)],
)
def test_chunks_equal_plain_attention(queries, keys, chunk, scale):
    """Forward and backward: a key counted twice, or padding that counts, would blur every long clip, and only those."""
    form = functools.partial(chunked.chunked_attention, scale=scale, chunk=chunk)
    agree(form, functools.partial(plain, scale=scale), *tokens(queries, keys))


def test_chunks_are_alike():
    """Nine tokens in chunks of at most four are three times three: padding to 12 would be a third more work."""
    assert chunked._split(jnp.zeros((9, 2)), 4).shape == (3, 3, 2)


def test_chunks_stay_finite():
    """Large logits must not overflow: the softmax is taken relative to its largest so far."""
    q, k, v = tokens(5, 10, size=40.0)
    found, gradient = jax.value_and_grad(lambda q: chunked.chunked_attention(q, k, v, chunk=4).sum())(q)
    np.testing.assert_allclose(found, plain(q, k, v).sum(), rtol=1e-4)
    assert np.isfinite(gradient).all()


MASK = np.arange(300) % 7 < 5


@pytest.mark.parametrize(
    "form", [functools.partial(chunked.forward, chunk=64), functools.partial(splash.forward, interpret=True)]
)
@pytest.mark.parametrize("mask", [None, MASK])
def test_parts_with_their_normalizer(form, mask):
    """Ring attention adds up parts by it; keys that only fill up must not count in either."""
    q, k, v = tokens(150, 300, heads=2, features=8)
    out, lse = form(q, k, v, None if mask is None else jnp.asarray(mask))
    np.testing.assert_allclose(out, plain(q, k, v, mask=mask), atol=2e-6)
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k) * 8**-0.5
    expected = jax.nn.logsumexp(logits if mask is None else jnp.where(mask, logits, -jnp.inf), axis=-1)
    np.testing.assert_allclose(lse, expected, atol=2e-6)


@pytest.mark.parametrize("form", [chunked.forward, functools.partial(splash.forward, interpret=True)])
def test_keys_that_do_not_count_weigh_nothing(form):
    """In a ring a device may hold nothing but padding: its part is finite, and nothing beside any other."""
    q, k, v = tokens(5, 128, heads=1, features=8)
    out, lse = form(q, k, v, jnp.zeros(128, bool))
    assert np.isfinite(out).all()
    assert np.isfinite(lse).all()
    assert float(jnp.exp(lse.max() + 100)) == 0


def test_splash_equals_plain_attention():
    """What a TPU runs, interpreted, on sizes that fill no block: padding that counts would dim every clip there."""
    form = functools.partial(splash.splash_attention, interpret=True)
    agree(form, plain, *tokens(150, 300, heads=2, features=8))


def lowered(platform: str, dtype=jnp.bfloat16, queries: int = 2048, keys: int = 2048) -> str:
    q, k = (jax.ShapeDtypeStruct((1, n, 2, 128), dtype) for n in (queries, keys))

    def loss(q, k, v):
        return attention.attention(q, k, v).astype(jnp.float32).sum()

    return jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, k).lower(lowering_platforms=(platform,)).as_text()


def test_kernel_follows_the_platform_lowered_for():
    """Chosen by the machine at hand, what is compiled ahead for a TPU from a CPU would not be what the TPU runs."""
    text = lowered("tpu")
    for kernel in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
        assert kernel in text
    assert "splash" not in lowered("cpu")
    assert "splash" not in lowered("tpu", queries=256, keys=512), "short text: the weights are cheap"


def test_long_rows_take_chunks():
    """Memory must be linear in tokens, backward too: no array of queries x keys in the compiled program."""
    q, k, v = tokens(1100, 2100, heads=1)
    loss = jax.value_and_grad(lambda *x: attention.attention(*x).sum(), (0, 1, 2))
    assert "1100,2100]" not in jax.jit(loss).lower(q, k, v).compile().as_text()
    np.testing.assert_allclose(jax.jit(attention.attention)(q, k, v), plain(q, k, v), atol=1e-5)


def test_half_precision_keeps_its_type():
    """The softmax runs in float32, the result has the type of the values."""
    q, k, v = (x.astype(jnp.bfloat16) for x in tokens(5, 9))
    found = chunked.chunked_attention(q, k, v, chunk=4)
    assert found.dtype == jnp.bfloat16
    exact = plain(*(x.astype(jnp.float32) for x in (q, k, v)))
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.02)


def test_bias_is_added():
    """The text encoder's mask and relative positions arrive as a bias."""
    q, k, v = tokens(5, 9)
    bias = jnp.where(jnp.arange(9) < 6, 0.0, -1e9) * jnp.ones((2, 3, 1, 1))
    np.testing.assert_allclose(attention.attention(q, k, v, bias), plain(q, k[:, :6], v[:, :6]), atol=1e-5)


def test_video_attends_across_frames():
    """Tokens of all frames see each other, and in each frame only the first ``valid`` count as keys."""
    q, k, v = (x.reshape(2, 3, 4, 3, 4) for x in tokens(12, 12))
    flat = [x[:, :, :3].reshape(2, 9, 3, 4) for x in (q, k, v)]
    found = attention.attention(q, k, v, valid=3)[:, :, :3]
    np.testing.assert_allclose(found.reshape(2, 9, 3, 4), plain(*flat), atol=1e-5)
