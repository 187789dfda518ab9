"""The loop under a scan and the loop on the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.diffusion import flow
from vidjax.diffusion.guidance import classifier_free
from vidjax.diffusion.sampling import sample, steps, walk, walk_on_host
from vidjax.diffusion.solvers import SOLVERS


@pytest.mark.parametrize("name", SOLVERS)
def test_scan_equals_host_loop(name):
    """What people see step by step must be, bit for bit, what programs get from the scan."""
    solver, schedule = SOLVERS[name], flow.make_schedule(6, 3.0)
    mix = jax.random.normal(jax.random.key(1), (4, 4))
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 4))
    velocity = lambda x, t: jnp.tanh(x @ mix) * t + 0.1 * x  # noqa: E731
    whole = jax.jit(lambda x: sample(velocity, x, schedule, solver))(x)
    step = jax.jit(functools.partial(walk, velocity, solver=solver))
    seen = []
    found = walk_on_host(
        lambda s, r: step(s, rows=r), solver.init(x), solver.plan(schedule), lambda state: seen.append(state.x)
    )
    np.testing.assert_array_equal(found.x, whole)
    assert len(seen) == 6
    np.testing.assert_array_equal(seen[-1], whole)
    assert not np.array_equal(seen[0], whole)
    assert step._cache_size() == 1, "every step must run the same compiled program"


def test_walk_in_pieces():
    """A run that is stopped and taken up again, or split between two experts, is the same run."""
    solver, schedule = SOLVERS["unipc"], flow.make_schedule(6, 3.0)
    x = jax.random.normal(jax.random.key(0), (1, 1, 2, 2, 1))
    velocity = lambda x, t: jnp.sin(x) * t  # noqa: E731
    rows = jax.tree.map(jnp.asarray, solver.plan(schedule))
    state = walk(velocity, solver.init(x), steps(rows, 0, 2), solver)
    state = walk(velocity, state, steps(rows, 2, 6), solver)
    np.testing.assert_allclose(state.x, sample(velocity, x, schedule, solver), atol=1e-6)


def test_guidance():
    """Scale 1 is the prompt alone, 0 the negative prompt alone; beyond 1 away from the negative prompt."""
    pair = lambda x, t: (3 * x, x)  # noqa: E731
    x, t = jnp.ones((1, 1, 1, 1, 2)), jnp.float32(0.5)
    for scale, expected in ((0.0, 1), (1.0, 3), (5.0, 11)):
        np.testing.assert_allclose(classifier_free(pair, scale)(x, t), expected * x)
