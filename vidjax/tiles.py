"""A picture in overlapping tiles of one shape, and back: for what is too large to be worked on whole.

Tiles of one shape share one compiled program, so the last of a row ends where the picture does and none is smaller.
Where two meet they are faded into each other in the middle of what they share: near its own border a tile has seen
too little of the picture to be trusted.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from vidjax.typing import Array, Float


class Tiling(NamedTuple):
    """Where the tiles lie, all rows then columns, in cells of any kind: latents, or pixels.

    ``starts`` are the first rows and the first columns of tiles; every row with every column is a tile. ``ramps`` is
    over how many cells neighbours are faded into each other.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    ramps: tuple[int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def corners(self) -> list[tuple[int, int]]:
        """First row and column of each tile, row by row."""
        return [(top, left) for top in self.starts[0] for left in self.starts[1]]

    def scaled(self, factor: int) -> "Tiling":
        """The same in cells of which ``factor x factor`` make up one of these."""
        rows, columns = (tuple(factor * start for start in starts) for starts in self.starts)
        return Tiling(*(tuple(factor * n for n in pair) for pair in self[:3]), (rows, columns))


def make_tiling(size: tuple[int, int], side: int, overlap: int) -> Tiling:
    """The fewest tiles of up to ``side x side`` cells that cover the picture, neighbours sharing at least ``overlap``.

    They are spread evenly. ``overlap`` is 1 at least, and below ``side``.
    """
    tile = min(size[0], side), min(size[1], side)
    starts = tuple(_spread(whole, part, overlap) for whole, part in zip(size, tile, strict=True))
    # Half of what is shared: the outer quarters lie next to a border, and are not seen.
    ramp = max(1, overlap // 2)
    return Tiling(size, tile, (ramp, ramp), starts)


def _spread(size: int, tile: int, overlap: int) -> tuple[int, ...]:
    gaps = -(-(size - tile) // (tile - overlap)) if size > tile else 0
    return tuple(i * (size - tile) // gaps for i in range(gaps + 1)) if gaps else (0,)


def weights(starts: tuple[int, ...], tile: int, ramp: int) -> Float[np.ndarray, "n tile"]:
    """The share of each of the tiles of a row in each of its cells: trapezoids whose sum over all tiles is 1."""
    cells = np.asarray(starts)[:, None] + np.arange(tile) + 0.5
    rising, falling = np.ones_like(cells), np.zeros_like(cells)
    for i in range(1, len(starts)):
        middle = (starts[i] + starts[i - 1] + tile) / 2
        rising[i] = np.clip((cells[i] - middle) / ramp + 0.5, 0, 1)
        falling[i - 1] = np.clip((cells[i - 1] - middle) / ramp + 0.5, 0, 1)
    return (rising - falling).astype(np.float32)


def cut(x: Float[Array, "B f h w c"], corner: tuple[Any, Any], tile: tuple[int, int]) -> Float[Array, "B f h2 w2 c"]:
    """A tile: one program for all, as the ``corner`` is an input of it."""
    return lax.dynamic_slice(x, (0, 0, *corner, 0), (*x.shape[:2], *tile, x.shape[-1]))


def blend(tiling: Tiling, tiles: Iterable[np.ndarray]) -> Iterator[Float[np.ndarray, "B F rows W C"]]:
    """The picture from its tiles [B, F, h, w, C] in the order of ``corners``: bands of whole rows from the top.

    A band comes when the tiles of its rows are there; no more than one row of tiles is held.
    """
    (tops, lefts), (height, width) = tiling.starts, tiling.tile
    down, along = (weights(*each) for each in zip(tiling.starts, tiling.tile, tiling.ramps, strict=True))
    tiles, band = iter(tiles), None
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            tile = next(tiles)
            if band is None:
                band = np.zeros((*tile.shape[:2], height, tiling.size[1], tile.shape[-1]), np.float32)
            share = (down[row][:, None] * along[column])[..., None]
            band[..., left : left + width, :] += tile * share
        done = (tops[row + 1] if row + 1 < len(tops) else top + height) - top
        yield band[:, :, :done]
        band = np.concatenate([band[:, :, done:], np.zeros_like(band[:, :, :done])], axis=2)
