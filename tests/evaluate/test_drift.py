"""Long clips: the joints are where the windows meet, and a jump there is told from one elsewhere."""

import dataclasses

import numpy as np
import pytest

from vidjax.data.shapes import held_out, render
from vidjax.errors import InputError
from vidjax.evaluate.adherence import judge
from vidjax.evaluate.detect import detect
from vidjax.evaluate.drift import borders, joint_flicker, judged, long_request, long_scenes, tail
from vidjax.long import Rollout, make_rollout

ROLLOUT = Rollout(length=11, size=5, overlap=2, ratio=4)
"""As the bundled model's: the first window is 5 latent frames, each later one 3 more."""


def test_borders():
    """Worked by hand: latents 5 and 8 begin windows, and latent n begins with frame 4 n - 3."""
    assert borders(ROLLOUT) == ([17, 29], [5, 9, 13, 21, 25, 33, 37])


def test_borders_are_the_roll_out_s(tiny):
    """If windows were joined elsewhere, the score would be of nothing."""
    rollout = make_rollout(tiny.config, 21)
    joints, inside = borders(rollout)
    starts = [rollout.frames(rollout.first(i)) for i in range(1, rollout.count)]
    assert joints == [k for k in starts if k <= 19]
    assert inside
    assert not set(inside) & set(starts)


def test_joint_flicker():
    """A clip that jumps at its joints, one that jumps at other borders as much, and one that never does."""
    steady = np.broadcast_to(np.arange(41, dtype=np.uint8)[:, None, None, None], (41, 8, 8, 3))
    joints, inside = borders(ROLLOUT)
    assert joint_flicker([steady, steady], ROLLOUT)[0] == 1

    def jumping(at, by):
        clip = steady.astype(int).copy()
        for k in at:
            clip[k:] += by
        return clip.astype(np.uint8)

    everywhere = jumping([*joints, *inside], 10)
    np.testing.assert_allclose(joint_flicker([everywhere], ROLLOUT)[0], 1)
    worse = jumping([*joints, *joints, *inside], 10)
    ratio, (low, high) = joint_flicker([worse, worse], ROLLOUT)
    np.testing.assert_allclose((ratio, low, high), 2)


def test_scenes_stay_in_view():
    """The detectors must see to the end what a right clip shows, or drift would be blamed on the model."""
    scenes = long_scenes(0, 4)
    assert [scene.action == "stays still" for scene in scenes] == [True, False, True, False]
    assert scenes[:2] == long_scenes(0, 2)
    for scene in scenes:
        assert held_out(scene)
        # From frame 58 on: in the middle of a bounce or a turn.
        words = judge(scene, detect(render(scene, 75, 64, 64)[-17:]))
        wrong = [word for word in words if word.name in judged(scene) and not word.right]
        assert not wrong
    assert "shape" in judged(scenes[0])


def test_long_request(tiny):
    """Duration wins over the number of frames of the short clips; the tail is what the autoencoder takes."""
    request = long_request(tiny, "", 6.0, 3, {"num_frames": 9, "solver": "euler"})
    assert (request.num_frames, request.solver, request.seeds) == (49, "euler", (3,))
    frames = np.zeros((49, 2, 2, 3), np.uint8)
    assert len(tail(frames, request)) == 33, "four seconds of eight frames, and one"
    assert len(tail(frames[:21], request)) == 21
    with pytest.raises(InputError, match="one window"):
        long_request(tiny, "", 1.0, 0, {})


def test_frame_by_frame_is_long_where_windows_are(tiny):
    """A clip of a window is not long however it is made; one made frame by frame has no joints to be seen."""
    sampling = dataclasses.replace(tiny.config.sampling, causal=True)
    trained = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, sampling=sampling))
    request = long_request(trained, "", 6.0, 0, {"causal": True})
    assert request.causal
    assert request.num_frames == 49
    assert not all(borders(request.rollout))
    with pytest.raises(InputError, match="one window"):
        long_request(trained, "", 1.0, 0, {"causal": True})
