"""From words, and perhaps a picture, to a video: prompt -> text -> latents -> frames."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import unfinished
from vidjax.conditioning.condition import Condition
from vidjax.decoding import decode
from vidjax.diffusion.flow import initial_noise
from vidjax.encoding import TextKey, Texts, encode_texts, make_condition, text_key
from vidjax.errors import InputError
from vidjax.long import Rollout, continues
from vidjax.model import Model, spread_batch
from vidjax.parallel.distributed import to_host
from vidjax.request import Prompt, Request, make_request
from vidjax.sampler import sample_with_progress
from vidjax.typing import Array, Float, PyTree, UInt8
from vidjax.unfinished import Unfinished, describe
from vidjax.video import Video

OnStage = Callable[[str, float], None]

MakeWindow = Callable[[int, Any], Array]
"""``(i, what it goes on from) -> latents`` [B, f, h, w, z] of window ``i``."""


def generate(
    model: Model,
    prompt: Prompt | Sequence[Prompt],
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
    decode_tile: int | None = None,
    progress: bool = True,
    on_stage: OnStage = lambda name, seconds: None,
) -> Any:
    """A video from a prompt; a list of prompts gives a list of videos, made as one batch.

    A clip that is longer than the model's own ``num_frames`` is made in windows of that many, each of which is given
    the end of the one before; its beginning does not depend on how long it gets.

    Args:
      prompt: text; or by the second from which it holds, as in ``{0: "a red circle", 6.0: "a red circle at night"}``:
        it changes with the window nearest to then.
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
      decode_tile: the side in pixels of the tiles in which frames are decoded, where memory is short; None: whole, or
        tiles of 512 where a frame has more than 1024 x 1024 pixels. What is sampled does not depend on it.
      progress: show a progress bar. ``on_stage(name, seconds)`` is called after each stage, and
        again in each window.
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
        decode_tile=decode_tile,
    )
    watch = Watch(progress, on_stage)
    with on_mesh(model):
        if output_type == "latent":
            with _windows(model, [request], watch) as make:
                return jnp.concatenate(list(_roll(make, request.rollout)), axis=1)
    clips = np.concatenate(list(frames_of(model, [request], watch)), axis=1)
    videos = [Video(clip, request.fps) for clip in clips]
    return videos[0] if isinstance(prompt, str | Mapping) else videos


def stream(
    model: Model,
    prompt: Prompt,
    *,
    workdir: str | Path | None = None,
    progress: bool = False,
    on_stage: OnStage = lambda name, seconds: None,
    **asked: Any,
) -> Iterator[UInt8[np.ndarray, "n H W 3"]]:
    """The frames of one clip as they are decoded: neither memory nor the time to the first grow with its length.

    Args:
      workdir: a folder for the latents of the finished windows of a long clip: a call that was stopped goes on there
        when it is made again. It is gone once the last frame was taken.
      asked: all other arguments of ``generate``.

    Raises:
      InputError: what does not fit the model, before anything is compiled; or ``workdir`` holds another clip.
    """
    if not isinstance(prompt, str | Mapping):
        raise InputError(f"prompt={prompt!r:.80}: a stream is one clip, of one prompt; generate makes several")
    if "output_type" in asked:
        raise InputError("output_type: a stream gives frames; generate gives latents")
    request = make_request(model, prompt, **asked)
    kept = None if workdir is None else unfinished.open_folder(workdir, describe(model, request))

    def frames() -> Iterator[np.ndarray]:
        with contextlib.nullcontext() if kept is None else unfinished.until_whole(kept):
            for chunk in frames_of(model, [request], Watch(progress, on_stage), kept):
                yield chunk[0]

    return frames()


def generate_each(model: Model, requests: Sequence[Request], batch: int) -> list[Video]:
    """Clips of requests for one clip each, of one ``program``, sampled together.

    Copies of the last one fill up to ``batch``, so that any number of requests runs the same compiled program.
    """
    filled = [*requests, *[requests[-1]] * (batch - len(requests))]
    clips = np.concatenate(list(frames_of(model, filled, Watch())), axis=1)
    return [Video(clip, request.fps) for clip, request in zip(clips, requests, strict=False)]


class Watch(NamedTuple):
    """Who is told how it goes: people, by a bar, and ``on_stage(name, seconds)`` after each stage of each window."""

    progress: bool = False
    on_stage: OnStage = lambda name, seconds: None


def frames_of(
    model: Model, requests: Sequence[Request], watch: Watch, kept: Unfinished | None = None
) -> Iterator[UInt8[np.ndarray, "B n H W 3"]]:
    """Frames of clips made as one batch, as they are decoded; finished windows are read from ``kept`` or put there."""
    frames = _frames(model, requests, watch, kept)
    while True:
        # The mesh is set while there is work, and not while the caller has its turn.
        with on_mesh(model):
            chunk = next(frames, None)
        if chunk is None:
            return
        yield chunk


