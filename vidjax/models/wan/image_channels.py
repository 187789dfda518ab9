"""How the image-to-video models that know one time per clip see their pictures: as channels beside the latents.

Those of Wan 2.1 and 2.2 A14B; TI2V takes given latent frames at time 0 instead.
"""

import jax.numpy as jnp
import numpy as np

from vidjax.typing import Array, Bool, Float


def image_channels(
    latents: Float[Array, "B f h w z"], given: Bool[np.ndarray, "F"], ratio: int = 4
) -> Float[Array, "B f h w e"]:
    """The mask, then ``latents``, the normalized encoding of a clip whose frames are grey where nothing is given.

    ``given`` says of each of the ``F = 1 + ratio (f - 1)`` frames whether it is a picture. A latent frame has
    ``ratio`` mask channels, one for each of its frames; the first, which holds one frame only, repeats that one's.
    """
    B, f, h, w, _ = latents.shape
    mask = np.concatenate([np.repeat(given[:1], ratio), given[1:]]).reshape(f, 1, 1, ratio)
    mask = jnp.broadcast_to(jnp.asarray(mask, latents.dtype), (B, f, h, w, ratio))
    return jnp.concatenate([mask, latents], axis=-1)
