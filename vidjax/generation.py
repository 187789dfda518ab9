"""From words, and perhaps a picture, to a video: prompt -> text -> latents -> frames."""

import contextlib
import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vidjax import tokenizer as tokenizers
from vidjax.conditioning.condition import Condition, nothing_given
from vidjax.diffusion.flow import initial_noise
from vidjax.model import Model, ModelConfig
from vidjax.parallel.distributed import to_host
from vidjax.parallel.mesh import BATCH_AXES
from vidjax.request import Request, make_request
from vidjax.sampler import sample_with_progress
from vidjax.typing import Array, Params, PyTree
from vidjax.video import Video, from_uint8, to_uint8

OnStage = Callable[[str, float], None]


def generate(
    model: Model,
    prompt: str | Sequence[str],
    *,
    negative_prompt: str | Sequence[str] = "",
    image: Any = None,
    last_image: Any = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    duration: float | None = None,
    fps: float | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_scale_2: float | None = None,
    flow_shift: float | None = None,
    solver: str = "unipc",
    grid: str = "folder",
    guidance: str = "cfg",
    guidance_interval: Sequence[float] = (0.0, 1.0),
    seed: int | Sequence[int] = 0,
    latents: Any = None,
    output_type: str = "video",
    progress: bool = True,
    on_stage: OnStage = lambda name, seconds: None,
) -> Any:
    """A video from a prompt; a list of prompts gives a list of videos, made as one batch.

    Args:
      negative_prompt: what guidance leads away from; one text, or one a prompt.
      image: the first frame (path, array or PIL image), scaled and cropped to the size of the clip.
      last_image: the last frame, for models that are trained for it.
      height, width: pixels. ``num_frames``: ``1 + 4 n``; or ``duration`` in seconds, to the nearest such count.
      fps: frames per second of the result; it changes the speed, not what is sampled.
      num_inference_steps: 1 to 1000. guidance_scale: 1 means none. solver: ``unipc``, ``euler`` or ``heun``.
      guidance_scale_2: the scale of the second denoiser, of models with two; where only ``guidance_scale`` is given,
        it holds for both.
      flow_shift: above 1, more of the steps go to high noise.
      guidance: the rule: ``cfg`` (plain), ``cfg-zero`` (CFG-Zero*) or ``apg`` (adaptive projected guidance).
      guidance_interval: the diffusion times, 1 noise and 0 video, between which there is guidance; steps outside
        follow the prompt alone, and are faster.
      grid: the spacing of the steps, as the published ``folder`` has it or the ``original`` repository.
      seed: clip ``i`` of a list is made from ``seed + i``, or from the ``i``-th of a list of seeds.
      latents: the starting noise [B, f, h, w, z], in place of the seed's.
      output_type: ``video``, or ``latent`` for the normalized latents [B, f, h, w, z] before decoding.
      progress: show a progress bar. ``on_stage(name, seconds)`` is called after each stage.
      None means the model's own default.

    Raises:
      InputError: what does not fit the model, before anything is compiled.
    """
    request = make_request(
        model,
        prompt,
        negative_prompt=negative_prompt,
        image=image,
        last_image=last_image,
        height=height,
        width=width,
        num_frames=num_frames,
        duration=duration,
        fps=fps,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        guidance_scale_2=guidance_scale_2,
        flow_shift=flow_shift,
        solver=solver,
        grid=grid,
        guidance=guidance,
        guidance_interval=guidance_interval,
        seed=seed,
        latents=latents,
        output_type=output_type,
    )
    with jax.set_mesh(model.mesh) if model.mesh is not None else contextlib.nullcontext():
        with _stage("text", on_stage):
            condition = jax.block_until_ready(make_condition(model, request))
        with _stage("sampling", on_stage):
            x = sample_latents(model, request, condition, progress)
        if output_type == "latent":
            return x
        with _stage("decoding", on_stage):
            frames = np.concatenate(list(decode(model, x)), axis=1)
    videos = [Video(clip, request.fps) for clip in frames]
    return videos[0] if isinstance(prompt, str) else videos


def generate_each(model: Model, requests: Sequence[Request], batch: int) -> list[Video]:
    """Clips of requests for one clip each, of one ``program``, sampled together.

    Copies of the last one fill up to ``batch``, so that any number of requests runs the same compiled program.
    """
    fill = [len(requests) - 1] * (batch - len(requests))
    with jax.set_mesh(model.mesh) if model.mesh is not None else contextlib.nullcontext():
        conditions = [make_condition(model, request) for request in requests]
        conditions += [conditions[i] for i in fill]
        condition = jax.tree.map(lambda *each: _spread(model, jnp.concatenate(each)), *conditions)
        seeds = [request.seeds[0] for request in requests]
        whole = dataclasses.replace(requests[0], seeds=(*seeds, *(seeds[i] for i in fill)))
        x = sample_latents(model, whole, condition, progress=False)
        frames = np.concatenate(list(decode(model, x)), axis=1)
    return [Video(clip, request.fps) for clip, request in zip(frames, requests, strict=False)]


