"""Clips made latent frame by latent frame: in order, as trained, at the same cost from the first to the last."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax import forecast, unfinished
from vidjax.encoding import encode_clip, encode_texts
from vidjax.errors import InputError
from vidjax.generation import generate_each
from vidjax.image import fit_image
from vidjax.long import Rollout
from vidjax.models.wan import denoiser
from vidjax.parallel import make_mesh
from vidjax.request import make_request
from vidjax.windows import window_noise

PROMPT = "a small red circle moves right on grass"
OTHER = "a large blue star spins in the snow"
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def trained(tiny):
    """The tiny model, said to be trained for it."""
    sampling = dataclasses.replace(tiny.config.sampling, causal=True)
    return dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, sampling=sampling))


def latents(model, prompt=PROMPT, **asked):
    return np.asarray(vidjax.generate(model, prompt, output_type="latent", causal=True, progress=False, **asked))


@pytest.fixture(scope="module")
def eight(trained):
    """Latents of 29 frames; a window of the model is three of them."""
    return latents(trained, num_frames=29)


def test_blocks_are_walked_as_clips_are_trained(trained, eight):
    """Frame by frame, Euler's steps of the guided causal velocity of a clip: what training sees is what is sampled."""
    found = latents(trained, num_frames=9, solver="euler")
    config, params = trained.config.transformer, trained.params["transformer"]
    request = make_request(trained, PROMPT, num_frames=9, solver="euler", causal=True)
    texts = encode_texts(trained, [PROMPT], [""])
    contexts = [denoiser.context(config, params, text) for text in texts]
    velocity = jax.jit(denoiser.velocity, static_argnames="config")
    clip = jnp.zeros((1, 3, *found.shape[2:]))
    for i in range(3):
        x = window_noise(0, i, (1, *found.shape[2:]))[None]
        for t, gap in zip(request.schedule.times, np.diff(request.schedule.sigmas), strict=True):
            times = jnp.zeros((1, 3)).at[:, i:].set(t)
            noisy = clip.at[:, i : i + 1].set(x)
            positive, negative = (
                velocity(config, params, noisy, times, c, causal=jnp.asarray(True))[:, i : i + 1] for c in contexts
            )
            x = x + gap * (negative + 3.0 * (positive - negative))
        clip = clip.at[:, i : i + 1].set(x)
    np.testing.assert_allclose(found, clip, rtol=0, atol=1e-4)


def test_begins_as_the_shorter_clip(trained, eight):
    """What comes later cannot change what was shown, nor can the length of the clip."""
    assert eight.shape == (1, 8, 1, 2, 4)
    np.testing.assert_array_equal(latents(trained, num_frames=13), eight[:, :4])
    assert np.isfinite(eight).all()
    assert np.abs(latents(trained, num_frames=9, seed=1) - eight[:, :3]).min(axis=(2, 3, 4)).max() > 0


def test_all_blocks_are_one_program(trained, compilations):
    """A compilation for each block, or for each length, would be noticed with every frame."""
    chunks = list(vidjax.stream(trained, PROMPT, num_frames=5, causal=True))
    assert [len(chunk) for chunk in chunks] == [1, 4]
    compilations.clear()
    assert sum(map(len, vidjax.stream(trained, PROMPT, num_frames=37, causal=True))) == 37
    assert not compilations


def test_first_frame_does_not_wait(trained):
    """Of a stream the first frame is there when its block is; the next ones are not begun."""
    stages = []
    asked = {"num_frames": 17, "causal": True, "on_stage": lambda name, seconds: stages.append(name)}
    chunks = vidjax.stream(trained, PROMPT, **asked)
    first = next(chunks)
    assert first.shape == (1, 16, 32, 3)
    assert stages == ["text", "sampling"]
    frames = np.concatenate([first, *chunks])
    np.testing.assert_array_equal(
        frames, vidjax.generate(trained, PROMPT, num_frames=17, causal=True, progress=False).frames
    )


def test_picture_is_the_first_block(trained, eight):
    """The first frame is the picture, and what follows goes on from it."""
    found = latents(trained, num_frames=29, image=PICTURE)
    expected = encode_clip(trained, fit_image(PICTURE, 16, 32)[None])
    np.testing.assert_allclose(found[:, :1], expected, rtol=0, atol=1e-5)
    assert np.abs(found - eight)[:, 1:].min(axis=(2, 3, 4)).max() > 1e-4


def test_prompt_changes_from_a_frame_on(trained, eight):
    """Frames before the change stay; then the new words hold, and what was seen still counts."""
    changed = latents(trained, {0: PROMPT, 1.3: OTHER}, num_frames=29)
    np.testing.assert_array_equal(changed[:, :3], eight[:, :3])
    assert np.abs(changed[:, 3] - eight[:, 3]).max() > 1e-3
    other = latents(trained, {0: OTHER + " at night", 1.3: OTHER}, num_frames=29)
    assert np.abs(changed[:, 4] - other[:, 4]).max() > 1e-4


