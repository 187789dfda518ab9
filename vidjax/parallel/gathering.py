"""Values of one process for all, and arrays that lie on many devices, whole on the host."""

import json
from typing import Any

import jax
import numpy as np

from vidjax.typing import Array, PyTree

GATHERED_BYTES = 256 * 2**20
"""Larger arrays come to the host in pieces: each device holds a whole piece for a moment."""


def agree(value: Any) -> Any:
    """What process 0 has for a value of JSON, on all of them; also a meeting point."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = np.resize(text, size) if len(text) else np.zeros(size, np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(text).tobytes())


def to_host(x: Array) -> np.ndarray:
    """The whole of an array, wherever its pieces lie; with several processes all must ask."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    rows = max(1, GATHERED_BYTES // max(1, x.nbytes // x.shape[0]))
    pieces = [x] if rows >= x.shape[0] else [x[i : i + rows] for i in range(0, x.shape[0], rows)]
    gathered = [multihost_utils.process_allgather(piece, tiled=True) for piece in pieces]
    return gathered[0] if len(gathered) == 1 else np.concatenate(gathered)


def to_first(tree: PyTree) -> PyTree:
    """A tree of arrays that process 0 can read without the others, who get None for each; all must ask."""
    if jax.process_count() == 1:
        return tree

    def move(x: Array) -> np.ndarray | None:
        value = to_host(x)
        return value if jax.process_index() == 0 else None

    return jax.tree.map(move, tree)
