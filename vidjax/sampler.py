"""From a condition to latents: the denoiser, guided, walked by a solver. Pure functions of explicit parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vidjax.conditioning.condition import Condition, paste, with_given
from vidjax.diffusion import sampling
from vidjax.diffusion.flow import Grid, Schedule, initial_noise, make_schedule
from vidjax.diffusion.guidance import classifier_free
from vidjax.diffusion.solvers import SOLVERS, Velocity
from vidjax.model import Model, ModelConfig
from vidjax.request import sampling_settings
from vidjax.typing import Array, Float, Params, PyTree


def make_sampler(
    model: Model,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    flow_shift: float | None = None,
    solver: str = "unipc",
    grid: Grid = "folder",
) -> Callable[[dict[str, Params], Array, Condition], Float[Array, "B f h w c"]]:
    """A pure ``sample(params, key, condition) -> latents``, to jit, vmap, shard or differentiate.

    ``params`` is ``model.params`` or a tree like it, ``key`` a JAX random key. None means the model's default.

    Raises:
      InputError: a setting is out of range.
    """
    steps, scale, shift = sampling_settings(model.config, num_inference_steps, guidance_scale, flow_shift, solver)
    schedule = make_schedule(steps, shift, grid)

    def sample(params: dict[str, Params], key: Array, condition: Condition) -> Float[Array, "B f h w c"]:
        context = text_context(model.config, params["transformer"], condition, guided=scale != 1)
        velocity = make_velocity(model.config, params["transformer"], context, condition, scale)
        x = sampling.sample(velocity, initial_noise(key, condition.given.shape), schedule, SOLVERS[solver])
        return paste(condition.given, condition.mask, x)

    return sample


@functools.partial(jax.jit, static_argnames=("config", "guided"))
def text_context(config: ModelConfig, params: Params, condition: Condition, guided: bool) -> PyTree:
    """Keys and values of the text for every layer; with guidance those of the negative prompt behind them."""
    text = jnp.concatenate([condition.text, condition.negative]) if guided else condition.text
    return config.modules.denoiser.context(config.transformer, params, text, dtype=jnp.dtype(config.dtype))


def make_velocity(
    config: ModelConfig, params: Params, context: PyTree, condition: Condition, scale: float | Array | None
) -> Velocity:
    """The velocity that a solver walks; ``scale`` None or 1 is unguided, and ``context`` then without negatives."""
    denoise = functools.partial(
        config.modules.denoiser.velocity, config.transformer, params, context=context, dtype=jnp.dtype(config.dtype)
    )
    if scale is None or (isinstance(scale, int | float) and scale == 1):
        return with_given(denoise, condition.given, condition.mask)
    twice = with_given(denoise, *(jnp.concatenate([v, v]) for v in (condition.given, condition.mask)))

    def pair(x: Array, t: Array) -> tuple[Array, Array]:
        positive, negative = jnp.split(twice(jnp.concatenate([x, x]), t), 2)
        return positive, negative

    return classifier_free(pair, scale)


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
    scale: float,
    solver: str,
    on_step: Callable[[int, Any], None],
) -> Float[Array, "B f h w c"]:
    """What ``make_sampler`` computes, from noise ``x``, one compiled step at a time."""
    params = model.params["transformer"]
    guided = scale != 1
    context = text_context(model.config, params, condition, guided)
    step = functools.partial(
        _steps, model.config, solver, params, context, condition, jnp.float32(scale) if guided else None
    )
    x = sampling.sample_on_host(step, x, schedule, SOLVERS[solver], on_step)
    return paste(condition.given, condition.mask, x)
