"""From words, and perhaps a picture, to a video: prompt -> text -> latents -> frames."""

import contextlib
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import unfinished
from vidjax.causal import open_blocks
from vidjax.chunks import CONTEXT
from vidjax.conditioning.camera import Camera
from vidjax.conditioning.poses import Poses
from vidjax.decoding import decode, decode_all
from vidjax.encoding import encode_end
from vidjax.enlarging import enlarge_frames, open_enlarged
from vidjax.errors import InputError
from vidjax.long import Rollout, continues, window_overlap
from vidjax.model import Model, ModelConfig, spread_batch
from vidjax.prompts import Prompt
from vidjax.request import Request, make_request
from vidjax.typing import Array, Float, PyTree, UInt8
from vidjax.unfinished import Unfinished, describe
from vidjax.video import Video
from vidjax.windows import MakeWindow, OnStage, Watch, open_windows

CLIP_CHUNK = 16
"""Frames of a clip that is gone on with are passed on so many at a time."""


def generate(
    model: Model,
    prompt: Prompt | Sequence[Prompt],
    *,
    negative_prompt: str | Sequence[str] = "",
    image: Any = None,
    last_image: Any = None,
    keyframes: Mapping[Any, Any] | None = None,
    video: Any = None,
    strength: float | None = None,
    mask: Any = None,
    extend: str | None = None,
    camera: Camera | Poses | str | os.PathLike | None = None,
    references: Sequence[Any] = (),
    style_image: Any = None,
    height: int | None = None,
    width: int | None = None,
    resolution: str | int | None = None,
    aspect_ratio: str | float | None = None,
    refine: float | None = None,
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
    causal: bool = False,
    riflex: bool = False,
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
      last_image: the last frame, and ``keyframes``, pictures by frame (multiples of 4), for models that are trained
        for it. A picture behind the first frame stands still for the four frames up to its own.
      video: a clip (path, ``Video`` or uint8 [F, H, W, 3]) that is painted over as the prompt says; or gone on with. It
        is brought to this rate (``fps``) and size first: a clip at another rate keeps its speed, not all its frames.
        Painted over it is cut to 1 + 4 n frames, or to as many as ``num_frames`` or ``duration`` say.
      strength: how much noise it is painted over from: above 0, where it would stay as it is, up to 1, where nothing
        of it is left. None: 0.7, or with a ``mask`` 1.
      mask: where the clip is painted over: a picture of the clip's own size, white there, or an array, true there:
        [H, W], or [F, H, W]. What is around stays as the autoencoder shows it.
      extend: ``after``, the clip goes on behind its end, or ``before``, there is something before its beginning.
        ``num_frames`` or ``duration`` say how much is added, to the nearest 4 n frames, before it 1 + 4 n within one
        window; the result is the whole, the clip's own frames without a pass through the autoencoder.
      camera: how it moves: a ``vidjax.Camera``, or text such as ``pan left + zoom in``. A model with a camera adapter
        is given its rays; to others it is said at the end of the prompt, and a warning says in which words. With an
        adapter also ``vidjax.Poses``, or a file of poses in the form of RealEstate10K: they are spread over the clip.
      references: one to three pictures of one subject on a blank ground, who it is in every frame: for models that
        are trained for it. Each is seen whole, on a ground of the colour of its border.
      style_image: a picture whose style the clip takes, for models that are trained for it; cropped as ``image`` is.
      height, width: pixels, which the model makes at once.
      aspect_ratio: ``W:H`` as in ``16:9``, the number W/H, or ``image``, that of the picture: a size of the model's
        own number of pixels; or with ``height`` or ``width`` the other one.
      resolution: ``480p``, ``720p``, ``1080p``, ``4k``, or the pixels of the shorter side. A clip that is larger than
        the model's own is first made at that size; then it is enlarged and walked on in tiles of that size.
      refine: the share of the steps that are then made, from as much noise; up to 1. More of it makes up more detail,
        and what tiles show comes apart. 0: enlarged only, in pixels: by the model's upsampler if it has one, else by
        interpolation. Given pictures are there as they are, at the full size.
      ``num_frames``: ``1 + 4 n``; or ``duration`` in seconds, to the nearest such count.
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
      causal: make the clip latent frame by latent frame, each of which goes on from those before it, for models that
        are trained for it: the first is there soon, however long the clip, and each takes the same time. A prompt
        changes with the frame.
      riflex: for models that do not go on in windows: up to twice their own number of latent frames at once, by slower
        positions in time (RIFLEx); what moves may slow down.
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
        keyframes=keyframes,
        video=video,
        strength=strength,
        mask=mask,
        extend=extend,
        camera=camera,
        references=references,
        style_image=style_image,
        height=height,
        width=width,
        resolution=resolution,
        aspect_ratio=aspect_ratio,
        refine=refine,
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
        causal=causal,
        riflex=riflex,
    )
    watch = Watch(progress, on_stage)
    with on_mesh(model):
        if output_type == "latent":
            with _open(model, [request], watch) as make:
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
    side = requests[0].given.extend
    if requests[0].enlarged_only:
        yield from _enlarged_frames(model, requests, watch, kept)
        return
    if side == "after":
        yield from _clips(requests)
    yield from _new_frames(model, requests, watch, kept)
    if side == "before":
        yield from _clips(requests)


