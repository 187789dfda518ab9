"""The report counts what it says it counts."""

import dataclasses
import json

import numpy as np
import pytest

from vidjax.data.shapes import Scene, Subject
from vidjax.errors import InputError
from vidjax.evaluate import evaluate
from vidjax.evaluate.adherence import psnr, right, wilson
from vidjax.evaluate.detect import Seen

ONE = Scene((Subject("red", "star", "small"),), "moves up", "sea", "static", "anime")
PAIR = Scene((Subject("red"), Subject("blue")), "spins", "grass", "zooms in", "plain")
SEEN = Seen("sea", "anime", "static", ("red",), "moves up", "small", "star")


def test_each_word_is_counted_where_it_is_said():
    """A pair has two shapes: neither may count as wrong because the other was seen."""
    hits = right(
        [ONE, PAIR], [SEEN, Seen("sea", "plain", "zooms in", ("blue", "red", "pink"), "spins", "large", "heart")]
    )
    assert hits["place"] == [True, False]
    assert hits["camera"] == hits["style"] == hits["action"] == [True, True]
    assert hits["motion"] == [True], "only what moves has a direction"
    assert hits["colour"] == hits["size"] == hits["shape"] == [True]
    assert hits["second_subject"] == [True]


@pytest.mark.parametrize(
    ("change", "name"),
    [({"colours": ("blue", "red")}, "colour"), ({"action": "moves down"}, "motion"), ({"shape": "heart"}, "shape")],
)
def test_a_wrong_word_is_counted(change, name):
    """The largest subject is the one."""
    assert right([ONE], [SEEN._replace(**change)])[name] == [False]


def test_intervals():
    """From Wilson's formula, worked by hand for 8 of 10."""
    np.testing.assert_allclose(wilson(8, 10), (0.4902, 0.9433), atol=1e-4)
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[0] < 0.75, "ten of ten prove little"


def test_psnr():
    """One step of 255 everywhere is 48.1 dB."""
    np.testing.assert_allclose(psnr(np.zeros((2, 3), np.uint8), np.ones((2, 3), np.uint8)), 48.13, atol=0.01)


def test_report(tiny):
    """A random model scores something, the renderings score best, and all of it can be written as JSON."""
    report = evaluate(tiny, num_prompts=3, num_seeds=2, workers=1)
    assert report.counts["place"] == 6
    assert report.scores.keys() == report.counts.keys() == report.intervals.keys()
    assert {
        "colour",
        "place",
        "style",
        "camera",
        "action",
        "first_frame_psnr",
        "autoencoder_psnr",
    } <= report.scores.keys()
    assert all(low <= report.scores[name] <= high for name, (low, high) in report.intervals.items())
    assert json.loads(json.dumps(dataclasses.asdict(report)))["scores"] == report.scores
    assert len(report.table().splitlines()) == 1 + len(report.scores)


def test_numbers_are_checked(tiny):
    """Said before the first clip is made."""
    with pytest.raises(InputError, match="num_prompts=0: must be at least 1"):
        evaluate(tiny, num_prompts=0)
