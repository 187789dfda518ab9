"""Clips larger than the model's own: one of its own size, enlarged, partly noised, and walked on in tiles of that size.

SDEdit (Meng et al., 2108.01073) with the velocity of MultiDiffusion (Bar-Tal et al., 2302.08113). It goes window by
window: of a long clip, each is given the end of the one before, small and large.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from vidjax.decoding import decode_all
from vidjax.encoding import Clip, Part, encode_tiles, encode_tiling
from vidjax.image import fit_image
from vidjax.model import Model
from vidjax.request import Request
from vidjax.typing import Array, Float, UInt8
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
    tiling = encode_tiling(model, requests[0].height, requests[0].width)
    past = encoded = decoder = encoder = None
    for i in rollout.windows:
        latents = make_base(i, past)
        last = i + 1 == rollout.count
        with stage("enlarging", watch.on_stage):
            new = latents[:, rollout.overlap if i else 0 :]
            chunks, decoder = decode_all(model, new, decoder, base.tiling, last)
            parts = functools.partial(_parts, chunks, tiling.size)
            whole, encoder = encode_tiles(model, parts, encoder, tiling, last)
        past = latents[:, rollout.size - rollout.overlap :]
        if i:
            whole = np.concatenate([encoded, whole], axis=1)
        encoded = whole[:, rollout.size - rollout.overlap :]
        yield [Clip(jnp.asarray(rows), None) for rows in np.split(whole, ends)]


def _parts(
    chunks: Sequence[UInt8[np.ndarray, "B _ h w 3"]], size: tuple[int, int], part: Part
) -> Iterator[UInt8[np.ndarray, "B _ h2 w2 3"]]:
    """A part of the frames at a larger size; what is around it is not computed."""
    for chunk in chunks:
        yield np.stack([[fit_image(frame, *size, part) for frame in clip] for clip in chunk])
