"""The camera of the flat world in space: a point of the plane is seen where the rendering shows it."""

import dataclasses
import json
import math

import numpy as np
import pytest

from vidjax.data import shapes
from vidjax.data.shapes import CAMERAS, Scene, Subject, camera_path, drifting_scene, render
from vidjax.data.shapes.render import animate
from vidjax.data.shapes.scene import DRIFTS

LOG_ZOOM = math.log2(1.8)
SIZES = [(64, 64), (48, 96), (96, 48)]


def seen(path, point):
    """Where a point in space is seen in each frame, in widths and heights."""
    local = np.einsum("fji,fj->fi", path.camera_to_world[:, :, :3], point - path.camera_to_world[:, :, 3])
    assert (local[:, 2] > 0).all()
    return path.intrinsics[:, :2] * local[:, :2] / local[:, 2:] + path.intrinsics[:, 2:]


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("nears", [False, True])
def test_the_plane_is_seen_where_it_is_drawn(camera, size, nears):
    """Moved and brought near, what the poses say is what is rendered, exactly; turned, it is in the middle at least."""
    scene = Scene(action="moves right", camera=camera, world_x=3.0)
    scale, (height, width) = min(size) / 64, size
    motion = animate(scene, 17, height / scale, width / scale)
    for frames in (np.arange(17), np.array([0, 0, 0, 0, 5, 9]), np.arange(5, 17)):
        for world in ((0.0, 0.0), (10.0, -7.0)):
            at = motion.zoom[frames, None] * (np.array(world) - motion.camera[frames])
            drawn = at * scale / [width, height] + 0.5
            # The first of the frames has it at this point of the plane, at distance 1.
            point = np.array([*(at[0] / 64), 1.0])
            moved = camera_path(scene, 17, *size, frames, moves=True, nears=nears)
            np.testing.assert_allclose(seen(moved, point), drawn, atol=1e-5)
        middle = np.array([*(motion.zoom[frames[0]] * (motion.camera[frames[-1]] - motion.camera[frames[0]]) / 64), 1])
        turned = camera_path(scene, 17, *size, frames, nears=nears)
        np.testing.assert_allclose(seen(turned, middle)[-1], [0.5, 0.5], atol=1e-5)


def test_turning_and_moving():
    """Each movement can be told in two ways; one that follows its subject goes with it."""
    pan = Scene(camera="pans left")
    assert not camera_path(pan, 17, 64, 64).camera_to_world[:, :, 3].any()
    np.testing.assert_array_equal(camera_path(pan, 17, 64, 64, moves=True).camera_to_world[-1, :, :3], np.eye(3))
    tracking = camera_path(Scene(action="moves right", camera="tracking"), 17, 64, 64).camera_to_world
    np.testing.assert_array_equal(tracking[-1, :, :3], np.eye(3))
    np.testing.assert_allclose(tracking[-1, :, 3], [37 / 64, 0, 0], atol=1e-6)
    zoom = Scene(camera="zooms in")
    np.testing.assert_allclose(camera_path(zoom, 17, 64, 64).intrinsics[-1], [1.8, 1.8, 0.5, 0.5], rtol=1e-6)
    nears = camera_path(zoom, 17, 64, 64, nears=True)
    np.testing.assert_allclose(nears.intrinsics[-1], [1, 1, 0.5, 0.5])
    np.testing.assert_allclose(nears.camera_to_world[-1, :, 3], [0, 0, 1 - 1 / 1.8], rtol=1e-5)
    still = camera_path(Scene(camera="aerial"), 17, 64, 64)
    np.testing.assert_array_equal(still.camera_to_world, np.tile(np.eye(3, 4), (17, 1, 1)))


@pytest.mark.parametrize(
    ("camera", "drift"),
    [
        ("pans left", (-28.0, 0.0, 0.0)),
        ("pans right", (28.0, 0.0, 0.0)),
        ("tilts up", (0.0, -28.0, 0.0)),
        ("tilts down", (0.0, 28.0, 0.0)),
        ("zooms in", (0.0, 0.0, LOG_ZOOM)),
        ("zooms out", (0.0, 0.0, -LOG_ZOOM)),
    ],
)
@pytest.mark.parametrize("frames", [17, 33])
def test_drift_at_the_usual_pace_is_the_named_camera(camera, drift, frames):
    """Two worlds with two speeds could not be learnt as one."""
    scene = Scene((Subject("blue", "star"),), "spins", "snow", style="anime", world_x=2.0)
    named, drifting = dataclasses.replace(scene, camera=camera), dataclasses.replace(scene, drift=drift)
    apart = render(named, frames, 64, 64).astype(int) - render(drifting, frames, 64, 64)
    assert np.abs(apart).max() <= 1
    for a, b in zip(camera_path(named, frames, 64, 64), camera_path(drifting, frames, 64, 64), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_all_at_once():
    """Pan and zoom at once: what is in the middle at the end was at the side at first, and smaller."""
    scene = Scene((), place="night", drift=(20.0, 0.0, 0.5))
    motion = animate(scene, 17, 64.0, 64.0)
    np.testing.assert_allclose(motion.camera[-1] - motion.camera[0], [20, 0])
    np.testing.assert_allclose(np.log2(motion.zoom[-1] / motion.zoom[0]), 0.5)


def test_drifting_scenes():
    """At many speeds, several things at once, on their side of what is held out; and no caption tells of it."""
    scenes = [drifting_scene(0, i) for i in range(300)]
    assert not any(shapes.held_out(scene) for scene in scenes)
    assert all(shapes.held_out(drifting_scene(0, i, True)) for i in range(20))
    assert drifting_scene(0, 5) == drifting_scene(0, 5) != drifting_scene(1, 5)
    drifts = np.array([scene.drift for scene in scenes])
    assert drifts.any(axis=1).all()
    assert ((drifts != 0).sum(axis=1) > 1).mean() > 0.5
    assert (np.abs(drifts) <= DRIFTS).all()
    assert (drifts.min(0) < -0.8 * np.array(DRIFTS)).all()
    assert (drifts.max(0) > 0.8 * np.array(DRIFTS)).all()
    for i, scene in enumerate(scenes):
        assert shapes.parse(shapes.caption(scene, np.random.default_rng(i))).camera == "static"
        assert "camera" not in shapes.caption(scene, np.random.default_rng(i))
        assert scene.action != "stays still" or not any(scene.drift[:2])


def test_stored_scenes_stay_what_they_are():
    """Datasets were written before there was a drift: they must be read, and written alike."""
    for i in range(50):
        scene = shapes.training_scene(0, i)
        text = shapes.scene_to_json(scene)
        assert "drift" not in json.loads(text)
        assert shapes.scene_from_json(text) == scene
        drifting = drifting_scene(0, i)
        assert shapes.scene_from_json(shapes.scene_to_json(drifting)) == drifting


def test_captions_without_the_camera():
    """Where rays tell of the camera words may be left out; not those that no ray tells."""
    for camera in CAMERAS:
        scene = Scene(action="moves left", camera=camera)
        told = {shapes.parse(shapes.caption(scene, np.random.default_rng(i), ("camera",))).camera for i in range(30)}
        assert told == {camera if camera in ("tracking", "aerial") else "static"}
