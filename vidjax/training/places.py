"""Tokens that are told where in the picture they are: a crutch for training from nothing, which is left behind.

With rotary positions alone a token knows how far it is from others but not where it is, and finds that out from the
noise, the one thing in which tokens differ at first. A small transformer takes long for that, and learns what belongs
where only then. So in a share of the clips a learned table of the places is added to the tokens: in these it learns the
world at once, and in the others how to do without. The table is not exported.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from vidjax.checks import number
from vidjax.data.buckets import Bucket
from vidjax.errors import InputError
from vidjax.typing import Array, Bool, Float, Params

PART = "places"
"""Where the table is, beside the denoiser's parameters."""

SCALE = 0.3
"""Standard deviation that it begins with; a token's is about one."""


LARGEST = 32
"""Rows and columns that the table has."""


def check_places(share: float, buckets: Iterable[Bucket], token: Sequence[int]) -> None:
    """See that the table is large enough for these clips, whose tokens have ``token`` = (height, width) pixels.

    Raises:
      InputError: it is not, or ``share`` is none.
    """
    number("place_share", share, 0, 1)
    for bucket in buckets if share else ():
        if bucket.height > LARGEST * token[0] or bucket.width > LARGEST * token[1]:
            raise InputError(
                f"place_share={share}: {bucket} has more than {LARGEST} rows or columns of tokens; train on smaller "
                "clips first, or give place_share=0"
            )


def init(dim: int, key: Array) -> Params:
    """A table for tokens of this width."""
    return {"table": SCALE * jax.random.normal(key, (LARGEST, LARGEST, dim))}


def add(
    params: Params,
    placed: Bool[Array, "B"],
    grid: tuple[int, int, int],
    added: Float[Array, "B f2 s D"] | None,
) -> Float[Array, "B f s D"]:
    """What is added to the ``grid`` [f, h, w] of tokens: their places in the clips that are ``placed``, and to as many
    frames at the end as it has what there was ``added`` before."""
    f, h, w = grid
    table = params["table"][:h, :w].reshape(1, 1, h * w, -1)
    told = jnp.where(placed[:, None, None, None], table, 0.0)
    told = jnp.broadcast_to(told, (len(placed), f, *told.shape[2:]))
    return told if added is None else told.at[:, f - added.shape[1] :].add(added)
