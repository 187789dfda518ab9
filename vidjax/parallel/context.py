"""Attention over a mesh: heads over `tensor`, the video's tokens over `context`.

Two exact schemes move what a device lacks. Ulysses (Jacobs et al., 2309.14509) trades tokens for heads and back, so
that a device sees every token of some heads. Ring attention (Liu et al., 2310.01889) passes keys and values around
while each device keeps its queries. Ulysses moves less and is taken where the heads suffice.

What runs on one device is given as a :class:`Kernel`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from vidjax.parallel.mesh import BATCH_AXES
from vidjax.parallel.rules import fitting_spec, free_axes
from vidjax.typing import Array, Bool, Float

AXIS = "context"


class Kernel(NamedTuple):
    """Attention on one device; queries and keys `[B, N, heads, D]`, `mask [M]` says which keys count.

    Args:
      attend: `(q, k, v) -> out`, differentiable.
      forward: `(q, k, v, mask) -> (out, lse)`, float32; `lse [B, heads, N]` is the log of the softmax's denominator.
      backward: `(q, k, v, mask, out, lse, gradient) -> (dq, dk, dv)`, float32: the part of these keys in the
        gradient of attention over more keys than these, whose result and `lse` are given.
    """

    attend: Callable[..., Array]
    forward: Callable[..., tuple[Array, Array]]
    backward: Callable[..., tuple[Array, Array, Array]]


def attention_over_mesh(
    kernel: Kernel,
    q: Float[Array, "B f s heads D"],
    k: Float[Array, "B *M heads D"],
    v: Float[Array, "B *M heads D"],
    valid: int | None = None,
    causal: bool = False,
) -> Float[Array, "B f s heads D"]:
    """Attention of video tokens to themselves, or to a short sequence `[B, L, heads, D]` that every device has whole.

    The batch is split over `data` and `fsdp`, heads over `tensor` and `s` over `context`: each where it divides, and
    not at all without a mesh (`jax.set_mesh`). `valid` tokens of each frame are real; those behind only make `s`
    divide, and do not count as keys. With `causal` a frame attends to itself and those before it: frame by frame, so
    that half of the work is left out and kernels need no mask. Equal on every mesh up to rounding.
    """
    free = free_axes()
    over = fitting_spec(q.shape, BATCH_AXES, None, AXIS, "tensor", None)
    to_video = k.ndim == q.ndim
    valid = valid if to_video and valid != q.shape[2] else None
    parts = free[AXIS] if over[2] else 1
    local_heads = q.shape[3] // (free["tensor"] if over[3] else 1)

    def local(q: Array, k: Array, v: Array) -> Array:
        whole, ring = (functools.partial(form, kernel, valid) for form in (_whole, _ring_of_frames))
        if causal:
            whole, ring = (functools.partial(_frame_by_frame, form) for form in (whole, ring))
        if parts == 1 or not to_video:
            return whole(q, k, v)
        return _ulysses(whole, q, k, v) if local_heads % parts == 0 else ring(q, k, v)

    if all(size == 1 for size in free.values()):
        return local(q, k, v)
    of_keys = over if to_video else P(over[0], None, over[3], None)
    return jax.shard_map(
        local, in_specs=(over, of_keys, of_keys), out_specs=over, axis_names=set(free), check_vma=False
    )(q, k, v)


def _whole(kernel: Kernel, valid: int | None, q: Array, k: Array, v: Array) -> Array:
    """All keys are here."""
    if valid is not None:
        k, v = k[:, :, :valid], v[:, :, :valid]
    flat = [x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (q, k, v)]
    return kernel.attend(*flat).reshape(q.shape)


def _frame_by_frame(attend: Callable[..., Array], q: Array, k: Array, v: Array) -> Array:
    """Each frame to itself and those before it."""
    frames = [attend(q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1]) for i in range(q.shape[1])]
    return jnp.concatenate(frames, axis=1)


def _ulysses(whole: Callable[..., Array], q: Array, k: Array, v: Array) -> Array:
    to_heads = functools.partial(lax.all_to_all, axis_name=AXIS, split_axis=3, concat_axis=2, tiled=True)
    y = whole(*map(to_heads, (q, k, v)))
    return lax.all_to_all(y, AXIS, split_axis=2, concat_axis=3, tiled=True)


def _ring_of_frames(kernel: Kernel, valid: int | None, q: Array, k: Array, v: Array) -> Array:
    _, f, s, _, _ = k.shape
    mask = None
    if valid is not None:
        mask = jnp.tile(lax.axis_index(AXIS) * s + jnp.arange(s) < valid, f)
    flat = [x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (q, k, v)]
    return _ring(kernel, *flat, mask).reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(
    kernel: Kernel,
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    mask: Bool[Array, "M"] | None,
) -> Float[Array, "B N heads D"]:
    """Attention to the keys of every device; to be called inside `jax.shard_map`.

    Its gradient goes around once more instead of keeping what passed: memory is linear in tokens.
    """
    return _ring_forward(kernel, q, k, v, mask)[0]


def _ring_forward(kernel: Kernel, q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, tuple]:
    def add(seen, block):
        (out, lse), (more, its) = seen, kernel.forward(q, *block)
        total = jnp.logaddexp(lse, its)
        share, its_share = (jnp.exp(x - total).swapaxes(1, 2)[..., None] for x in (lse, its))
        return out * share + more * its_share, total

    def step(carry, _):
        seen, block = carry
        following = _pass_on(block)  # on its way while this one is worked on
        return (add(seen, block), following), None

    B, N, heads, _ = q.shape
    nothing = jnp.zeros((B, N, heads, v.shape[-1]), jnp.float32), jnp.full((B, heads, N), -jnp.inf, jnp.float32)
    (seen, block), _ = lax.scan(step, (nothing, (k, v, mask)), length=lax.axis_size(AXIS) - 1)
    out, lse = add(seen, block)
    out = out.astype(v.dtype)
    return out, (q, k, v, mask, out, lse)


def _ring_backward(kernel: Kernel, saved: tuple, gradient: Array) -> tuple:
    q, k, v, mask, out, lse = saved

    def step(carry, _):
        dq, (dk, dv), block = carry
        following = _pass_on(block)
        more = kernel.backward(q, *block, out, lse, gradient)
        # The gradients travel with their keys and are home after the last step.
        return (dq + more[0], _pass_on((dk + more[1], dv + more[2])), following), None

    start = [jnp.zeros(x.shape, jnp.float32) for x in (q, k, v)]
    (dq, (dk, dv), _), _ = lax.scan(step, (start[0], (start[1], start[2]), (k, v, mask)), length=lax.axis_size(AXIS))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_ring.defvjp(_ring_forward, _ring_backward)


def _pass_on(block):
    """To the next device of the ring."""
    size = lax.axis_size(AXIS)
    return jax.tree.map(lambda x: lax.ppermute(x, AXIS, [(i, (i + 1) % size) for i in range(size)]), block)