@pytest.mark.parametrize(
    "asked",
    [{"guidance_scale": 1.0}, {"guidance_interval": (0.2, 0.8)}, {"solver": "heun", "guidance": "apg"}],
    ids=str,
)
def test_settings_hold(trained, eight, asked):
    """Without guidance there is one branch, in an interval the prompt's own branch is used alone."""
    found = latents(trained, num_frames=17, **asked)
    assert np.isfinite(found).all()
    assert np.abs(found - eight[:, :5]).max() > 1e-4
    np.testing.assert_array_equal(latents(trained, num_frames=9, **asked), found[:, :3])


def test_clips_of_a_batch_do_not_meet(trained, eight):
    """Each clip has its own noise, words and cache."""
    both = latents(trained, [OTHER, PROMPT], seed=[5, 0], num_frames=29)
    np.testing.assert_allclose(both[1:], eight, rtol=0, atol=1e-4)
    alone = vidjax.generate(trained, OTHER, seed=5, num_frames=13, causal=True, progress=False)
    asked = [{"prompt": PROMPT, "seed": 1}, {"prompt": OTHER, "seed": 5}]
    requests = [make_request(trained, num_frames=13, causal=True, **each) for each in asked]
    assert np.abs(generate_each(trained, requests, 3)[1].frames.astype(int) - alone.frames).max() <= 1


def test_mesh_makes_the_same(trained, tiny_folder, eight):
    """The cache is split as the tokens are."""
    spread = vidjax.load(tiny_folder, mesh=make_mesh(data=4, context=2))
    spread = dataclasses.replace(spread, config=trained.config)
    np.testing.assert_allclose(latents(spread, num_frames=29), eight, rtol=0, atol=1e-3)


class StoppedError(Exception):
    """As Ctrl-C."""


@pytest.mark.parametrize("image", [None, PICTURE], ids=["words", "picture"])
def test_stopped_clip_ends_as_another(trained, tmp_path, image):
    """The cache is not kept, but what is written into it again: to the byte the same clip."""
    asked = {"num_frames": 29, "causal": True, "image": image}
    expected = np.concatenate(list(vidjax.stream(trained, PROMPT, **asked)))
    seen = []

    def stop(name, seconds):
        seen.append(name)
        if seen.count("sampling") == 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        list(vidjax.stream(trained, PROMPT, workdir=tmp_path / "part", on_stage=stop, **asked))
    files = sorted((tmp_path / "part").glob("window-*.npy"))
    assert len(files) == 5
    written = files[0].stat().st_mtime_ns
    chunks = vidjax.stream(trained, PROMPT, workdir=tmp_path / "part", **asked)
    found = [next(chunks)]
    assert files[0].stat().st_mtime_ns == written
    np.testing.assert_array_equal(np.concatenate([*found, *chunks]), expected)
    assert not (tmp_path / "part").exists()


def test_another_mode_is_another_clip(trained, tmp_path):
    """Frames of two ways to make a clip must not be mixed."""
    whole, causal = (make_request(trained, PROMPT, num_frames=1, causal=kind) for kind in (False, True))
    assert whole.program != causal.program
    assert unfinished.describe(trained, whole) != unfinished.describe(trained, causal)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"last_image": PICTURE}, "last_image with causal"),
        ({"keyframes": {4: PICTURE}}, "keyframes with causal"),
        ({"video": np.zeros((9, 16, 32, 3), np.uint8)}, "video with causal"),
        ({"latents": np.zeros((1, 3, 1, 2, 4))}, "latents with causal"),
        ({"resolution": 32}, "resolution with causal: .* nearest: 16x32"),
        ({"resolution": 32, "refine": 0.3}, "refine with causal"),
        ({"num_frames": 12}, "num_frames=12"),
        ({"prompt": {0: PROMPT, 0.95: OTHER, 1.0: PROMPT}}, "pieces of 0.5 s"),
    ],
    ids=str,
)
def test_what_does_not_go_with_it_is_refused(trained, compilations, asked, said):
    """Before anything is compiled, in one line."""
    with pytest.raises(InputError, match=said) as error:
        make_request(trained, **{"prompt": PROMPT, "causal": True, "num_frames": 29, **asked})
    assert "\n" not in str(error.value)
    assert not compilations


def test_untrained_models_refuse(tiny):
    """What a model was not trained for looks like noise."""
    with pytest.raises(InputError, match="is not trained to make clips frame by frame; training with causal_share"):
        make_request(tiny, PROMPT, causal=True)


def test_plan_says_it(trained):
    """People should see before they wait which way it is made, and what memory the cache takes."""
    request = make_request(trained, PROMPT, num_frames=721, causal=True)
    assert request.rollout == Rollout(181, 1, 0, 4)
    plan = "181 latent frames made one after another, 3 steps each: 721 of 32x16, 90.1 s"
    assert forecast.outline(request) == plan
    short = forecast.memory(trained, make_request(trained, PROMPT, num_frames=5, causal=True))
    assert short == forecast.memory(trained, request)
    assert short.sampling > short.parameters
