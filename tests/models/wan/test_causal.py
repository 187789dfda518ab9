"""The denoiser frame by frame: the same as over whole clips, however far the cache has gone round."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models.wan import causal, denoiser
from vidjax.models.wan.sharding import DENOISER_RULES
from vidjax.parallel import make_mesh
from vidjax.parallel.rules import shard

TINY = denoiser.DenoiserConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=3, out_channels=3, text_dim=8, freq_dim=8, ffn_dim=16,
    num_layers=2,
)  # fmt: skip
SHALLOW = dataclasses.replace(TINY, num_layers=1)

TEXT = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 8)), jnp.float32)
FRAMES, SLOTS = 5, 4
CLIP = jax.random.normal(jax.random.key(1), (2, 9, 4, 6, 3))
NOISY = jax.random.normal(jax.random.key(2), (2, 9, 4, 6, 3))

velocity = jax.jit(denoiser.velocity, static_argnames=("config", "dtype", "remat"))
step = jax.jit(causal.step, static_argnames=("config", "dtype"))
write = jax.jit(causal.write, static_argnames=("config", "dtype"))


@functools.cache
def tiny(config=TINY):
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(functools.partial(denoiser.init, config), jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), abstract)
    return params, denoiser.context(config, params, TEXT)


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


def one_behind(x, noisy, t):
    """Clean frames and behind them a noisy one, with their times."""
    times = jnp.zeros((2, x.shape[1] + 1)).at[:, -1].set(t)
    return jnp.concatenate([x, noisy], axis=1), times


def test_later_frames_do_not_count():
    """What a frame becomes must not depend on what comes later: in a stream that is not there yet."""
    params, context = tiny()
    t = jnp.linspace(0.1, 0.9, 10).reshape(2, 5)
    x = CLIP[:, :FRAMES]
    found = velocity(TINY, params, x, t, context, causal=True)
    other = velocity(TINY, params, x.at[:, 3:].add(1.0), t.at[:, 3:].set(0.5), context, causal=True)
    np.testing.assert_array_equal(other[:, :3], found[:, :3])
    assert np.abs(other - found)[:, 3:].max() > 1e-2
    earlier = velocity(TINY, params, x.at[:, 0].add(1.0), t, context, causal=True)
    assert np.abs(earlier - found)[:, 4].max() > 1e-4, "earlier frames count"
    whole = velocity(TINY, params, x, t, context)
    assert np.abs(whole - found)[:, 0].max() > 1e-4
    for kind, expected in ((False, whole), (True, found)):
        close(velocity(TINY, params, x, t, context, causal=jnp.asarray(kind)), expected)


def test_last_frame_sees_all_of_a_shallow_model():
    """With one layer a clip's last frame does not tell whether those before it saw later ones."""
    params, context = tiny(SHALLOW)
    t = jnp.linspace(0.1, 0.9, 10).reshape(2, 5)
    expected = velocity(SHALLOW, params, CLIP[:, :FRAMES], t, context)[:, -1]
    close(velocity(SHALLOW, params, CLIP[:, :FRAMES], t, context, causal=True)[:, -1], expected)


def test_frame_by_frame_equals_the_clip():
    """What is sampled frame by frame must be what was trained on clips, where a window holds all of them."""
    params, context = tiny()
    cache = causal.empty(TINY, 2, SLOTS, 4, 6)
    for i in range(FRAMES):
        noisy = NOISY[:, i : i + 1]
        expected = velocity(TINY, params, *one_behind(CLIP[:, :i], noisy, 0.7), context, causal=True)[:, i:]
        close(step(TINY, params, noisy, jnp.full((2, 1), 0.7), context, cache), expected)
        cache = write(TINY, params, CLIP[:, i : i + 1], context, cache)


def test_ring_goes_round():
    """Behind the window a frame sees the first one and the last ones, in order, at the positions of a window.

    Of one layer keys are of their frame alone, so that a clip of these frames says what to expect.
    """
    params, context = tiny(SHALLOW)
    cache = causal.empty(SHALLOW, 2, SLOTS, 4, 6)
    for i in range(9):
        noisy = NOISY[:, i : i + 1]
        seen = [0, *range(i - SLOTS + 1, i)] if i > SLOTS else list(range(i))
        expected = velocity(SHALLOW, params, *one_behind(CLIP[:, np.array(seen, int)], noisy, 0.7), context)[:, -1:]
        close(step(SHALLOW, params, noisy, jnp.full((2, 1), 0.7), context, cache), expected)
        cache = write(SHALLOW, params, CLIP[:, i : i + 1], context, cache)


def test_one_slot_is_a_ring():
    """A window of two frames must go on from the frame before, not from the first one for ever."""
    params, context = tiny(SHALLOW)
    cache = causal.empty(SHALLOW, 2, 1, 4, 6)
    for i in range(3):
        cache = write(SHALLOW, params, CLIP[:, i : i + 1], context, cache)
    expected = velocity(SHALLOW, params, *one_behind(CLIP[:, 2:3], NOISY[:, :1], 0.7), context)[:, -1:]
    close(step(SHALLOW, params, NOISY[:, :1], jnp.full((2, 1), 0.7), context, cache), expected)


def test_gradients_are_those_of_earlier_frames_too():
    """Training through the cache, and causally on clips, needs them."""
    params, context = tiny()
    t = jnp.full((2, 3), 0.5)

    def last(x, kind, remat="none"):
        return jnp.sum(denoiser.velocity(TINY, params, x, t, context, remat=remat, causal=kind)[:, 1] ** 2)

    found = jax.jit(jax.grad(last))(CLIP[:, :3], jnp.asarray(True))
    assert np.abs(found[:, 0]).max() > 0
    assert not found[:, 2].any()
    remat = jax.jit(functools.partial(jax.grad(last), remat="full"))(CLIP[:, :3], jnp.asarray(True))
    close(remat, found)

    def rolled(x):
        cache = causal.write(TINY, params, x[:, :1], context, causal.empty(TINY, 2, SLOTS, 4, 6))
        return jnp.sum(causal.step(TINY, params, x[:, 1:2], t[:, :1], context, cache))

    assert np.abs(jax.jit(jax.grad(rolled))(CLIP[:, :2])[:, 0]).max() > 0


@pytest.mark.parametrize("sizes", [{"context": 2, "data": 2, "fsdp": 2}, {"context": 4, "data": 2}], ids=str)
def test_meshes_agree(sizes):
    """Ulysses and the ring, padded frames: on every mesh the velocity is that of one device."""
    params, context = tiny()
    t = jnp.full((2, 5), 0.4)
    x = CLIP[:, :FRAMES]
    expected = velocity(TINY, params, x, t, context, causal=True)

    def roll(params, context):
        cache = causal.empty(TINY, 2, SLOTS, 4, 6)
        for i in range(2):
            cache = causal.write(TINY, params, x[:, i : i + 1], context, cache)
        return causal.step(TINY, params, x[:, 2:3], t[:, :1], context, cache)

    rolled = jax.jit(roll)(params, context)
    mesh = make_mesh(**sizes)
    spread = shard(params, mesh, DENOISER_RULES)
    with jax.set_mesh(mesh):
        close(velocity(TINY, spread, x, t, context, causal=True), expected)
        close(jax.jit(lambda *a: roll(*a))(spread, context), rolled)