def _enlarged_frames(
    model: Model, requests: Sequence[Request], watch: Watch, kept: Unfinished | None
) -> Iterator[np.ndarray]:
    """Frames of the small clips at the size of the large ones; pictures, which are there at that size, as they are."""
    size, seconds, ratio = (requests[0].height, requests[0].width), 0.0, model.config.vae.temporal_factor
    small = None if kept is None else kept._replace(name="base")
    pictures = {ratio * place: each for place, each in _by_place(requests).items()}
    first = 0
    for frames in _frames(model, [request.base for request in requests], watch, small):
        start = time.perf_counter()
        large = enlarge_frames(model, frames, size)
        for i in range(large.shape[1]):
            if first + i in pictures:
                large[:, i] = pictures[first + i]
        first += large.shape[1]
        seconds += time.perf_counter() - start
        yield large
    watch.on_stage("enlarging", seconds)


def _clips(requests: Sequence[Request]) -> Iterator[np.ndarray]:
    """The clips that are gone on with, each as often as its request has prompts."""
    clips = [request.given.clip for request in requests for _ in range(request.batch)]
    for start in range(0, len(clips[0]), CLIP_CHUNK):
        yield np.stack([clip[start : start + CLIP_CHUNK] for clip in clips])


def _new_frames(
    model: Model, requests: Sequence[Request], watch: Watch, kept: Unfinished | None
) -> Iterator[np.ndarray]:
    rollout, side, tiling = requests[0].rollout, requests[0].given.extend, requests[0].tiling
    with _open(model, requests, watch, kept) as make:
        if side == "before":
            latents = make(0, None)[:, : -window_overlap(model.config)]
            frames = decode(model, latents, None, tiling, True, _pictures(model, requests, 0))
            yield from _timed("decoding", watch, frames)
        elif continues(model.config) != "frame":
            given, cache = _ends(model, requests) if side else (None, None)
            for i, latents in zip(rollout.windows, _roll(make, rollout, given), strict=True):
                pictures = _pictures(model, requests, i)
                frames = decode(model, latents, cache, tiling, i + 1 == rollout.count, pictures)
                cache = yield from _timed("decoding", watch, frames)
        else:
            last = np.stack([r.given.clip[-1] for r in requests for _ in range(r.batch)]) if side else None
            for i in rollout.windows:
                # A window is a clip of its own here, whose first frame is the last one of the window before.
                latents = make(i, last)[:, : rollout.new(i).stop]
                chunks = decode(model, latents, None, tiling, last=True)
                for n, frames in enumerate(_timed("decoding", watch, chunks)):
                    if n or not i:
                        yield frames
                last = frames[:, -1]


def _pictures(model: Model, requests: Sequence[Request], i: int) -> dict[int, UInt8[np.ndarray, "B H W 3"]]:
    """Which of the new latent frames of a window, behind a clip's first, are pictures.

    None are of models that are given pictures as channels: these paint every latent frame themselves.
    """
    if model.config.pictures != "frames":
        return {}
    start = requests[0].rollout.new(i).start
    found = _by_place([request.window(i) for request in requests])
    return {place - start: each for place, each in found.items() if place}


def _by_place(requests: Sequence[Request]) -> dict[int, UInt8[np.ndarray, "B H W 3"]]:
    """The pictures of clips by latent frame, each as often as its request has prompts."""
    found: dict[int, list[np.ndarray]] = {}
    for request in requests:
        for picture in request.given.pictures:
            found.setdefault(picture.place, []).extend([picture.fitted] * request.batch)
    return {place: np.stack(each) for place, each in found.items()}


def end_frames(config: ModelConfig) -> int:
    """Of a clip that is gone on with, so many frames at its end count; those before are as if they were not there."""
    if continues(config) == "frame":
        return 1
    return 1 + config.vae.temporal_factor * (window_overlap(config) + CONTEXT)


def _open(
    model: Model, requests: Sequence[Request], watch: Watch, kept: Unfinished | None = None
) -> contextlib.AbstractContextManager[MakeWindow]:
    request = requests[0]
    make = open_blocks if request.causal else open_windows if request.base is None else open_enlarged
    return make(model, requests, watch, kept)


def _ends(model: Model, requests: Sequence[Request]) -> tuple[Float[Array, "B k h w z"], PyTree]:
    """The latents that clips end with, and the decoder's cache behind them."""
    count = window_overlap(model.config)
    ends = [
        encode_end(model, request.given.clip, count + CONTEXT) for request in requests for _ in range(request.batch)
    ]
    latents = spread_batch(model, jnp.concatenate(ends))
    return latents[:, -count:], decode_all(model, latents, None, requests[0].tiling)[1]


def _roll(make: MakeWindow, rollout: Rollout, given: Array | None = None) -> Iterator[Float[Array, "B f h w z"]]:
    """The new latents of each window, where windows go on from latents; the first from those that are ``given``."""
    for i in rollout.windows:
        latents = make(i, given)
        yield latents[:, rollout.new(i)]
        given = latents[:, rollout.size - rollout.overlap :]


def on_mesh(model: Model) -> contextlib.AbstractContextManager:
    """The model's mesh, if it has one, is the one that is set."""
    return jax.set_mesh(model.mesh) if model.mesh is not None else contextlib.nullcontext()


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
