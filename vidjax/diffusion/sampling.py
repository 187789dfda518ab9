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


def walk_on_host(
    step: Callable[[PyTree, PyTree], PyTree], state: PyTree, rows: PyTree, on_step: Callable[[PyTree], None]
) -> PyTree:
    """What ``walk`` computes, one call of ``step(state, row)`` a step.

    ``step`` is ``walk`` with the rows of one step, jitted once by the caller; ``on_step(state)`` is called after each.
    """
    for i in range(len(jax.tree.leaves(rows)[0])):
        state = step(state, steps(rows, i, i + 1))
        on_step(state)
    return state


def steps(rows: PyTree, first: int, last: int) -> PyTree:
    """The rows of some of the steps of a plan."""
    return jax.tree.map(lambda row: row[first:last], rows)
