import numpy as np
import pytest

from vidjax.data import shapes
from vidjax.data.shapes import Scene, Subject
from vidjax.errors import InputError


def test_parse_inverts_caption():
    """Captions are the only thing a text model sees: two scenes with one sentence, or a lost factor, end up here."""
    rng = np.random.default_rng(0)
    for _ in range(1500):
        scene = shapes.sample_scene(rng)
        sentence = shapes.caption(scene, rng)
        assert shapes.factors(shapes.parse(sentence)) == shapes.factors(scene), sentence


def test_vocabulary_is_small_and_complete():
    """A whole-word tokenizer is built from it: a word missing there would be unknown to the bundled model."""
    rng = np.random.default_rng(1)
    used = set()
    for _ in range(3000):
        scene = shapes.sample_scene(rng)
        used.update(shapes.caption(scene, rng).replace(",", "").split())
        if len(scene.subjects) == 1:
            used.update(shapes.caption(scene, rng, ("subject",)).replace(",", "").split())
        used.update(shapes.caption(scene, rng, ("size",)).replace(",", "").split())
    assert used == set(shapes.vocabulary())
    assert len(used) < 150


def test_what_pictures_show_is_not_told():
    """A caption that told it would leave nothing to look at the pictures for; all else must be told."""
    rng, told = np.random.default_rng(3), set()
    for i in range(300):
        scene = shapes.training_scene(0, i)
        if len(scene.subjects) > 1:
            continue
        sentence = shapes.caption(scene, rng, ("subject", "style"))
        words = sentence.replace(",", "").split()
        assert not {*shapes.COLOURS, *shapes.SHAPES, *shapes.STYLES, "film", "drawn", "painted"} & {*words}
        found = shapes.parse(sentence)
        assert (found.action, found.place, found.camera) == (scene.action, scene.place, scene.camera)
        if "one" in words:
            assert found.subjects[0].size == scene.subjects[0].size
        told |= {*words} & {"it", "subject", "one"}
    assert told == {"it", "subject", "one"}
    pair = next(s for s in map(shapes.training_scene, [0] * 50, range(50)) if len(s.subjects) == 2)
    assert shapes.parse(shapes.caption(pair, rng, ("style",))).subjects == pair.subjects


@pytest.mark.parametrize("untold", [("size",), ("action",), ("place",), ("size", "action", "place")])
def test_what_is_untold_is_left_out(untold):
    """People write "an orange star at night": what such a caption says must still be the scene's, and no more."""
    rng = np.random.default_rng(5)
    for i in range(200):
        scene = shapes.training_scene(0, i)
        sentence = shapes.caption(scene, rng, untold)
        found, plain = shapes.parse(sentence), Scene()
        for name in ("action", "place", "camera", "style"):
            assert getattr(found, name) == getattr(plain if name in untold else scene, name), sentence
        for own, seen in zip(scene.subjects, found.subjects, strict=True):
            assert (seen.colour, seen.shape) == (own.colour, own.shape), sentence
            assert seen.size == (Subject().size if "size" in untold else own.size), sentence
        assert "a orange" not in sentence
        assert "  " not in sentence
        assert not sentence.endswith((" ", ","))


def test_one_scene_has_many_sentences():
    """With one fixed template the text encoder would learn positions instead of words."""
    rng = np.random.default_rng(2)
    scene = shapes.training_scene(0, 0)
    assert len({shapes.caption(scene, rng) for _ in range(200)}) > 50


def test_what_is_not_said_is_the_default():
    """A short prompt must still give a scene, with nothing in it that was not asked for."""
    assert shapes.parse("a blue star") == Scene(subjects=(Subject("blue", "star"),))
    assert shapes.parse("a caravan rests by the sea") == Scene(place="sea", action="stays still")


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "A SMALL Red circle moves right on grass, watercolour style",
            ("moves right", "grass", "static", "watercolor"),
        ),
        ("two things: a red ball flying to the left at sea", ("moves left", "sea", "static", "plain")),
        ("film look. A red circle spinning, seen from above, on the snow", ("spins", "snow", "aerial", "cinematic")),
        ("a red circle goes up across a green field, zooming out", ("moves up", "grass", "zooms out", "plain")),
    ],
)
def test_other_common_words_are_understood(sentence, expected):
    """People do not write the exact phrases; 'a green field' must not make the circle green."""
    scene = shapes.parse(sentence)
    assert scene.subjects[0].colour == "red"
    assert scene.subjects[0].shape == "circle"
    assert (scene.action, scene.place, scene.camera, scene.style) == expected


def test_two_subjects_keep_their_own_words():
    """A mixed-up pair would score a right clip as wrong."""
    scene = shapes.parse("a small red circle and a large blue star move right at night, pan left")
    assert scene.subjects == (Subject("red", "circle", "small"), Subject("blue", "star", "large"))
    assert (scene.action, scene.camera) == ("moves right", "pans left")


def test_errors_name_the_problem():
    """A prompt from outside this world must not silently be scored as the default scene."""
    with pytest.raises(InputError, match="no word of the shapes world"):
        shapes.parse("quarterly earnings")
    with pytest.raises(InputError, match="3 subjects"):
        shapes.parse("a red star, a blue star and a green star")
