"""Clips larger than the model's own: one of its own size, enlarged, partly noised, and walked on in tiles of that size.

SDEdit (Meng et al., 2108.01073) with the velocity of MultiDiffusion (Bar-Tal et al., 2302.08113). It goes window by
window: of a long clip, each is given the end of the one before, small and large.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from vidjax.decoding import decode_all, decode_tiling
from vidjax.encoding import Clip, Part, encode_tiles, encode_tiling
from vidjax.image import fit_image
from vidjax.model import Model
from vidjax.request import Request
from vidjax.resolution import Size, doublings
from vidjax.typing import Array, Float, UInt8
from vidjax.unfinished import Unfinished
from vidjax.upsampling import upsample
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
    """A function of the next latent frames of a clip, and whether they are its last: the same at the large size."""
    decoding, encoding = decode_tiling(model.config, *small, None), encode_tiling(model, *large)
    decoder = encoder = None

    def enlarge(latents: Float[Array, "B f h w z"], last: bool) -> Float[np.ndarray, "B f H W z"]:
        nonlocal decoder, encoder
        chunks, decoder = decode_all(model, latents, decoder, decoding, last)
        chunks = [_doubled(model, chunk, large) for chunk in chunks]
        encoded, encoder = encode_tiles(model, functools.partial(_parts, chunks, large), encoder, encoding, last)
        return encoded

    return enlarge


def _doubled(model: Model, frames: UInt8[np.ndarray, "B n h w 3"], size: Size) -> UInt8[np.ndarray, "B n h2 w2 3"]:
    """Frames by the upsampler, if the model has one, as often as comes nearest to the size."""
    for _ in range(doublings(model.config, frames.shape[2:4], size)):
        frames = upsample(model, frames)
    return frames


def enlarge_frames(model: Model, frames: UInt8[np.ndarray, "B n h w 3"], size: Size) -> UInt8[np.ndarray, "B n H W 3"]:
    """Frames at a larger size, in pixels: by the upsampler as far as that goes, the rest by interpolation."""
    return np.stack([[fit_image(frame, *size) for frame in clip] for clip in _doubled(model, frames, size)])


def _parts(
    chunks: Sequence[UInt8[np.ndarray, "B _ h w 3"]], size: tuple[int, int], part: Part
) -> Iterator[UInt8[np.ndarray, "B _ h2 w2 3"]]:
    """A part of the frames at a larger size; what is around it is not computed."""
    for chunk in chunks:
        yield np.stack([[fit_image(frame, *size, part) for frame in clip] for clip in chunk])
