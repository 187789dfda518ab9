"""From a condition to latents: the denoiser, guided, walked by a solver. Pure functions of explicit parameters."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.conditioning.condition import (
    Condition,
    cut_condition,
    held,
    on_their_way,
    paste,
    whole,
    with_given,
    with_kept,
)
from vidjax.conditioning.references import with_references
from vidjax.diffusion import sampling
from vidjax.diffusion.flow import TRAIN_STEPS, Grid, Schedule, initial_noise
from vidjax.diffusion.guidance import Guidance, guide
from vidjax.diffusion.solvers import SOLVERS, Velocity
from vidjax.errors import InputError
from vidjax.long import seen_frames
from vidjax.model import Model, ModelConfig, check_model, denoiser_params
from vidjax.request import sampling_settings
from vidjax.tiles import Tiling, tiled
from vidjax.typing import Array, Float, Params, PyTree

ADAPTER = "camera_adapter"


def make_sampler(
    model: Model,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_scale_2: float | None = None,
    flow_shift: float | None = None,
    solver: str = "unipc",
    grid: Grid = "folder",
    guidance: str = "cfg",
    guidance_interval: Sequence[float] = (0.0, 1.0),
) -> Callable[[dict[str, Params], Array, Condition], Float[Array, "B f h w c"]]:
    """A pure ``sample(params, key, condition) -> latents``, to jit, vmap, shard or differentiate.

    ``params`` is ``model.params`` or a tree like it, ``key`` a JAX random key. None means the model's default. The work
    is split over the mesh of ``jax.set_mesh``, or else over the model's own.

    Raises:
      InputError: a setting is out of range.
    """
    check_model(model)
    schedule, scales, rule = sampling_settings(
        model.config,
        num_inference_steps,
        guidance_scale,
        guidance_scale_2,
        flow_shift,
        solver,
        grid,
        guidance,
        guidance_interval,
    )
    rows = SOLVERS[solver].plan(schedule)

    def sample(params: dict[str, Params], key: Array, condition: Condition) -> Float[Array, "B f h w c"]:
        with _on_mesh_of(model):
            return walk(params, key, condition)

    def walk(params: dict[str, Params], key: Array, condition: Condition) -> Float[Array, "B f h w c"]:
        noise = initial_noise(key, condition.given.shape)
        state = SOLVERS[solver].init(on_their_way(condition, noise, float(schedule.sigmas[0])))
        for leg in make_legs(model.config, schedule, scales):
            contexts = text_contexts(model.config, params[leg.part], condition, *needed(leg.scale, rule))
            contexts = with_camera(model.config, contexts, params.get(ADAPTER), condition)
            velocity = make_velocity(model.config, params[leg.part], contexts, condition, leg.scale, rule)
            of_leg = jax.tree.map(jnp.asarray, sampling.steps(rows, leg.first, leg.last))
            state = sampling.walk(velocity, state, of_leg, SOLVERS[solver])
        return whole(condition, state.x)

    return sample


def _on_mesh_of(model: Model) -> contextlib.AbstractContextManager:
    # A mesh that the caller has set comes first: some of its axes may be taken by a jax.shard_map around this.
    if model.mesh is None or not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(model.mesh.abstract_mesh)


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


class Contexts(NamedTuple):
    """Keys and values of text and picture for every layer: of the prompt alone, and with the negative one's behind.

    Guidance leads away from a clip that has neither the prompt, nor what else there is to follow: pictures of a subject
    or of a style, and the camera's rays. Beside pictures the two have other tokens: then there is the ``negative`` one
    in place of the ``pair``. ``camera`` is what the rays add to the tokens; in tiles, each of which has rays of its
    own, there is the ``adapter`` that makes it.
    """

    alone: PyTree | None
    pair: PyTree | None
    negative: PyTree | None = None
    camera: Float[Array, "B f s D"] | None = None
    adapter: Params | None = None


def needed(scale: float, guidance: Guidance) -> tuple[bool, bool]:
    """Which of the two ``Contexts`` a walk needs: scale 1 is the prompt alone."""
    guided = scale != 1
    return not guided or not guidance.everywhere, guided


@functools.partial(jax.jit, static_argnames=("config", "alone", "pair"))
def text_contexts(config: ModelConfig, params: Params, condition: Condition, alone: bool, pair: bool) -> Contexts:
    """What the denoiser reads of the condition, computed once per clip."""

    def read(text: Array, image: Array | None) -> PyTree:
        return config.modules.denoiser.context(config.transformer, params, text, image, dtype=jnp.dtype(config.dtype))

    if pair and not (condition.references is None and condition.style is None):
        return Contexts(read(condition.text, condition.image), None, read(condition.negative, condition.image))
    both = jnp.concatenate([condition.text, condition.negative])
    return Contexts(
        read(condition.text, condition.image) if alone else None,
        read(both, _twice(condition.image)) if pair else None,
    )


def with_camera(
    config: ModelConfig, contexts: Contexts, adapter: Params | None, condition: Condition, tiling: Tiling | None = None
) -> Contexts:
    """``contexts`` with what the denoiser reads of the condition's rays, if it has any.

    Raises:
      InputError: this model has no camera adapter.
    """
    if condition.rays is None:
        return contexts
    if config.camera_adapter is None or adapter is None:
        raise InputError("rays: this model has no camera adapter to be given them by")
    if tiling is not None:
        return contexts._replace(adapter=adapter)
    return contexts._replace(camera=_camera_tokens(config, adapter, condition.rays))


@functools.partial(jax.jit, static_argnames="config")
def _camera_tokens(config: ModelConfig, adapter: Params, rays: Array) -> Array:
    return config.modules.camera_adapter.apply(config.camera_adapter, adapter, rays, jnp.dtype(config.dtype))


def make_velocity(
    config: ModelConfig,
    params: Params,
    contexts: Contexts,
    condition: Condition,
    scale: float | Array,
    guidance: Guidance,
    tiling: Tiling | None = None,
) -> Velocity:
    """The velocity that a solver walks, guided if ``contexts`` have a pair; unguided, ``scale`` means nothing.

    With a ``tiling``, in latents, the model sees one tile after another, and guidance compares tiles.
    """
    if tiling is None:
        velocity = _guided_velocity(config, params, contexts, condition, scale, guidance)
    else:

        def of_tile(corner: tuple[Array, Array], x: Array, t: Array) -> Array:
            own = cut_condition(condition, corner, tiling.tile)
            read = with_camera(config, contexts, contexts.adapter, own)
            return _guided_velocity(config, params, read, own, scale, guidance)(x, t)

        velocity = tiled(of_tile, tiling)
    return velocity if condition.kept is None else with_kept(velocity, condition.kept, condition.keep)


def _guided_velocity(
    config: ModelConfig,
    params: Params,
    contexts: Contexts,
    condition: Condition,
    scale: float | Array,
    guidance: Guidance,
) -> Velocity:
    def clip_velocity(context: PyTree, own: Condition, added: Array | None) -> Velocity:
        def denoise(
            x: Float[Array, "B f h w c"], t: Float[Array, "B f"], frames: np.ndarray | None
        ) -> Float[Array, "B f h w c"]:
            x = x if own.channels is None else jnp.concatenate([x, own.channels], axis=-1)
            trained = seen_frames(config) + 1 if config.riflex else None
            how = {"dtype": jnp.dtype(config.dtype), "trained": trained, "added": added}
            return config.modules.denoiser.velocity(config.transformer, params, x, t, context, frames, **how)

        beside = with_references(denoise, own.references, own.style)
        return with_given(beside, own.given, own.mask, own.times, own.noise)

    alone, camera = None, contexts.camera
    if contexts.alone is not None:
        alone = clip_velocity(contexts.alone, condition, camera)

    def free(x: Array, t: Array) -> Array:
        return paste(jnp.zeros_like(x), held(condition.mask, condition.times, t), x)

    def straight(velocity: Velocity) -> Velocity:
        """Given frames that will be walked come straight to where that begins."""
        if condition.times is None:
            return velocity
        way = condition.noise - condition.given
        return lambda x, t: paste(way, held(condition.mask, condition.times, t), velocity(x, t))

    if contexts.pair is None and contexts.negative is None:
        return straight(alone)

    if contexts.negative is not None:
        plain = clip_velocity(contexts.negative, condition._replace(references=None, style=None), None)

        def pair(x: Array, t: Array) -> tuple[Array, Array]:
            return free(alone(x, t), t), free(plain(x, t), t)

    else:
        added = None if camera is None else jnp.concatenate([camera, jnp.zeros_like(camera)])
        both = clip_velocity(contexts.pair, jax.tree.map(_twice, condition), added)

        def pair(x: Array, t: Array) -> tuple[Array, Array]:
            positive, negative = jnp.split(both(jnp.concatenate([x, x]), t), 2)
            return free(positive, t), free(negative, t)

    guided = guide(pair, alone, scale, guidance)
    # Rules compare whole clips, of which given frames are no part: they are pasted over whatever is here.
    return straight(lambda x, t: guided(free(x, t), t))


def _twice(x: Array | None) -> Array | None:
    return None if x is None else jnp.concatenate([x, x])


@functools.partial(jax.jit, static_argnames=("config", "solver", "guidance", "tiling"))
def run_steps(
    config: ModelConfig,
    solver: str,
    guidance: Guidance,
    params: Params,
    contexts: Contexts,
    condition: Condition,
    scale: Array,
    state: PyTree,
    rows: PyTree,
    tiling: Tiling | None = None,
) -> PyTree:
    """The solver's state after the steps whose plan ``rows`` hold."""
    velocity = make_velocity(config, params, contexts, condition, scale, guidance, tiling)
    return sampling.walk(velocity, state, rows, SOLVERS[solver])


