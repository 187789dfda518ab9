from itertools import combinations

import numpy as np
import pytest

from vidjax.data import shapes
from vidjax.data.shapes import Scene, Subject
from vidjax.errors import InputError

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def red(frame):
    """Where a frame is as red as the red subject; no place is."""
    r, g, b = np.moveaxis(frame.astype(int), -1, 0)
    return (r - g > 120) & (r - b > 120)


def middle(frame):
    """Centre of the red subject, as (x, y) in pixels."""
    y, x = np.nonzero(red(frame))
    return np.array([x.mean(), y.mean()])


def shift(first, last):
    """How far, as (x, y), the place moved: the best whole-pixel shift, a subject in the middle aside."""
    seen = np.zeros((64, 64), bool)
    seen[8:-8, 8:-8] = True
    seen[12:52, 12:52] = False
    errors = {
        (dx, dy): np.abs(np.roll(first, (dy, dx), (0, 1))[seen].astype(int) - last[seen]).mean()
        for dx in range(-8, 9)
        for dy in range(-8, 9)
    }
    return min(errors, key=errors.get)


@pytest.mark.parametrize("size", [(17, 64, 64), (33, 48, 80), (1, 64, 64), (5, 90, 31), (2, 8, 8)])
def test_any_size(size):
    """A size baked in anywhere would show as a wrong shape or an index error."""
    for index in range(12):
        clip = shapes.render(shapes.training_scene(0, index), *size)
        assert clip.shape == (*size, 3)
        assert clip.dtype == np.uint8