def make_condition(model: Model, request: Request) -> Condition:
    """Text embeddings of a request, and what its pictures give."""
    config = model.config
    texts = [*request.prompts, *request.negative_prompts]
    tokens = tokenizers.tokenize(model.tokenizer, texts)
    for text, cut in zip(texts, tokens.truncated, strict=True):
        if cut:
            least = "at least " if len(text) > tokenizers.MAX_CHARACTERS else ""
            warnings.warn(
                f"prompt {text[:40] + '...'!r} is longer than the {model.tokenizer.max_length} tokens that "
                f"{model.name} reads: {least}{cut} at its end are left out",
                stacklevel=3,
            )
    embeddings = _encode_text(config, model.params["text_encoder"], tokens.ids, tokens.lengths)
    text, negative = jnp.split(embeddings, 2)
    given, mask = nothing_given(request.batch, config.latent_shape(request.num_frames, request.height, request.width))
    condition = Condition(text, negative, given, mask)
    if request.pictures and config.pictures == "frames":
        first = _encode_frames(config, model.params["vae"], from_uint8(jnp.asarray(request.pictures[0]))[None])
        condition = condition._replace(given=given.at[:, :1].set(first), mask=mask.at[:, 0].set(True))
    if request.pictures and config.pictures == "channels":
        condition = condition._replace(channels=_batch(_picture_channels(model, request), request.batch))
    if request.pictures and config.image_encoder is not None:
        condition = condition._replace(image=_batch(_picture_tokens(model, request), request.batch))
    return jax.tree.map(functools.partial(_spread, model), condition)


def _picture_channels(model: Model, request: Request) -> Array:
    """[1, f, h, w, e]: the pictures in an otherwise grey clip, encoded, and which frames they are."""
    given = np.zeros(request.num_frames, bool)
    frames = np.zeros((request.num_frames, request.height, request.width, 3), np.float32)
    for i, picture in zip((0, -1), request.pictures, strict=False):
        given[i], frames[i] = True, from_uint8(picture)
    latents = _encode_frames(model.config, model.params["vae"], frames)
    return model.config.modules.image_channels(latents, given, model.config.vae.temporal_factor)


def _picture_tokens(model: Model, request: Request) -> Array:
    """[1, I, E]: the image encoder's tokens of each picture, one after another."""
    config, clip = model.config, model.config.modules.image_encoder
    size = config.image_encoder.image_size
    seen = jnp.concatenate([clip.preprocess(from_uint8(jnp.asarray(o))[None], size) for o in request.originals])
    tokens = _encode_pictures(config, model.params["image_encoder"], seen)
    return tokens.reshape(1, -1, tokens.shape[-1])


def _batch(x: Array, batch: int) -> Array:
    return jnp.broadcast_to(x, (batch, *x.shape[1:]))


def sample_latents(model: Model, request: Request, condition: Condition, progress: bool = True) -> Array:
    """Normalized latents [B, f, h, w, z] of a request, with a progress bar."""
    from tqdm import tqdm

    shape = condition.given.shape[1:]
    if request.latents is None:
        noise = jnp.stack([initial_noise(jax.random.key(seed), shape) for seed in request.seeds])
    else:
        noise = jnp.asarray(request.latents)
    with tqdm(total=request.schedule.num_steps, desc="sampling", unit="step", disable=not progress) as bar:

        def on_step(state: PyTree) -> None:
            jax.block_until_ready(state)
            bar.update()

        return sample_with_progress(
            model,
            _spread(model, noise),
            condition,
            request.schedule,
            request.guidance_scales,
            request.solver,
            request.guidance,
            on_step,
        )


def decode(model: Model, latents: Array) -> Iterator[np.ndarray]:
    """Frames, uint8 [B, n, H, W, 3], one latent frame at a time: memory does not grow with the clip."""
    cache = None
    for i in range(latents.shape[1]):
        frames, cache = decode_chunk(model.config, model.params["vae"], cache, latents[:, i : i + 1])
        yield to_host(frames)


@functools.partial(jax.jit, static_argnames="config")
def _encode_text(config: ModelConfig, params: Params, ids: Array, lengths: Array) -> Array:
    return config.modules.text_encoder.encode(config.text_encoder, params, ids, lengths, jnp.dtype(config.dtype))


@functools.partial(jax.jit, static_argnames="config")
def _encode_frames(config: ModelConfig, params: Params, frames: Array) -> Array:
    """Normalized latents [1, f, h, w, z] of frames [F, H, W, 3] in [-1, 1]."""
    vae = config.modules.vae
    mean, _ = vae.encode(config.vae, params, frames[None])
    return vae.normalize(config.vae, mean)


@functools.partial(jax.jit, static_argnames="config")
def _encode_pictures(config: ModelConfig, params: Params, pictures: Array) -> Array:
    encoder = config.modules.image_encoder
    return encoder.encode(config.image_encoder, params, pictures, jnp.dtype(config.dtype))


@functools.partial(jax.jit, static_argnames="config")
def decode_chunk(config: ModelConfig, params: Params, cache: PyTree | None, latents: Array) -> tuple[Array, PyTree]:
    """Frames, uint8 [B, n, H, W, 3], of the next normalized latent frames, and the cache to go on with."""
    vae = config.modules.vae
    frames, cache = vae.decode_chunk(config.vae, params, cache, vae.denormalize(config.vae, latents))
    return to_uint8(frames), cache


def _spread(model: Model, x: Array) -> Array:
    """Lay a batch out over the mesh, where it divides."""
    if model.mesh is None:
        return x
    blocks = int(np.prod([model.mesh.shape[axis] for axis in BATCH_AXES]))
    return jax.device_put(x, NamedSharding(model.mesh, P(BATCH_AXES) if x.shape[0] % blocks == 0 else P()))


@contextlib.contextmanager
def _stage(name: str, on_stage: OnStage) -> Iterator[None]:
    start = time.perf_counter()
    yield
    on_stage(name, time.perf_counter() - start)
