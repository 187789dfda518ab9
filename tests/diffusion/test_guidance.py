"""Guidance rules on vectors small enough to be worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.diffusion import flow
from vidjax.diffusion.guidance import APG_RADIUS, GUIDANCE, apg, cfg_zero, guide, in_interval, make_guidance, zero_init


def clip(*values):
    """One clip with these numbers as its channels."""
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 1, -1)


def given(positive, negative):
    return lambda x, t: (positive, negative)


HALF = jnp.float32(0.5)


@pytest.mark.parametrize("rule", GUIDANCE)
def test_scale_one_is_the_prompt_alone(rule):
    """Scales are comparable between rules only if they start from the same clip."""
    positive, negative, x = (jax.random.normal(jax.random.key(i), (2, 3, 4, 4, 4)) for i in range(3))
    found = GUIDANCE[rule].combine(given(positive, negative), 1.0)(x, HALF)
    np.testing.assert_allclose(found, positive, atol=1e-5)


def test_cfg_zero():
    """Of (3, 4) along (2, 0) there is (3, 0): guided by 2 the rest is doubled. Plain guidance would give (4, 8)."""
    found = cfg_zero(given(clip(3, 4), clip(2, 0)), 2.0)(clip(0, 0), HALF)
    np.testing.assert_allclose(found, clip(3, 8), atol=1e-6)


def test_cfg_zero_scales_each_clip():
    """One scale for the whole batch would make a clip depend on its neighbours."""
    positive, negative = jnp.concatenate([clip(3, 4), clip(0, 5)]), jnp.concatenate([clip(2, 0), clip(1, 1)])
    found = cfg_zero(given(positive, negative), 2.0)(jnp.zeros_like(positive), HALF)
    np.testing.assert_allclose(found[0], clip(3, 8)[0], atol=1e-6)
    np.testing.assert_allclose(found[1], clip(-2.5, 7.5)[0], atol=1e-6)


def test_cfg_zero_without_a_negative_velocity():
    """Zero over zero would turn the whole clip into NaN."""
    np.testing.assert_allclose(cfg_zero(given(clip(3, 4), clip(0, 0)), 2.0)(clip(0, 0), HALF), clip(6, 8))


SMALL = APG_RADIUS / 4


def test_apg_drops_what_is_parallel_to_the_estimate():
    """Here x_0 = x - t v = (1, 0): of the difference (s, s) only the second half is left, times scale - 1."""
    positive, negative = clip(2, 0), clip(2 - SMALL, -SMALL)
    found = apg(given(positive, negative), 3.0)(clip(2, 0), HALF)
    np.testing.assert_allclose(found, clip(2, 2 * SMALL), atol=1e-6)


def test_apg_limits_the_difference():
    """The estimates (1, 0) and (1, 50) lie 50 apart: they are taken to lie at the limit, t times what velocities do."""
    found = apg(given(clip(2, 0), clip(2, -100)), 3.0)(clip(2, 0), HALF)
    np.testing.assert_allclose(found, clip(2, 2 * APG_RADIUS * math.sqrt(2) / 0.5), rtol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.5])
def test_apg_is_finite(t):
    """Heun's last step looks at time 0; two equal velocities and an estimate of zero are what an empty prompt gives."""
    same, x = clip(2, 2), clip(1, 1)
    np.testing.assert_array_equal(apg(given(same, same), 5.0)(x, jnp.float32(t)), same)
    assert np.isfinite(apg(given(clip(0, 0), clip(1, 2)), 5.0)(clip(0, 0), jnp.float32(t))).all()


@pytest.mark.parametrize(("t", "expected"), [(0.1, 7), (0.2, 5), (0.5, 5), (0.8, 5), (0.9, 7)])
def test_interval(t, expected):
    """Ends included: a time told in the same digits as the interval is within it."""
    velocity = jax.jit(in_interval(lambda x, t: 5 * x, lambda x, t: 7 * x, 0.2, 0.8))
    np.testing.assert_array_equal(velocity(clip(1, 1), jnp.float32(t)), clip(expected, expected))


def test_outside_the_interval_half_the_work_is_done():
    """Most of what an interval is good for: the velocity with the negative prompt is not computed there."""
    calls = []

    def counted(name):
        return lambda x, t: jax.pure_callback(lambda x: (calls.append(name), np.asarray(x))[1], x, x)

    velocity = jax.jit(in_interval(counted("both"), counted("alone"), 0.2, 0.8))
    jax.block_until_ready([velocity(clip(1.0), jnp.float32(t)) for t in (0.9, 0.5, 0.1)])
    assert calls == ["alone", "both", "alone"]


@pytest.mark.parametrize(("steps", "zeros"), [(1, 0), (2, 1), (20, 1), (50, 2), (100, 4)])
def test_first_steps_of_cfg_zero_stand_still(steps, zeros):
    """4 % of the steps, one at least, never all: a walk of zero velocities ends in noise."""
    schedule = flow.make_schedule(steps, 3.0)
    guidance = make_guidance("cfg-zero", (0.0, 1.0), schedule)
    velocity = guide(given(clip(3, 4), clip(2, 0)), None, 2.0, guidance)
    still = [bool((velocity(clip(1, 1), jnp.float32(t)) == 0).all()) for t in schedule.times]
    assert still == [i < zeros for i in range(steps)]


def test_zero_init_leaves_later_times_alone():
    """Off by one step, the first guess at the picture would be lost."""
    velocity = zero_init(lambda x, t: 5 * x, 0.9)
    assert [float(velocity(clip(1), jnp.float32(t)).sum()) for t in (0.95, 0.9, 0.89)] == [0, 0, 5]


def test_plain_guidance_everywhere_is_plain():
    """The default must be the very formula, with nothing around it."""
    guidance = make_guidance("cfg", (0.0, 1.0), flow.make_schedule(20, 3.0))
    jaxpr = jax.make_jaxpr(guide(given(clip(3, 4), clip(2, 0)), None, 2.0, guidance))(clip(1, 1), HALF)
    assert [equation.primitive.name for equation in jaxpr.eqns] == ["sub", "mul", "add"]
