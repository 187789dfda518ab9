"""Losses: what a step minimises, as pure functions."""

import jax
import jax.numpy as jnp

from vidjax.typing import Array, Float


def gaussian_kl(mean: Float[Array, "..."], log_variance: Float[Array, "..."]) -> Float[Array, ""]:
    """KL divergence to the unit normal, in nats per latent number (Kingma and Welling, 1312.6114, eq. 10)."""
    return 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)


def reconstruction(y: Float[Array, "..."], x: Float[Array, "..."]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean absolute and mean squared error."""
    return jnp.mean(jnp.abs(y - x)), jnp.mean((y - x) ** 2)


def logit_normal_times(
    key: Array, shape: tuple[int, ...], shift: float, within: tuple[float, float] = (0.0, 1.0)
) -> Float[Array, "..."]:
    """Diffusion times in (0, 1): the logistic of a normal with mean ``shift`` (Esser et al., 2403.03206, eq. 19).

    ``within`` cuts the distribution off on both sides.
    """
    if within == (0.0, 1.0):
        return jax.nn.sigmoid(shift + jax.random.normal(key, shape))
    low, high = (jax.scipy.special.logit(jnp.float32(t)) - shift for t in within)
    return jax.nn.sigmoid(shift + jax.random.truncated_normal(key, low, high, shape))
