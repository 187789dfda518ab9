"""How much of a clip's pixels hangs on each channel of its latents, which all have the same variance."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.models.wan import vae
from vidjax.typing import Array, Float, Params


def pixel_metric(
    config: vae.VAEConfig, params: Params, latents: Iterable[Float[np.ndarray, "f h w z"]]
) -> Float[np.ndarray, "z z"]:
    """Of small changes ``e`` of a normalized latent the squared change of the pixels is in the mean ``e . G e``.

    ``G = E[J^T J]`` of the decoder's Jacobian J at these clips, without what two latents do together, scaled so that
    its trace is z: as the squared error itself, if all channels were alike. Of a decoder's vector-Jacobian product
    with random signs the outer product has that mean (Hutchinson, 1989).
    """
    found = [_sample(config, params, jnp.asarray(z, jnp.float32), jax.random.key(i)) for i, z in enumerate(latents)]
    metric = np.mean(jax.device_get(found), axis=0)
    return metric * len(metric) / np.trace(metric)


@functools.partial(jax.jit, static_argnames="config")
def _sample(config: vae.VAEConfig, params: Params, z: Float[Array, "f h w z"], key: Array) -> Float[Array, "z z"]:
    def pixels(z: Array) -> Array:
        return vae.decode_chunk(config, params, None, vae.denormalize(config, z))[0]

    y, pull = jax.vjp(pixels, z[None])
    rows = pull(jax.random.rademacher(key, y.shape, y.dtype))[0].reshape(-1, z.shape[-1])
    return rows.T @ rows
