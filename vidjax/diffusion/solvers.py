"""Solvers of the flow: each a plan of numbers and an ``(init, step)`` pair.

All that depends on the schedule alone is worked out beforehand in float64, one row a step; a step is then a few
products. States are float32 records whose field ``x`` holds the latents.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vidjax.diffusion.flow import Schedule
from vidjax.typing import Array, Float, PyTree

Velocity = Callable[[Float[Array, "B f h w c"], Float[Array, ""]], Float[Array, "B f h w c"]]
"""``velocity(x, t)``: what the model says of latents ``x`` at diffusion time ``t``."""


class Solver(NamedTuple):
    """``plan(schedule)`` gives arrays with one row a step; ``init(x)`` the first state;
    ``step(velocity, state, row)`` the next."""

    plan: Callable[[Schedule], PyTree]
    init: Callable[[Array], Any]
    step: Callable[[Velocity, Any, PyTree], Any]


class Point(NamedTuple):
    """State of a one-step solver."""

    x: Array


def _gaps(schedule: Schedule) -> dict[str, np.ndarray]:
    sigmas = schedule.sigmas.astype(np.float64)
    return {"t": schedule.times, "gap": np.diff(sigmas).astype(np.float32)}


def _euler_step(velocity: Velocity, state: Point, row: dict[str, Array]) -> Point:
    return Point(state.x + row["gap"] * velocity(state.x, row["t"]))


euler = Solver(_gaps, Point, _euler_step)
"""First order, one model call a step."""


def _heun_plan(schedule: Schedule) -> dict[str, np.ndarray]:
    after = np.append(schedule.times[1:], 0.0).astype(np.float32)
    # The last step ends in clean video, where the velocity is not defined by the data: it stays first order.
    weight = np.append(np.full(schedule.num_steps - 1, 0.5), 0.0).astype(np.float32)
    return {**_gaps(schedule), "t_next": after, "weight": weight}


def _heun_step(velocity: Velocity, state: Point, row: dict[str, Array]) -> Point:
    first = velocity(state.x, row["t"])
    second = velocity(state.x + row["gap"] * first, row["t_next"])
    return Point(state.x + row["gap"] * ((1 - row["weight"]) * first + row["weight"] * second))


heun = Solver(_heun_plan, Point, _heun_step)
"""Second order (Karras et al., 2206.00364, algorithm 1, without added noise), two model calls a step."""


class Multistep(NamedTuple):
    """State of UniPC: the predicted latents, the last corrected ones, and the two latest estimates of the video."""

    x: Array
    corrected: Array
    latest: Array
    before: Array


def _unipc_plan(schedule: Schedule) -> dict[str, np.ndarray]:
    """UniPC of order 2 with ``B_2(h) = e^h - 1``, predicting the video (Zhao et al., 2302.04867, algorithms 1, 5, 6).

    Every update is linear in the state; rows hold the weights. ``correct``: of (predicted, last corrected, estimate
    before the latest, latest, new). ``predict``: of (corrected, new, latest).
    """
    n = schedule.num_steps
    sigma = schedule.sigmas.astype(np.float64)
    with np.errstate(divide="ignore"):
        snr = np.log(1 - sigma) - np.log(sigma)
    correct, predict = np.zeros((n, 5)), np.zeros((n, 3))
    order = [min(2, i + 1, n - i) for i in range(n)]

    def terms(i: int) -> tuple[float, float, float, float]:
        """Of the step from i to i + 1: share of x that stays, weight of new estimates, and the two phi terms."""
        h = snr[i + 1] - snr[i]
        phi1 = np.expm1(-h)
        phi2 = 1.0 if np.isinf(h) else -phi1 / h - 1
        phi3 = 0.0 if np.isinf(h) else -phi2 / h - 0.5
        return sigma[i + 1] / sigma[i], -(1 - sigma[i + 1]) * phi1, phi2 / phi1, 2 * phi3 / phi1

    for i in range(n):
        correct[i] = (1, 0, 0, 0, 0)
        if i > 0:
            keep, weight, b1, b2 = terms(i - 1)
            if order[i - 1] == 1:
                correct[i] = (0, keep, 0, 0.5 * weight, 0.5 * weight)
            else:
                ratio = (snr[i - 2] - snr[i - 1]) / (snr[i] - snr[i - 1])
                past, now = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], [b1, b2])
                correct[i] = (0, keep, weight * past / ratio, weight * (1 - past / ratio - now), weight * now)
        keep, weight, _, _ = terms(i)
        predict[i] = (keep, weight, 0)
        if order[i] == 2:
            ratio = (snr[i - 1] - snr[i]) / (snr[i + 1] - snr[i])
            predict[i] = (keep, weight * (1 - 0.5 / ratio), weight * 0.5 / ratio)
    return {
        "t": schedule.times,
        "sigma": schedule.sigmas[:-1],
        "correct": correct.astype(np.float32),
        "predict": predict.astype(np.float32),
    }


def _unipc_init(x: Array) -> Multistep:
    return Multistep(x, x, jnp.zeros_like(x), jnp.zeros_like(x))


def _unipc_step(velocity: Velocity, state: Multistep, row: dict[str, Array]) -> Multistep:
    new = state.x - row["sigma"] * velocity(state.x, row["t"])
    past = (state.x, state.corrected, state.before, state.latest, new)
    x = sum(w * v for w, v in zip(row["correct"], past, strict=True))
    following = sum(w * v for w, v in zip(row["predict"], (x, new, state.latest), strict=True))
    return Multistep(following, x, new, state.latest)


unipc = Solver(_unipc_plan, _unipc_init, _unipc_step)
"""Second order, one model call a step: the published models' own."""

SOLVERS = {"unipc": unipc, "euler": euler, "heun": heun}
