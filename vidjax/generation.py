"""From words, and perhaps a picture, to a video: prompt -> text -> latents -> frames."""

import contextlib
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
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    duration: float | None = None,
    fps: float | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    flow_shift: float | None = None,
    solver: str = "unipc",
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
      height, width: pixels. ``num_frames``: ``1 + 4 n``; or ``duration`` in seconds, to the nearest such count.
      fps: frames per second of the result; it changes the speed, not what is sampled.
      num_inference_steps: 1 to 1000. guidance_scale: 1 means none. solver: ``unipc``, ``euler`` or ``heun``.
      flow_shift: above 1, more of the steps go to high noise.
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
        height=height,
        width=width,
        num_frames=num_frames,
        duration=duration,
        fps=fps,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        flow_shift=flow_shift,
        solver=solver,
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


def make_condition(model: Model, request: Request) -> Condition:
    """Text embeddings and given latents of a request."""
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
    if request.image is not None:
        first = _encode_image(config, model.params["vae"], request.image)
        given, mask = given.at[:, :1].set(first), mask.at[:, 0].set(True)
    return jax.tree.map(functools.partial(_spread, model), Condition(text, negative, given, mask))


def sample_latents(model: Model, request: Request, condition: Condition, progress: bool = True) -> Array:
    """Normalized latents [B, f, h, w, z] of a request, with a progress bar."""
    from tqdm import tqdm

    shape = condition.given.shape[1:]
    if request.latents is None:
        noise = jnp.stack([initial_noise(jax.random.key(seed), shape) for seed in request.seeds])
    else:
        noise = jnp.asarray(request.latents)
    with tqdm(total=request.schedule.num_steps, desc="sampling", unit="step", disable=not progress) as bar:

        def on_step(i: int, state: PyTree) -> None:
            jax.block_until_ready(state)
            bar.update()

        return sample_with_progress(
            model, _spread(model, noise), condition, request.schedule, request.guidance_scale, request.solver, on_step
        )


def decode(model: Model, latents: Array) -> Iterator[np.ndarray]:
    """Frames, uint8 [B, n, H, W, 3], one latent frame at a time: memory does not grow with the clip."""
    cache = None
    for i in range(latents.shape[1]):
        frames, cache = _decode_chunk(model.config, model.params["vae"], cache, latents[:, i : i + 1])
        yield np.asarray(frames)


@functools.partial(jax.jit, static_argnames="config")
def _encode_text(config: ModelConfig, params: Params, ids: Array, lengths: Array) -> Array:
    return config.modules.text_encoder.encode(config.text_encoder, params, ids, lengths, jnp.dtype(config.dtype))


@functools.partial(jax.jit, static_argnames="config")
def _encode_image(config: ModelConfig, params: Params, image: Array) -> Array:
    vae = config.modules.vae
    (mean, _), _ = vae.encode_chunk(config.vae, params, None, from_uint8(image)[None, None])
    return vae.normalize(config.vae, mean)


@functools.partial(jax.jit, static_argnames="config")
def _decode_chunk(config: ModelConfig, params: Params, cache: PyTree | None, latents: Array) -> tuple[Array, PyTree]:
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
