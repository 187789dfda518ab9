"""What happens in a clip of the shapes world: the factors, how scenes are drawn, and which are held out.

A scene names one or two subjects (colour, shape, size), what they do, where, how the camera moves and in which
style. Those are its *factors*, the things a caption tells. A few small numbers besides (where the subject starts,
how far it goes) vary from scene to scene, so that rendering is a function of the scene alone.

Lengths are in units of 1/64 of the shorter side of the picture; x points right, y points down.
"""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np

from vidjax.errors import InputError

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "heart")
SIZES = ("small", "large")
ACTIONS = (
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "bounces",
    "spins",
    "grows",
    "shrinks",
    "stays still",
)
PLACES = ("grass", "desert", "snow", "night", "sea")
CAMERAS = (
    "static",
    "pans left",
    "pans right",
    "tilts up",
    "tilts down",
    "zooms in",
    "zooms out",
    "tracking",
    "aerial",
)
STYLES = ("plain", "cinematic", "anime", "watercolor", "documentary")

TWO_SUBJECTS = 0.25
"""The share of scenes with two subjects."""

TWO_PICTURED = 0.6
"""The same of scenes for single pictures: which is where is learned from these at the least cost."""

DRIFTS = (42.0, 28.0, 0.85)
"""How far a camera drifts at most."""

_HELD_OUT_MODULUS = 10
_HELD_OUT_REMAINDER = 4


@dataclass(frozen=True)
class Subject:
    """One thing that acts; each field is a word of `COLOURS`, `SHAPES`, `SIZES`."""

    colour: str = "red"
    shape: str = "circle"
    size: str = "large"


@dataclass(frozen=True)
class Scene:
    """A clip before it is rendered. With two subjects the first is the upper or the left one; both do the same.

    `x`, `y`: shift of the subjects; `travel`: way of a moving subject in 17 frames; `angle`: how far subjects are
    turned at first (radians); `world_x`: shift of the camera's start. Captions do not tell these five.

    `drift` is what the camera does in place of `camera`, in 17 frames: how far to the right, how far down, and the
    binary logarithm of the zoom, all at once and at any speed. As with named cameras, longer clips pan on, and tilt and
    zoom slower. Of the camera of such a scene no caption tells.
    """

    subjects: tuple[Subject, ...] = (Subject(),)
    action: str = "stays still"
    place: str = "grass"
    camera: str = "static"
    style: str = "plain"
    x: float = 0.0
    y: float = 0.0
    travel: float = 37.0
    angle: float = 0.0
    world_x: float = 0.0
    drift: tuple[float, float, float] | None = None


def factors(scene: Scene) -> tuple:
    """What a caption tells of the scene: `(subjects, action, place, camera, style)`."""
    return scene.subjects, scene.action, scene.place, scene.camera, scene.style


def actions_with(camera: str) -> tuple[str, ...]:
    """The actions that can be told apart under a camera movement.

    A tracking shot follows something that goes somewhere. A subject is carried along by a pan, so one that stays
    still would look like a tracking shot; and one that grows while the camera zooms may not seem to.
    """
    if camera == "tracking":
        return ACTIONS[:4]
    if camera.startswith(("pans", "tilts")):
        return ACTIONS[:-1]
    if camera.startswith("zooms"):
        return tuple(action for action in ACTIONS if action not in ("grows", "shrinks"))
    return ACTIONS


def sample_scene(rng: np.random.Generator, two_subjects: float = TWO_SUBJECTS) -> Scene:
    """Draws a scene: uniform, but a static camera and the plain style come twice as often as the others.

    `two_subjects` is the share of scenes that have them.
    """

    def pick(words):
        return words[rng.integers(len(words))]

    camera = pick((*CAMERAS, "static"))
    action = pick(actions_with(camera))
    colours = rng.permutation(len(COLOURS))[: 2 if rng.random() < two_subjects else 1]
    subjects = tuple(Subject(COLOURS[i], pick(SHAPES), pick(SIZES)) for i in colours)
    spread = 1.5 if len(subjects) == 2 or action.startswith(("moves", "bounces")) else 5.0
    return Scene(
        subjects=subjects,
        action=action,
        place=pick(PLACES),
        camera=camera,
        style=pick((*STYLES, "plain")),
        x=_uniform(rng, spread),
        y=_uniform(rng, spread),
        travel=37.0 + _uniform(rng, 2.0),
        angle=_uniform(rng, 0.15),
        world_x=_uniform(rng, 4.0),
    )


def _uniform(rng: np.random.Generator, bound: float) -> float:
    return round(float(rng.uniform(-bound, bound)), 3)


def held_out(scene: Scene) -> bool:
    """Whether the scene is kept from training: one of its subjects meets its action and place only in tests.

    A fixed tenth of the combinations (colour, shape, action, place), spread so that every pair of values is trained.
    """
    action, place = ACTIONS.index(scene.action), PLACES.index(scene.place)
    return any(
        (COLOURS.index(s.colour) + 3 * SHAPES.index(s.shape) + 7 * action + 9 * place) % _HELD_OUT_MODULUS
        == _HELD_OUT_REMAINDER
        for s in scene.subjects
    )


def training_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the training set `seed`; never a held-out one."""
    return _first((seed, index), wanted=False)


def held_out_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the test set `seed`; always a held-out one."""
    return _first((seed, index), wanted=True)


def drifting_scene(seed: int, index: int, wanted: bool = False) -> Scene:
    """Scene `index` of a set whose cameras drift; held-out ones where these are `wanted`, else never one.

    It pans, tilts and zooms, at least one of these and each more often than not, at up to one and a half times the
    speed of the named cameras (what would leave the world, at up to that).
    """
    rng = np.random.default_rng((seed, index, 2))
    drift = (0.0, 0.0, 0.0)
    while not any(drift):
        drift = tuple(_uniform(rng, bound) if rng.random() < 0.6 else 0.0 for bound in DRIFTS)
    # Told apart must be what does so under each of the cameras that it does the work of.
    like = [camera for camera, moved in (("pans left", any(drift[:2])), ("zooms in", drift[2])) if moved]
    while True:
        scene = sample_scene(rng)
        if held_out(scene) is wanted and all(scene.action in actions_with(camera) for camera in like):
            return replace(scene, camera="static", drift=drift)


def pictured_scene(seed: int, index: int, wanted: bool = False) -> Scene:
    """Scene `index` of a set for single pictures, more of them with two subjects; held out where it is `wanted`."""
    return _first((seed, index, 3), wanted, TWO_PICTURED)


def _first(seed: tuple[int, ...], wanted: bool, two_subjects: float = TWO_SUBJECTS) -> Scene:
    rng = np.random.default_rng(seed)
    while held_out(scene := sample_scene(rng, two_subjects)) is not wanted:
        pass
    return scene


def scene_to_json(scene: Scene) -> str:
    """The scene as JSON text."""
    fields = asdict(scene)
    if scene.drift is None:  # as it was written before there were any
        del fields["drift"]
    return json.dumps(fields)


def scene_from_json(text: str | bytes) -> Scene:
    """The inverse of `scene_to_json`. Raises `InputError` for text that is not a scene."""
    try:
        fields = json.loads(text)
        subjects = tuple(Subject(**subject) for subject in fields["subjects"])
        if fields.get("drift") is not None:
            x, y, zoom = map(float, fields["drift"])
            fields["drift"] = x, y, zoom
        return Scene(**{**fields, "subjects": subjects})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a scene of the shapes world: {text!r}") from error