def _frames(model: Model, requests: Sequence[Request], watch: Watch, kept: Unfinished | None) -> Iterator[np.ndarray]:
    rollout, tiling = requests[0].rollout, requests[0].tiling
    with _windows(model, requests, watch, kept) as make:
        if continues(model.config) != "frame":
            cache = None
            for i, latents in enumerate(_roll(make, rollout)):
                frames = decode(model, latents, cache, tiling, last=i + 1 == rollout.count)
                cache = yield from _timed("decoding", watch, frames)
            return
        last = None
        for i in range(rollout.count):
            # A window is a clip of its own here, whose first frame is the last one of the window before.
            latents = make(i, last)[:, : rollout.new(i).stop]
            chunks = decode(model, latents, None, tiling, last=True)
            for n, frames in enumerate(_timed("decoding", watch, chunks)):
                if n or not i:
                    yield frames
            last = frames[:, -1]


def _roll(make: MakeWindow, rollout: Rollout) -> Iterator[Float[Array, "B f h w z"]]:
    """The new latents of each window, where windows go on from latents."""
    given = None
    for i in range(rollout.count):
        latents = make(i, given)
        yield latents[:, rollout.new(i)]
        given = latents[:, rollout.size - rollout.overlap :]


@contextlib.contextmanager
def _windows(
    model: Model, requests: Sequence[Request], watch: Watch, kept: Unfinished | None = None
) -> Iterator[MakeWindow]:
    """The function that makes window ``i`` from what it goes on from, behind one progress bar for all."""
    from tqdm import tqdm

    rollout, steps = requests[0].rollout, requests[0].schedule.num_steps
    with _stage("text", watch.on_stage):
        texts = jax.block_until_ready(_all_texts(model, requests))
    found = 0 if kept is None else unfinished.count(kept)
    whole = {"total": rollout.count * steps, "initial": found * steps}
    bar = tqdm(**whole, desc="sampling", unit="step", disable=not watch.progress)

    def on_step(state: PyTree) -> None:
        jax.block_until_ready(state)
        bar.update()

    def make(i: int, past: Array | np.ndarray | None) -> Float[Array, "B f h w z"]:
        latents = None if kept is None else unfinished.read(kept, i)
        if latents is not None:
            latents = spread_batch(model, jnp.asarray(latents))
        else:
            with _stage("sampling", watch.on_stage):
                latents = _sample_window(model, requests, texts, i, past, on_step)
            if kept is not None:
                unfinished.write(kept, i, to_host(latents))
        if i + 1 == rollout.count:
            bar.close()
        return latents

    with bar:
        yield make


def _sample_window(
    model: Model,
    requests: Sequence[Request],
    texts: Mapping[TextKey, Texts],
    i: int,
    past: Array | np.ndarray | None,
    on_step: Callable[[PyTree], None],
) -> Float[Array, "B f h w z"]:
    windows = [request.window(i) for request in requests]
    conditions, row = [], 0
    for window in windows:
        own = None if past is None else past[row : row + window.batch]
        conditions.append(make_condition(model, window, texts[text_key(window)], own))
        row += window.batch
    condition = conditions[0]
    if len(conditions) > 1:
        condition = jax.tree.map(lambda *each: spread_batch(model, jnp.concatenate(each)), *conditions)
    seeds = tuple(seed for window in windows for seed in window.seeds)
    return sample_latents(model, dataclasses.replace(windows[0], seeds=seeds), i, condition, on_step)


def _all_texts(model: Model, requests: Sequence[Request]) -> dict[TextKey, Texts]:
    """Those of every window, each computed once."""
    keys = {(texts, request.negative_prompts): None for request in requests for texts in request.texts}
    return {key: encode_texts(model, *key) for key in keys}


def sample_latents(
    model: Model, request: Request, window: int, condition: Condition, on_step: Callable[[PyTree], None]
) -> Float[Array, "B f h w z"]:
    """Normalized latents of a window; its noise is a function of the seed and of the window's number."""
    shape = condition.given.shape[1:]
    if request.latents is None:
        noise = jnp.stack([window_noise(seed, window, shape) for seed in request.seeds])
    else:
        noise = jnp.asarray(request.latents)
    return sample_with_progress(
        model,
        spread_batch(model, noise),
        condition,
        request.schedule,
        request.guidance_scales,
        request.solver,
        request.guidance,
        on_step,
    )


def window_noise(seed: int, window: int, shape: tuple[int, ...]) -> Float[Array, "f h w z"]:
    """What a window starts from; the first is that of a clip of one window, so that a longer clip begins as it does."""
    key = jax.random.key(seed)
    return initial_noise(jax.random.fold_in(key, window) if window else key, shape)


def on_mesh(model: Model) -> contextlib.AbstractContextManager:
    """The model's mesh, if it has one, is the one that is set."""
    return jax.set_mesh(model.mesh) if model.mesh is not None else contextlib.nullcontext()


@contextlib.contextmanager
def _stage(name: str, on_stage: OnStage) -> Iterator[None]:
    start = time.perf_counter()
    yield
    on_stage(name, time.perf_counter() - start)


def _timed(name: str, watch: Watch, items: Generator[np.ndarray, None, PyTree]) -> Generator[np.ndarray, None, PyTree]:
    """The same, with the time that they took to make told at the end; the caller's own is not counted."""
    seconds = 0.0
    while True:
        start = time.perf_counter()
        try:
            item = next(items)
        except StopIteration as end:
            watch.on_stage(name, seconds)
            return end.value
        seconds += time.perf_counter() - start
        yield item
