"""How the camera moves, as an object: movements with a speed, which can be combined."""

import dataclasses
import math
import re

from vidjax.checks import number
from vidjax.errors import InputError

PHRASES = {
    "static": "static camera",
    "pan left": "pans left",
    "pan right": "pans right",
    "tilt up": "tilts up",
    "tilt down": "tilts down",
    "zoom in": "zooms in",
    "zoom out": "zooms out",
    "dolly in": "moves forward",
    "dolly out": "moves backward",
    "truck left": "moves to the left",
    "truck right": "moves to the right",
    "orbit left": "orbits to the left",
    "orbit right": "orbits to the right",
    "track": "tracking shot",
    "aerial": "aerial view",
}
"""What the camera does, or what is said of it."""

ALONE = ("static", "track", "aerial")

OPPOSITES = {"left": "right", "up": "down", "in": "out"}
SLOW, FAST = 0.6, 1.6


@dataclasses.dataclass(frozen=True)
class Camera:
    """Movements at once, each with its speed (1: usual), as in ``Camera.pan_left() + Camera.zoom_in(0.5)``.

    A model with a camera adapter is given their poses (``movements.movement_poses``); others are told of them in words
    (`words`). At speed 1 pans, tilts and orbits turn by 12 degrees a second, zooms change the focal length by a third
    a second, dollies and trucks go a fifth of the way to what is looked at.
    """

    moves: tuple[tuple[str, float], ...]

    def __post_init__(self):
        names = [name for name, _ in self.moves]
        for name in names:
            if name not in PHRASES:
                raise InputError(f"camera={name!r:.80}: choose of {', '.join(PHRASES)}, several with + between them")
        if not names or len(set(names)) < len(names):
            raise InputError(f"camera={' + '.join(names)!r}: each movement once")
        if "static" in names and len(names) > 1:
            raise InputError(f"camera={' + '.join(names)!r}: a static camera does not move")
        for name in names:
            verb, _, way = name.partition(" ")
            if way in OPPOSITES and f"{verb} {OPPOSITES[way]}" in names:
                raise InputError(f"camera={' + '.join(names)!r}: {way} and {OPPOSITES[way]} at once")
        for _, speed in self.moves:
            number("camera's speed", speed, 0.1, 10)

    @classmethod
    def static(cls) -> "Camera":
        """It does not move."""
        return cls((("static", 1.0),))

    @classmethod
    def track(cls) -> "Camera":
        """It follows the subject."""
        return cls((("track", 1.0),))

    @classmethod
    def aerial(cls) -> "Camera":
        """It looks from above."""
        return cls((("aerial", 1.0),))

    @classmethod
    def pan_left(cls, speed: float = 1.0) -> "Camera":
        """It turns to the left."""
        return cls((("pan left", speed),))

    @classmethod
    def pan_right(cls, speed: float = 1.0) -> "Camera":
        """It turns to the right."""
        return cls((("pan right", speed),))

    @classmethod
    def tilt_up(cls, speed: float = 1.0) -> "Camera":
        """It turns up."""
        return cls((("tilt up", speed),))

    @classmethod
    def tilt_down(cls, speed: float = 1.0) -> "Camera":
        """It turns down."""
        return cls((("tilt down", speed),))

    @classmethod
    def zoom_in(cls, speed: float = 1.0) -> "Camera":
        """Its focal length grows."""
        return cls((("zoom in", speed),))

    @classmethod
    def zoom_out(cls, speed: float = 1.0) -> "Camera":
        """Its focal length shrinks."""
        return cls((("zoom out", speed),))

    @classmethod
    def dolly_in(cls, speed: float = 1.0) -> "Camera":
        """It moves forward."""
        return cls((("dolly in", speed),))

    @classmethod
    def dolly_out(cls, speed: float = 1.0) -> "Camera":
        """It moves backward."""
        return cls((("dolly out", speed),))

    @classmethod
    def truck_left(cls, speed: float = 1.0) -> "Camera":
        """It moves to the left."""
        return cls((("truck left", speed),))

    @classmethod
    def truck_right(cls, speed: float = 1.0) -> "Camera":
        """It moves to the right."""
        return cls((("truck right", speed),))

    @classmethod
    def orbit_left(cls, speed: float = 1.0) -> "Camera":
        """It goes around the subject, to the left."""
        return cls((("orbit left", speed),))

    @classmethod
    def orbit_right(cls, speed: float = 1.0) -> "Camera":
        """It goes around the subject, to the right."""
        return cls((("orbit right", speed),))

    def __add__(self, other: "Camera") -> "Camera":
        return Camera(self.moves + other.moves) if isinstance(other, Camera) else NotImplemented


def parse(text: str) -> Camera:
    """``pan left``, ``pan left 0.5 + zoom in``: movements with + between them, each perhaps with its speed.

    Speeds may be spelled ``5e-1``.

    Raises:
      InputError: there is no such movement.
    """
    moves = []
    for part in re.split(r"(?<!\de)\+", text.lower()):  # not within 1e+0
        name, speed = re.fullmatch(r"(.*?)(-?[\d.]*\d(?:e[-+]?\d+)?)?\s*", part, re.DOTALL).groups()
        name = " ".join(re.split(r"[\s_-]+", name.strip()))
        moves.append((name, 1.0 if speed is None else _speed(speed)))
    return Camera(tuple(moves))


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"camera's speed {text!r:.40}: a number is expected, as in pan left 0.5") from None
    if not math.isfinite(value):
        raise InputError(f"camera's speed {text!r:.40}: must lie between 0.1 and 10; nearest: 10")
    return value


def words(camera: Camera) -> str:
    """What a prompt says of it: ``the camera pans left and zooms in slowly``."""
    alone = [PHRASES[name] for name, _ in camera.moves if name in ALONE]
    does = [PHRASES[name] + _adverb(speed) for name, speed in camera.moves if name not in ALONE]
    return ", ".join([*alone, *([f"the camera {' and '.join(does)}"] if does else [])])


def _adverb(speed: float) -> str:
    return " slowly" if speed < SLOW else " quickly" if speed > FAST else ""
