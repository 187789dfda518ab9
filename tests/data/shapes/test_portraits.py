"""Portraits keep who a subject is and change all else; stills keep a style and change all else."""

import numpy as np
import pytest

from vidjax.data.shapes import COLOURS, SHAPES, STYLES, Subject, held_out, portrait, training_scene
from vidjax.data.shapes.places import RGB
from vidjax.data.shapes.portraits import LIGHT, Portraits
from vidjax.data.shapes.stills import Stills, _scenes
from vidjax.errors import InputError


def drawn(picture, colour):
    """Where the subject is, without its dark mark."""
    return np.abs(picture.astype(int) - RGB[colour]).max(axis=-1) <= 2


@pytest.mark.parametrize("shape", SHAPES)
def test_subject_is_whole_and_alone(shape):
    """What is cut off, or stands in a place, is not who it is."""
    for seed, colour in enumerate(COLOURS):
        picture = portrait(Subject(colour, shape), 64, 96, np.random.default_rng(seed))
        assert picture.shape == (64, 96, 3)
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border == border[0]).all(), "a plain ground all around"
        assert border.min() >= LIGHT[0]
        assert drawn(picture, colour).sum() > 100


def test_portraits_of_a_subject_differ():
    """Two equal pictures would teach to copy their place and size."""
    pictures = [portrait(Subject("blue", "star"), 64, 64, np.random.default_rng(i)) for i in range(8)]
    areas = [drawn(picture, "blue").sum() for picture in pictures]
    middles = [np.argwhere(drawn(picture, "blue")).mean(axis=0) for picture in pictures]
    assert max(areas) > 1.5 * min(areas)
    assert np.ptp(middles, axis=0).min() > 2
    same = portrait(Subject("blue", "star", "small"), 64, 64, np.random.default_rng(0))
    np.testing.assert_array_equal(same, pictures[0])


def test_portraits_are_found():
    """Those of another subject beside a clip would teach to look away."""
    source = Portraits(32, 32, each=2)
    assert len(source) == 7 * 5 * 2
    places = [source.of(Subject(colour, shape)) for colour in COLOURS for shape in SHAPES]
    assert [i for of in places for i in of] == list(range(len(source)))
    for colour in COLOURS:
        for i in source.of(Subject(colour, "heart")):
            picture = source[i]["video"][0]
            assert drawn(picture, colour).sum() > 20
            np.testing.assert_array_equal(picture, source[i]["video"][0])
    with pytest.raises(IndexError):
        source[70]


def test_size_is_checked():
    with pytest.raises(InputError, match="portrait of 0x4"):
        portrait(Subject(), 0, 4, np.random.default_rng(0))


def test_stills_show_the_style_alone():
    """If place or colour were the clip's, the picture would be copied for these."""
    source = Stills(32, 48, each=12)
    assert len(source) == 12 * len(STYLES)
    assert source[7]["video"].shape == (1, 32, 48, 3)
    scenes = _scenes(12)
    assert not any(map(held_out, scenes))
    for i in range(40):
        scene = training_scene(0, i)
        like = source.like(scene)
        assert like
        for still in (scenes[j] for j in like):
            assert still.style == scene.style
            assert still.place != scene.place
            assert not {s.colour for s in still.subjects} & {s.colour for s in scene.subjects}
