"""Clips of several windows: each goes on from the one before, from its latents or from its last frame."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import vidjax
from vidjax.encoding import encode_clip, make_condition
from vidjax.errors import InputError
from vidjax.generation import generate_each
from vidjax.long import Rollout, make_rollout, texts_by_window
from vidjax.models.clip import CLIPConfig
from vidjax.models.wan import vae
from vidjax.request import make_request
from vidjax.windows import window_noise

PROMPT = "a small red circle moves right on grass"
OTHER = "a large blue star spins in the snow"
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)


def latents(model, prompt=PROMPT, **asked):
    return np.asarray(vidjax.generate(model, prompt, output_type="latent", progress=False, **asked))


@pytest.fixture(scope="module")
def six(tiny):
    """Latents of 21 frames: four windows of three latent frames, of which each shares two with the one before."""
    return latents(tiny, num_frames=21)


@pytest.mark.parametrize("length", range(1, 40))
@pytest.mark.parametrize(("size", "overlap", "remade"), [(5, 2, 0), (5, 2, 1), (3, 2, 0), (3, 2, 2), (21, 1, 0)])
def test_new_frames_are_the_clip(length, size, overlap, remade):
    """A frame that two windows show, or none, is a stutter or a jump."""
    rollout = Rollout(length, size, overlap, 4, remade=remade) if length > size else Rollout(length, length, 0, 4)
    shown = []
    for i in range(rollout.count):
        new = rollout.new(i)
        assert new.stop > new.start
        assert new.stop <= rollout.size
        start = rollout.first(i) - new.start
        shown += range(start + new.start, start + new.stop)
    assert shown == list(range(length))


@pytest.mark.parametrize("length", range(6, 20))
def test_new_frames_behind_a_clip(length):
    """The frames of the clip that is gone on with stay: its last ones are not made anew."""
    rollout = Rollout(length, 5, 2, 4, begun=1, remade=1)
    slices = [(i * 3, rollout.new(i)) for i in rollout.windows]
    assert [n for start, new in slices for n in range(start + new.start, start + new.stop)] == list(range(5, length))


def test_windows_are_the_models_own(tiny):
    """Windows longer than what the weights were trained for would be sampled from another distribution."""
    assert make_rollout(tiny.config, 9) == Rollout(3, 3, 0, 4)
    assert make_rollout(tiny.config, 5) == Rollout(2, 2, 0, 4)
    assert make_rollout(tiny.config, 13) == Rollout(4, 3, 2, 4)
    assert make_request(tiny, PROMPT, duration=90.0).num_frames == 721
    assert make_request(tiny, PROMPT, duration=90.0).rollout.count == 179


def test_prompts_hold_from_the_nearest_window_on():
    """Windows of 2.0 s, then pieces of 1.5 s: a change at 6 s is nearest to the joint at 6.6 s or to that at 5.1 s."""
    rollout = Rollout(20, 5, 2, 4)
    assert [rollout.frames(rollout.first(i)) / 8 for i in range(6)] == [0, 2.125, 3.625, 5.125, 6.625, 8.125]
    assert "".join(texts_by_window([(0.0, "a"), (5.8, "b")], rollout, 8.0)) == "aaabbb"
    assert "".join(texts_by_window([(0.0, "a"), (5.9, "b")], rollout, 8.0)) == "aaaabb"
    assert "".join(texts_by_window([(0.0, "a"), (3.0, "b"), (4.5, "c")], rollout, 8.0)) == "aabccc"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompt": {0: PROMPT, 3.0: OTHER}}, "from 3 s on: it would hold nowhere in a clip of 2.6 s"),
        ({"prompt": {0: PROMPT, 1.0: OTHER, 1.1: PROMPT}}, "from 1 s on: .* pieces of 0.5 s"),
        ({"prompt": {0: PROMPT, 0.5: OTHER}, "num_frames": 9}, "from 0.5 s on: .* in one piece, of one prompt"),
        ({"prompt": {1.0: PROMPT}}, "begins at 0, as in"),
        ({"prompt": {}}, "begins at 0"),
        ({"prompt": {0: PROMPT, -1.0: OTHER}}, "prompt's seconds=-1.0: must lie between 0 and"),
        ({"latents": np.zeros((1, 6, 1, 2, 4))}, "latents: .* comes from seed; give num_frames=9 at most"),
    ],
    ids=str,
)
def test_what_cannot_be_rolled_out_is_refused(tiny, compilations, asked, said):
    """A prompt that is silently never shown is found after an hour of sampling."""
    with pytest.raises(InputError, match=said) as error:
        make_request(tiny, **{"prompt": PROMPT, "num_frames": 21, **asked})
    assert "\n" not in str(error.value)
    assert not compilations


def test_begins_as_the_shorter_clip(tiny, six):
    """The first window is today's clip of one window, bit for bit, and what comes later cannot change what was."""
    assert six.shape == (1, 6, 1, 2, 4)
    np.testing.assert_array_equal(latents(tiny), six[:, :3])
    np.testing.assert_array_equal(latents(tiny, num_frames=17), six[:, :5])