def sample_with_progress(
    model: Model,
    x: Float[Array, "B f h w c"],
    condition: Condition,
    schedule: Schedule,
    scales: tuple[float, ...],
    solver: str,
    guidance: Guidance,
    on_step: Callable[[Any], None],
    tiling: Tiling | None = None,
) -> Float[Array, "B f h w c"]:
    """What ``make_sampler`` computes, from noise ``x``, one compiled step at a time."""
    state = SOLVERS[solver].init(on_their_way(condition, x, float(schedule.sigmas[0])))
    rows = SOLVERS[solver].plan(schedule)
    for leg in make_legs(model.config, schedule, scales):
        params = denoiser_params(model, leg.part)
        contexts = text_contexts(model.config, params, condition, *needed(leg.scale, guidance))
        contexts = with_camera(model.config, contexts, model.params.get(ADAPTER), condition, tiling)
        scale = jnp.float32(leg.scale)
        step = functools.partial(run_steps, model.config, solver, guidance, params, contexts, condition, scale)
        step = functools.partial(step, tiling=tiling)
        state = sampling.walk_on_host(step, state, sampling.steps(rows, leg.first, leg.last), on_step)
        # Let go before the next denoiser comes: the device may not hold two.
        del params, contexts, step
    return whole(condition, state.x)
