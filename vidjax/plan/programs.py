"""The programs of sampling that are planned: a step of the solver, and the decoding of a latent frame, as they are run.

Everything is a shape with a layout; nothing is allocated.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.stages import Lowered

from vidjax.arithmetic import matrix_flops
from vidjax.chunks import decode_chunk
from vidjax.conditioning.condition import Condition
from vidjax.decoding import decode_tiling
from vidjax.diffusion import sampling
from vidjax.diffusion.solvers import SOLVERS
from vidjax.model import ModelConfig, part_layout
from vidjax.models.wan.presets import Preset
from vidjax.parallel.mesh import batch_layout
from vidjax.parallel.rules import AnyMesh
from vidjax.request import sampling_settings
from vidjax.sampler import needed, run_steps, text_contexts
from vidjax.typing import PyTree
from vidjax.weights.folder import abstract_params

SOLVER = "unipc"


@dataclasses.dataclass(frozen=True)
class Clip:
    """Size of the clips: how many at once, frames, pixels."""

    batch: int
    num_frames: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Program:
    """What to compile.

    Args:
      lower: of a mesh, which must be set; and the arguments, used or not.
      flops: the model's own arithmetic, of all devices together.
      held: the parameters, or the state of training, as shapes laid out over a mesh.
      beside: the same of what a device holds meanwhile without using it: the other parts of the model.
    """

    lower: Callable[[AnyMesh], tuple[Lowered, PyTree]]
    flops: Callable[[], float]
    held: Callable[[AnyMesh], PyTree]
    beside: Callable[[AnyMesh], PyTree] = lambda mesh: ()


def preset_config(preset: Preset, dtype: str = "bfloat16") -> ModelConfig:
    """A published model's configuration, as reading its folder gives it."""
    return ModelConfig(
        transformer=preset.transformer,
        text_encoder=preset.text_encoder,
        vae=preset.vae,
        sampling=preset.sampling,
        expand_timesteps=preset.expand_timesteps,
        family="WanPipeline",
        image_encoder=preset.image_encoder,
        boundary_ratio=preset.boundary_ratio,
        dtype=dtype,
    )


def sampling_program(config: ModelConfig, clip: Clip) -> Program:
    """One step of sampling: the guided velocity and the solver's update."""
    schedule, scales, guidance = sampling_settings(config, None, None, None, None, SOLVER, "folder", "cfg", (0.0, 1.0))
    rows = sampling.steps(SOLVERS[SOLVER].plan(schedule), 0, 1)
    which = needed(scales[0], guidance)
    condition = _condition(config, clip)

    def arguments(mesh: AnyMesh | None) -> tuple:
        params = part(config, "transformer", mesh)
        given = jax.tree.map(functools.partial(spread, mesh), condition)
        contexts = _outputs(text_contexts, mesh, config, params, given, *which)
        state = jax.eval_shape(SOLVERS[SOLVER].init, given.given)
        state = jax.tree.map(functools.partial(spread, mesh), state)
        scale = jax.ShapeDtypeStruct((), jnp.float32)
        return params, contexts, given, scale, state, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, rows))

    return Program(
        lambda mesh: _lower(run_steps, (config, SOLVER, guidance), arguments(mesh)),
        lambda: matrix_flops(functools.partial(run_steps, config, SOLVER, guidance), *arguments(None)),
        functools.partial(part, config, "transformer"),
        functools.partial(_others, config, "transformer"),
    )


def decoding_program(config: ModelConfig, clip: Clip) -> Program:
    """Decoding one latent frame in the midst of a clip; of large ones a tile, as they are decoded."""
    tile = decode_tiling(config, clip.height, clip.width, None).tile
    shape = (clip.batch, 1, *config.latent_shape(1, *tile)[1:])

    def arguments(mesh: AnyMesh | None) -> tuple:
        params, latents = part(config, "vae", mesh), spread(mesh, jax.ShapeDtypeStruct(shape, jnp.float32))
        _, cache = _outputs(decode_chunk, mesh, config, params, None, latents)
        return params, cache, latents

    return Program(
        lambda mesh: _lower(decode_chunk, (config,), arguments(mesh)),
        lambda: matrix_flops(functools.partial(decode_chunk, config), *arguments(None)),
        functools.partial(part, config, "vae"),
        functools.partial(_others, config, "vae"),
    )


def _lower(function: Callable, static: tuple, arguments: tuple) -> tuple[Lowered, PyTree]:
    return function.lower(*static, *arguments), arguments


def _condition(config: ModelConfig, clip: Clip) -> Condition:
    latent = config.latent_shape(clip.num_frames, clip.height, clip.width)
    text = jax.ShapeDtypeStruct(
        (clip.batch, config.sampling.max_text_length, config.transformer.text_dim), jnp.dtype(config.dtype)
    )
    given = jax.ShapeDtypeStruct((clip.batch, *latent), jnp.float32)
    condition = Condition(text, text, given, jax.ShapeDtypeStruct((clip.batch, latent[0]), bool))
    if config.pictures == "channels":
        extra = config.transformer.in_channels - latent[-1]
        channels = jax.ShapeDtypeStruct((clip.batch, *latent[:-1], extra), jnp.float32)
        condition = condition._replace(channels=channels)
    if config.image_encoder is not None:
        tokens = config.num_pictures[1] * config.image_encoder.num_tokens
        image = (clip.batch, tokens, config.transformer.image_dim)
        condition = condition._replace(image=jax.ShapeDtypeStruct(image, jnp.dtype(config.dtype)))
    return condition


def part(config: ModelConfig, name: str, mesh: AnyMesh | None) -> PyTree:
    """A part's parameters, stored as ``vidjax.load`` stores them."""
    dtype = jnp.float32 if name == "vae" else jnp.dtype(config.dtype)
    abstract = abstract_params(name, config.parts[name])
    if mesh is None:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), abstract)
    layout = part_layout(name, config, mesh)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, dtype, sharding=s), abstract, layout)


def _others(config: ModelConfig, used: str, mesh: AnyMesh) -> PyTree:
    return [part(config, name, mesh) for name in config.parts if name != used]


def spread(mesh: AnyMesh | None, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """A batch over the mesh, where it divides, as generation lays it out."""
    if mesh is None:
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_layout(mesh, x.shape[0]))


def _outputs(function: Callable, mesh: AnyMesh | None, *arguments: Any) -> PyTree:
    """What a jitted function gives, laid out as the compiler lays it out."""
    lowered = function.lower(*arguments)
    if mesh is None:
        return lowered.out_info
    layout = lowered.compile().output_shardings
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), lowered.out_info, layout)
