"""The denoiser against the published one; its times, its gradients."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models.wan import denoiser
from vidjax.weights import folder

GOLDEN = Path(__file__).parents[2] / "golden"

TINY = denoiser.DenoiserConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=3, out_channels=3, text_dim=8, freq_dim=8, ffn_dim=16,
    num_layers=2,
)  # fmt: skip

TEXT = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 8)), jnp.float32)


def close(found, expected, tolerance: float) -> None:
    """Within ``tolerance`` of the largest expected value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


@functools.cache
def tiny():
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(functools.partial(denoiser.init, TINY), jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), abstract)
    x = jax.random.normal(jax.random.key(1), (2, 3, 4, 6, 3))
    return params, x, denoiser.context(TINY, params, TEXT)


velocity = jax.jit(denoiser.velocity, static_argnames=("config", "dtype", "remat"))


@pytest.mark.parametrize("name", ["denoiser_text", "denoiser_image"])
def test_velocity_equals_published(name):
    """A difference, however small, is walked through fifty times: published weights would give other videos."""
    path = GOLDEN / name
    config = folder.read_config(path, "transformer")
    params = folder.read_part(path, "transformer", config, dtype=np.float32)
    with np.load(path / "arrays.npz") as arrays:
        a = {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}
    context = denoiser.context(config, params, a["text"], a.get("image"))
    close(velocity(config, params, a["x"], a["t"], context), a["velocity"], 2e-5)


def test_time_of_a_frame_counts():
    """Given frames are told apart from noise by their time alone."""
    params, x, context = tiny()
    same = velocity(TINY, params, x, jnp.full((2, 3), 0.5), context)
    given = velocity(TINY, params, x, jnp.full((2, 3), 0.5).at[:, 0].set(0.0), context)
    assert np.abs(given - same).max() > 1e-2
    assert np.abs(given - same)[:, 1:].max() > 1e-4, "the other frames attend to the given one"


def test_frame_positions():
    """Frames may be said to sit elsewhere in time: by default 0, 1, 2; only distances matter to self-attention."""
    params, x, context = tiny()
    t = jnp.full((2, 3), 0.5)
    plain = velocity(TINY, params, x, t, context)
    at = lambda *frames: denoiser.velocity(TINY, params, x, t, context, np.array(frames))  # noqa: E731
    close(at(0, 1, 2), plain, 1e-6)
    close(at(7, 8, 9), plain, 1e-4)
    assert np.abs(at(0, 5, 10) - plain).max() > 1e-3


def test_vmap_equals_batch():
    """Clips are independent: what a clip becomes must not depend on its neighbours in the batch."""
    params, x, context = tiny()
    t = jnp.array([[0.0, 0.3, 0.9], [0.1, 0.5, 1.0]])
    batch = velocity(TINY, params, x, t, context)

    def one(x, t, context):
        context = jax.tree.map(lambda y: y[:, None], context)
        return denoiser.velocity(TINY, params, x[None], t[None], context)[0]

    mapped = jax.jit(jax.vmap(one, in_axes=(0, 0, jax.tree.map(lambda _: 1, context))))(x, t, context)
    close(mapped, batch, 1e-5)


@functools.cache
def gradient(remat: denoiser.Remat):
    params, x, _ = tiny()

    @jax.jit
    def run(params, t):
        def loss(params, t):
            context = denoiser.context(TINY, params, TEXT)
            return jnp.mean((denoiser.velocity(TINY, params, x, t, context, remat=remat) - x) ** 2)

        return jax.value_and_grad(loss, (0, 1))(params, t)

    return run(params, jnp.full((2, 3), 0.5))


def test_gradients_reach_every_parameter():
    """A parameter without a gradient stays at its random start for a whole training."""
    _, (params, t) = gradient("none")
    still = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(params) if not g.any()]
    assert not still
    assert np.isfinite(t).all()
    assert np.abs(t).min() > 0


@pytest.mark.parametrize("remat", ["full", "dots", "offload"])
def test_remat_keeps_gradients(remat):
    """What the backward pass recomputes is a matter of memory, never of the result."""
    expected, found = gradient("none"), gradient(remat)
    for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * float(np.abs(a).max()))


def test_offload_waits_in_the_hosts_memory():
    """On an accelerator; were it not moved there, a model that fits by this policy alone would not."""
    params, x, _ = tiny()

    def moved(remat: denoiser.Remat) -> int:
        def loss(params):
            context = denoiser.context(TINY, params, TEXT)
            return jnp.mean(denoiser.velocity(TINY, params, x, jnp.full((2, 3), 0.5), context, remat=remat) ** 2)

        lowered = jax.jit(jax.grad(loss)).trace(params).lower(lowering_platforms=("tpu",))
        return lowered.as_text().count("pinned_host")

    assert moved("offload") > 0
    assert moved("dots") == 0


def test_bfloat16_is_near():
    """Half precision must round, not break: the modulation and norms stay in float32, and so does the result."""
    params, x, context = tiny()
    t = jnp.full((2, 3), 0.5)
    exact = velocity(TINY, params, x, t, context)
    context = denoiser.context(TINY, params, TEXT, dtype=jnp.bfloat16)
    half = velocity(TINY, params, x, t, context, dtype=jnp.bfloat16)
    assert half.dtype == jnp.float32
    close(half, exact, 0.05)
    assert np.abs(half - exact).max() > 0, "bfloat16 was not used at all"
