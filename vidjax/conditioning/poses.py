"""Where a camera stands, where it looks and how wide, frame by frame.

x points right, y down, z forward, as in OpenCV. Lengths are in units of any kind; focal length and centre in units of
the frame's own width and height, so that a path is of no size in pixels.
"""

import dataclasses
from typing import Any

import numpy as np

from vidjax.errors import InputError
from vidjax.typing import Float

ORTHONORMAL = 1e-3
"""How far rows of a rotation may be from unit length and right angles: what files with six digits keep."""

FAR, WIDE = 1e6, 1e3
"""Beyond these a ray in float32 is not what was meant."""

OFF_CENTRE = 8
"""Widths and heights from a corner to where the camera looks: beyond these they are pixels, most of the time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Poses:
    """A camera over F frames: arrays, or anything that numpy makes one of; float64 arrays afterwards.

    Args:
      world_to_camera: [F, 3, 4], rotation and translation: ``x_camera = R x_world + t``.
      intrinsics: [F, 4], fx and cx in widths of the frame, fy and cy in heights: (fx, fy, cx, cy).

    Raises:
      InputError: a shape, a number that is not finite, a matrix that is no rotation, or a focal length not above 0.
    """

    world_to_camera: Any
    intrinsics: Any

    def __post_init__(self):
        poses = _numbers("world_to_camera", self.world_to_camera, 3, 4)
        intrinsics = _numbers("intrinsics", self.intrinsics, 4)
        if len(poses) != len(intrinsics):
            raise InputError(f"poses: {len(poses)} matrices and {len(intrinsics)} intrinsics; one of each for a frame")
        wrong = fault(poses, intrinsics)
        if wrong:
            raise InputError("poses, frame {}: {}".format(*wrong))
        object.__setattr__(self, "world_to_camera", _exact(poses))
        object.__setattr__(self, "intrinsics", intrinsics)

    @classmethod
    def from_camera_to_world(cls, camera_to_world: Any, intrinsics: Any) -> "Poses":
        """The same from the inverse matrices, [F, 3, 4]: the camera's axes as columns, then where it stands."""
        poses = _numbers("camera_to_world", camera_to_world, 3, 4)
        wrong = fault(poses)
        if wrong:
            raise InputError("poses, frame {}: {}".format(*wrong))
        return cls(_inverse(_exact(poses)), intrinsics)

    @property
    def camera_to_world(self) -> Float[np.ndarray, "F 3 4"]:
        return _inverse(self.world_to_camera)

    def __len__(self) -> int:
        return len(self.intrinsics)

    def frames(self, which: Any) -> "Poses":
        """Those of some frames, by a slice or their numbers."""
        return Poses(self.world_to_camera[which], self.intrinsics[which])


def fault(
    poses: Float[np.ndarray, "F 3 4"], intrinsics: Float[np.ndarray, "F 4"] | None = None
) -> tuple[int, str] | None:
    """The first frame in which something is wrong with finite numbers, and what it is."""
    turned = poses[:, :, :3]
    square = np.abs(turned @ np.swapaxes(turned, 1, 2) - np.eye(3)).max(axis=(1, 2)) <= ORTHONORMAL
    bad = ~(square & (np.linalg.det(turned) > 0))
    if bad.any():
        return int(np.argmax(bad)), "the first three columns are no rotation (orthonormal, determinant 1)"
    far = np.abs(poses[:, :, 3]).max(axis=1) > FAR
    if far.any():
        return int(np.argmax(far)), f"a translation of more than {FAR:g}; measure in larger units"
    if intrinsics is not None:
        focal, centre = intrinsics[:, :2], intrinsics[:, 2:]
        odd = ((focal < 1 / WIDE) | (focal > WIDE) | (np.abs(centre) > OFF_CENTRE)).any(axis=1)
        if odd.any():
            frame = int(np.argmax(odd))
            said = ", ".join(f"{value:g}" for value in intrinsics[frame])
            return frame, (
                f"fx, fy, cx, cy = {said}: in widths and heights of the frame focal lengths lie between {1 / WIDE:g} "
                f"and {WIDE:g}, and centres within {OFF_CENTRE}; of pixels, divide by the frame's width and height"
            )
    return None


def relative(poses: Poses) -> Poses:
    """As seen from the first frame: it stands at the origin and looks along z."""
    first, rest = _square(poses.world_to_camera[:1]), _square(poses.camera_to_world)
    return Poses.from_camera_to_world((first @ rest)[:, :3], poses.intrinsics)


