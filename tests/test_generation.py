"""From words, and perhaps a picture, to a clip: on the tiny random model, through the public function."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.decoding import decode
from vidjax.diffusion.flow import initial_noise
from vidjax.encoding import make_condition
from vidjax.errors import InputError
from vidjax.models.wan import vae
from vidjax.parallel import make_mesh
from vidjax.request import make_request

PROMPTS = [
    "a small red circle moves right on grass, watercolor style",
    "a large blue star spins in the snow",
    "a green heart grows at night, anime style, the camera pans left",
    "a pink square bounces in the desert",
    "",
    "a dog runs",
    "a small yellow triangle and a large purple circle rise at sea",
    "aerial view, an orange square moves left on sand",
]
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)


def latents(model, prompt, **asked):
    return np.asarray(vidjax.generate(model, prompt, output_type="latent", progress=False, **asked))


@pytest.fixture(scope="module")
def eight(tiny):
    """Latents of all prompts, made as one batch."""
    return latents(tiny, PROMPTS)


@pytest.fixture(scope="module")
def clip(tiny):
    """The first prompt's clip."""
    return vidjax.generate(tiny, PROMPTS[0], progress=False)


def test_clip_has_the_size_that_was_asked_for(tiny, clip):
    """Height and width, frames and latent frames are easily mixed up; the tiny model's all differ."""
    assert isinstance(clip, vidjax.Video)
    assert clip.frames.shape == (9, 16, 32, 3)
    assert (clip.frames.dtype, clip.fps) == (np.uint8, 8.0)
    assert clip.frames.std() > 1, "a uniform clip would pass every comparison below"


def test_a_seed_is_a_clip(tiny, clip):
    """The same words and seed must give the same clip for ever, and another seed another one."""
    again = vidjax.generate(tiny, PROMPTS[0], seed=0, progress=False)
    np.testing.assert_array_equal(again.frames, clip.frames)
    other = vidjax.generate(tiny, PROMPTS[0], seed=1, progress=False)
    assert np.abs(other.frames.astype(int) - clip.frames).mean() > 1


def test_list_equals_single_calls(tiny, eight):
    """Clips of a batch must not see each other; clip i has seed + i."""
    for i in (0, 5):
        np.testing.assert_allclose(latents(tiny, PROMPTS[i], seed=i)[0], eight[i], rtol=0, atol=1e-4)
    videos = vidjax.generate(tiny, PROMPTS[:1], progress=False)
    assert isinstance(videos, list)
    assert len(videos) == 1


def test_words_count(tiny, eight):
    """If text, negative text or guidance did not reach the denoiser, clips would differ by their noise alone."""
    first = eight[:1]
    assert np.abs(latents(tiny, PROMPTS[1]) - first).max() > 1e-2
    assert np.abs(latents(tiny, PROMPTS[0], negative_prompt="a large blue star") - first).max() > 1e-2
    assert np.abs(latents(tiny, PROMPTS[0], guidance_scale=6.0) - first).max() > 1e-2
    assert np.isfinite(latents(tiny, "")).all()


def test_starting_noise_is_respected(tiny, eight):
    """Two programs are compared by giving both the same noise."""
    noise = initial_noise(jax.random.key(3), eight.shape[1:])[None]
    np.testing.assert_array_equal(latents(tiny, PROMPTS[0], latents=noise), latents(tiny, PROMPTS[0], seed=3))
    np.testing.assert_array_equal(latents(tiny, PROMPTS[0], latents=noise, seed=9), latents(tiny, PROMPTS[0], seed=3))


def test_picture_is_the_first_frame(tiny, eight):
    """A first latent frame that drifts from the picture's own is a clip of something that looks like it."""
    given = latents(tiny, PROMPTS[0], image=PICTURE)
    condition = make_condition(tiny, make_request(tiny, PROMPTS[0], image=PICTURE))
    np.testing.assert_array_equal(given[:, 0], condition.given[:, 0])
    np.testing.assert_array_equal(condition.mask, [[True, False, False]])

    config, params = tiny.config.vae, tiny.params["vae"]
    pixels = jnp.asarray(PICTURE / 127.5 - 1, jnp.float32)[None, None]
    (mean, _), _ = jax.jit(vae.encode_chunk, static_argnums=0)(config, params, None, pixels)
    own = (mean - np.asarray(config.latents_mean)) / np.asarray(config.latents_std)
    np.testing.assert_allclose(given[:, :1], own, rtol=0, atol=1e-4 * np.abs(own).max())
    assert np.abs(given[:, 1:] - eight[:1, 1:]).max() > 1e-2, "the other frames must see the picture"


def test_mesh_gives_the_same_clips(tiny, tiny_folder, eight, clip):
    """The same seed must give the same clip on one device and on eight."""
    spread = vidjax.load(tiny_folder, mesh=make_mesh(data=8))
    found = vidjax.generate(spread, PROMPTS, output_type="latent", progress=False)
    assert found.sharding.shard_shape(found.shape)[0] == 1, "each device has a clip of its own"
    np.testing.assert_allclose(found, eight, rtol=0, atol=1e-5 * np.abs(eight).max())
    frames = np.concatenate(list(decode(spread, found)), axis=1)
    assert frames.shape == (8, 9, 16, 32, 3)
    assert np.abs(frames[0].astype(int) - clip.frames).max() <= 1


def test_long_prompt_is_cut_and_said_so(tiny):
    """A megabyte by mistake (a file in place of a sentence) must neither hang nor be cut in silence."""
    with pytest.warns(UserWarning, match="longer than the 32 tokens .* at least 24969 at its end are left out"):
        cut = latents(tiny, "red " * 250_000)
    with pytest.warns(UserWarning, match=r"prompt 'red\\nred.* 9 at its end are left out") as said:
        short = latents(tiny, "red\n" * 40)
    assert "\n" not in str(said[0].message)
    np.testing.assert_array_equal(cut, short)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(latents(tiny, "red " * 31), short)


def test_stages_and_progress(tiny, clip, capsys):
    """The command line reports them; a program that asked for silence must get it."""
    stages = []
    vidjax.generate(tiny, PROMPTS[0], progress=False, on_stage=lambda name, seconds: stages.append(name))
    assert stages == ["text", "sampling", "decoding"]
    assert capsys.readouterr() == ("", "")
    vidjax.generate(tiny, PROMPTS[0])
    assert "3/3" in capsys.readouterr().err


def test_refusal_comes_before_compilation(tiny, compilations):
    """The nearest size that fits is of use before the minutes of compiling, not after."""
    with pytest.raises(InputError, match="nearest: 48"):
        vidjax.generate(tiny, PROMPTS[0], width=50)
    assert not compilations
