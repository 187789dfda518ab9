"""The flow between video and noise, and the times at which it is walked.

``x_t = (1 - t) x_0 + t noise`` with velocity ``v = noise - x_0`` (Lipman et al., 2210.02747; Liu et al., 2209.03003).
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.typing import Array, Float

Grid = Literal["folder", "original"]
GRIDS = get_args(Grid)

TRAIN_STEPS = 1000


class Schedule(NamedTuple):
    """A walk of ``n`` steps from noise to video.

    ``sigmas`` [n + 1] are the diffusion times of the states, from almost 1 to 0; ``times`` [n] are what the model is
    told at each step: published weights know whole thousandths only.
    """

    sigmas: np.ndarray
    times: np.ndarray

    @property
    def num_steps(self) -> int:
        return len(self.times)


def shift_times(t: np.ndarray | Array, shift: float) -> np.ndarray | Array:
    """``s t / (1 + (s - 1) t)``: more of the steps at high noise for ``s > 1`` (Esser et al., 2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def make_schedule(num_steps: int, shift: float, grid: Grid = "folder") -> Schedule:
    """The schedule of ``num_steps`` steps.

    ``grid`` names one of two published spacings before the shift: ``folder`` (of the published folder's scheduler)
    goes evenly from 1 to 1 / 1000, ``original`` (of the original repository) from 0.999 to 0.
    """
    first, last = {"folder": (1.0, 1.0 / TRAIN_STEPS), "original": (1.0 - 1.0 / TRAIN_STEPS, 0.0)}[grid]
    sigmas = shift_times(np.linspace(first, last, num_steps + 1)[:-1], shift)
    # At exactly 1 there is no signal and its logarithm is infinite.
    sigmas = np.where(np.abs(sigmas - 1.0) < 1e-6, sigmas - 1e-6, sigmas)
    times = np.floor(sigmas * TRAIN_STEPS) / TRAIN_STEPS
    return Schedule(np.append(sigmas, 0.0).astype(np.float32), times.astype(np.float32))


def last_steps(schedule: Schedule, strength: float) -> Schedule:
    """The walk from partly noised video on: that share of the steps, at least one but for 0 (SDEdit, 2108.01073)."""
    count = max(1, round(schedule.num_steps * strength)) if strength else 0
    first = schedule.num_steps - count
    return Schedule(schedule.sigmas[first:], schedule.times[first:])


def interpolate(
    x0: Float[Array, "B f h w c"], noise: Float[Array, "B f h w c"], t: Float[Array, "B f"]
) -> tuple[Float[Array, "B f h w c"], Float[Array, "B f h w c"]]:
    """Latents at per-frame times, and their velocity."""
    t = t[..., None, None, None]
    return (1 - t) * x0 + t * noise, noise - x0


def initial_noise(key: Array, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Unit normal latents; the same for a key on any number of devices."""
    return jax.random.normal(key, shape, jnp.float32)
