"""The report counts what it says it counts."""

import dataclasses
import json

import numpy as np
import pytest

from vidjax.data.shapes import COLOURS, SHAPES, Scene, Subject, held_out
from vidjax.data.shapes.places import RGB
from vidjax.errors import InputError
from vidjax.evaluate import evaluate, examine
from vidjax.evaluate.adherence import judge, right
from vidjax.evaluate.detect import Seen
from vidjax.evaluate.references import reference_request, reference_scenes
from vidjax.evaluate.signals import dynamic_degree

ONE = Scene((Subject("red", "star", "small"),), "moves up", "sea", "static", "anime")
PAIR = Scene((Subject("red", "circle"), Subject("blue", "heart")), "spins", "grass", "zooms in", "plain")
SEEN = Seen("sea", "anime", "static", ("red",), "moves up", "small", ("star",))


def test_each_word_is_counted_where_it_is_said():
    """A pair has two shapes: neither may count as wrong because the other was seen."""
    seen = Seen("sea", "plain", "zooms in", ("blue", "red", "pink"), "spins", "large", ("heart", "circle"))
    hits = right([judge(ONE, SEEN), judge(PAIR, seen)])
    assert hits["place"] == [True, False]
    assert hits["camera"] == hits["style"] == hits["action"] == [True, True]
    assert hits["motion"] == [True], "only what moves has a direction"
    assert hits["colour"] == hits["size"] == hits["shape"] == [True]
    assert hits["second_subject"] == hits["second_shape"] == [True]


@pytest.mark.parametrize(
    ("change", "name"),
    [({"colours": ("blue", "red")}, "colour"), ({"action": "moves down"}, "motion"), ({"shapes": ("heart",)}, "shape")],
)
def test_a_wrong_word_is_counted(change, name):
    """The largest subject is the one."""
    words = judge(ONE, SEEN._replace(**change))
    assert right([words])[name] == [False]
    wrong = {word.name for word in words if not word.right} - {"action"}
    assert wrong == {name}


def test_nothing_seen_is_wrong():
    """A model that leaves the subject out, or one of two, must not pass for one that shows it."""
    assert right([judge(ONE, SEEN._replace(colours=()))])["colour"] == [False]
    assert right([judge(PAIR, SEEN._replace(colours=("blue",)))])["second_subject"] == [False]
    assert right([judge(PAIR, SEEN._replace(colours=()))])["second_subject"] == [False]


def test_each_of_a_pair_has_its_own_shape():
    """A red heart and a blue circle are not what was asked, though both colours and both shapes are there."""
    seen = SEEN._replace(colours=("red", "blue"), shapes=("heart", "circle"))
    hits = right([judge(PAIR, seen)])
    assert hits["second_subject"] == [True]
    assert hits["second_shape"] == [False]


def test_pictures_are_left_out_frame_by_frame(tiny):
    """Causal clips take no references: a model that can do both was refused its whole report."""
    sampling = dataclasses.replace(tiny.config.sampling, causal=True, references=3)
    able = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, sampling=sampling))
    report = evaluate(able, num_prompts=1, num_seeds=1, workers=1, causal=True)
    assert "place" in report.scores
    assert "reference_shape" not in report.scores


@pytest.fixture(scope="module")
def examined(tiny):
    """Clips of nine frames, and long ones of four windows."""
    return examine(tiny, num_prompts=3, num_seeds=2, workers=1, long_seconds=2.6, long_clips=2)


def test_report(examined):
    """A random model scores something, and all of it can be written as JSON."""
    report = examined.report
    assert report.counts["place"] == report.counts["flicker"] == 6
    assert report.counts["long_place"] == report.counts["joint_flicker"] == 2
    assert report.scores.keys() == report.counts.keys() == report.intervals.keys()
    words = {"colour", "place", "style", "camera", "action", "long_colour", "long_place", "long_shape"}
    signals = {"flicker", "dynamic_degree"}
    quality = {"first_frame_psnr", "autoencoder_psnr", "autoencoder_ssim"}
    assert words | signals | quality | {"joint_flicker"} <= report.scores.keys()
    assert words | signals <= report.ceilings.keys() & report.reconstructed.keys()
    assert all(low <= report.scores[name] <= high for name, (low, high) in report.intervals.items())
    assert not any(name.startswith("reference_") for name in report.scores), "the model takes none"
    assert json.loads(json.dumps(dataclasses.asdict(report)))["scores"] == report.scores
    assert len(report.table().splitlines()) == 1 + len(report.scores)


def test_references_are_judged_by_what_they_alone_tell(tiny):
    """A colour or shape that the prompt tells, or another portrait than is judged by, would measure something else."""
    sampling = dataclasses.replace(tiny.config.sampling, references=3)
    able = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, sampling=sampling))
    report = evaluate(able, num_prompts=1, num_seeds=1, workers=1, reference_clips=3)
    found = {name for name in report.scores if name.startswith("reference_")}
    assert found == {"reference_colour", "reference_shape"} == found & report.ceilings.keys()
    assert report.counts["reference_colour"] == 3
    assert report.ceilings["reference_colour"] > 0.5
    for i, scene in enumerate(reference_scenes(0, 5)):
        assert len(scene.subjects) == 1
        assert held_out(scene)
        request = reference_request(able, scene, i, (16, 32), {})
        assert not {*request.prompts[0].replace(",", "").split()} & {*COLOURS, *SHAPES}
        (picture,) = request.given.references
        near = np.abs(picture.astype(int) - RGB[scene.subjects[0].colour]).max(axis=-1) <= 2
        assert near.any()


def test_clips_are_those_of_the_report(examined):
    """A page that shows other clips than were counted would be worse than none."""
    report = examined.report
    for name in ("place", "style", "camera"):
        hits = [word.right for clip in examined.clips for word in clip.words if word.name == name]
        assert sum(hits) / len(hits) == report.scores[name]
    assert [clip.seed for clip in examined.clips] == [0, 1, 2, 3, 4, 5]
    assert [clip.prompt for clip in examined.clips[::2]] == [clip.prompt for clip in examined.clips[1::2]]
    moved = [dynamic_degree(clip.clip.frames) for clip in examined.clips]
    np.testing.assert_allclose(np.mean(moved), report.scores["dynamic_degree"])
    assert {clip.clip.num_frames for clip in examined.long} == {21}
    assert [{word.name for word in clip.words} for clip in examined.long] == [
        {"colour", "place", "shape"},
        {"colour", "place"},
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_prompts": 0}, "num_prompts=0: must be at least 1"),
        ({"seed": -1}, "seed=-1: must lie between 0 and"),
        ({"long_clips": 0, "long_seconds": 3.0}, "long_clips=0"),
        ({"long_seconds": 1.0}, "long_seconds=1: one window of this model; drift needs more than 1.1 s"),
        ({"long_seconds": -1.0}, "duration=-1.0: must lie between"),
        ({"solver": "dpm"}, "choose one of unipc"),
    ],
)
def test_settings_are_checked(tiny, compilations, settings, said):
    """Said before the first clip is made."""
    with pytest.raises(InputError, match=said):
        evaluate(tiny, **{"num_prompts": 1, **settings})
    assert not compilations
