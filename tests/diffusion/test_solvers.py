"""Solvers against the published one, and on an equation whose solution is known."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.diffusion import flow, solvers
from vidjax.diffusion.sampling import sample, walk

GOLDEN = Path(__file__).parents[1] / "golden" / "unipc.npz"


@pytest.mark.parametrize("n", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_unipc_equals_published(n, shift):
    """Same weights, same noise, same video as the published programs: at 1 and 2 steps only the borders are walked."""
    with np.load(GOLDEN) as a:
        x, mix, expected = jnp.asarray(a["x"]), a["mix"], a[f"x_{n}_{shift:g}"]
    found = sample(lambda x, t: jnp.tanh(x @ mix) * t + 0.1 * x, x, flow.make_schedule(n, shift), solvers.unipc)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def end_error(solver: solvers.Solver, n: int) -> float:
    """Distance at t = 0.1 from the solution of ``dx/dt = x cos(4 t)``, walked from t = 0.9 in ``n`` steps.

    The walk stops there: the last step, to 0, is first order by intent.
    """
    sigmas = np.linspace(0.9, 0.1, n + 1).astype(np.float32)
    rows = jax.tree.map(lambda row: jnp.asarray(row[:n]), solver.plan(flow.Schedule(np.append(sigmas, 0.0), sigmas)))
    state = walk(lambda x, t: x * jnp.cos(4 * t), solver.init(jnp.full((1, 1, 1, 1, 1), 2.0)), rows, solver)
    exact = 2 * np.exp((np.sin(4 * 0.1) - np.sin(4 * 0.9)) / 4)
    return abs(state.x.item() - exact)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("unipc", 3)])
def test_order_of_convergence(name, order):
    """Twice the steps must cut the error by ``2 ** order``: a wrong coefficient costs an order, unseen in a picture.

    UniPC's corrector adds one to its order of 2 (Zhao et al., 2302.04867, theorem 3.1).
    """
    steps = np.array([10, 20, 40])
    errors = [end_error(solvers.SOLVERS[name], n) for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order - 0.25 < slope < order + 0.5


@pytest.mark.parametrize("name", solvers.SOLVERS)
@pytest.mark.parametrize("n", [1, 4])
def test_straight_paths_are_exact(name, n):
    """A velocity that says ``noise - video`` everywhere leads to the video, in one step as in four."""
    video, noise = jax.random.normal(jax.random.key(0), (2, 1, 2, 3, 3, 4))
    schedule = flow.make_schedule(n, 3.0)
    start = video + schedule.sigmas[0] * (noise - video)
    found = sample(lambda x, t: noise - video, start, schedule, solvers.SOLVERS[name])
    np.testing.assert_allclose(found, video, atol=1e-5)


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_sampling_is_differentiable(name):
    """Rewards and distillation send gradients through the whole walk."""
    schedule = flow.make_schedule(4, 3.0)
    x = jax.random.normal(jax.random.key(0), (1, 1, 2, 2, 1))

    def end(weight):
        return sample(lambda x, t: jnp.sin(weight * x) * t, x, schedule, solvers.SOLVERS[name]).sum()

    slope = jax.jit(jax.grad(end))(1.5)
    np.testing.assert_allclose(slope, (end(1.501) - end(1.499)) / 0.002, rtol=0.02)


@pytest.mark.parametrize(("name", "calls"), [("euler", 1), ("heun", 2), ("unipc", 1)])
def test_model_calls(name, calls):
    """The model is nearly all of the cost: a step must not call it more often than its solver says."""
    asked = []
    solver = solvers.SOLVERS[name]
    row = jax.tree.map(lambda row: jnp.asarray(row[1]), solver.plan(flow.make_schedule(3, 1.0)))
    state = solver.init(jnp.ones((1, 1, 1, 1, 1)))
    solver.step(lambda x, t: asked.append(t) or x, state, row)
    assert len(asked) == calls
