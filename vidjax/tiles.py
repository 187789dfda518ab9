"""A picture in overlapping tiles of one shape, and back: for what is too large to be worked on whole.

Tiles of one shape share one compiled program, so the last of a row ends where the picture does and none is smaller.
Where two meet they are faded into each other in the middle of what they share: near its own border a tile has seen
too little of the picture to be trusted.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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

    def reduced(self, factor: int) -> "Tiling":
        """What ``scaled`` by this factor is this."""
        rows, columns = (tuple(start // factor for start in starts) for starts in self.starts)
        return Tiling(*(tuple(n // factor for n in pair) for pair in self[:3]), (rows, columns))


def make_tiling(size: tuple[int, int], side: int | tuple[int, int], overlap: int | tuple[int, int]) -> Tiling:
    """The fewest tiles of up to ``side x side`` cells that cover the picture, neighbours sharing at least ``overlap``.

    They are spread evenly. ``overlap`` is below ``side``. Pairs are of rows and of columns.
    """
    sides, overlaps = ((n, n) if isinstance(n, int) else n for n in (side, overlap))
    tile = min(size[0], sides[0]), min(size[1], sides[1])
    starts = tuple(_spread(*each) for each in zip(size, tile, overlaps, strict=True))
    # Half of what is shared: the outer quarters lie next to a border, and are not seen.
    return Tiling(size, tile, tuple(max(1, n // 2) for n in overlaps), starts)


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


def tiled(
    function: Callable[[tuple[Array, Array], Float[Array, "B f h2 w2 c"], Any], Float[Array, "B f h2 w2 d"]],
    tiling: Tiling,
) -> Callable[[Float[Array, "B f h w c"], Any], Float[Array, "B f h w d"]]:
    """A function of tiles, ``function(corner, x, t)``, as one of the whole, ``(x, t)``: averaged where they overlap.

    Of velocities it is MultiDiffusion (Bar-Tal et al., 2302.08113, eq. 5) with trapezoids for weights. One tile after
    another: memory is that of one, and there is one program for all.
    """
    if len(tiling.corners) == 1:
        return lambda x, t: function((jnp.int32(0), jnp.int32(0)), x, t)
    down, along = (weights(*each) for each in zip(tiling.starts, tiling.tile, tiling.ramps, strict=True))
    shares = jnp.stack([jnp.asarray(row[:, None] * column) for row in down for column in along])
    corners = jnp.asarray(tiling.corners, jnp.int32)

    def whole(x: Float[Array, "B f h w c"], t: Any) -> Float[Array, "B f h w d"]:
        def add(total: Array, tile: tuple[Array, Array]) -> tuple[Array, None]:
            corner, share = tile
            corner = corner[0], corner[1]
            found = function(corner, cut(x, corner, tiling.tile), t) * share[..., None]
            there = (0, 0, *corner, 0)
            return lax.dynamic_update_slice(total, cut(total, corner, tiling.tile) + found, there), None

        of_tile = jax.eval_shape(lambda x: function((corners[0, 0], corners[0, 1]), cut(x, (0, 0), tiling.tile), t), x)
        start = jnp.zeros((*x.shape[:-1], of_tile.shape[-1]), of_tile.dtype)
        return lax.scan(add, start, (corners, shares))[0]

    return whole
