"""The channels that say to a denoiser with one time per clip what it is given."""

import jax.numpy as jnp
import numpy as np

from vidjax.models.wan.image_channels import image_channels


def test_mask_folds_frames_into_channels():
    """A mask in another order tells the model that other frames are given: it would paint over the pictures."""
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, 2, 5)), jnp.float32)
    given = np.zeros(9, bool)
    given[[0, 2, 8]] = True
    found = np.asarray(image_channels(latents, given))
    assert found.shape == (1, 3, 2, 2, 4 + 5)
    np.testing.assert_array_equal(found[..., 4:], latents)
    expected = [[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(found[0, :, 0, 0, :4], expected)
    assert (found[..., :4] == found[:, :, :1, :1, :4]).all()


def test_one_frame():
    """A single picture is a clip too."""
    found = image_channels(jnp.zeros((1, 1, 2, 2, 3)), np.array([True]))
    assert found.shape == (1, 1, 2, 2, 7)
    assert (found[..., :4] == 1).all()
