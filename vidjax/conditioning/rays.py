"""What a camera sees along: a ray for each pixel, in Plücker coordinates, and how models are given these.

A ray is [o x d, d]: its direction d, of length 1, and its moment, the same whichever of its points o is
(Sitzmann et al., 2106.02634; for video models CameraCtrl, He et al., 2404.02101).
"""

import jax.numpy as jnp
import numpy as np

from vidjax.typing import Array, Float, Int

RAY = 6


def make_rays(
    camera_to_world: Float[Array, "*B F 3 4"], intrinsics: Float[Array, "*B F 4"], height: int, width: int
) -> Float[Array, "*B F H W 6"]:
    """The rays through the middles of height x width pixels: ``d = R K^-1 p``, normalized.

    ``intrinsics`` are fx, fy, cx, cy in widths and heights of the frame.
    """
    fx, fy, cx, cy = (intrinsics[..., i, None, None] for i in range(4))
    x = ((jnp.arange(width) + 0.5) / width - cx) / fx
    y = ((jnp.arange(height)[:, None] + 0.5) / height - cy) / fy
    x, y = jnp.broadcast_arrays(x, y)
    local = jnp.stack([x, y, jnp.ones_like(x)], axis=-1)
    local /= jnp.linalg.norm(local, axis=-1, keepdims=True)
    # Three products each, spelled out: as a matrix product an accelerator would round them.
    turn = camera_to_world[..., None, None, :, :3]
    direction = sum(turn[..., i] * local[..., i, None] for i in range(3))
    origin = jnp.broadcast_to(camera_to_world[..., None, None, :, 3], direction.shape)
    return jnp.concatenate([jnp.cross(origin, direction), direction], axis=-1)


def frames_of_latents(start: int, count: int, ratio: int) -> Int[np.ndarray, "n"]:
    """Of a clip, the frames that latent frames from ``start`` on are of, ``ratio`` each: the first is of one alone,
    four times."""
    return np.maximum(np.arange(ratio * start, ratio * (start + count)) - (ratio - 1), 0)


def pack(rays: Float[Array, "*B F H W 6"], ratio: int) -> Float[Array, "*B f H W C"]:
    """The rays of the ``ratio`` frames of each latent frame side by side: channels ordered (coordinate, frame)."""
    *batch, F, H, W, C = rays.shape
    rays = rays.reshape(*batch, F // ratio, ratio, H, W, C)
    return jnp.moveaxis(rays, -4, -1).reshape(*batch, F // ratio, H, W, C * ratio)
