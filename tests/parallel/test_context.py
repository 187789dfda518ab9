"""Attention over a mesh against plain attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models.attention import attention
from vidjax.parallel.mesh import make_mesh

SHAPE = (2, 3, 8, 4, 6)
"""B f s heads D."""


def plain(q, k, v, valid=None):
    k, v = (x[:, :, :valid] for x in (k, v))
    q, k, v = (x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def draw(*shapes):
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


def outcome(form, inputs, real):
    """Values at the real tokens, and the gradients of something of them."""

    def value(*inputs):
        y = form(*inputs).reshape(SHAPE[0], -1, real[0], *SHAPE[3:])[:, :, : real[1]]
        return jnp.sum(jnp.sin(3 * y)), y

    return jax.jit(jax.value_and_grad(value, tuple(range(len(inputs))), has_aux=True))


def agree(sizes, inputs, scheme, valid=None):
    real = (SHAPE[2], valid)
    expected = outcome(lambda *x: plain(*x, valid=valid), inputs, real)(*inputs)
    with jax.set_mesh(make_mesh(**sizes)):
        traced = outcome(lambda *x: attention(*x, valid=valid), inputs, real).trace(*inputs)
        found = traced.lower().compile()(*inputs)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * float(np.abs(a).max()))
    text = str(traced.jaxpr)
    assert ("all_to_all" in text, "ppermute" in text) == scheme


ULYSSES, RING, LOCAL = (True, False), (False, True), (False, False)


@pytest.mark.parametrize(
    ("sizes", "scheme"),
    [
        ({"context": 4, "data": 2}, ULYSSES),
        ({"context": 2, "tensor": 2, "fsdp": 2}, ULYSSES),
        ({"context": 8}, RING),
        ({"context": 4, "tensor": 2}, RING),
    ],
)
@pytest.mark.parametrize("valid", [None, 3])
def test_equals_plain_attention(sizes, scheme, valid):
    """Ulysses where the heads of a device divide by `context`, a ring else. With 3 of 8 tokens real, 5 of 8 devices
    of a ring hold nothing but padding: counted as keys, it would change every clip whose size does not divide."""
    agree(sizes, draw(SHAPE, SHAPE, SHAPE), scheme, valid)


def test_text_is_at_hand():
    """Queries stay where they are and text is whole everywhere: cross-attention that talks would cost every layer."""
    text = (2, 5, *SHAPE[3:])
    q, k, v = draw(SHAPE, text, text)
    with jax.set_mesh(make_mesh(context=4, tensor=2)):
        spec = jax.sharding.PartitionSpec(None, None, "context", "tensor")
        q = jax.device_put(q, jax.sharding.NamedSharding(jax.sharding.get_mesh(), spec))
        compiled = jax.jit(attention).lower(q, k, v).compile()
        found = compiled(q, k, v)
    assert not [c for c in ("all-gather", "all-to-all", "permute", "all-reduce") if c in compiled.as_text()]
    np.testing.assert_allclose(found.reshape(2, -1, *SHAPE[3:]), plain(q, k, v), atol=1e-5)
    agree({"context": 4, "tensor": 2}, draw(SHAPE, text, text), LOCAL)


def test_what_does_not_divide_stays_whole():
    """One clip on a mesh for many, and a number of tokens that nothing divides, must run."""
    q, k, v = draw(*[(1, 3, 7, 3, 6)] * 3)
    with jax.set_mesh(make_mesh(data=2, context=2, tensor=2)):
        found = jax.jit(attention)(q, k, v)
    np.testing.assert_allclose(found.reshape(1, 21, 3, 6), plain(q, k, v), atol=1e-5)


def test_inside_shard_map():
    """A sampler may itself be run under `jax.shard_map`: its axes are taken, the others still split."""
    q, k, v = draw(SHAPE, SHAPE, SHAPE)
    spec = jax.sharding.PartitionSpec("data")
    with jax.set_mesh(make_mesh(data=2, context=4)):
        form = jax.shard_map(attention, in_specs=spec, out_specs=spec, axis_names={"data"})
        found = jax.jit(form)(q, k, v)
    np.testing.assert_allclose(found.reshape(2, -1, *SHAPE[3:]), plain(q, k, v), atol=1e-5)


def test_ring_memory_is_linear_in_tokens():
    """What passes by must not be kept for the gradient: four times the tokens, four times the memory, not sixteen."""

    def memory(tokens):
        x = jax.ShapeDtypeStruct((1, 1, tokens, 1, 8), jnp.float32)
        loss = jax.jit(jax.grad(lambda *x: attention(*x).sum(), (0, 1, 2)))
        return loss.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    with jax.set_mesh(make_mesh(context=8)):
        small, large = memory(2**14), memory(2**16)
    assert large < 5 * small
