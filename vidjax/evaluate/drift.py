"""Long clips: whether their end still shows what their beginning did, and whether the joints of windows show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidjax.data.shapes import Scene, held_out_scene
from vidjax.errors import InputError
from vidjax.evaluate.report import ratio_interval
from vidjax.evaluate.signals import Clip, bends
from vidjax.long import Rollout, window_frames
from vidjax.model import Model
from vidjax.request import Request, make_request
from vidjax.typing import UInt8

TAIL = 4.0
"""Seconds at the end of a long clip that are looked at."""
STILL, MOVING, CAMERAS = ("stays still",), ("spins", "bounces"), ("static", "aerial")
"""With these a subject is in view from the first second to the last, so that what is lost is the model's fault."""


def long_scenes(seed: int, count: int) -> list[Scene]:
    """Held-out scenes of one subject that stays in view however long the clip is: in turns it rests, and moves."""
    found, index = [], 0
    while len(found) < count:
        scene = held_out_scene(seed, index)
        actions = MOVING if len(found) % 2 else STILL
        if len(scene.subjects) == 1 and scene.action in actions and scene.camera in CAMERAS:
            found.append(scene)
        index += 1
    return found


def judged(scene: Scene) -> tuple[str, ...]:
    """What is judged at the end of a long clip.

    The shape of what rests only: the detector lays a rendering over it, which a movement that is begun at another
    time, or is a little faster, does not fit.
    """
    return ("colour", "place", "shape") if scene.action in STILL else ("colour", "place")


def long_request(model: Model, prompt: str, seconds: float, seed: int, settings: Mapping[str, Any]) -> Request:
    """A clip of so many seconds, longer than a window of the model; made causally, it is to have no joints.

    Raises:
      InputError: it would be as short as a window, or the model cannot go on from one.
    """
    others = {name: value for name, value in settings.items() if name not in ("num_frames", "duration")}
    request = make_request(model, prompt, duration=seconds, seed=seed, **others)
    if request.num_frames <= window_frames(model.config):
        window = window_frames(model.config) / request.fps
        raise InputError(
            f"long_seconds={seconds:g}: one window of this model; drift needs more than {window:.1f} s, as {TAIL * 5:g}"
        )
    return request


def tail(frames: Clip, request: Request) -> UInt8[np.ndarray, "n H W 3"]:
    """About the last ``TAIL`` seconds: of a length that the autoencoder takes."""
    ratio = request.rollout.ratio
    return frames[-(1 + ratio * max(1, round((TAIL * request.fps - 1) / ratio))) :]


def borders(rollout: Rollout) -> tuple[list[int], list[int]]:
    """Frames that are the first of a latent frame: those that begin a new window, and the others.

    Frames that are decoded from one latent frame may be more alike than others are. So joints are compared with
    the borders inside windows, and not with all frames. Left out are those too near to an end to have a bend.
    """
    joints = {rollout.first(i) for i in range(1, rollout.count)}
    last = rollout.frames(rollout.length) - 2
    inside = [n for n in range(1, rollout.length) if n not in joints]
    starts = ([rollout.frames(n) for n in group] for group in (sorted(joints), inside))
    return tuple([k for k in group if 2 <= k <= last] for group in starts)


def joint_flicker(clips: Sequence[Clip], rollout: Rollout) -> tuple[float, tuple[float, float]]:
    """How much more neighbouring frames jump where a window begins than inside windows; and the 95 % interval.

    1: nobody can see where the joints are. A jump need not be taken back, so it is told by ``bends``.
    """
    groups = borders(rollout)
    above, below = zip(*([_jump(bends(clip), group) for group in groups] for clip in clips), strict=True)
    return ratio_interval(above, below)


def _jump(bent: np.ndarray, borders: Sequence[int]) -> float:
    """The mean on both sides of the borders."""
    return float(np.mean([bent[k + side] for k in borders for side in (-1, 0)]))
