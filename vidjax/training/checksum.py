"""Checksums of arrays, computed where they lie: the same on any mesh, and changed by any one bit that flips."""

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.parallel.rules import leaf_path
from vidjax.typing import Array, PyTree, UInt32


def checksums(tree: PyTree) -> dict[str, int]:
    """The checksum of every array, by its path."""
    return {leaf_path(path): int(s) for path, s in jax.tree_util.tree_flatten_with_path(jax.device_get(_all(tree)))[0]}


def differing(tree: PyTree, expected: dict[str, int]) -> list[str]:
    """The paths whose arrays are not those that ``expected`` was made from."""
    found = checksums(tree)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def checksum(x: Array) -> UInt32[Array, ""]:
    """The sum modulo 2^32 of an array's words, each times an odd number of its own.

    Odd numbers have inverses: a change of one word, by any amount, changes the sum. Exact in any order of adding.
    """
    words = jnp.ravel(_words(x)).astype(jnp.uint32)
    return jnp.sum(words * (2 * jax.lax.iota(jnp.uint32, words.size) + 1), dtype=jnp.uint32)


def _words(x: Array) -> Array:
    if x.dtype == jnp.bool_:
        return x
    size = np.dtype(x.dtype).itemsize
    return jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32))


@jax.jit
def _all(tree: PyTree) -> PyTree:
    return jax.tree.map(checksum, tree)
