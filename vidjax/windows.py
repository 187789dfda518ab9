"""The windows of clips sampled one after another, each with all that is given to it."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import unfinished
from vidjax.conditioning.condition import Condition
from vidjax.diffusion.flow import initial_noise, interpolate
from vidjax.encoding import Clip, TextKey, Texts, encode_clip, encode_texts, kept_places, make_condition, text_key
from vidjax.long import Rollout
from vidjax.model import Model, spread_batch
from vidjax.parallel.gathering import to_host
from vidjax.request import Request
from vidjax.sampler import sample_with_progress
from vidjax.typing import Array, Float, PyTree
from vidjax.unfinished import Unfinished

OnStage = Callable[[str, float], None]

MakeWindow = Callable[[int, Any], Array]
"""``(i, what it goes on from) -> latents`` [B, f, h, w, z] of window ``i``."""

WindowTexts = Mapping[TextKey, Texts]

ENLARGING = 2**31
"""Folded into the seed, for the noise of clips that are made of smaller ones; windows count below."""


class Watch(NamedTuple):
    """Who is told how it goes: people, by a bar, and ``on_stage(name, seconds)`` after each stage of each window."""

    progress: bool = False
    on_stage: OnStage = lambda name, seconds: None


@contextlib.contextmanager
def open_windows(
    model: Model,
    requests: Sequence[Request],
    watch: Watch,
    kept: Unfinished | None = None,
    starts: Callable[[int], Sequence[Clip]] | None = None,
    name: str = "sampling",
    texts: WindowTexts | None = None,
) -> Iterator[MakeWindow]:
    """The function that makes window ``i`` from what it goes on from, behind one progress bar for all.

    ``starts(i)`` gives the clips, one a request, that window ``i`` is walked from; None: noise, or the requests' own.
    ``texts`` are those of ``window_texts``; None: computed here.
    """
    from tqdm import tqdm

    rollout, steps = requests[0].rollout, requests[0].walk.num_steps
    texts = window_texts(model, requests, watch) if texts is None else texts
    if requests[0].given.repaints:
        with stage("encoding", watch.on_stage):
            sources = [_source(model, request) for request in requests]
        starts = lambda i: [_cut(source, rollout, i) for source in sources]  # noqa: E731
    found = 0 if kept is None else unfinished.count(kept)
    whole = {"total": len(rollout.windows) * steps, "initial": found * steps}
    bar = tqdm(**whole, desc=name, unit="step", disable=not watch.progress)

    def on_step(state: PyTree) -> None:
        jax.block_until_ready(state)
        bar.update()

    def make(i: int, past: Array | np.ndarray | None) -> Float[Array, "B f h w z"]:
        latents = None if kept is None else unfinished.read(kept, i)
        if latents is not None:
            latents = spread_batch(model, jnp.asarray(latents))
        else:
            clips = None if starts is None else starts(i)
            with stage(name, watch.on_stage):
                latents = _sample_window(model, requests, texts, i, past, clips, on_step)
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
    texts: WindowTexts,
    i: int,
    past: Array | np.ndarray | None,
    clips: Sequence[Clip] | None,
    on_step: Callable[[PyTree], None],
) -> Float[Array, "B f h w z"]:
    windows = [request.window(i) for request in requests]
    condition = joint_condition(model, windows, texts, past, clips)
    seeds = tuple(seed for window in windows for seed in window.seeds)
    start = None if clips is None else jnp.concatenate([clip.latents for clip in clips])
    return sample_latents(model, dataclasses.replace(windows[0], seeds=seeds), i, condition, on_step, start)


def joint_condition(
    model: Model,
    windows: Sequence[Request],
    texts: Mapping[TextKey, Texts],
    past: Array | np.ndarray | None = None,
    clips: Sequence[Clip] | None = None,
) -> Condition:
    """What windows that are sampled as one batch are made from; ``past`` and ``clips`` as of ``make_condition``."""
    conditions, row = [], 0
    for n, window in enumerate(windows):
        own = None if past is None else past[row : row + window.batch]
        clip = None if clips is None else clips[n]
        conditions.append(make_condition(model, window, texts[text_key(window)], own, clip))
        row += window.batch
    if len(conditions) == 1:
        return conditions[0]
    return jax.tree.map(lambda *each: spread_batch(model, jnp.concatenate(each)), *conditions)


def _source(model: Model, request: Request) -> Clip:
    """A clip that is painted over, whole."""
    latents, mask = encode_clip(model, request.given.clip), request.given.mask
    keep = None if mask is None else kept_places(model.config.vae, mask)[None]
    return Clip(*(None if x is None else np.repeat(x, request.batch, axis=0) for x in (latents, keep)))


def _cut(clip: Clip, rollout: Rollout, i: int) -> Clip:
    """Of a clip that is painted over what a window is of; behind its end it stands still."""
    start = i * (rollout.size - rollout.overlap)
    places = np.minimum(np.arange(start, start + rollout.size), clip.latents.shape[1] - 1)
    return Clip(*(None if x is None else x[:, places] for x in clip))


def window_texts(model: Model, requests: Sequence[Request], watch: Watch) -> WindowTexts:
    """Those of every window, each computed once."""
    keys = {(texts, request.negative_prompts): None for request in requests for texts in request.texts}
    with stage("text", watch.on_stage):
        return jax.block_until_ready({key: encode_texts(model, *key) for key in keys})


def sample_latents(
    model: Model,
    request: Request,
    window: int,
    condition: Condition,
    on_step: Callable[[PyTree], None],
    start: Float[Array, "B f h w z"] | None = None,
) -> Float[Array, "B f h w z"]:
    """Normalized latents of a window; its noise is a function of the seed and of the window's number.

    It is noise that is walked from, or ``start`` with as much noise as the first step is for.
    """
    if request.riflex:
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, riflex=True))
    shape = condition.given.shape[1:]
    if request.latents is None:
        noise = jnp.stack([window_noise(seed, window, shape, request.base is not None) for seed in request.seeds])
    else:
        noise = jnp.asarray(request.latents)
    if condition.times is not None:
        condition = condition._replace(noise=spread_batch(model, noise))
    if start is not None:
        noise, _ = interpolate(start, noise, jnp.full(start.shape[:2], request.walk.sigmas[0]))
    return sample_with_progress(
        model,
        spread_batch(model, noise),
        condition,
        request.walk,
        request.guidance_scales,
        request.solver,
        request.guidance,
        on_step,
        request.tiles,
    )


def window_noise(seed: int, window: int, shape: tuple[int, ...], enlarging: bool = False) -> Float[Array, "f h w z"]:
    """What a window starts from; the first is that of a clip of one window, so that a longer clip begins as it does."""
    key = jax.random.key(seed)
    if enlarging:
        key = jax.random.fold_in(key, ENLARGING)
    return initial_noise(jax.random.fold_in(key, window) if window else key, shape)


@contextlib.contextmanager
def stage(name: str, on_stage: OnStage) -> Iterator[None]:
    start = time.perf_counter()
    yield
    on_stage(name, time.perf_counter() - start)
