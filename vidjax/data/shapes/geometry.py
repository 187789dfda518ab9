"""What the camera of the shapes world does, as poses in space.

The world is flat. It is taken for a plane at distance 1 from where the camera begins, upright before it; the first
frame's focal length is the shorter side of the picture. A view that shifts is then a camera that turns, or one that
moves along; a view that grows is a longer focal length, or a camera that comes nearer.
"""

from typing import NamedTuple

import numpy as np

from vidjax.data.shapes.render import animate
from vidjax.data.shapes.scene import Scene
from vidjax.typing import Float, Int

UNITS = 64
"""Scene units in the shorter side of the picture."""


class Path(NamedTuple):
    """The camera in each frame: its axes as columns, and where it stands; fx, fy, cx, cy in widths and heights."""

    camera_to_world: Float[np.ndarray, "F 3 4"]
    intrinsics: Float[np.ndarray, "F 4"]


def camera_path(
    scene: Scene,
    num_frames: int,
    height: int,
    width: int,
    frames: Int[np.ndarray, "n"] | None = None,
    moves: bool = False,
    nears: bool = False,
) -> Path:
    """The poses of a clip of this many frames and this shape, or of some of its ``frames``, relative to the first.

    Args:
      height, width: of the picture, in pixels or anything.
      moves: a view that shifts is a camera that moves along, and does not turn. A tracking shot always does: it goes
        with the subject.
      nears: a view that grows is a camera that comes nearer; its focal length stays.
    """
    short = min(height, width)
    motion = animate(scene, num_frames, UNITS * height / short, UNITS * width / short)
    which = np.arange(num_frames) if frames is None else frames
    camera, zoom = motion.camera[which], motion.zoom[which]
    growth = zoom / zoom[0]
    # A unit of the world is as far as it looks in the first frame.
    x, y = ((camera - camera[0]) * zoom[0] / UNITS).T
    ahead = 1 - 1 / growth if nears else np.zeros(len(growth))
    moves = moves or (scene.drift is None and scene.camera == "tracking")
    place = np.stack([x, y, ahead] if moves else [0 * x, 0 * y, ahead], axis=1)
    # Where it looks: straight ahead, or at the point of the plane that is in the middle of the picture.
    turned = _looking(0 * x if moves else x, 0 * y if moves else y, 1 - ahead)
    focal = np.ones(len(growth)) if nears else growth
    middle = np.full(len(growth), 0.5)
    intrinsics = np.stack([focal * short / width, focal * short / height, middle, middle], axis=1)
    poses = np.concatenate([turned, place[:, :, None]], axis=2)
    return Path(poses.astype(np.float32), intrinsics.astype(np.float32))


def _looking(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Float[np.ndarray, "F 3 3"]:
    """The axes, right, down and forward, of a camera that looks along (x, y, z) and is not tilted to a side."""
    forward = np.stack([x, y, z], axis=1) / np.sqrt(x * x + y * y + z * z)[:, None]
    right = np.stack([z, 0 * y, -x], axis=1) / np.hypot(x, z)[:, None]
    return np.stack([right, np.cross(forward, right), forward], axis=2)
