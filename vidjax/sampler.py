"""From a condition to latents: the denoiser, guided, walked by a solver. Pure functions of explicit parameters."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.conditioning.condition import Condition, paste, with_given
from vidjax.diffusion import sampling
from vidjax.diffusion.flow import TRAIN_STEPS, Grid, Schedule, initial_noise
from vidjax.diffusion.guidance import classifier_free
from vidjax.diffusion.solvers import SOLVERS, Velocity
from vidjax.model import Model, ModelConfig, denoiser_params
from vidjax.request import sampling_settings
from vidjax.typing import Array, Float, Params, PyTree


def make_sampler(
    model: Model,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_scale_2: float | None = None,
    flow_shift: float | None = None,
    solver: str = "unipc",
    grid: Grid = "folder",
) -> Callable[[dict[str, Params], Array, Condition], Float[Array, "B f h w c"]]:
    """A pure ``sample(params, key, condition) -> latents``, to jit, vmap, shard or differentiate.

    ``params`` is ``model.params`` or a tree like it, ``key`` a JAX random key. None means the model's default.

    Raises:
      InputError: a setting is out of range.
    """
    schedule, scales = sampling_settings(
        model.config, num_inference_steps, guidance_scale, guidance_scale_2, flow_shift, solver, grid
    )
    rows = SOLVERS[solver].plan(schedule)

    def sample(params: dict[str, Params], key: Array, condition: Condition) -> Float[Array, "B f h w c"]:
        state = SOLVERS[solver].init(initial_noise(key, condition.given.shape))
        for leg in make_legs(model.config, schedule, scales):
            context = text_context(model.config, params[leg.part], condition, guided=leg.scale != 1)
            velocity = make_velocity(model.config, params[leg.part], context, condition, leg.scale)
            of_leg = jax.tree.map(jnp.asarray, sampling.steps(rows, leg.first, leg.last))
            state = sampling.walk(velocity, state, of_leg, SOLVERS[solver])
        return paste(condition.given, condition.mask, state.x)

    return sample


class Leg(NamedTuple):
    """A part of the walk: the denoiser, its guidance scale, and its steps from ``first`` up to ``last``."""

    part: str
    scale: float
    first: int
    last: int


def make_legs(config: ModelConfig, schedule: Schedule, scales: tuple[float, ...]) -> list[Leg]:
    """The walk by denoisers: all of it, or one denoiser down to the boundary and the other from there on."""
    n = schedule.num_steps
    if config.boundary_ratio is None:
        return [Leg("transformer", scales[0], 0, n)]
    # In whole thousandths, as the boundary was meant.
    switch = int((np.rint(schedule.times * TRAIN_STEPS) >= config.boundary_ratio * TRAIN_STEPS).sum())
    legs = [Leg("transformer", scales[0], 0, switch), Leg("transformer_2", scales[1], switch, n)]
    return [leg for leg in legs if leg.first < leg.last]


@functools.partial(jax.jit, static_argnames=("config", "guided"))
def text_context(config: ModelConfig, params: Params, condition: Condition, guided: bool) -> PyTree:
    """Keys and values of text and picture for every layer; with guidance those of the negative prompt behind them."""
    text = jnp.concatenate([condition.text, condition.negative]) if guided else condition.text
    image = _twice(condition.image) if guided else condition.image
    return config.modules.denoiser.context(config.transformer, params, text, image, dtype=jnp.dtype(config.dtype))


def make_velocity(
    config: ModelConfig, params: Params, context: PyTree, condition: Condition, scale: float | Array | None
) -> Velocity:
    """The velocity that a solver walks; ``scale`` None or 1 is unguided, and ``context`` then without negatives."""
    guided = scale is not None and not (isinstance(scale, int | float) and scale == 1)
    given, mask, channels = (_twice(v) if guided else v for v in (condition.given, condition.mask, condition.channels))

    def denoise(x: Float[Array, "B f h w c"], t: Float[Array, "B f"]) -> Float[Array, "B f h w c"]:
        x = x if channels is None else jnp.concatenate([x, channels], axis=-1)
        velocity = config.modules.denoiser.velocity
        return velocity(config.transformer, params, x, t, context, dtype=jnp.dtype(config.dtype))

    whole = with_given(denoise, given, mask)
    if not guided:
        return whole

    def pair(x: Array, t: Array) -> tuple[Array, Array]:
        positive, negative = jnp.split(whole(jnp.concatenate([x, x]), t), 2)
        return positive, negative

    return classifier_free(pair, scale)


def _twice(x: Array | None) -> Array | None:
    return None if x is None else jnp.concatenate([x, x])


@functools.partial(jax.jit, static_argnames=("config", "solver"))
def _steps(
    config: ModelConfig,
    solver: str,
    params: Params,
    context: PyTree,
    condition: Condition,
    scale: Array | None,
    state: PyTree,
    rows: PyTree,
) -> PyTree:
    velocity = make_velocity(config, params, context, condition, scale)
    return sampling.walk(velocity, state, rows, SOLVERS[solver])


def sample_with_progress(
    model: Model,
    x: Float[Array, "B f h w c"],
    condition: Condition,
    schedule: Schedule,
    scales: tuple[float, ...],
    solver: str,
    on_step: Callable[[Any], None],
) -> Float[Array, "B f h w c"]:
    """What ``make_sampler`` computes, from noise ``x``, one compiled step at a time."""
    state, rows = SOLVERS[solver].init(x), SOLVERS[solver].plan(schedule)
    for leg in make_legs(model.config, schedule, scales):
        params, guided = denoiser_params(model, leg.part), leg.scale != 1
        context = text_context(model.config, params, condition, guided)
        scale = jnp.float32(leg.scale) if guided else None
        step = functools.partial(_steps, model.config, solver, params, context, condition, scale)
        state = sampling.walk_on_host(step, state, sampling.steps(rows, leg.first, leg.last), on_step)
        # Let go before the next denoiser comes: the device may not hold two.
        del params, context, step
    return paste(condition.given, condition.mask, state.x)
