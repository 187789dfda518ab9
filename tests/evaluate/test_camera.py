"""Whether clips show what their camera was asked to do, told from pixels."""

import dataclasses

import pytest

from vidjax.conditioning.movements import movement_poses
from vidjax.data.shapes import held_out
from vidjax.evaluate import adherence, camera
from vidjax.evaluate.report import Report

SIZE = 17, 64, 64


@pytest.mark.parametrize("kind", [camera.SINGLE, camera.COMBINED], ids=["single", "combined"])
def test_asked_in_turn_and_unsaid(kind):
    """A movement that is asked for more often would count more; a word of it in the prompt would do the rays' work."""
    wanted = camera.asked(kind, 0, 20)
    assert [one.ways for one in wanted] == [list(kind.values())[i % len(kind)] for i in range(20)]
    assert all(held_out(one.scene) for one in wanted)
    assert not any(
        word in one.prompt for one in wanted for word in ("camera", "pan ", "zoom", "tilt", "shot", "aerial")
    )
    assert len({one.prompt for one in wanted}) > 15


def test_ways_are_those_of_the_movements():
    """The table says what is to be seen: what moves to the right in space must be looked for on the right."""
    for name, (x, y, zoom) in (camera.SINGLE | camera.COMBINED).items():
        poses = movement_poses(camera.parse(name), 17, 8.0, 64, 64)
        forward, place = poses.camera_to_world[-1, :, 2], poses.camera_to_world[-1, :, 3]
        nearer = poses.intrinsics[-1, 0] - 1 + place[2]
        for way, moved in ((x, forward[0] + place[0]), (y, forward[1]), (zoom, nearer)):
            assert moved * way > 0.1 if way else abs(moved) < 1e-9, name


def test_renderings_are_told_and_others_are_not():
    """Of a pan with a zoom the pan alone is not what was asked; nor is a camera that rests."""
    wanted = [*camera.asked(camera.SINGLE, 3, 3), *camera.asked(camera.COMBINED, 3, 3)]
    assert all(camera.right([one.rendered(*SIZE) for one in wanted], wanted))
    for ways in ((0, 0, 0), (-1, 0, 0)):
        other = [one._replace(ways=ways).rendered(*SIZE) for one in wanted]
        right = camera.right(other, wanted)
        assert right == [one.ways == ways for one in wanted]


def test_scores_of_a_model(tiny, monkeypatch):
    """They stand in the report beside what the detector reaches; a model whose clips are right has all of them."""
    few = {kind: camera.asked(kind_, 0, 2) for kind, kind_ in (("a", camera.SINGLE), ("b", camera.COMBINED))}
    monkeypatch.setattr(camera, "asked", lambda kind, seed, count: few["a" if kind is camera.SINGLE else "b"])
    made = []

    def clips(model, requests):
        made.extend(requests)
        wanted = few["a" if len(made) == 2 else "b"]
        return [one.rendered(9, 16, 32) for one in wanted]

    monkeypatch.setattr(adherence, "_clips", clips)
    monkeypatch.setattr(adherence, "_reconstruct", lambda model, clip: clip)
    report = Report({}, {}, {}, {}, {})
    with pytest.warns(UserWarning, match="the prompt says"):  # this model has no adapter
        adherence._camera(tiny, report, 0, 2, {})
    assert report.scores == report.ceilings == report.reconstructed
    assert report.scores.keys() == {"camera_object", "camera_combined"}
    assert report.counts == {"camera_object": 2, "camera_combined": 2}
    assert len({request.seeds for request in made}) == 2
    assert dataclasses.asdict(report)["intervals"]["camera_object"][1] <= 1
