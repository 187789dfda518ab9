"""The movements of a `Camera` as poses, and any camera as the path that a clip is made along."""

import dataclasses
import math
import os
from decimal import Decimal
from typing import Any

import numpy as np

from vidjax.conditioning.camera import Camera, parse
from vidjax.conditioning.pose_file import is_pose_file, read_poses
from vidjax.conditioning.poses import WIDE, Poses, about, fit, resample
from vidjax.errors import InputError

FOCAL = 1.0
"""Focal length before any zoom, in shorter sides of the frame: 53 degrees from edge to edge."""

TURN = 12.0
"""Degrees a second of a pan, a tilt or an orbit at speed 1."""
ZOOM = 4 / 3
"""Factor a second of the focal length."""
WAY = 0.2
"""Of the distance to what is looked at, a second: of a dolly or a truck. An orbit goes around that point."""

WORDS_ONLY = ("track", "aerial")
"""What depends on the subject, or on what is to be seen from above: a path does not tell it."""


def read_camera(camera: Any) -> Camera | Poses:
    """A camera as people give it: a `Camera`, `Poses`, the name of a file of poses, or text that names movements.

    Raises:
      InputError: it is none of these, or there is no such file or movement.
    """
    if isinstance(camera, Camera | Poses):
        return camera
    if isinstance(camera, os.PathLike) or (isinstance(camera, str) and is_pose_file(camera)):
        return read_poses(camera)
    if isinstance(camera, str):
        return parse(camera)
    raise InputError(
        f"camera={camera!r:.80}: a vidjax.Camera is expected, text such as 'pan left + zoom in', vidjax.Poses or the "
        "name of a file of poses"
    )


def unposed(camera: Camera) -> Camera | None:
    """Those of the movements that have no poses."""
    return _only(camera, True)


def posed(camera: Camera) -> Camera | None:
    """Those that have."""
    return _only(camera, False)


def _only(camera: Camera, words: bool) -> Camera | None:
    moves = tuple(move for move in camera.moves if (move[0] in WORDS_ONLY) == words)
    return dataclasses.replace(camera, moves=moves) if moves else None


def movement_poses(camera: Camera, num_frames: int, fps: float, height: int, width: int) -> Poses:
    """All movements at once, each at an even rate; the first frame is where the camera begins.

    It is a function of time: a longer clip begins as a shorter one. What has no poses is left aside.

    Raises:
      InputError: a zoom goes on for so long that nothing is to be seen.
    """
    seconds = np.arange(num_frames) / fps
    rate = dict.fromkeys(("pan", "tilt", "zoom", "dolly", "truck", "orbit"), 0.0)
    for name, speed in camera.moves:
        verb, _, way = name.partition(" ")
        if verb in rate:
            rate[verb] += speed if way in ("right", "up", "in") else -speed
    turn = np.deg2rad(TURN) * seconds
    x, y = np.tile([1.0, 0.0, 0.0], (num_frames, 1)), np.tile([0.0, 1.0, 0.0], (num_frames, 1))
    # Turned about y it looks to the right, about x up. An orbit to the right goes right and turns left.
    around = about(y, -rate["orbit"] * turn)
    forward, right = around[:, :, 2], around[:, :, 0]
    place = [0.0, 0.0, 1.0] - forward + WAY * seconds[:, None] * (rate["dolly"] * forward + rate["truck"] * right)
    turned = around @ about(y, rate["pan"] * turn) @ about(x, rate["tilt"] * turn)
    short = min(height, width)
    _check_zoom(rate["zoom"], float(seconds[-1]), short / max(height, width))
    zoomed = FOCAL * ZOOM ** (rate["zoom"] * seconds)
    middle = np.full(num_frames, 0.5)
    intrinsics = np.stack([zoomed * short / width, zoomed * short / height, middle, middle], axis=1)
    return Poses.from_camera_to_world(np.concatenate([turned, place[:, :, None]], axis=2), intrinsics)


def _check_zoom(speed: float, seconds: float, ratio: float) -> None:
    """See that the focal length stays one that `Poses` take; ``ratio`` is of the shorter side to the longer."""
    most = math.log(WIDE * (FOCAL if speed > 0 else ratio / FOCAL)) / math.log(ZOOM)
    if abs(speed) * seconds > most:
        way = "in" if speed > 0 else "out"
        times = Decimal(ZOOM) ** Decimal(abs(speed) * seconds)  # beyond a float in minutes
        raise InputError(
            f"camera 'zoom {way} {abs(speed):g}' for {seconds:.1f} s: {times:.4g} times; at "
            f"most {ZOOM**most:.4g}, as at speed {math.floor(100 * most / seconds) / 100:g}, or in "
            f"{math.floor(10 * most / abs(speed)) / 10:g} s"
        )


def clip_poses(
    camera: Camera | Poses, shown: int, num_frames: int, fps: float, height: int, width: int, still: int = 0
) -> Poses | None:
    """The path of a clip of ``num_frames``, the first ``still`` + 1 of which are before it sets out.

    Poses are spread over the clip up to frame ``shown``, where they rest; movements go on. None: the camera has none.
    """
    if isinstance(camera, Poses):
        path = resample(fit(camera, height, width), shown - still)
    else:
        moving = posed(camera)
        if moving is None:
            return None
        path = movement_poses(moving, num_frames - still, fps, height, width)
    return path.frames(np.clip(np.arange(num_frames) - still, 0, len(path) - 1))
