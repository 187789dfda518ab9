"""Rays through pixels, and how they are packed for latent frames."""

import jax.numpy as jnp
import numpy as np

from vidjax.conditioning.rays import frames_of_latents, make_rays, pack


def test_rays_of_a_known_camera():
    """By hand: a frame of 2 x 4 pixels, fx = 1 and fy = 0.5, and a camera at (1, 2, 3) that looks along x."""
    still, turned = np.eye(3, 4), np.array([[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3.0]])
    intrinsics = np.array([1, 0.5, 0.5, 0.5], np.float32)
    rays = make_rays(jnp.asarray([still, turned], jnp.float32), jnp.stack([intrinsics] * 2), 2, 4)
    assert rays.shape == (2, 2, 4, 6)
    # The pixel of row 0, column 3 has its middle at (3.5 / 4, 0.5 / 2): ((0.875 - 0.5) / 1, (0.25 - 0.5) / 0.5, 1).
    local = np.array([0.375, -0.5, 1.0]) / np.sqrt(0.375**2 + 0.5**2 + 1)
    np.testing.assert_allclose(rays[0, 0, 3], [0, 0, 0, *local], atol=1e-6)
    direction = np.array([local[2], local[1], -local[0]])
    np.testing.assert_allclose(rays[1, 0, 3], [*np.cross([1, 2, 3], direction), *direction], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rays[..., 3:], axis=-1), 1, atol=1e-6)


def test_moment_is_that_of_any_point():
    """Two cameras on one line, which both look along it, see the same ray: that is what these coordinates are for."""
    poses = np.tile(np.eye(3, 4), (2, 1, 1))
    poses[:, :, 3] = [[1, 2, 0], [1, 2, 5]]
    rays = make_rays(jnp.asarray(poses, jnp.float32), jnp.tile(jnp.array([1, 1, 0.5, 0.5]), (2, 1)), 1, 1)
    np.testing.assert_allclose(rays[0], rays[1], atol=1e-6)


def test_first_latent_frame_is_of_one_frame():
    """The autoencoder's first latent frame is one frame: it is there four times. Later windows begin with four."""
    np.testing.assert_array_equal(frames_of_latents(0, 3, 4), [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    np.testing.assert_array_equal(frames_of_latents(2, 2, 4), [5, 6, 7, 8, 9, 10, 11, 12])


def test_packed_channels():
    """Published weights read channels ordered coordinate first, then frame."""
    rays = np.arange(8 * 2 * 3 * 6, dtype=np.float32).reshape(8, 2, 3, 6)
    packed = pack(jnp.asarray(rays[None]), 4)
    assert packed.shape == (1, 2, 2, 3, 24)
    for frame in range(8):
        for coordinate in range(6):
            found = packed[0, frame // 4, :, :, 4 * coordinate + frame % 4]
            np.testing.assert_array_equal(found, rays[frame, :, :, coordinate])
