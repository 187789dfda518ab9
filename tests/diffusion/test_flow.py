"""Schedules and the path between video and noise."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.diffusion import flow

GOLDEN = Path(__file__).parents[1] / "golden" / "unipc.npz"


@pytest.mark.parametrize("n", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_schedule_equals_published(n, shift):
    """Times off by one thousandth are times that published weights were not asked in."""
    schedule = flow.make_schedule(n, shift)
    with np.load(GOLDEN) as a:
        np.testing.assert_allclose(schedule.sigmas, a[f"sigmas_{n}_{shift:g}"], atol=1e-7)
        np.testing.assert_allclose(schedule.times * 1000, a[f"timesteps_{n}_{shift:g}"], atol=1e-4)
    assert schedule.num_steps == n


def test_original_grid():
    """The original repository spaces steps from 0.999 to 0 before the shift."""
    schedule = flow.make_schedule(3, 5.0, grid="original")
    even = np.array([0.999, 0.666, 0.333])
    np.testing.assert_allclose(schedule.sigmas, [*(5 * even / (1 + 4 * even)), 0], rtol=1e-6)
    np.testing.assert_array_equal(schedule.times, np.float32([0.999, 0.908, 0.713]))


@pytest.mark.parametrize("grid", ["folder", "original"])
@pytest.mark.parametrize("shift", [0.5, 1.0, 16.0])
def test_schedule_falls_to_zero(grid, shift):
    """A step of no length, or upwards, divides by zero in the solver."""
    schedule = flow.make_schedule(40, shift, grid)
    assert (np.diff(schedule.sigmas) < 0).all()
    assert schedule.sigmas[0] < 1
    assert schedule.sigmas[-1] == 0
    assert schedule.sigmas.dtype == schedule.times.dtype == np.float32
    assert (schedule.times <= schedule.sigmas[:-1] + 1e-6).all()
    assert (schedule.times > schedule.sigmas[:-1] - 1.01e-3).all()


def test_interpolate():
    """Time 0 is the video, time 1 the noise, per frame; the velocity is the path's derivative."""
    x0, noise = jax.random.normal(jax.random.key(0), (2, 1, 3, 2, 2, 4))
    t = jnp.array([[0.0, 0.25, 1.0]])
    x, v = flow.interpolate(x0, noise, t)
    np.testing.assert_array_equal(x[:, 0], x0[:, 0])
    np.testing.assert_array_equal(x[:, 2], noise[:, 2])
    np.testing.assert_allclose(x[:, 1], 0.75 * x0[:, 1] + 0.25 * noise[:, 1], atol=1e-6)
    _, derivative = jax.jvp(lambda t: flow.interpolate(x0, noise, t)[0], (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(v, derivative, atol=1e-6)


def test_noise_is_the_same_on_any_devices():
    """A seed must give one video, however many chips draw it."""
    key, shape = jax.random.key(3), (8, 2, 4, 4, 2)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    alone = jax.jit(flow.initial_noise, static_argnums=1)(key, shape)
    spread = jax.jit(flow.initial_noise, static_argnums=1, out_shardings=split)(key, shape)
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_array_equal(alone, spread)
    assert abs(float(alone.std()) - 1) < 0.1