def test_windows_are_given_the_latents_before(tiny, six):
    """Each window is what the pure sampler makes of its seed and of two clean latent frames, and nothing else."""
    sample = jax.jit(vidjax.make_sampler(tiny))
    words = make_condition(tiny, make_request(tiny, PROMPT))
    for i in (1, 3):
        given = words.given.at[:, :2].set(six[:, i : i + 2])
        condition = words._replace(given=given, mask=jnp.asarray([[True, True, False]]))
        found = sample(tiny.params, jax.random.fold_in(jax.random.key(0), i), condition)
        np.testing.assert_allclose(found[:, 2], six[:, i + 2], rtol=0, atol=1e-4)
    alone = sample(tiny.params, jax.random.fold_in(jax.random.key(0), 1), words)
    assert np.abs(alone[:, 2] - six[:, 3]).max() > 1e-2, "what is given must count"


def test_windows_mend_what_they_go_on_from(tiny, six):
    """Models that learned to: seen clean it were not as trained, and left as it was the joint would show."""
    sampling = dataclasses.replace(tiny.config.sampling, past_noise=0.8)
    model = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, sampling=sampling))
    found = latents(model, num_frames=13)
    np.testing.assert_array_equal(found[:, :2], six[:, :2])
    words, noise = make_condition(tiny, make_request(tiny, PROMPT)), window_noise(0, 1, (3, 1, 2, 4))
    given = words.given.at[:, :2].set(six[:, 1:3])
    condition = words._replace(given=given, mask=jnp.asarray([[True, True, False]]))
    condition = condition._replace(times=jnp.asarray([[0.8, 0.8, 0.0]]), noise=noise[None])
    made = jax.jit(vidjax.make_sampler(tiny))(tiny.params, jax.random.key(7), condition)
    assert np.abs(made[:, 2] - found[:, 3]).max() > 1e-3, "other noise"
    key = jax.random.fold_in(jax.random.key(0), 1)
    made = jax.jit(vidjax.make_sampler(tiny))(tiny.params, key, condition)
    np.testing.assert_allclose(made[:, 1:], found[:, 2:], rtol=0, atol=1e-4)
    assert np.abs(found[:, 2] - six[:, 2]).max() > 1e-3, "as the window before left it"
    assert np.abs(found[:, 3] - six[:, 3]).max() > 1e-3, "as if it had been clean"


