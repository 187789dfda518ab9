"""The training steps that are planned: tasks without their data, and the step that the loop compiles of them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.stages import Lowered

from vidjax.arithmetic import matrix_flops
from vidjax.config import TrainConfig
from vidjax.data.source import ListedData, SceneData
from vidjax.errors import InputError
from vidjax.model import ModelConfig, bundled, read_config
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.presets import PRESETS
from vidjax.models.wan.sharding import VAE_RULES
from vidjax.models.wan.vae import VAEConfig
from vidjax.parallel.rules import AnyMesh
from vidjax.plan.programs import Clip, Program, part, preset_config, spread
from vidjax.training import probe
from vidjax.training.autoencoder import AutoencoderTask
from vidjax.training.camera import FRAMES
from vidjax.training.conditioning import Conditioning
from vidjax.training.denoiser import DenoiserTask
from vidjax.training.finetune import FinetuneTask
from vidjax.training.loop import abstract_state, jit_step
from vidjax.training.references import COUNTS
from vidjax.training.state import make_optimizer
from vidjax.training.task import Task
from vidjax.training.texts import PART as TEXT_ENCODER
from vidjax.training.texts import encode_rows, text_of_rows
from vidjax.typing import Params, PyTree
from vidjax.weights import folder


@dataclasses.dataclass(frozen=True)
class Training:
    """A task without its data.

    Args:
      init, loss, rules: as of ``vidjax.training.task.Task``.
      example: shapes of one row of a batch.
      frozen: shapes of the parameters that are not trained, laid out over a mesh if there is one.
      spared: FLOPs that backward saves because of them, of ``(params, batch)``.
    """

    init: Callable[[Any], Params]
    loss: Callable[..., Any]
    rules: tuple
    example: dict[str, jax.ShapeDtypeStruct]
    frozen: Callable[[AnyMesh | None], PyTree] = lambda mesh: {}
    spared: Callable[[PyTree, PyTree], float] = lambda params, batch: 0.0


def training_program(training: Training, config: TrainConfig) -> Program:
    """One step of training, as the loop compiles it."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def batch(mesh: AnyMesh | None) -> PyTree:
        rows = {n: jax.ShapeDtypeStruct((config.batch_size, *s.shape), s.dtype) for n, s in training.example.items()}
        return jax.tree.map(functools.partial(spread, mesh), rows)

    def task(mesh: AnyMesh) -> Task:
        frozen = training.frozen(mesh)
        return Task(training.init, training.loss, None, lambda *_: {}, rules=training.rules, frozen=frozen)

    def held(mesh: AnyMesh) -> PyTree:
        return abstract_state(task(mesh), optimizer, mesh), training.frozen(mesh)

    def lower(mesh: AnyMesh) -> tuple[Lowered, PyTree]:
        state, frozen = held(mesh)
        arguments = state, batch(mesh), key, frozen
        return jit_step(task(mesh), config, optimizer, state, mesh).lower(*arguments), arguments

    def flops() -> float:
        params = {**jax.eval_shape(training.init, key), **training.frozen(None)}
        # Backward makes two products for each one forward.
        return 3 * matrix_flops(training.loss, params, batch(None), key) - training.spared(params, batch(None))

    return Program(lower, flops, held)


def finetuning(task: FinetuneTask, config: ModelConfig, latent: tuple[int, ...]) -> Training:
    """A published model's denoiser goes on learning, or low-rank changes of it; what is frozen is kept as ``dtype``."""
    ahead = isinstance(task.data, ListedData)
    encode = text_of_rows if ahead else functools.partial(encode_rows, config)
    held = ([] if ahead else [TEXT_ENCODER]) + ([] if task.lora is None else [task.part])

    def frozen(mesh: AnyMesh | None) -> PyTree:
        return {name: part(config, name, mesh) for name in held}

    velocity = functools.partial(task.velocity, config, encode, functools.partial(task.denoise, config))
    return Training(
        init=functools.partial(task.init, config),
        loss=functools.partial(task.loss, config, velocity),
        rules=task.rules(config),
        example=_example(task, latent, config.sampling.max_text_length, config.text_encoder.d_model if ahead else None),
        frozen=frozen,
        spared=lambda params, batch: 2 * matrix_flops(encode, params, batch),
    )


def of_config(
    config: TrainConfig, height: int | None, width: int | None, num_frames: int | None
) -> tuple[Training, DenoiserConfig | None, tuple[int, int, int, int], Clip]:
    """The training of a configuration, on clips of its own size where none is given; its denoiser, if it has one, the
    shape of a clip's latents, and the clips.

    Raises:
      InputError: the task is not one of vidjax's own, or the size does not suit it.
    """
    task = config.task
    kinds = {AutoencoderTask: _autoencoder, DenoiserTask: _denoiser, FinetuneTask: _finetune}
    if type(task) not in kinds:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise InputError(f"a {type(task).__name__} cannot be planned; these can: {names}")
    # The memory is that of the largest clips.
    own = max(task.data.buckets(), key=lambda b: b.num_frames * b.height * b.width)
    frames = task.crop_frames if isinstance(task, AutoencoderTask) else own.num_frames
    clip = Clip(config.batch_size, num_frames or frames, height or own.height, width or own.width)
    return *kinds[type(task)](task, clip), clip


