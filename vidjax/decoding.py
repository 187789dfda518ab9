"""Latents to frames, one latent frame at a time; and large frames in tiles: a device needs room for one of them."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.checks import whole
from vidjax.chunks import CONTEXT, decode_chunk, encode_behind, fit_picture
from vidjax.errors import InputError
from vidjax.model import Model, ModelConfig
from vidjax.parallel.gathering import to_host
from vidjax.tiles import Tiling, blend, cut, make_tiling
from vidjax.typing import Array, Float, PyTree, UInt8

MAX_WHOLE = 2**20
"""Frames of up to so many pixels, 1024 x 1024, are decoded whole unless a tile is asked for."""
TILE = 512
MAX_TILE = 8192
MIN_TILE = 8
"""In latents; so few that their borders, which see too little of the frame, are still half of a tile at most."""
MIN_OVERLAP = 4
"""In latents: with less, the borders of small tiles show."""


def decode(
    model: Model,
    latents: Float[Array, "B f h w z"],
    cache: PyTree | None = None,
    tiling: Tiling | None = None,
    last: bool = False,
    pictures: Mapping[int, UInt8[np.ndarray, "B H W 3"]] | None = None,
) -> Generator[UInt8[np.ndarray, "B n H W 3"], None, PyTree]:
    """Frames of the next latent frames, those of one at a time. Returns the cache to go on with.

    Whole, memory does not grow with their number, and the device is at the next ones while the caller has these. With
    several tiles each goes through all of ``latents``, as the caches of all at once would be larger than those of the
    whole frame: the first frames come with the last tile, and the host holds all as uint8.

    Args:
      cache: what the call before returned, at the start of a clip None. Those of tiles wait in the host's memory.
      tiling: in pixels; None: whole.
      last: nothing will follow: no caches of tiles are kept.
      pictures: which of the latent frames, never the first of a clip, are these; they are encoded again, behind what
        turns out to be there, and fitted to it.

    Raises:
      InputError: out of memory; it says which smaller tile to try.
    """
    pictures = pictures or {}
    try:
        if tiling is None or len(tiling.corners) == 1:
            return (yield from _decode_whole(model, latents, cache, pictures))
        return (yield from _decode_tiles(model, latents, cache, tiling, last, pictures))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        tile = tiling.tile if tiling else tuple(n * model.config.vae.spatial_factor for n in latents.shape[2:4])
        raise InputError(_too_large(model.config, *tile)) from error


def decode_tiling(config: ModelConfig, height: int, width: int, decode_tile: int | None) -> Tiling:
    """How a frame is decoded, in pixels; one tile is the whole frame. Tiles share a quarter of their side.

    Raises:
      InputError: ``decode_tile`` is no multiple of the model's, or so small that tiles would be all border.
    """
    multiple, least = tile_sides(config)
    largest = max(height, width)
    if decode_tile is None:
        side = largest if height * width <= MAX_WHOLE else max(TILE // multiple * multiple, least)
    else:
        side = whole("decode_tile", decode_tile, min(least, largest), MAX_TILE)
        if side % multiple:
            near = min(max(round(side / multiple) * multiple, least), MAX_TILE // multiple * multiple)
            raise InputError(f"decode_tile={side}: must be a multiple of {multiple}; nearest: {near}")
    factor = config.vae.spatial_factor
    side //= factor
    return make_tiling((height // factor, width // factor), side, max(side // 4, MIN_OVERLAP)).scaled(factor)


def tile_sides(config: ModelConfig) -> tuple[int, int]:
    """What the side of a tile must be a multiple of, and the smallest, in pixels."""
    multiple = math.lcm(*config.size_multiple)
    return multiple, -(-MIN_TILE * config.vae.spatial_factor // multiple) * multiple


def _too_large(config: ModelConfig, height: int, width: int) -> str:
    multiple, least = tile_sides(config)
    found = f"the decoder ran out of memory with {width}x{height} pixels at a time"
    half = max(max(height, width) // 2 // multiple * multiple, least)
    if half >= max(height, width):
        return f"{found}; there are no smaller tiles"
    return f"{found}: give decode_tile={half} (--decode-tile {half}); finished windows that are kept are used again"


class Went(NamedTuple):
    """What a decoder goes on from: its cache, and the frames of the latent frames before."""

    cache: PyTree
    seen: tuple[UInt8[Array, "B _ H W 3"], ...]


def _go_on(
    model: Model, went: Went | None, latents: Float[Array, "B 1 h w z"], picture: UInt8[np.ndarray, "B H W 3"] | None
) -> tuple[UInt8[Array, "B n H W 3"], Went]:
    """The frames of the next latent frame."""
    cache, seen = went or Went(None, ())
    config, params = model.config, model.params["vae"]
    if picture is not None:
        latents = fit_picture(config, params, cache, encode_behind(model, seen, picture), jnp.asarray(picture))
    frames, cache = decode_chunk(config, params, cache, latents)
    return frames, Went(cache, (*seen, frames)[-1 - CONTEXT :])


def _decode_whole(
    model: Model,
    latents: Float[Array, "B f h w z"],
    cache: PyTree | None,
    pictures: Mapping[int, UInt8[np.ndarray, "B H W 3"]],
) -> Generator[UInt8[np.ndarray, "B n H W 3"], None, PyTree]:
    ahead = None
    for i in range(latents.shape[1]):
        frames, cache = _go_on(model, cache, latents[:, i : i + 1], pictures.get(i))
        if ahead is not None:
            yield to_host(ahead)
        ahead = frames
    yield to_host(ahead)
    return cache


def _decode_tiles(
    model: Model,
    latents: Float[Array, "B f h w z"],
    caches: PyTree | None,
    tiling: Tiling,
    last: bool,
    pictures: Mapping[int, UInt8[np.ndarray, "B H W 3"]],
) -> Generator[UInt8[np.ndarray, "B n H W 3"], None, PyTree]:
    factor, step = model.config.vae.spatial_factor, model.config.vae.temporal_factor
    size = tuple(n // factor for n in tiling.tile)
    kept = {}

    def chunks(corner: tuple[int, int]) -> Iterator[tuple[Array, np.ndarray | None]]:
        own = cut(latents, tuple(n // factor for n in corner), size)
        (top, left), (rows, columns) = corner, tiling.tile
        parts = {i: picture[:, top : top + rows, left : left + columns] for i, picture in pictures.items()}
        return ((own[:, i : i + 1], parts.get(i)) for i in range(own.shape[1]))

    def one(went: Went | None, chunk: tuple[Array, np.ndarray | None]) -> tuple[Array, Went]:
        return _go_on(model, went, *chunk)

    tiles = tile_by_tile(one, chunks, tiling.corners, caches, kept, last)
    bands = [np.rint(band).astype(np.uint8) for band in blend(tiling, tiles)]
    ends = np.arange(latents.shape[1]) * step + (1 if caches is None else step)
    for start, end in zip((0, *ends), ends, strict=False):
        yield np.concatenate([band[:, start:end] for band in bands], axis=2)
    return kept


def tile_by_tile(
    one: Callable[[PyTree | None, Any], tuple[Array, PyTree]],
    chunks: Callable[[tuple[int, int]], Iterable[Any]],
    corners: Iterable[tuple[int, int]],
    caches: PyTree | None,
    kept: dict[tuple[int, int], PyTree],
    last: bool,
) -> Iterator[np.ndarray]:
    """Each tile through its ``chunks``, by ``one(cache, chunk) -> (result, cache)``: the results one behind another.

    What a tile goes on from waits in the host's memory, from ``caches`` and, unless it is the ``last`` time, to
    ``kept``: a device holds the cache of one tile.
    """
    for corner in corners:
        cache = None if caches is None else jax.device_put(caches[corner], jax.memory.Space.Device)
        results = []
        for chunk in chunks(corner):
            result, cache = one(cache, chunk)
            results.append(to_host(result))
        if not last:
            kept[corner] = jax.device_put(cache, jax.memory.Space.Host)
        del cache
        yield np.concatenate(results, axis=1)


def decode_all(
    model: Model,
    latents: Float[Array, "B f h w z"],
    cache: PyTree | None = None,
    tiling: Tiling | None = None,
    last: bool = False,
) -> tuple[list[UInt8[np.ndarray, "B _ H W 3"]], PyTree]:
    """What ``decode`` yields, in a list, and what it returns."""
    frames, chunks = decode(model, latents, cache, tiling, last), []
    while True:
        try:
            chunks.append(next(frames))
        except StopIteration as end:
            return chunks, end.value
