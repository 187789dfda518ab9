"""Cameras as objects: each says in words what it does."""

import pytest

import vidjax
from vidjax.conditioning.camera import PHRASES, Camera, parse, words
from vidjax.data.shapes.captions import CAMERA_PHRASES
from vidjax.errors import InputError
from vidjax.request import make_request


def test_every_movement_has_its_constructor():
    """A movement that only text could name would be found by nobody who has the object."""
    for name in PHRASES:
        camera = getattr(Camera, name.replace(" ", "_"))()
        assert camera == parse(name) == parse(name.replace(" ", "_")) == parse(f" {name.upper()} ")
        assert words(camera)


def test_words_are_those_the_bundled_model_knows():
    """Told in words that it never read, the bundled model would do something else."""
    known = {phrase for phrases in CAMERA_PHRASES.values() for phrase in phrases}
    for name in PHRASES:
        if name.split()[0] in ("static", "pan", "tilt", "zoom", "track", "aerial"):
            assert words(parse(name)) in known, name


def test_several_at_once_and_their_speeds():
    """Two sentences about the camera would read as one after the other."""
    camera = Camera.pan_left(0.5) + Camera.zoom_in() + Camera.tilt_up(2)
    assert words(camera) == "the camera pans left slowly and zooms in and tilts up quickly"
    assert parse("pan left 0.5 + zoom in+tilt up 2.0") == camera
    assert words(Camera.track() + Camera.zoom_in()) == "tracking shot, the camera zooms in"


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        ("pan", "camera='pan': choose of static, pan left"),
        ("pan up", "camera='pan up': choose"),
        ("", "camera='': choose"),
        ("pan left +", "camera='': choose"),
        ("pan left + pan left", "each movement once"),
        ("static + pan left", "a static camera does not move"),
        ("zoom in + zoom out", "in and out at once"),
        ("pan left 0", "camera's speed=0.0: must lie between 0.1 and 10; nearest: 0.1"),
        ("pan left -1", "camera's speed=-1.0: must lie between"),
        ("pan left 1.2.3", "camera's speed '1.2.3': a number"),
    ],
)
def test_refused(tiny, compilations, camera, said):
    """A camera that is not understood must not be left out in silence."""
    with pytest.raises(InputError, match=said) as error:
        make_request(tiny, "a red circle", camera=camera)
    assert "\n" not in str(error.value)
    assert not compilations


def test_prompts_say_it_and_a_warning_says_so(tiny):
    """Each prompt of a clip and of a list; people must learn that it was words that the model got."""
    with pytest.warns(UserWarning, match="no input for the camera: the prompt says 'the camera pans left'"):
        request = make_request(tiny, [{0: "a", 0.6: "b"}, ""], num_frames=21, camera=vidjax.Camera.pan_left())
    assert request.texts[0] == ("a, the camera pans left", "the camera pans left")
    assert request.texts[-1] == ("b, the camera pans left", "the camera pans left")


def test_speeds_are_numbers_in_any_spelling():
    """A speed that is read as part of the name is answered with a list of all names."""
    assert parse("pan left 5e-1 + zoom in 1e+0") == Camera.pan_left(0.5) + Camera.zoom_in()
    with pytest.raises(InputError, match=r"camera's speed=100.0: must lie between 0.1 and 10; nearest: 10"):
        parse("pan left 1e2")
    with pytest.raises(InputError, match=r"camera's speed '1e400': must lie between 0.1 and 10; nearest: 10"):
        parse("pan left 1e400")
