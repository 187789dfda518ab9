"""Files of poses in the form of RealEstate10K (Zhou et al., 1805.09817).

The first line is the clip's address, or anything of more or fewer words than a frame. Each of the others is a frame:
its time; fx, fy, cx, cy in units of the frame's width and height; two zeros; and the 3 x 4 matrix from world to camera,
row by row.
"""

import math
import os
from pathlib import Path

import numpy as np

from vidjax.conditioning.poses import Poses, fault
from vidjax.errors import InputError

MAX_BYTES = 8 * 2**20
"""Some thirty thousand frames; a larger file is not one of poses."""

NUMBERS = 19


def is_pose_file(text: str) -> bool:
    """Whether text that says what the camera does is the name of a file."""
    return text.lower().endswith(".txt") or os.path.isfile(text)


def read_poses(path: str | os.PathLike) -> Poses:
    """The poses of a file; times are left aside, frames are taken to be evenly spaced.

    Raises:
      InputError: it cannot be read, is too large, or a line is broken, with its number.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"{path} is no file")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # there may be a zero byte in the name
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: over {MAX_BYTES // 2**20} MB; a file of poses is smaller")
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    first = 0 if lines and len(lines[0].split()) == NUMBERS else 1
    numbered = [(i, line.split()) for i, line in enumerate(lines[first:], first + 1) if line.strip()]
    if not numbered:
        raise InputError(f"{path} holds no pose: behind the first line, a line of {NUMBERS} numbers for each frame")
    values = np.array([_numbers(f"{path}, line {i}", words) for i, words in numbered])
    poses, intrinsics = values[:, 7:].reshape(-1, 3, 4), values[:, 1:5]
    wrong = fault(poses, intrinsics)
    if wrong:
        raise InputError(f"{path}, line {numbered[wrong[0]][0]}: {wrong[1]}")
    return Poses(poses, intrinsics)


def _numbers(where: str, words: list[str]) -> list[float]:
    if len(words) != NUMBERS:
        raise InputError(f"{where}: {len(words)} numbers, and a pose has {NUMBERS}")
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            raise InputError(f"{where}: {word!r:.40} is no number") from None
        if not math.isfinite(values[-1]):
            raise InputError(f"{where}: {word!r:.40} is not finite")
    return values


def write_poses(poses: Poses, path: str | os.PathLike, fps: float = 30.0) -> None:
    """Writes a file that `read_poses` and others read; times are in microseconds."""
    lines = ["poses"]
    for i, (pose, intrinsics) in enumerate(zip(poses.world_to_camera, poses.intrinsics, strict=True)):
        numbers = [*intrinsics, 0.0, 0.0, *pose.ravel()]
        lines.append(" ".join([str(round(i / fps * 1e6)), *(f"{value:.9f}" for value in numbers)]))
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
