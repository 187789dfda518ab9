"""Guidance: rules that make one velocity out of one with the text and one without."""

from collections.abc import Callable

from vidjax.diffusion.solvers import Velocity
from vidjax.typing import Array, Float

VelocityPair = Callable[[Float[Array, "B f h w c"], Float[Array, ""]], tuple[Array, Array]]
"""``pair(x, t)``: the velocities with the prompt and with the negative prompt."""


def classifier_free(pair: VelocityPair, scale: float | Array) -> Velocity:
    """``v_negative + scale (v_prompt - v_negative)`` (Ho and Salimans, 2207.12598)."""

    def velocity(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        positive, negative = pair(x, t)
        return negative + scale * (positive - negative)

    return velocity
