"""Attention for finer tokens: the same distances in a picture are more tokens then."""

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.typing import Int, Params

NEAREST = 0.3
"""Size that what is new in queries and keys, the nearest distances, begins with, next to the rest."""


def farther(config: DenoiserConfig, params: Params) -> Params:
    """A denoiser's parameters, for tokens of half the side: its attention in a frame sees as far as it did.

    Each pair of channels takes the place of the next slower one, whose rotation of queries and keys is slower by
    10000 ** (1 / pairs): about 2.5 times in heads of 64, 1.6 times in those of 128. The slowest, which hardly turn,
    come to the front, to learn what finer tokens have between them.
    """
    heads, d = config.num_attention_heads, config.attention_head_dim
    order = np.concatenate([_order(d) + head * d for head in range(heads)])
    size = np.ones(d, np.float32)
    for start in _sections(d):
        size[start : start + 2] = NEAREST
    attention = dict(params["blocks"]["attn1"])
    for name in ("to_q", "to_k"):
        attention[name] = jax.tree.map(lambda x: jnp.asarray(x)[..., order], attention[name])
    for name in ("norm_q", "norm_k"):
        attention[name] = {"scale": jnp.asarray(attention[name]["scale"])[..., order] * np.tile(size, heads)}
    return {**params, "blocks": {**params["blocks"], "attn1": attention}}


def _sections(head_dim: int) -> tuple[int, int]:
    """Where the channels of height and of width begin, see ``rotary_tables_3d``."""
    return head_dim - 4 * (head_dim // 6), head_dim - 2 * (head_dim // 6)


def _order(head_dim: int) -> Int[np.ndarray, "d"]:
    """Which channel of a head comes where."""
    order, pairs = np.arange(head_dim), head_dim // 6
    for start in _sections(head_dim):
        section = order[start : start + 2 * pairs].reshape(pairs, 2)
        order[start : start + 2 * pairs] = np.roll(section, 1, axis=0).reshape(-1)
    return order
