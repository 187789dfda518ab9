"""What a clip is made from: the text, and the latent frames that are given."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vidjax.diffusion.flow import interpolate
from vidjax.diffusion.solvers import Velocity
from vidjax.tiles import cut
from vidjax.typing import Array, Bool, Float


class Condition(NamedTuple):
    """Every task is one of these: some latent frames are given (at time 0), the others are noise.

    ``text`` and ``negative`` are embeddings of the prompt and of the negative prompt; ``given`` holds normalized
    latents where ``mask`` is true, and says the size of the clip. Models that were trained with one time per clip
    see what is given as ``channels`` beside the latents instead, and some of them as tokens of an image encoder.

    ``rays`` are those of the camera, packed as ``conditioning.rays`` does, for models with a camera adapter.

    ``kept`` are latents of a clip that is painted over, which stay where ``keep`` is true.

    ``references`` are latents of pictures of one subject, and ``style`` of one whose style the clip takes, each of a
    clip of one frame: the denoiser sees them beside the clip (``conditioning.references``), of which they are no part.

    Where a clip goes on from what the model made itself, that may be a little wrong: with ``times`` the denoiser sees
    given frames at these, with ``noise``, and not at 0 (Diffusion Forcing, 2407.01392). Once the walk is there they go
    on with the others, and come out mended.
    """

    text: Float[Array, "B L D"]
    negative: Float[Array, "B L D"]
    given: Float[Array, "B f h w c"]
    mask: Bool[Array, "B f"]
    channels: Float[Array, "B f h w e"] | None = None
    image: Float[Array, "B I E"] | None = None
    kept: Float[Array, "B f h w c"] | None = None
    keep: Bool[Array, "B f h w"] | None = None
    references: Float[Array, "B R h w c"] | None = None
    style: Float[Array, "B 1 h w c"] | None = None
    rays: Float[Array, "B f H W C"] | None = None
    times: Float[Array, "B f"] | None = None
    noise: Float[Array, "B f h w c"] | None = None


def nothing_given(batch: int, shape: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """``given`` and ``mask`` of a clip from words alone; ``shape`` is [f, h, w, c]."""
    return jnp.zeros((batch, *shape), jnp.float32), jnp.zeros((batch, shape[0]), bool)


def paste(given: Float[Array, "B f h w c"], mask: Bool[Array, "B f"], x: Float[Array, "B f h w c"]) -> Array:
    """``x`` with the given frames in their places."""
    return jnp.where(mask[:, :, None, None, None], given, x)


def cut_condition(condition: Condition, corner: tuple[Array, Array], tile: tuple[int, int]) -> Condition:
    """What a tile of the clip is made from; ``kept`` is left out. ``references`` and ``style`` are of a tile's size."""
    own = condition.given, condition.channels, condition.noise
    given, channels, noise = (None if x is None else cut(x, corner, tile) for x in own)
    rays = condition.rays
    if rays is not None:
        finer = rays.shape[2] // condition.given.shape[2]
        rays = cut(rays, tuple(finer * i for i in corner), tuple(finer * n for n in tile))
    return condition._replace(given=given, channels=channels, noise=noise, rays=rays, kept=None, keep=None)


def held(
    mask: Bool[Array, "B f"], times: Float[Array, "B f"] | None, t: Float[Array, ""] | float
) -> Bool[Array, "B f"]:
    """Which frames are given still when the walk is at ``t``: those at ``times`` above 0 until it is there."""
    return mask if times is None else mask & ((times == 0) | (t > times))


def on_their_way(condition: Condition, x: Float[Array, "B f h w c"], sigma: float) -> Array:
    """``x``, where a walk begins, with given frames that will be walked at their places between clean and noise."""
    if condition.times is None:
        return x
    noisy, _ = interpolate(condition.given, condition.noise, jnp.full(condition.mask.shape, sigma, x.dtype))
    return paste(noisy, condition.mask, x)


def whole(condition: Condition, x: Float[Array, "B f h w c"]) -> Array:
    """``x``, at the end of a walk, with all in its place that is given or kept."""
    x = paste(condition.given, held(condition.mask, condition.times, 0.0), x)
    return x if condition.kept is None else jnp.where(condition.keep[..., None], condition.kept, x)


def with_kept(velocity: Velocity, kept: Float[Array, "B f h w c"], keep: Bool[Array, "B f h w"]) -> Velocity:
    """What is kept goes straight from its noise to where it was; the model sees it as noisy as the rest."""

    def kept_apart(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        # At the last time there is no noise left: what is kept is pasted then.
        straight = (x - kept) / jnp.maximum(t, 1e-3)
        return jnp.where(keep[..., None], straight, velocity(x, t))

    return kept_apart


def with_given(
    denoise: Callable[[Array, Float[Array, "B f"]], Array],
    given: Float[Array, "B f h w c"],
    mask: Bool[Array, "B f"],
    times: Float[Array, "B f"] | None = None,
    noise: Float[Array, "B f h w c"] | None = None,
) -> Velocity:
    """A velocity at one time for the clip, from a denoiser at per-frame times.

    Given frames are clean, at time 0; or at ``times``, with that much of the ``noise``, until the clip is there too.
    """
    seen_at = jnp.zeros(mask.shape) if times is None else times
    if times is not None:
        given, _ = interpolate(given, noise, times)

    def velocity(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        still = held(mask, times, t)
        return denoise(paste(given, still, x), jnp.where(still, seen_at, t))

    return velocity
