"""Clips larger than the model's own: one of its own size, enlarged, partly noised, and walked on in tiles of that size.

SDEdit (Meng et al., 2108.01073) with the velocity of MultiDiffusion (Bar-Tal et al., 2302.08113). It goes window by
window: of a long clip, each is given the end of the one before, small and large.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.decoding import decode_all, decode_tiling
from vidjax.encoding import Clip, Part, encode_tiles, encode_tiling
from vidjax.image import fit_image
from vidjax.model import Model, ModelConfig
from vidjax.parallel.gathering import to_host
from vidjax.request import Request
from vidjax.resolution import Size, doublings
from vidjax.typing import Array, Float, Params, PyTree, UInt8
from vidjax.unfinished import Unfinished
from vidjax.windows import MakeWindow, Watch, open_windows, stage, window_texts


@contextlib.contextmanager
def open_enlarged(
    model: Model, requests: Sequence[Request], watch: Watch, kept: Unfinished | None = None
) -> Iterator[MakeWindow]:
    """As ``open_windows``, of requests with a ``base``; windows are to be made in order."""
    found: list[Clip] = []
    small = None if kept is None else kept._replace(name="base")
    bases, texts = [request.base for request in requests], window_texts(model, requests, watch)
    with (
        open_windows(model, bases, watch, small, texts=texts) as make_base,
        open_windows(model, requests, watch, kept, lambda i: found, "refining", texts) as refine,
    ):
        enlarged = _enlarge(model, requests, make_base, watch)

        def make(i: int, past: Array | None) -> Float[Array, "B f h w z"]:
            found[:] = next(enlarged)
            return refine(i, past)

        yield make


def _enlarge(model: Model, requests: Sequence[Request], make_base: MakeWindow, watch: Watch) -> Iterator[list[Clip]]:
    """Of each window the clips of the requests, enlarged, in latents."""
    rollout, base = requests[0].rollout, requests[0].base
    ends = np.cumsum([request.batch for request in requests])[:-1]
    enlarge = _enlarger(model, (base.height, base.width), (requests[0].height, requests[0].width))
    past = encoded = None
    for i in rollout.windows:
        latents = make_base(i, past)
        with stage("enlarging", watch.on_stage):
            whole = enlarge(latents[:, rollout.overlap if i else 0 :], i + 1 == rollout.count)
        past = latents[:, rollout.size - rollout.overlap :]
        if i:
            whole = np.concatenate([encoded, whole], axis=1)
        encoded = whole[:, rollout.size - rollout.overlap :]
        yield [Clip(jnp.asarray(rows), None) for rows in np.split(whole, ends)]


def _enlarger(model: Model, small: Size, large: Size) -> Callable[[Array, bool], Float[np.ndarray, "B f H W z"]]:
    """A function of the next latent frames of a clip, and whether they are its last: the same at the large size.

    By the upsampler, if the model has one, as often as comes nearest; what is left is done in pixels.
    """
    times = doublings(model.config, small, large)
    middle = tuple(n * 2**times for n in small)
    decoding, encoding = decode_tiling(model.config, *middle, None), encode_tiling(model, *large)
    upsamplers: list[PyTree] = [None] * times
    decoder = encoder = None

    def enlarge(latents: Float[Array, "B f h w z"], last: bool) -> Float[np.ndarray, "B f H W z"]:
        nonlocal decoder, encoder
        for n in range(times):
            latents, upsamplers[n] = _doubled(model, latents, upsamplers[n])
        if middle == large:
            return to_host(latents)
        chunks, decoder = decode_all(model, latents, decoder, decoding, last)
        parts = functools.partial(_parts, chunks, large)
        encoded, encoder = encode_tiles(model, parts, encoder, encoding, last)
        return encoded

    return enlarge


def _doubled(
    model: Model, latents: Float[Array, "B f h w z"], cache: PyTree | None
) -> tuple[Float[Array, "B f h2 w2 z"], PyTree]:
    """One latent frame at a time: memory does not grow with their number."""
    frames = []
    for i in range(latents.shape[1]):
        frame, cache = _upsample(model.config, model.params["upsampler"], cache, latents[:, i : i + 1])
        frames.append(frame)
    return jnp.concatenate(frames, axis=1), cache


@functools.partial(jax.jit, static_argnames="config")
def _upsample(config: ModelConfig, params: Params, cache: PyTree | None, latents: Array) -> tuple[Array, PyTree]:
    return config.modules.upsampler.upsample_chunk(config.upsampler, params, cache, latents)


def enlarge_frames(frames: UInt8[np.ndarray, "B n h w 3"], size: Size) -> UInt8[np.ndarray, "B n H W 3"]:
    """Frames at a larger size, in pixels."""
    return np.stack([[fit_image(frame, *size) for frame in clip] for clip in frames])


def _parts(
    chunks: Sequence[UInt8[np.ndarray, "B _ h w 3"]], size: tuple[int, int], part: Part
) -> Iterator[UInt8[np.ndarray, "B _ h2 w2 3"]]:
    """A part of the frames at a larger size; what is around it is not computed."""
    for chunk in chunks:
        yield np.stack([[fit_image(frame, *size, part) for frame in clip] for clip in chunk])
