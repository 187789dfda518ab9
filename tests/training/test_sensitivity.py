"""Which channels of a latent show in pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.models.wan import vae
from vidjax.training.sensitivity import pixel_metric


def test_metric_is_that_of_the_jacobian(tiny):
    """With another metric an upsampler would learn what nobody sees."""
    config, params = tiny.config.vae, tiny.params["vae"]
    z = 0.3 * np.random.default_rng(0).standard_normal((2, 2, 2, config.z_dim)).astype(np.float32)
    found = pixel_metric(config, params, [z] * 2000)

    def pixels(z):
        return vae.decode_chunk(config, params, None, vae.denormalize(config, z)[None])[0]

    jacobian = jax.jacobian(pixels)(jnp.asarray(z)).reshape(-1, z[..., 0].size, config.z_dim)
    exact = np.einsum("ypa,ypb->ab", jacobian, jacobian)
    exact *= config.z_dim / np.trace(exact)
    np.testing.assert_allclose(found, exact, atol=0.1)
    assert abs(np.trace(found) - config.z_dim) < 1e-3
    assert exact.max() > 1.5, "of channels that all do as much nothing is to be seen here"