def test_the_same_scene_gives_the_same_clip():
    """Hidden randomness or a changed cached map would make clips irreproducible."""
    scenes = [shapes.training_scene(5, index) for index in range(20)]
    first = [shapes.render(scene, 9, 32, 32) for scene in scenes]
    again = [shapes.render(scene, 9, 32, 32) for scene in reversed(scenes)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({clip.tobytes() for clip in first}) == len(scenes)


@pytest.mark.parametrize("size", [(0, 64, 64), (17, 0, 64), (17, 64, -1)])
def test_no_picture_is_an_input_error(size):
    """An empty array would fail much later, far from its cause."""
    with pytest.raises(InputError, match="at least 1"):
        shapes.render(Scene(), *size)


@pytest.mark.parametrize("camera", ["static", "pans left", "pans right", "tilts up", "aerial"])
@pytest.mark.parametrize("way", WAYS)
def test_moves_go_their_way_on_the_screen(way, camera):
    """The caption says a direction; whatever the camera does, the subject must go there by 35 to 39 of 64 pixels."""
    clip = shapes.render(Scene(action=f"moves {way}", camera=camera), 17, 64, 64)
    path = middle(clip[-1]) - middle(clip[0])
    assert 33 < path @ WAYS[way] < 40
    assert abs(path @ WAYS[way][::-1]) < 2


def test_long_clips_go_on_and_come_in_again():
    """Were a long clip stretched, its pace would differ from that of the clips a model was trained on."""
    scene = Scene((Subject("red", "circle", "small"),), action="moves right")
    long = shapes.render(scene, 49, 64, 64)
    np.testing.assert_array_equal(long[:17], shapes.render(scene, 17, 64, 64))
    places = np.array([middle(frame)[0] if red(frame).sum() > 200 else np.nan for frame in long])
    steps = np.diff(places)
    assert (steps[np.isfinite(steps)] > 1).sum() > 30
    assert places[0] < 20
    assert np.nanmin(places[30:]) < 20


@pytest.mark.parametrize("way", WAYS)
def test_the_world_moves_against_the_camera(way):
    """A pan to the right must show what lies to the right: the picture moves to the left."""
    camera = ("pans " if way in ("left", "right") else "tilts ") + way
    frames = shapes.render(Scene((Subject("red", "circle", "small"),), camera=camera), 17, 64, 64)[[6, 9]]
    assert np.array(shift(*frames)) @ WAYS[way] == pytest.approx(-28 * 3 / 16, abs=1)


@pytest.mark.parametrize("way", WAYS)
def test_tracking_keeps_the_subject_and_moves_the_world(way):
    """If the world stood still, or the subject left the middle, it would not be a tracking shot."""
    frames = shapes.render(Scene(action=f"moves {way}", camera="tracking"), 17, 64, 64)
    assert np.abs(middle(frames[0]) - middle(frames[-1])).max() < 0.5
    small = Scene((Subject("red", "circle", "small"),), action=f"moves {way}", camera="tracking")
    assert np.array(shift(*shapes.render(small, 17, 64, 64)[[6, 8]])) @ WAYS[way] < -3


def test_zooms_scale_the_world_and_growing_does_not():
    """Only the background tells 'zooms in' from 'grows'."""
    still, grows, zooms_in, zooms_out = (
        shapes.render(Scene(action=action, camera=camera), 17, 64, 64)
        for action, camera in (
            ("stays still", "static"),
            ("grows", "static"),
            ("stays still", "zooms in"),
            ("stays still", "zooms out"),
        )
    )
    corner = (slice(0, 10), slice(0, 64))
    np.testing.assert_array_equal(grows[-1][corner], still[-1][corner])
    assert not np.array_equal(zooms_in[-1][corner], zooms_in[0][corner])
    area = {name: [red(f).sum() for f in clip[[0, -1]]] for name, clip in (("grow", grows), ("in", zooms_in))}
    assert area["grow"][1] / area["grow"][0] == pytest.approx(2.2**2, rel=0.15)
    assert area["in"][1] / area["in"][0] == pytest.approx(1.8**2, rel=0.15)
    np.testing.assert_allclose(zooms_out[::-1].astype(int), zooms_in, atol=1)


def test_shrinking_is_growing_backwards():
    """Swapped words would teach the opposite."""
    grows, shrinks = (shapes.render(Scene(action=action), 17, 64, 64) for action in ("grows", "shrinks"))
    np.testing.assert_allclose(grows[::-1].astype(int), shrinks, atol=1)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_spinning_is_seen_and_stays_in_place(shape):
    """Without its mark a spinning circle would be a still one."""
    subject = Subject("red", shape, "small")
    spin = shapes.render(Scene((subject,), action="spins"), 17, 64, 64).astype(int)
    still = shapes.render(Scene((subject,)), 17, 64, 64).astype(int)
    changed = np.abs(spin - still).max(-1) > 60
    assert changed[8].sum() > 20
    assert not changed[:, :12].any()
    np.testing.assert_allclose(spin[16], spin[0], atol=2)


def test_bouncing_goes_up_and_down_twice():
    """One hop less, or a small one, would look like 'moves up' or 'stays still'."""
    clip = shapes.render(Scene(action="bounces"), 17, 64, 64)
    y = np.array([middle(frame)[1] for frame in clip])
    assert np.ptp(y) > 24
    turns = np.sign(np.diff(y))
    assert (turns[:-1] != turns[1:]).sum() == 3


@pytest.mark.parametrize("action", ["moves right", "moves down", "spins", "grows", "bounces"])
def test_two_subjects_stay_apart_and_both_act(action):
    """If one hid the other, or only one acted, the caption would be wrong about it."""
    pair = (Subject("red", "square", "large"), Subject("blue", "circle", "large"))
    both = shapes.render(Scene(pair, action=action), 17, 64, 64)
    blue_red = shapes.render(Scene(pair[::-1], action=action), 17, 64, 64)
    assert (np.abs(middle(both[8]) - middle(blue_red[8])).max()) > 25
    for clip in (both, blue_red):
        area = [red(frame).sum() for frame in clip]
        assert min(area) > 60
        assert np.abs(clip[8].astype(int) - clip[4]).max() > 60


def test_styles_places_shapes_and_colours_look_different():
    """Two values that look alike cannot be learned, nor be told apart by a judge."""
    for name, words in (("style", shapes.STYLES), ("place", shapes.PLACES)):
        pictures = [shapes.render(Scene(**{name: word}), 1, 64, 64)[0].astype(int) for word in words]
        assert min(np.abs(a - b).mean() for a, b in combinations(pictures, 2)) > 8
    for style in shapes.STYLES:
        colours = [
            shapes.render(Scene((Subject(colour, "square"),), style=style), 1, 64, 64)[0, 38, 32].astype(int)
            for colour in shapes.COLOURS
        ]
        assert min(np.abs(a - b).max() for a, b in combinations(colours, 2)) > 30
    silhouettes = [red(shapes.render(Scene((Subject("red", s, "small"),)), 1, 64, 64)[0]) for s in shapes.SHAPES]
    assert min((a ^ b).sum() for a, b in combinations(silhouettes, 2)) > 40


@pytest.mark.parametrize("style", shapes.STYLES)
@pytest.mark.parametrize("place", shapes.PLACES)
def test_every_colour_shows_on_every_place(place, style):
    """An invisible subject makes its caption a lie: its colour must differ from the ground and the sky behind it."""
    for camera in ("static", "aerial"):
        scenes = [Scene((Subject(c, "circle"),), place=place, style=style, camera=camera) for c in shapes.COLOURS]
        pictures = [shapes.render(scene, 1, 64, 64)[0].astype(int) for scene in scenes]
        around = pictures[0][[12, 52], 32]
        for picture in pictures:
            assert np.linalg.norm(picture[40, 32] - around, axis=-1).min() > 45


def test_sizes_agree():
    """The same scene, larger, must be the same picture: landmarks and subjects scale with it."""
    for index in range(20):
        scene = shapes.training_scene(2, index)
        large = shapes.render(scene, 5, 128, 128).astype(float)
        averaged = large.reshape(5, 64, 2, 64, 2, 3).mean((2, 4))
        assert np.abs(averaged - shapes.render(scene, 5, 64, 64)).mean() < 3
