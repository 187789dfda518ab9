"""The detectors see in a rendered clip what was rendered: their ceiling, which stands beside every score."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vidjax.data.shapes import ACTIONS, CAMERAS, PLACES, SHAPES, SIZES, STYLES, Scene, Subject, actions_with, render
from vidjax.evaluate.detect import Seen, detect

SIZE = (17, 64, 64)


def expected(scene: Scene) -> Seen:
    subject = scene.subjects[0]
    return Seen(
        scene.place, scene.style, scene.camera, tuple(s.colour for s in scene.subjects), scene.action, subject.size,
        (subject.shape,),
    )  # fmt: skip


def scenes(count: int) -> list[Scene]:
    """Every word of every kind at least once, in ever other company."""
    made = []
    for i in range(count):
        camera = CAMERAS[i % len(CAMERAS)]
        action = actions_with(camera)[i % len(actions_with(camera))]
        subject = Subject(("red", "orange", "yellow", "blue", "purple", "pink")[i % 6], SHAPES[i % 5], SIZES[i % 2])
        made.append(
            Scene((subject,), action, PLACES[i % 5], camera, STYLES[i // 2 % 5], x=i % 3 - 1, world_x=i % 7 - 3)
        )
    return made


@pytest.mark.parametrize("scene", scenes(18), ids=lambda s: f"{s.action} {s.camera} {s.style}")
def test_what_was_rendered_is_seen(scene):
    """A detector that errs on the truth would blame the model, or praise it."""
    assert detect(render(scene, *SIZE)) == expected(scene)


def test_two_subjects():
    """Both colours are found, wherever the subjects are, each with its shape."""
    for action, camera in (("moves left", "static"), ("stays still", "zooms out"), ("grows", "aerial")):
        scene = Scene((Subject("red", "circle", "large"), Subject("blue", "star", "small")), action, "grass", camera)
        found = detect(render(scene, *SIZE))
        assert (found.colours, found.shapes) == (("red", "blue"), ("circle", "star")), action


@pytest.mark.parametrize("shape", SHAPES)
def test_worn_edges_are_still_a_shape(shape):
    """An autoencoder rounds points and corners: worn stars and triangles were taken for hearts and circles."""
    scene = Scene((Subject("blue", shape, "large"),), "moves right", "desert", style="documentary")
    blurred = gaussian_filter(render(scene, *SIZE).astype(np.float32), (0, 2, 2, 0))
    assert detect(blurred.astype(np.uint8)).shapes[0] == shape


@pytest.mark.parametrize("action", [a for a in ACTIONS if a.startswith("moves")])
def test_another_direction_is_not_taken_for_it(action):
    """The figure that matters most: a model that ignores the direction must score a quarter, not more."""
    scene = Scene((Subject("red", "square", "large"),), action, "desert")
    backwards = detect(render(scene, *SIZE)[::-1]).action
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}[action.removeprefix("moves ")]
    assert backwards == f"moves {opposite}"


def test_a_place_without_subjects():
    """A model may leave the subject out: then no colour may be found, and the rest is still answered."""
    found = detect(render(Scene((), place="snow", camera="pans left", style="plain"), *SIZE))
    assert (found.place, found.camera, found.style, found.colours) == ("snow", "pans left", "plain", ())
