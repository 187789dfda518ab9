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


def logit_normal_times(key: Array, shape: tuple[int, ...], shift: float) -> Float[Array, "..."]:
    """Diffusion times in (0, 1): the logistic of a normal with mean ``shift`` (Esser et al., 2403.03206, eq. 19)."""
    return jax.nn.sigmoid(shift + jax.random.normal(key, shape))
