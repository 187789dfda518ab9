"""Clips made latent frame by latent frame: the first one is there at once, and each takes as long as the others.

A frame is a block: it is walked from noise of its own, given what a rolling cache holds of earlier ones, and is then
written there (see ``vidjax.models.wan.causal``). Each branch of guidance has its own half of the cache.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from vidjax import unfinished
from vidjax.diffusion import sampling
from vidjax.diffusion.guidance import Guidance, guide
from vidjax.diffusion.solvers import SOLVERS, Velocity
from vidjax.encoding import text_key
from vidjax.long import seen_frames
from vidjax.model import Model, ModelConfig, denoiser_params, spread_batch
from vidjax.models.wan.causal import Cache
from vidjax.parallel.gathering import to_host
from vidjax.request import Request
from vidjax.sampler import Contexts, needed, text_contexts
from vidjax.typing import Array, Float, Params, PyTree
from vidjax.unfinished import Unfinished
from vidjax.windows import MakeWindow, Watch, WindowTexts, joint_condition, stage, window_noise, window_texts

PART = "transformer"
"""The one denoiser of models that are trained for this."""


@contextlib.contextmanager
def open_blocks(
    model: Model, requests: Sequence[Request], watch: Watch, kept: Unfinished | None = None
) -> Iterator[MakeWindow]:
    """As ``open_windows``, of causal requests, whose windows are latent frames; they are to be made in order."""
    from tqdm import tqdm

    rollout, steps = requests[0].rollout, requests[0].walk.num_steps
    texts = window_texts(model, requests, watch)
    found = 0 if kept is None else unfinished.count(kept)
    whole = {"total": rollout.count * steps, "initial": found * steps}
    with tqdm(**whole, desc="sampling", unit="step", disable=not watch.progress) as bar:
        blocks = _blocks(model, requests, texts, watch, kept)

        def make(i: int, past: Array | None) -> Float[Array, "B 1 h w z"]:
            latents = next(blocks)
            bar.update(steps if i >= found else 0)
            if i + 1 == rollout.count:
                bar.close()
            return latents

        yield make


def _blocks(
    model: Model,
    requests: Sequence[Request],
    texts: WindowTexts,
    watch: Watch,
    kept: Unfinished | None,
) -> Iterator[Float[Array, "B 1 h w z"]]:
    """Each block: one that is kept, or given as a picture, or else sampled.

    All go through the cache alike, so that a clip that was stopped ends as one that was not.
    """
    request, config, params = requests[0], model.config, denoiser_params(model, PART)
    scale, rows = jnp.float32(request.guidance_scales[0]), SOLVERS[request.solver].plan(request.walk)
    words = contexts = cache = None
    for i in request.rollout.windows:
        windows = [each.window(i) for each in requests]
        latents = None if kept is None else unfinished.read(kept, i)
        was_kept = latents is not None
        with stage("sampling", watch.on_stage):
            condition = joint_condition(model, windows, texts)
            if words != (words := tuple(map(text_key, windows))):
                which = needed(request.guidance_scales[0], request.guidance)
                contexts = text_contexts(config, params, condition, *which)
            cache = empty_cache(config, contexts, condition.given) if cache is None else cache
            if was_kept:
                latents = spread_batch(model, jnp.asarray(latents))
            elif any(window.given.pictures for window in windows):
                latents = condition.given
            else:
                seeds = [seed for window in windows for seed in window.seeds]
                noise = jnp.stack([window_noise(seed, i, condition.given.shape[1:]) for seed in seeds])
                settings = config, request.solver, request.guidance, params, contexts, cache, scale
                latents = jax.block_until_ready(walk_block(*settings, spread_batch(model, noise), rows))
        if kept is not None and not was_kept:
            unfinished.write(kept, i, to_host(latents))
        yield latents
        # Not before: who waits for this block need not wait for that.
        cache = write_block(config, params, contexts, cache, latents)


@functools.partial(jax.jit, static_argnames="config")
def empty_cache(config: ModelConfig, contexts: Contexts, latents: Float[Array, "B 1 h w z"]) -> Cache:
    """For clips of this size, one branch of guidance behind the other; it holds all but the last frame of a window."""
    B, _, h, w, _ = latents.shape
    branches = 1 if contexts.pair is None else 2
    empty, dtype = config.modules.causal.empty, jnp.dtype(config.dtype)
    return empty(config.transformer, branches * B, seen_frames(config), h, w, dtype)


@functools.partial(jax.jit, static_argnames=("config", "solver", "guidance"))
def walk_block(
    config: ModelConfig,
    solver: str,
    guidance: Guidance,
    params: Params,
    contexts: Contexts,
    cache: Cache,
    scale: Array,
    noise: Float[Array, "B 1 h w z"],
    rows: PyTree,
) -> Float[Array, "B 1 h w z"]:
    """The next block, from its noise along the whole plan ``rows``: one program for all blocks."""
    velocity = _velocity(config, params, contexts, cache, scale, guidance)
    return sampling.walk(velocity, SOLVERS[solver].init(noise), rows, SOLVERS[solver]).x


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def write_block(
    config: ModelConfig, params: Params, contexts: Contexts, cache: Cache, latents: Float[Array, "B 1 h w z"]
) -> Cache:
    """The cache with a block, in both branches of guidance."""
    if contexts.pair is None:
        context, x = contexts.alone, latents
    else:
        context, x = contexts.pair, jnp.concatenate([latents, latents])
    return config.modules.causal.write(config.transformer, params, x, context, cache, jnp.dtype(config.dtype))


def _velocity(
    config: ModelConfig, params: Params, contexts: Contexts, cache: Cache, scale: Array, guidance: Guidance
) -> Velocity:
    """The velocity of the next block, guided if ``contexts`` have a pair."""

    def block_velocity(context: PyTree, cache: Cache) -> Velocity:
        def velocity(x: Float[Array, "B 1 h w z"], t: Float[Array, ""]) -> Float[Array, "B 1 h w z"]:
            times, dtype = jnp.broadcast_to(t, x.shape[:2]), jnp.dtype(config.dtype)
            return config.modules.causal.step(config.transformer, params, x, times, context, cache, dtype)

        return velocity

    if contexts.pair is None:
        return block_velocity(contexts.alone, cache)
    both = block_velocity(contexts.pair, cache)

    def pair(x: Array, t: Array) -> tuple[Array, Array]:
        positive, negative = jnp.split(both(jnp.concatenate([x, x]), t), 2)
        return positive, negative

    alone = None
    if contexts.alone is not None:
        B = cache.keys.shape[1] // 2
        alone = block_velocity(contexts.alone, cache._replace(keys=cache.keys[:, :B], values=cache.values[:, :B]))
    return guide(pair, alone, scale, guidance)
