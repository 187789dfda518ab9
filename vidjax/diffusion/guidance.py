"""Guidance: rules that make one velocity out of one with the text and one without."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from vidjax.diffusion.flow import Schedule
from vidjax.diffusion.solvers import Velocity
from vidjax.typing import Array, Float

VelocityPair = Callable[[Float[Array, "B f h w c"], Float[Array, ""]], tuple[Array, Array]]
"""``pair(x, t)``: the velocities with the prompt and with the negative prompt."""

ZERO_STEPS = 0.04
"""The share of the steps that CFG-Zero* leaves out at the start: the paper's for Wan."""
APG_RADIUS = 15 / 256
"""APG's limit as a root mean square over the latents: its 15 is a norm over Stable Diffusion XL's 4 x 128 x 128."""
APG_PARALLEL = 0.0
"""The weight of the parallel part, the paper's eta."""


def classifier_free(pair: VelocityPair, scale: float | Array) -> Velocity:
    """``v_negative + scale (v_prompt - v_negative)`` (Ho and Salimans, 2207.12598)."""

    def velocity(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        positive, negative = pair(x, t)
        return negative + scale * (positive - negative)

    return velocity


def cfg_zero(pair: VelocityPair, scale: float | Array) -> Velocity:
    """CFG-Zero* (Fan et al., 2503.18886): the negative velocity is first scaled to come closest to the prompt's.

    ``s v_negative + scale (v_prompt - s v_negative)`` with ``s = <v_prompt, v_negative> / |v_negative|^2`` of each
    clip. The method's other half, zero velocity in the first steps, is ``zero_init``.
    """

    def velocity(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        positive, negative = pair(x, t)
        base = _projection(positive, negative)
        return base + scale * (positive - base)

    return velocity


def apg(pair: VelocityPair, scale: float | Array) -> Velocity:
    """Adaptive projected guidance (Sadat et al., 2410.02416, algorithm 1), without its momentum.

    It works on estimates of the video, ``x_0 = x - t v``. Their difference is shortened to ``APG_RADIUS`` and loses
    its part parallel to the prompt's estimate, which saturates colours; ``scale - 1`` times the rest is added to that
    estimate. Divided by ``-t`` the difference is one of velocities, so that nothing is divided by a ``t`` that may be
    zero. Momentum would need the difference of the step before: a velocity has no state.
    """

    def velocity(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        positive, negative = pair(x, t)
        difference = positive - negative
        radius = APG_RADIUS * math.sqrt(difference[0].size)
        length = t * jnp.sqrt(_inner(difference, difference))
        difference = difference * jnp.minimum(1.0, radius / jnp.maximum(length, _TINY))
        parallel = _projection(difference, x - t * positive)
        return positive + (scale - 1) * (difference - (1 - APG_PARALLEL) * parallel)

    return velocity


def in_interval(guided: Velocity, alone: Velocity, low: float, high: float) -> Velocity:
    """Guidance for ``low <= t <= high`` only (Kynkäänniemi et al., 2404.07724).

    Elsewhere ``alone``, the velocity with the prompt, holds, and the one without is not computed.
    """

    def velocity(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        return lax.cond((low <= t) & (t <= high), guided, alone, x, t)

    return velocity


def zero_init(guided: Velocity, first: float) -> Velocity:
    """Zero velocity for ``t >= first``: early on a guess is worse than none (CFG-Zero*, 2503.18886, section 4.2)."""

    def velocity(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        return lax.cond(t >= first, lambda x, t: jnp.zeros_like(x), guided, x, t)

    return velocity


class Rule(NamedTuple):
    """``combine(pair, scale)``, and the share of the steps, at the start, in which the velocity is zero."""

    combine: Callable[[VelocityPair, float | Array], Velocity]
    zero_steps: float = 0.0


GUIDANCE = {"cfg": Rule(classifier_free), "cfg-zero": Rule(cfg_zero, ZERO_STEPS), "apg": Rule(apg)}


class Guidance(NamedTuple):
    """A rule by name, the diffusion times within which it guides, and the time from which on velocity is zero."""

    rule: str = "cfg"
    low: float = 0.0
    high: float = 1.0
    zero_from: float = math.inf

    @property
    def everywhere(self) -> bool:
        return self.low <= 0 and self.high >= 1


def make_guidance(rule: str, interval: tuple[float, float], schedule: Schedule) -> Guidance:
    """The guidance of a walk. A rule with zero steps leaves out one at least, but never all."""
    share, n = GUIDANCE[rule].zero_steps, schedule.num_steps
    zeros = min(max(1, round(share * n)), n - 1) if share else 0
    return Guidance(rule, *interval, float(schedule.times[zeros - 1]) if zeros else math.inf)


def guide(pair: VelocityPair, alone: Velocity | None, scale: float | Array, guidance: Guidance) -> Velocity:
    """The guided velocity; ``alone``, the velocity with the prompt, is needed unless guidance is everywhere."""
    velocity = GUIDANCE[guidance.rule].combine(pair, scale)
    if guidance.zero_from < math.inf:
        velocity = zero_init(velocity, guidance.zero_from)
    return velocity if guidance.everywhere else in_interval(velocity, alone, guidance.low, guidance.high)


_TINY = 1e-30


def _inner(a: Float[Array, "B f h w c"], b: Float[Array, "B f h w c"]) -> Float[Array, "B 1 1 1 1"]:
    """Of each clip, over all its frames and channels."""
    return jnp.sum(a * b, axis=(1, 2, 3, 4), keepdims=True)


def _projection(a: Float[Array, "B f h w c"], b: Float[Array, "B f h w c"]) -> Float[Array, "B f h w c"]:
    """The part of ``a`` parallel to ``b``; zero where ``b`` is."""
    return _inner(a, b) / jnp.maximum(_inner(b, b), _TINY) * b
