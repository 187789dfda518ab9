"""Movements as poses: each goes its way, all at once, at a known pace."""

import re

import numpy as np
import pytest

from vidjax.conditioning.camera import parse
from vidjax.conditioning.movements import TURN, WAY, ZOOM, clip_poses, movement_poses, posed, read_camera, unposed
from vidjax.conditioning.poses import Poses
from vidjax.errors import InputError


def end(text, seconds=2, height=64, width=64):
    """The camera after some seconds: axes and place, and intrinsics."""
    poses = movement_poses(parse(text), 1 + 8 * seconds, 8.0, height, width)
    np.testing.assert_allclose(poses.camera_to_world[0], np.eye(3, 4), atol=1e-12)
    return poses.camera_to_world[-1], poses.intrinsics[-1]


@pytest.mark.parametrize(
    ("text", "forward", "place"),
    [
        ("static", (0, 0), (0, 0, 0)),
        ("pan right", (1, 0), (0, 0, 0)),
        ("pan left", (-1, 0), (0, 0, 0)),
        ("tilt up", (0, -1), (0, 0, 0)),
        ("tilt down", (0, 1), (0, 0, 0)),
        ("dolly in", (0, 0), (0, 0, 1)),
        ("dolly out", (0, 0), (0, 0, -1)),
        ("truck left", (0, 0), (-1, 0, 0)),
        ("truck right", (0, 0), (1, 0, 0)),
        ("orbit right", (-1, 0), (1, 0, 1)),
        ("orbit left", (1, 0), (-1, 0, 1)),
    ],
)
def test_ways(text, forward, place):
    """x points right and y down: a sign that is wrong once is a camera that pans the other way."""
    pose, intrinsics = end(text)
    np.testing.assert_array_equal(np.sign(np.round(pose[:2, 2], 9)), forward)
    np.testing.assert_array_equal(np.sign(np.round(pose[:, 3], 9)), place)
    np.testing.assert_allclose(intrinsics, [1, 1, 0.5, 0.5])


def test_paces():
    """What the documentation says of speed 1, and twice of it at speed 2."""
    assert np.rad2deg(np.arcsin(end("pan right")[0][0, 2])) == pytest.approx(2 * TURN)
    assert np.rad2deg(np.arcsin(end("pan right 2")[0][0, 2])) == pytest.approx(4 * TURN)
    np.testing.assert_allclose(end("zoom in")[1][:2], ZOOM**2)
    np.testing.assert_allclose(end("zoom out 0.5")[1][:2], 1 / ZOOM)
    assert end("dolly in")[0][2, 3] == pytest.approx(2 * WAY)
    # Around a point at distance 1, which stays in the middle.
    pose, _ = end("orbit left 3", seconds=5)
    np.testing.assert_allclose(pose[:, 3] + pose[:, 2], [0, 0, 1], atol=1e-12)


def test_all_at_once():
    """Of a combination nothing may be lost."""
    pose, intrinsics = end("pan left + tilt up + zoom in + truck right")
    assert pose[0, 2] < -0.3
    assert pose[1, 2] < -0.3
    assert pose[0, 3] == pytest.approx(2 * WAY)
    np.testing.assert_allclose(intrinsics[:2], ZOOM**2)


def test_longer_clips_begin_as_shorter_ones_and_focal_length_is_of_the_shorter_side():
    """A camera that depended on the clip's length would change its beginning; one of the width would squeeze it."""
    short, long = (movement_poses(parse("pan left + zoom in"), n, 8.0, 32, 64) for n in (9, 33))
    np.testing.assert_array_equal(long.world_to_camera[:9], short.world_to_camera)
    np.testing.assert_allclose(short.intrinsics[0], [0.5, 1, 0.5, 0.5])


def test_what_has_no_poses_is_left_to_words():
    """A subject that is followed, or seen from above, is not told by where the camera is."""
    camera = parse("aerial + pan left + zoom in")
    assert unposed(camera) == parse("aerial")
    assert posed(camera) == parse("pan left + zoom in")
    assert unposed(parse("pan left")) is None
    assert clip_poses(parse("track"), 9, 9, 8.0, 64, 64) is None


def test_poses_are_spread_over_what_is_shown():
    """A file of three hundred frames is the whole path of a clip of nine; behind its end the camera rests."""
    places = np.concatenate([np.repeat(np.eye(3)[None], 31, axis=0), np.zeros((31, 3, 1))], axis=2)
    places[:, 0, 3] = np.arange(31)
    poses = Poses.from_camera_to_world(places, np.tile([1, 1, 0.5, 0.5], (31, 1)))
    found = clip_poses(poses, 11, 13, 8.0, 64, 64).camera_to_world[:, 0, 3]
    np.testing.assert_allclose(found, [*np.arange(0, 31, 3), 30, 30])
    found = clip_poses(poses, 13, 13, 8.0, 64, 64, still=2).camera_to_world[:, 0, 3]
    np.testing.assert_allclose(found, [0, 0, *np.arange(0, 31, 3)])


def test_ways_to_say_it(tmp_path):
    """Objects, words and names of files; anything else is refused with what would do."""
    assert read_camera("pan left") == parse("pan left")
    (tmp_path / "a").write_text("x\n0 0.5 0.9 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0")
    assert len(read_camera(tmp_path / "a")) == len(read_camera(str(tmp_path / "a"))) == 1
    with pytest.raises(InputError, match=r"no\.txt cannot be read: No such file"):
        read_camera("no.txt")
    with pytest.raises(InputError, match=r"camera=3: a vidjax.Camera is expected"):
        read_camera(3)


@pytest.mark.parametrize(("text", "size"), [("zoom in", (32, 64)), ("zoom out", (32, 64)), ("zoom out", (64, 64))])
def test_zooms_that_go_on_for_too_long_are_refused_with_what_would_do(text, size):
    """The poses of such a path are none, and nobody who asked for a zoom knows of poses."""
    with pytest.raises(InputError, match=rf"camera '{text} 1' for 30.0 s: 5600 times; at most") as caught:
        movement_poses(parse(text), 241, 8.0, *size)
    speed, seconds = re.search(r"at speed ([\d.]+), or in ([\d.]+) s", str(caught.value)).groups()
    movement_poses(parse(f"{text} {speed}"), 241, 8.0, *size)
    movement_poses(parse(text), int(8 * float(seconds)) + 1, 8.0, *size)


def test_a_zoom_beyond_any_float_is_refused_too():
    """At ten times the usual speed it is after four minutes."""
    with pytest.raises(InputError, match=r"camera 'zoom out 10' for 300.0 s: .* or in 2.4 s"):
        movement_poses(parse("zoom out 10"), 2401, 8.0, 64, 64)
