"""Pictures of a subject and of a style that come with a prompt: seen by the model, and in no frame."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vidjax
from vidjax import campaign
from vidjax.campaign import name_jobs, plan, read_jobs
from vidjax.encoding import encode_clip, make_condition
from vidjax.errors import InputError, MediaError
from vidjax.generation import generate_each
from vidjax.image import fit_image, pad_image
from vidjax.model import bundled, read_config
from vidjax.request import make_request
from vidjax.storyboard import read_storyboard
from vidjax.unfinished import describe
from vidjax.windows import Watch, open_windows

PROMPT = "the subject moves right on grass"
RNG = np.random.default_rng(0)
A, B, C, S = RNG.integers(0, 255, (4, 24, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def able(tiny):
    """The tiny model as if it were trained for pictures."""
    sampling = dataclasses.replace(tiny.config.sampling, references=3, style_image=True)
    return dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, sampling=sampling))


def latents(model, **asked):
    return vidjax.generate(model, PROMPT, output_type="latent", progress=False, **asked)


@pytest.fixture(scope="module")
def one(able):
    return latents(able, references=[A])


def test_pictures_are_seen_and_are_no_frames(able, one):
    """A clip that does not change with them has not seen them; one that is longer shows them."""
    plain = latents(able)
    assert one.shape == plain.shape == (1, 3, 1, 2, 4)
    found = [plain, one, latents(able, references=[B]), latents(able, references=[A, B]), latents(able, style_image=A)]
    for i, clip in enumerate(found):
        assert all(jnp.abs(clip - other).max() > 1e-3 for other in found[:i]), i


def test_pictures_are_encoded_as_they_are_fitted(able):
    """A reference is seen whole, as a picture of its own; the picture of a style covers the frame."""
    condition = make_condition(able, make_request(able, PROMPT, references=[A, B], style_image=S))
    expected = [encode_clip(able, pad_image(picture, 16, 32)[None]) for picture in (A, B)]
    np.testing.assert_array_equal(condition.references, jnp.concatenate(expected, axis=1))
    np.testing.assert_array_equal(condition.style, encode_clip(able, fit_image(S, 16, 32)[None]))
    assert not condition.mask.any(), "no frame of the clip is given"


def test_sampler_sees_them_too(able, one):
    """A program that jits the sampler must get the clip that people get."""
    condition = make_condition(able, make_request(able, PROMPT, references=[A]))
    found = jax.jit(vidjax.make_sampler(able))(able.params, jax.random.key(0), condition)
    np.testing.assert_allclose(found, one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [{"guidance": "apg"}, {"guidance_scale": 1.0}, {"image": C}])
def test_in_every_branch(able, settings):
    """Guidance must not lead away from the subject, and a picture must not push a given frame from its place."""
    asked = {"num_inference_steps": 2, **settings}
    a, b = (latents(able, references=[picture], **asked) for picture in (A, B))
    assert jnp.abs(a - b).max() > 1e-3
    if "image" in settings:
        np.testing.assert_array_equal(a[:, 0], b[:, 0])


@pytest.mark.parametrize(
    "pictures", [{"references": [A]}, {"style_image": S}, {"references": [A, B], "style_image": S}]
)
def test_guidance_is_of_the_pictures_too(able, pictures):
    """What guidance leads away from has not seen them; seen on both sides they would hardly count beside the words."""
    same = {"negative_prompt": PROMPT, "num_inference_steps": 1, "solver": "euler"}
    plain, seen = latents(able, **same, guidance_scale=1.0), latents(able, **same, **pictures, guidance_scale=1.0)
    found = latents(able, **same, **pictures, guidance_scale=4.0)
    assert jnp.abs(seen - plain).max() > 1e-3
    np.testing.assert_allclose(found, plain + 4.0 * (seen - plain), rtol=0, atol=1e-4)


def test_every_window_sees_them(able):
    """A subject that only the first window knows is another one after a second."""
    request = make_request(able, PROMPT, references=[A], num_frames=21)
    with open_windows(able, [request], Watch()) as make:
        past = jnp.zeros((1, 1, 1, 2, 4))
        other = make_request(able, PROMPT, references=[B], num_frames=21)
        with open_windows(able, [other], Watch()) as make_other:
            assert jnp.abs(make(2, past) - make_other(2, past)).max() > 1e-3
    assert latents(able, references=[A], num_frames=21).shape == (1, 6, 1, 2, 4)


def test_tiles_see_them_whole(tiny_folder):
    """Cut out of a picture of the large clip's size a tile would see a piece of the subject."""
    model = vidjax.load(tiny_folder)
    sampling = dataclasses.replace(model.config.sampling, references=3, style_image=True, refine=0.5)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, sampling=sampling))
    asked = {"resolution": 32, "num_inference_steps": 2}
    request = make_request(model, PROMPT, references=[A], style_image=S, **asked)
    large, small = (make_condition(model, each) for each in (request, request.base))
    np.testing.assert_array_equal(large.references, small.references)
    np.testing.assert_array_equal(large.style, small.style)
    a, b = (latents(model, references=[picture], **asked) for picture in (A, B))
    assert a.shape == (1, 3, 2, 4, 4)
    assert jnp.abs(a - b).max() > 1e-3