def window(poses: Poses, which: Any) -> Poses:
    """Some frames of a path as a path of its own, relative to their first one.

    That is so of the focal length, too: it begins at the path's own, or a long zoom would leave what models know.
    """
    cut = relative(poses.frames(which))
    scale = poses.intrinsics[:1, :2] / cut.intrinsics[:1, :2]
    return Poses(cut.world_to_camera, np.concatenate([cut.intrinsics[:, :2] * scale, cut.intrinsics[:, 2:]], axis=1))


def resample(poses: Poses, num_frames: int) -> Poses:
    """The same path in so many frames: places and intrinsics go straight between frames, rotations the shortest way."""
    if len(poses) == num_frames:
        return poses
    at = np.linspace(0, len(poses) - 1, num_frames)
    before = np.minimum(at.astype(int), max(len(poses) - 2, 0))
    after, share = np.minimum(before + 1, len(poses) - 1), at - before
    camera = poses.camera_to_world
    start, end = camera[before], camera[after]
    turn = _power(np.swapaxes(start[:, :, :3], 1, 2) @ end[:, :, :3], share)
    place = start[:, :, 3:] + share[:, None, None] * (end[:, :, 3:] - start[:, :, 3:])
    intrinsics = poses.intrinsics[before] + share[:, None] * (poses.intrinsics[after] - poses.intrinsics[before])
    return Poses.from_camera_to_world(np.concatenate([start[:, :, :3] @ turn, place], axis=2), intrinsics)


def fit(poses: Poses, height: int, width: int) -> Poses:
    """The intrinsics of a clip of this shape that is cut out of the middle of the poses' own frames.

    Pixels are square, so that fy / fx is the width of those over their height. What is wider than the clip keeps its
    field of view from top to bottom, what is narrower that from side to side.
    """
    fx, fy, cx, cy = poses.intrinsics.T
    wider = np.maximum(fy / fx / (width / height), 1)
    taller = np.maximum(width / height / (fy / fx), 1)
    columns = [wider * fx, taller * fy, 0.5 + wider * (cx - 0.5), 0.5 + taller * (cy - 0.5)]
    return Poses(poses.world_to_camera, np.stack(columns, axis=1))


def _numbers(name: str, value: Any, *shape: int) -> np.ndarray:
    wanted = f"numbers of shape [frames, {', '.join(map(str, shape))}]"
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"poses: {name} must be {wanted}") from None
    if array.shape[1:] != shape or not len(array):
        raise InputError(f"poses: {name} of shape {array.shape}; must be {wanted}")
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        raise InputError(f"poses, frame {int(np.argmax(bad))}: {name} holds a number that is not finite")
    return array


def _exact(poses: Float[np.ndarray, "F 3 4"]) -> Float[np.ndarray, "F 3 4"]:
    """With the nearest rotations: what is near enough stays so however often it is multiplied."""
    left, _, right = np.linalg.svd(poses[:, :, :3])
    return np.concatenate([left @ right, poses[:, :, 3:]], axis=2)


def _square(poses: Float[np.ndarray, "F 3 4"]) -> Float[np.ndarray, "F 4 4"]:
    last = np.broadcast_to([[[0.0, 0.0, 0.0, 1.0]]], (len(poses), 1, 4))
    return np.concatenate([poses, last], axis=1)


def _inverse(poses: Float[np.ndarray, "F 3 4"]) -> Float[np.ndarray, "F 3 4"]:
    turned = np.swapaxes(poses[:, :, :3], 1, 2)
    return np.concatenate([turned, -turned @ poses[:, :, 3:]], axis=2)


def _power(rotations: Float[np.ndarray, "F 3 3"], share: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F 3 3"]:
    """The share of each rotation, about its own axis (what slerp of quaternions is)."""
    angle = np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1))
    # The eigenvector of 1 of the symmetric part: it is there at half turns too, where R - R' vanishes.
    axis = np.linalg.eigh((rotations + np.swapaxes(rotations, 1, 2)) / 2)[1][:, :, -1]
    skew = rotations - np.swapaxes(rotations, 1, 2)
    along = np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], axis=1)
    axis = axis * np.where((axis * along).sum(1, keepdims=True) < 0, -1, 1)
    return about(axis, share * angle)


def about(axis: Float[np.ndarray, "F 3"], angle: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F 3 3"]:
    """Rotations about unit axes by angles in radians (Rodrigues)."""
    x, y, z = axis.T
    zero = np.zeros_like(x)
    cross = np.stack([np.stack(row, 1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], 1)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sin * cross + (1 - cos) * cross @ cross
