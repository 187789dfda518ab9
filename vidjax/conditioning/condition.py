"""What a clip is made from: the text, and the latent frames that are given."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vidjax.diffusion.solvers import Velocity
from vidjax.typing import Array, Bool, Float


class Condition(NamedTuple):
    """Every task is one of these: some latent frames are given (at time 0), the others are noise.

    ``text`` and ``negative`` are embeddings of the prompt and of the negative prompt; ``given`` holds normalized
    latents where ``mask`` is true, and says the size of the clip. Models that were trained with one time per clip
    see what is given as ``channels`` beside the latents instead, and some of them as tokens of an image encoder.
    """

    text: Float[Array, "B L D"]
    negative: Float[Array, "B L D"]
    given: Float[Array, "B f h w c"]
    mask: Bool[Array, "B f"]
    channels: Float[Array, "B f h w e"] | None = None
    image: Float[Array, "B I E"] | None = None


def nothing_given(batch: int, shape: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """``given`` and ``mask`` of a clip from words alone; ``shape`` is [f, h, w, c]."""
    return jnp.zeros((batch, *shape), jnp.float32), jnp.zeros((batch, shape[0]), bool)


def paste(given: Float[Array, "B f h w c"], mask: Bool[Array, "B f"], x: Float[Array, "B f h w c"]) -> Array:
    """``x`` with the given frames in their places."""
    return jnp.where(mask[:, :, None, None, None], given, x)


def with_given(
    denoise: Callable[[Array, Float[Array, "B f"]], Array], given: Float[Array, "B f h w c"], mask: Bool[Array, "B f"]
) -> Velocity:
    """A velocity at one time for the clip, from a denoiser at per-frame times: given frames are clean, at time 0."""

    def velocity(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> Float[Array, "B f h w c"]:
        return denoise(paste(given, mask, x), jnp.where(mask, 0.0, t))

    return velocity
