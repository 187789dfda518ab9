"""Pictures that a clip is to be like, as extra latent frames: clean, at places of their own, not in the result.

Clean latents that the denoiser attends to beside the clip's, as in Phantom (Liu et al., 2502.11079). The places in time
lie before the clip, so that neither its own positions nor how long it is matter.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from vidjax.typing import Array, Float

MAX_REFERENCES = 3
"""Pictures of one subject, at the most."""

STYLE_PLACE = -1 - MAX_REFERENCES
"""Where the picture of a style stands in time; reference ``i`` stands at ``-1 - i``."""

PlacedDenoiser = Callable[[Float[Array, "B f h w c"], Float[Array, "B f"], np.ndarray | None], Array]
"""``(x, t, frames) -> velocity``, at per-frame times; ``frames`` are the positions in time, None: 0, 1, ..."""


def with_references(
    denoise: PlacedDenoiser,
    references: Float[Array, "B R h w c"] | None,
    style: Float[Array, "B 1 h w c"] | None,
) -> Callable[[Float[Array, "B f h w c"], Float[Array, "B f"]], Float[Array, "B f h w c"]]:
    """A denoiser at per-frame times that sees these in front, at time 0, and answers for the clip alone."""
    places = [] if references is None else [-1 - i for i in range(references.shape[1])]
    places += [] if style is None else [STYLE_PLACE]
    if not places:
        return lambda x, t: denoise(x, t, None)

    def among(x: Float[Array, "B f h w c"], t: Float[Array, "B f"]) -> Float[Array, "B f h w c"]:
        seen = jnp.concatenate([each for each in (references, style, x) if each is not None], axis=1)
        times = jnp.concatenate([jnp.zeros((len(t), len(places)), t.dtype), t], axis=1)
        return denoise(seen, times, np.concatenate([places, np.arange(x.shape[1])]))[:, len(places) :]

    return among
