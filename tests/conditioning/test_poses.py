"""Cameras as poses: checked, seen from the first frame, brought to a clip's length and shape; and read from files."""

import os

import numpy as np
import pytest

from vidjax.conditioning.pose_file import MAX_BYTES, is_pose_file, read_poses, write_poses
from vidjax.conditioning.poses import Poses, about, fit, relative, resample, window
from vidjax.errors import InputError

STILL = np.eye(3, 4)[None]
WIDE = [[0.5, 0.5 * 16 / 9, 0.5, 0.5]]
"""Of frames of 16:9."""


def turning(count, degrees):
    """About the axis that points down, to the right; and along x, a unit a frame."""
    turned = about(np.tile([0.0, 1.0, 0.0], (count, 1)), np.deg2rad(degrees) * np.arange(count))
    place = np.arange(count)[:, None, None] * np.array([[1.0], [0.0], [0.0]])
    return Poses.from_camera_to_world(np.concatenate([turned, place], axis=2), np.repeat(WIDE, count, axis=0))


def test_inverse_matrices_are_the_same_camera():
    """World to camera taken for camera to world is a camera that moves the wrong way."""
    path = turning(3, 90)
    np.testing.assert_allclose(path.camera_to_world[1, :, 2], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(path.camera_to_world[2, :, 3], [2, 0, 0], atol=1e-12)
    # What is where the camera stands is at its origin, what is before it lies on its z axis.
    at = path.world_to_camera[1] @ [1, 0, 0, 1]
    before = path.world_to_camera[1] @ [3, 0, 0, 1]
    np.testing.assert_allclose([at, before], [[0, 0, 0], [0, 0, 2]], atol=1e-12)


def test_relative_to_the_first_frame():
    """A model knows no world: the first frame is where it begins, whatever the file took for its origin."""
    found = relative(turning(4, 30).frames(slice(1, None)))
    np.testing.assert_allclose(found.camera_to_world[0], STILL[0], atol=1e-12)
    forward, place = found.camera_to_world[1, :, 2], found.camera_to_world[1, :, 3]
    np.testing.assert_allclose(forward, [np.sin(np.deg2rad(30)), 0, np.cos(np.deg2rad(30))], atol=1e-12)
    np.testing.assert_allclose(place, [np.cos(np.deg2rad(30)), 0, np.sin(np.deg2rad(30))], atol=1e-12)


def test_windows_begin_at_the_paths_own_focal_length():
    """After a minute of zooming in a window would be given a focal length that nobody trained on."""
    zooming = np.array([[1, 1, 0.4, 0.5], [2, 2, 0.5, 0.5], [4, 4, 0.6, 0.5]])
    found = window(Poses(np.repeat(STILL, 3, axis=0), zooming), np.array([1, 2]))
    np.testing.assert_allclose(found.intrinsics, [[1, 1, 0.5, 0.5], [2, 2, 0.6, 0.5]])


@pytest.mark.parametrize("degrees", [0, 7, 90, 179])
def test_resampled_rotations_are_even(degrees):
    """Halfway between two frames is half the turn and half the way; interpolated matrices would shrink the picture."""
    path = turning(3, degrees)
    found = resample(path, 5)
    np.testing.assert_allclose(found.frames(slice(0, None, 2)).world_to_camera, path.world_to_camera, atol=1e-7)
    half = found.camera_to_world[1]
    angle = np.deg2rad(degrees / 2)
    np.testing.assert_allclose(half[:, 2], [np.sin(angle), 0, np.cos(angle)], atol=1e-7)
    np.testing.assert_allclose(half[:, 3], [0.5, 0, 0], atol=1e-7)
    assert len(resample(path, 1)) == 1
    assert len(resample(path.frames(slice(1)), 9)) == 9


def test_field_of_view_is_kept_on_the_side_that_fits():
    """A clip cut out of the middle of wide frames sees less to the sides, and as much from top to bottom."""
    poses = Poses(STILL, WIDE)
    np.testing.assert_allclose(fit(poses, 64, 64).intrinsics, [[0.5 * 16 / 9, 0.5 * 16 / 9, 0.5, 0.5]])
    np.testing.assert_allclose(fit(poses, 90, 160).intrinsics, WIDE)
    np.testing.assert_allclose(fit(poses, 90, 320).intrinsics, [[0.5, 2 * 0.5 * 16 / 9, 0.5, 0.5]])
    # What is beside the middle of the frames is as far beside it in pixels.
    aside = fit(Poses(STILL, [[0.5, 0.5 * 16 / 9, 0.6, 0.5]]), 64, 64).intrinsics[0]
    np.testing.assert_allclose(aside[2], 0.5 + 0.1 * 16 / 9)


@pytest.mark.parametrize(
    ("poses", "intrinsics", "said"),
    [
        (np.zeros((0, 3, 4)), np.zeros((0, 4)), "world_to_camera of shape"),
        (np.eye(4)[None], WIDE, r"of shape \(1, 4, 4\); must be numbers of shape \[frames, 3, 4\]"),
        ("left", WIDE, "world_to_camera must be numbers"),
        (np.repeat(STILL, 2, axis=0), WIDE, "2 matrices and 1 intrinsics"),
        (2 * STILL, WIDE, "frame 0: the first three columns are no rotation"),
        (np.diag([1.0, 1.0, -1.0, 1.0])[None, :3], WIDE, "no rotation"),
        (STILL * [1, 1, 1, np.nan], WIDE, "not finite"),
        (STILL + np.array([0, 0, 0, 1e9]), WIDE, "a translation of more than 1e"),
        (STILL, [[0.0, 1, 0.5, 0.5]], "frame 0: fx, fy, cx, cy = 0, 1, 0.5, 0.5: .* between 0.001 and 1000"),
        (STILL, [[1200.0, 1200, 640, 360]], "in widths and heights of the frame"),
    ],
)
def test_refused(poses, intrinsics, said):
    """A matrix that is no rotation bends space, pixels in place of widths are a telescope: a poor model, it seems."""
    with pytest.raises(InputError, match=said):
        Poses(poses, intrinsics)


def test_files_round_trip(tmp_path):
    """What other programs write and read must be what is meant here."""
    path = turning(5, 20)
    write_poses(path, tmp_path / "a.txt")
    found = read_poses(tmp_path / "a.txt")
    np.testing.assert_allclose(found.world_to_camera, path.world_to_camera, atol=1e-8)
    np.testing.assert_allclose(found.intrinsics, path.intrinsics, atol=1e-8)
    line = (tmp_path / "a.txt").read_text().splitlines()[2].split()
    assert len(line) == 19
    assert line[0] == "33333"
    assert line[5:7] == ["0.000000000"] * 2


GOOD = "0 0.5 0.9 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no pose"),
        ("https://example.org\n", "holds no pose"),
        (f"x\n{GOOD}\n{GOOD} 1", "line 3: 20 numbers, and a pose has 19"),
        (f"x\n\n{GOOD.replace('0.9', 'wide')}", "line 3: 'wide' is no number"),
        (f"x\n{GOOD.replace('0.9', '1e999')}", "line 2: '1e999' is not finite"),
        (f"x\n{GOOD.replace('0.9', 'nan')}", "line 2: 'nan' is not finite"),
        (f"{GOOD.replace('0.9', 'nan')}\n{GOOD}", "line 1: 'nan' is not finite"),
        (f"x\n{GOOD}\n{GOOD.replace('0.9', '-0.9')}", "line 3: fx, fy"),
        (f"x\n{GOOD.replace('0.5 0.9 0.5 0.5', '64 64 32 32')}", "of pixels, divide by the frame's width and height"),
        (f"x\n{GOOD}\n\n{GOOD[:-6]} 0 2 0", "line 4: the first three columns are no rotation"),
        ("x" * (MAX_BYTES + 1), "over 8 MB"),
        ("x\n\0\x1b[31m", "line 2: 1 numbers"),
    ],
)
def test_broken_files(tmp_path, text, said):
    """The line that is broken is named, and nothing of a file that is no file of poses is believed."""
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=said) as error:
        read_poses(tmp_path / "a.txt")
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_file_without_an_address(tmp_path):
    """The first pose must not be taken for one: the camera would begin a frame late."""
    (tmp_path / "a.txt").write_text(f"\ufeff{GOOD}\n{GOOD[:-1]}1\n", encoding="utf-8")
    np.testing.assert_array_equal(read_poses(tmp_path / "a.txt").world_to_camera[:, 2, 3], [0, 1])


def test_no_such_file(tmp_path):
    """A wrong name is an answer in one line."""
    with pytest.raises(InputError, match="No such file"):
        read_poses(tmp_path / "b.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_poses("a\0b.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InputError, match="is no file"):
        read_poses(tmp_path / "pipe.txt")


def test_names_of_files(tmp_path):
    """Movements are no files, and a name that ends as such files do is never a movement."""
    (tmp_path / "poses").write_text("")
    assert is_pose_file("walk.TXT")
    assert is_pose_file(str(tmp_path / "poses"))
    assert not is_pose_file("pan left + zoom in")