def _latent(vae: VAEConfig, clip: Clip, patch: tuple[int, int] = (1, 1)) -> tuple[int, int, int, int]:
    """[f, h, w, z] of a clip, which must suit the autoencoder."""
    for name, value, multiple, offset in (
        ("height", clip.height, vae.spatial_factor * patch[0], 0),
        ("width", clip.width, vae.spatial_factor * patch[1], 0),
        ("num_frames", clip.num_frames, vae.temporal_factor, 1),
    ):
        if value < 1 or (value - offset) % multiple:
            near = max(round((value - offset) / multiple), 1 - offset) * multiple + offset
            kind = f"a multiple of {multiple}" if not offset else f"1 + a multiple of {multiple}"
            raise InputError(f"{name}={value}: must be {kind}; nearest: {near}")
    s = vae.spatial_factor
    return 1 + (clip.num_frames - 1) // vae.temporal_factor, clip.height // s, clip.width // s, vae.z_dim


def _autoencoder(task: AutoencoderTask, clip: Clip) -> tuple:
    if task.perceptual is not None:
        raise InputError("task.perceptual: weights of your own cannot be planned; leave them out in a copy")
    video = jax.ShapeDtypeStruct((clip.num_frames, clip.height, clip.width, 3), jnp.uint8)
    training = Training(task.init, task.loss, VAE_RULES, {"video": video})
    return training, None, _latent(task.model, clip)


def _denoiser(task: DenoiserTask, clip: Clip) -> tuple:
    path = Path(task.vae) / "vae"
    # It may not have been trained yet; the bundled model's was, by the same configuration.
    coder = folder.read_config(Path(task.vae) if path.is_dir() else bundled(), "vae")
    if coder.z_dim != task.model.in_channels:
        raise InputError(f"{path} does not exist, and its latents are not as the bundled model's; train it first")
    latent = _latent(coder, clip, task.model.patch_size[1:])
    example = _example(task, latent, task.sampling.max_text_length)
    if isinstance(task.data, SceneData):
        example["factors"] = jax.ShapeDtypeStruct((len(probe.HEADS),), jnp.int32)
    if task.place_share:
        example["placed"] = jax.ShapeDtypeStruct((), bool)
    init = dataclasses.replace(task, text_steps=0).init
    return Training(init, task.loss, task.rules, example), task.model, latent


def _finetune(task: FinetuneTask, clip: Clip) -> tuple:
    name = (task.model or "").rpartition("/")[2].lower().removesuffix("-diffusers")
    if name in PRESETS:  # nothing is fetched from the hub
        config = preset_config(PRESETS[name], task.dtype)
    else:
        config = dataclasses.replace(read_config(Path(task.model) if task.model else bundled()), dtype=task.dtype)
    if config.pictures == "channels":
        raise InputError(f"{task.model} is given pictures as channels; models made from words can be trained")
    latent = _latent(config.vae, clip, config.transformer.patch_size[1:])
    return finetuning(task, config, latent), config.transformer, latent


def _example(task: Conditioning, latent: tuple[int, ...], length: int, embedded: int | None = None) -> dict[str, Any]:
    """A row of a batch, beside the most pictures; its text of ``length`` tokens perhaps ``embedded`` in so many."""
    frames = latent[0] if task.window is None else min(task.window, latent[0])
    whole, real = (functools.partial(jax.ShapeDtypeStruct, dtype=dtype) for dtype in (jnp.int32, jnp.float32))
    row = {"latents": real((frames, *latent[1:]))}
    if embedded is None:
        row |= {"tokens": whole((length,)), "length": whole(())}
    else:
        row["text"] = jax.ShapeDtypeStruct((length, embedded), jnp.float16)
    if task.window is not None:
        row["later"] = jax.ShapeDtypeStruct((), bool)
        row |= {"first": real((1, *latent[1:]))} if task.causal_share else {}
    if task.camera is not None:
        row |= {"camera_to_world": real((FRAMES * frames, 3, 4)), "intrinsics": real((FRAMES * frames, 4))}
        row["rays_known"] = jax.ShapeDtypeStruct((), bool)
    if task.reference_share:
        row["references"] = real((max(COUNTS), *latent[1:]))
    elif task.style_share:
        row["style"] = real((1, *latent[1:]))
    return row
