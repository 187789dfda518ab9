"""The sampling loop, written once: one step function, under a scan for programs or driven by the host for people."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from vidjax.diffusion.flow import Schedule
from vidjax.diffusion.solvers import Solver, Velocity
from vidjax.typing import Array, Float, PyTree


def sample(
    velocity: Velocity, x: Float[Array, "B f h w c"], schedule: Schedule, solver: Solver
) -> Float[Array, "B f h w c"]:
    """Latents from noise ``x``, the whole walk as one scan."""
    rows = jax.tree.map(jnp.asarray, solver.plan(schedule))
    return walk(velocity, solver.init(x), rows, solver).x


def walk(velocity: Velocity, state: PyTree, rows: PyTree, solver: Solver) -> PyTree:
    """The state after the steps whose plan ``rows`` hold."""

    def body(state: PyTree, row: PyTree) -> tuple[PyTree, None]:
        return solver.step(velocity, state, row), None

    return lax.scan(body, state, rows)[0]


def sample_on_host(
    step: Callable[[PyTree, PyTree], PyTree],
    x: Float[Array, "B f h w c"],
    schedule: Schedule,
    solver: Solver,
    on_step: Callable[[int, PyTree], None] = lambda i, state: None,
) -> Float[Array, "B f h w c"]:
    """Latents from noise ``x``, one call of ``step(state, row)`` a step.

    ``step`` is ``walk`` with the rows of one step, jitted once by the caller; ``on_step(i, state)`` is called
    after step ``i``, counted from 0.
    """
    rows = solver.plan(schedule)
    state = solver.init(x)
    for i in range(schedule.num_steps):
        state = step(state, jax.tree.map(lambda row, i=i: row[i : i + 1], rows))
        on_step(i, state)
    return state.x