def test_batch_of_two_equals_them_alone(able):
    """Requests that are made together each have pictures of their own."""
    requests = [make_request(able, PROMPT, references=[picture], seed=i) for i, picture in enumerate((A, B))]
    assert requests[0].program == requests[1].program
    for video, request, picture in zip(generate_each(able, requests, 2), requests, (A, B), strict=True):
        alone = vidjax.generate(able, PROMPT, references=[picture], seed=request.seeds[0], progress=False)
        assert np.abs(video.frames.astype(int) - alone.frames).max() <= 1
    both = vidjax.generate(able, [PROMPT, "a blue star"], references=[A], output_type="latent", progress=False)
    np.testing.assert_allclose(both[:1], latents(able, references=[A]), rtol=0, atol=1e-4)


def test_numbers_make_programs(able):
    """Clips with one picture and with two cannot be one batch."""
    asked = ({}, {"references": [A]}, {"references": [A, B]}, {"references": [A, B, C]}, {"style_image": S})
    assert len({make_request(able, PROMPT, **each).program for each in asked}) == len(asked)


def test_what_is_not_whole_knows_its_pictures(able):
    """Windows of a clip of another subject would be gone on with."""
    asked = ({}, {"references": [A]}, {"references": [B]}, {"references": [A, B]}, {"style_image": A})
    told = [json.dumps(describe(able, make_request(able, PROMPT, **each))) for each in asked]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"references": [A, B, C, S]}, "references: 4 pictures; .* takes 1 to 3; nearest: 3"),
        ({"references": "a.png"}, "references: a list of 1 to 3 pictures is expected, not str"),
        ({"references": [A, "no.png"]}, "references, picture 2: There is no file"),
        ({"references": ["empty.png"]}, r"references, picture 1: .* is empty \(0 bytes\)"),
        ({"style_image": "empty.png"}, "style_image: .* is empty"),
        ({"style_image": 3}, "style_image: An image is a path"),
    ],
)
def test_what_does_not_go_is_refused(able, compilations, tmp_path, monkeypatch, asked, said):
    """Found late, each would cost minutes, or give a clip of somebody else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises((InputError, MediaError), match=said) as error:
        make_request(able, PROMPT, **asked)
    assert "\n" not in str(error.value)
    assert not compilations


@pytest.mark.parametrize(("name", "value"), [("references", [A]), ("style_image", A)])
def test_models_that_are_not_trained_for_it(tiny, name, value):
    """Pictures that a model never learnt to look at spoil the clip: better to say which models can be given them."""
    able = getattr(read_config(bundled()).sampling, name)
    who = "the bundled model can" if able else "models that were trained with (reference|style)_share can"
    with pytest.raises(InputError, match=f"{name}: .* is not trained to be given .*; {who}"):
        make_request(tiny, PROMPT, **{name: value})
    make_request(tiny, PROMPT, references=[], style_image=None)


def test_picture_is_padded():
    """A subject that is cut off, or squeezed, or in a box of another colour, is another one."""
    picture = np.full((40, 20, 3), (10, 200, 30), np.uint8)
    picture[10:30, 5:15] = (200, 0, 0)
    wide, tall = pad_image(picture, 20, 40), pad_image(picture.swapaxes(0, 1), 40, 20)
    np.testing.assert_array_equal(wide[:, ::39], tall.swapaxes(0, 1)[:, ::39])
    assert (wide[:, :15] == (10, 200, 30)).all()
    assert (wide[:, 25:] == (10, 200, 30)).all()
    red = wide[..., 0] > 150
    assert (red.any(1).sum(), red.any(0).sum()) == (10, 4)
    assert pad_image(picture[:1, :1], 7, 5).shape == (7, 5, 3)
    with pytest.raises(MediaError, match="0x4"):
        pad_image(picture, 0, 4)


@pytest.fixture
def drawn(tmp_path):
    """Two pictures in a folder of their own."""
    for name, picture in (("a.png", A), ("s.png", S)):
        Image.fromarray(picture).save(tmp_path / name)
    return tmp_path


def test_campaigns(able, drawn):
    """A line of a file or a template may name them, and its manifest makes the clip again."""
    paths = {"references": [str(drawn / "a.png")] * 2, "style_image": str(drawn / "s.png")}
    lines = [{"prompt": "a", **paths}, {"template": "{what} spins", "variables": {"what": ["it", "the one"]}, **paths}]
    lines += [{"prompt": "a"}, {"prompt": "b", "references": [str(drawn / "no.png")]}]
    (drawn / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    batches, errors = plan(able, read_jobs(drawn / "requests.jsonl"), 8)
    assert [len(batch.jobs) for batch in batches] == [3, 1]
    assert "references, picture 1: There is no file" in next(iter(errors.values()))
    for batch in batches:
        for job, settings in zip(batch.jobs, batch.settings, strict=True):
            again = make_request(able, **json.loads(json.dumps(settings)))
            first = make_request(able, **job.asked)
            assert again.program == first.program
            assert describe(able, again) == describe(able, first)
    assert campaign.run(able, name_jobs([{"prompt": "a", **paths}]), drawn / "clips").made == 1


def test_storyboards(able, drawn):
    """Of all shots or of one; from the file's own folder, as its other pictures are."""
    (drawn / "film.toml").write_text(
        """
        references = ["a.png", "/b.png"]
        [[shot]]
        prompt = "it spins"
        [[shot]]
        prompt = "it rests"
        references = ["c.png"]
        style_image = "s.png"
        """
    )
    first, second = (shot.asked for shot in read_storyboard(drawn / "film.toml"))
    assert first["references"] == [str(drawn / "a.png"), "/b.png"]
    assert "style_image" not in first
    assert second["references"] == [str(drawn / "c.png")]
    assert second["style_image"] == str(drawn / "s.png")