def test_pictures_at_a_joint_are_not_mended(tiny):
    """They are right as they are, in whichever window they are shown."""
    sampling = dataclasses.replace(tiny.config.sampling, past_noise=0.8, given="any")
    model = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, sampling=sampling))
    picture = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    want = encode_clip(model, np.stack([picture] * 9))[:, -1]
    for frame in (8, 12):
        found = latents(model, num_frames=17, keyframes={frame: picture})
        np.testing.assert_array_equal(found[:, frame // 4], want)


def test_joints_are_seamless(tiny, six):
    """A decoder that began anew at a joint would flash there: the frames are those of one decoding of all latents."""
    frames = vidjax.generate(tiny, PROMPT, num_frames=21, progress=False).frames
    config = tiny.config.vae
    whole = jax.jit(vae.decode, static_argnums=0)(config, tiny.params["vae"], vae.denormalize(config, jnp.asarray(six)))
    assert frames.shape == (21, 16, 32, 3)
    assert np.abs(frames - np.asarray((whole[0] + 1) * 127.5)).max() <= 1


def test_windows_are_one_program(tiny, compilations):
    """A compilation for each window would make minutes of video take hours."""
    assert sum(map(len, vidjax.stream(tiny, PROMPT, num_frames=17))) == 17
    compilations.clear()
    assert sum(map(len, vidjax.stream(tiny, PROMPT, num_frames=37))) == 37
    assert not compilations


def test_prompt_changes_from_a_window_on(tiny, six):
    """Windows before the change are those without it, and later ones must see the new words."""
    changed = latents(tiny, {0: PROMPT, 1.6: OTHER}, num_frames=21)
    np.testing.assert_array_equal(changed[:, :4], six[:, :4])
    assert np.abs(changed[:, 4] - six[:, 4]).max() > 1e-2
    other = latents(tiny, {0: PROMPT, 1.6: PROMPT + " at night"}, num_frames=21)
    assert np.abs(changed[:, 4] - other[:, 4]).max() > 1e-2


def test_clips_of_a_batch_do_not_meet(tiny, six):
    """What is given to one clip's window must be its own."""
    both = latents(tiny, [OTHER, PROMPT], seed=[5, 0], num_frames=21)
    np.testing.assert_allclose(both[1:], six, rtol=0, atol=1e-4)
    alone = vidjax.generate(tiny, OTHER, seed=5, num_frames=13, image=PICTURE, progress=False)
    asked = [{"prompt": PROMPT, "seed": 1}, {"prompt": OTHER, "seed": 5}]
    requests = [make_request(tiny, num_frames=13, image=PICTURE, **each) for each in asked]
    assert np.abs(generate_each(tiny, requests, 3)[1].frames.astype(int) - alone.frames).max() <= 1


def test_stream_gives_the_frames_of_generate(tiny):
    """Two ways to the same clip must not differ; the first frames come before the last windows are sampled."""
    stages = []
    chunks = vidjax.stream(tiny, PROMPT, num_frames=17, on_stage=lambda name, seconds: stages.append(name))
    first = next(chunks)
    assert (first.shape, first.dtype) == ((1, 16, 32, 3), np.uint8)
    assert stages == ["text", "sampling"]
    rest = list(chunks)
    assert [len(chunk) for chunk in rest] == [4] * 4
    assert stages == ["text", *["sampling", "decoding"] * 3]
    clip = vidjax.generate(tiny, PROMPT, num_frames=17, progress=False)
    np.testing.assert_array_equal(np.concatenate([first, *rest]), clip.frames)


@pytest.fixture
def unchecked():
    """Annotations are not checked for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_stream_refuses_at_the_call(tiny, unchecked, compilations):
    """Refused at the first frame, the error would come from a loop that has nothing to do with it."""
    for asked in ({"prompt": [PROMPT]}, {"prompt": PROMPT, "width": 50}, {"prompt": "", "output_type": "video"}):
        with pytest.raises(InputError):
            vidjax.stream(tiny, **asked)
    assert not compilations


@pytest.fixture(scope="module")
def from_pictures(tiny):
    """An image-to-video model: one time per clip, and pictures as eight further channels."""
    embedding = tiny.params["transformer"]["patch_embedding"]
    more = 0.3 * jax.random.normal(jax.random.key(1), (*embedding["kernel"].shape[:3], 8, embedding["kernel"].shape[4]))
    kernel = jnp.concatenate([embedding["kernel"], more], axis=3)
    transformer = {**tiny.params["transformer"], "patch_embedding": {**embedding, "kernel": kernel}}
    config = dataclasses.replace(
        tiny.config,
        transformer=dataclasses.replace(tiny.config.transformer, in_channels=12),
        expand_timesteps=False,
    )
    return dataclasses.replace(tiny, config=config, params={**tiny.params, "transformer": transformer})


def test_image_to_video_goes_on_from_the_last_frame(from_pictures):
    """Each window is the clip that the last frame gives as a picture, without that frame; each clip from its own."""
    asked = {"num_frames": 21, "image": PICTURE, "seed": 4, "progress": False}
    frames = vidjax.generate(from_pictures, [OTHER, PROMPT], **asked)[1].frames
    assert frames.shape == (21, 16, 32, 3)
    last = PICTURE
    for i, start in enumerate((0, 8, 16)):
        noise = window_noise(5, i, (3, 1, 2, 4))
        window = vidjax.generate(from_pictures, PROMPT, image=last, latents=noise, progress=False).frames
        shown = frames[start + (i > 0) : start + 9]
        assert np.abs(shown.astype(int) - window[i > 0 :][: len(shown)]).max() <= 2
        last = frames[start + 8] if i < 2 else None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"last_image": PICTURE}, "last_image: a clip of several windows"),
        ({"output_type": "latent"}, "windows go on from decoded frames; give num_frames=9 at most"),
    ],
)
def test_what_image_to_video_cannot_roll_out(from_pictures, asked, said):
    """A last picture that comes nowhere, and latents that decode to something else, are worse than a refusal."""
    with pytest.raises(InputError, match=said):
        make_request(from_pictures, PROMPT, image=PICTURE, num_frames=21, **asked)


@pytest.mark.parametrize(
    ("denoiser", "encoder"), [({}, None), ({"in_channels": 12, "pos_embed_seq_len": 10}, CLIPConfig(image_size=28))]
)
def test_models_that_cannot_go_on_say_which_can(tiny, denoiser, encoder):
    """Words alone say nothing of how the last window ended; first-and-last-frame models need both ends."""
    transformer = dataclasses.replace(tiny.config.transformer, **denoiser)
    config = dataclasses.replace(tiny.config, transformer=transformer, expand_timesteps=False, image_encoder=encoder)
    pictures = {"image": PICTURE, "last_image": PICTURE} if encoder else {}
    with pytest.raises(InputError, match=r"a clip of 13 frames: .* makes up to 9; .* TI2V-5B .* nearest: 9"):
        make_request(dataclasses.replace(tiny, config=config), PROMPT, num_frames=13, **pictures)


@pytest.fixture(scope="module")
def from_words(tiny):
    """A text-to-video model: one time per clip, nothing to go on from."""
    return dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, expand_timesteps=False))


def test_riflex_makes_a_longer_clip_at_once(from_words):
    """Other positions in time, and none where the clip is no longer than the model's own."""
    asked = {"output_type": "latent", "progress": False}
    own = np.asarray(vidjax.generate(from_words, PROMPT, **asked))
    np.testing.assert_array_equal(vidjax.generate(from_words, PROMPT, riflex=True, **asked), own)
    assert make_request(from_words, PROMPT, num_frames=21, riflex=True).rollout == Rollout(6, 6, 0, 4)
    long = np.asarray(vidjax.generate(from_words, PROMPT, num_frames=21, riflex=True, **asked))
    plain = dataclasses.replace(from_words.config.sampling, num_frames=21)
    plain = dataclasses.replace(from_words, config=dataclasses.replace(from_words.config, sampling=plain))
    assert long.shape == (1, 6, 1, 2, 4)
    assert np.abs(long - np.asarray(vidjax.generate(plain, PROMPT, **asked))).max() > 1e-3


def test_riflex_is_refused_where_it_has_no_place(tiny, from_words):
    """Beyond twice the trained length clips break, and windows need none."""
    with pytest.raises(InputError, match="too long with riflex too; nearest: 21"):
        make_request(from_words, PROMPT, num_frames=25, riflex=True)
    with pytest.raises(InputError, match="riflex: this model goes on in windows"):
        make_request(tiny, PROMPT, num_frames=21, riflex=True)
