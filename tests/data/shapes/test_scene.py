import json
from dataclasses import replace

import numpy as np
import pytest

from vidjax.data import shapes
from vidjax.data.shapes import Scene, Subject
from vidjax.errors import InputError


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [shapes.sample_scene(rng) for _ in range(4000)]


def test_a_tenth_is_held_out_and_every_value_is_trained(scenes):
    """Else 'held out' would test unknown words instead of new combinations, or take too much from training."""
    assert 0.05 < np.mean([shapes.held_out(scene) for scene in scenes]) < 0.15
    trained = [scene for scene in scenes if not shapes.held_out(scene)]
    subjects = [subject for scene in trained for subject in scene.subjects]
    for name, words in (("action", shapes.ACTIONS), ("place", shapes.PLACES), ("camera", shapes.CAMERAS)):
        assert {getattr(scene, name) for scene in trained} == set(words)
    assert {scene.style for scene in trained} == set(shapes.STYLES)
    assert {subject.shape for subject in subjects} == set(shapes.SHAPES)
    assert {subject.size for subject in subjects} == set(shapes.SIZES)
    pairs = {(s.colour, scene.action) for scene in trained for s in scene.subjects}
    assert len(pairs) == len(shapes.COLOURS) * len(shapes.ACTIONS)


def test_one_or_two_subjects_of_different_colours(scenes):
    """Two subjects of one colour could not be told apart by a colour tracker."""
    two = [scene.subjects for scene in scenes if len(scene.subjects) == 2]
    assert 0.2 < len(two) / len(scenes) < 0.3
    assert all(first.colour != second.colour for first, second in two)


def test_contradictions_are_never_sampled(scenes):
    """A still subject carried by a pan looks like a tracking shot: its caption would be unlearnable."""
    seen = {(scene.action, scene.camera) for scene in scenes}
    assert not seen & {("stays still", "pans left"), ("spins", "tracking"), ("grows", "zooms in")}
    assert {("moves up", "tracking"), ("spins", "pans left"), ("stays still", "zooms in")} <= seen


def test_only_colour_shape_action_and_place_decide_what_is_held_out(scenes):
    """Otherwise a held-out combination could slip into training in another style, or beside another subject."""
    bystander = Subject("red", "circle", "small")
    for scene in scenes[:300]:
        other = replace(scene, x=1.0, travel=35.0, style="anime", camera="static")
        assert shapes.held_out(other) == shapes.held_out(scene)
        if shapes.held_out(scene):
            assert shapes.held_out(replace(scene, subjects=(bystander, *scene.subjects)))


def test_numbered_scenes_are_fixed_and_keep_to_their_side():
    """Resuming a run, and comparing two models on one test set, need the same scene under the same number."""
    for index in range(200):
        assert shapes.training_scene(1, index) == shapes.training_scene(1, index)
        assert not shapes.held_out(shapes.training_scene(1, index))
        assert shapes.held_out(shapes.held_out_scene(1, index))
    assert shapes.training_scene(1, 0) != shapes.training_scene(2, 0)


def test_json_round_trip(scenes):
    """The dataset stores scenes as JSON: a lost field would change the clip that is rendered from it."""
    for scene in scenes[:100]:
        assert shapes.scene_from_json(shapes.scene_to_json(scene)) == scene
    assert json.loads(shapes.scene_to_json(Scene((Subject("blue"),))))["subjects"][0]["colour"] == "blue"


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"subjects": [], "weather": "rain"}'])
def test_json_of_something_else_is_an_input_error(text):
    """A damaged record must be named as one, not end in a KeyError."""
    with pytest.raises(InputError, match="not a scene"):
        shapes.scene_from_json(text)
