"""The denoiser frame by frame: what earlier latent frames were is kept as their keys and values.

A rolling cache as in Self-Forcing (Huang et al., 2506.08009) and LongLive (Yang et al., 2509.22622): the first frames
of the clip stay for ever, the others go round in a ring. Keys are kept before rotation, and get their position in the
window that is seen: the first frames, then the ring from the oldest to the newest, then the frame itself. So positions
never leave those that were trained, and a frame costs as much at the end of a long clip as soon after its beginning.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vidjax.models.wan.denoiser import VIDEO, DenoiserConfig, Past, follow
from vidjax.parallel.rules import constrain, free_axes
from vidjax.typing import Array, Float, Int, Params, PyTree

SINK = 1
"""Latent frames at the beginning of the clip that stay."""


class Cache(NamedTuple):
    """Keys, before rotation, and values of the frames that are seen, and how many frames were written so far."""

    keys: Float[Array, "L B slots s heads d"]
    values: Float[Array, "L B slots s heads d"]
    count: Int[Array, ""]

    @property
    def slots(self) -> int:
        return self.keys.shape[2]


def sink_slots(slots: int) -> int:
    """How many of them stay; one of the others is left at least."""
    return min(SINK, slots - 1)


def empty(
    config: DenoiserConfig, batch: int, slots: int, height: int, width: int, dtype: DTypeLike = jnp.float32
) -> Cache:
    """Before the first frame of clips of this size in latents; ``slots`` frames, at least one, will be seen."""
    _, ph, pw = config.patch_size
    s = (height // ph) * (width // pw)
    s += -s % free_axes().get("context", 1)
    shape = config.num_layers, batch, slots, s, config.num_attention_heads, config.attention_head_dim
    return _laid_out(Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.int32(0)))


def step(
    config: DenoiserConfig,
    params: Params,
    x: Float[Array, "B 1 h w c"],
    t: Float[Array, "B 1"],
    context: PyTree,
    cache: Cache,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "B 1 h w c2"]:
    """The velocity of the next latent frame at diffusion time ``t``."""
    return follow(config, params, x, t, context, _past(cache), dtype)[0]


def write(
    config: DenoiserConfig,
    params: Params,
    x: Float[Array, "B 1 h w c"],
    context: PyTree,
    cache: Cache,
    dtype: DTypeLike = jnp.float32,
) -> Cache:
    """The cache with the next latent frame, which is clean: it is run once more at diffusion time 0."""
    _, own = follow(config, params, x, jnp.zeros(x.shape[:2]), context, _past(cache), dtype)
    sink, n = sink_slots(cache.slots), cache.count
    slot = jnp.where(n < sink, n, sink + (n - sink) % (cache.slots - sink))
    put = lambda kept, new: lax.dynamic_update_slice_in_dim(kept, new.astype(kept.dtype), slot, axis=2)  # noqa: E731
    return _laid_out(Cache(put(cache.keys, own[0]), put(cache.values, own[1]), n + 1))


def _past(cache: Cache) -> Past:
    """The cache as the next frame sees it."""
    slots, sink, n = cache.slots, sink_slots(cache.slots), cache.count
    # Once the ring is full its oldest frame lies where the next one will be written.
    oldest = jnp.where(n >= slots, (n - sink) % (slots - sink), 0)
    ring = sink + (jnp.arange(slots - sink) - oldest) % (slots - sink)
    places = jnp.concatenate([jnp.arange(sink), ring, jnp.minimum(n, slots)[None]])
    return Past(cache.keys, cache.values, jnp.minimum(n, slots), places)


def _laid_out(cache: Cache) -> Cache:
    return jax.tree.map(lambda x: constrain(x, None, *VIDEO, "tensor") if x.ndim else x, cache)
