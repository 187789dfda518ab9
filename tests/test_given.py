"""Pictures and clips that come with a prompt: what is given is there, and what does not go is said first."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vidjax
from vidjax.chunks import decode_chunk, fit_picture
from vidjax.decoding import decode
from vidjax.diffusion.flow import make_schedule
from vidjax.encoding import encode_beginning, encode_clip, encode_end, kept_places, make_condition
from vidjax.errors import InputError, MediaError
from vidjax.given import read_clip, read_mask
from vidjax.models.wan import vae
from vidjax.request import make_request
from vidjax.video import Video, from_uint8
from vidjax.windows import window_noise

PROMPT = "a small red circle moves right on grass"
RNG = np.random.default_rng(0)
A, B, C = RNG.integers(0, 255, (3, 16, 32, 3), np.uint8)
CLIP = RNG.integers(0, 255, (21, 16, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def able(tiny):
    """The tiny model as if it were trained to be given any frames."""
    sampling = dataclasses.replace(tiny.config.sampling, given="any")
    return dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, sampling=sampling))


def latents(model, **asked):
    return vidjax.generate(model, PROMPT, output_type="latent", progress=False, **asked)


def encoded(model, frames):
    """By the whole-clip encoder."""
    mean, _ = vae.encode(model.config.vae, model.params["vae"], from_uint8(jnp.asarray(frames))[None])
    return vae.normalize(model.config.vae, mean)


def test_clip_is_encoded_piece_by_piece(tiny):
    """Each piece must go on with the cache of the one before, or there would be a seam every four frames."""
    np.testing.assert_allclose(encode_clip(tiny, CLIP), encoded(tiny, CLIP), rtol=1e-4, atol=1e-4)


def test_pictures_are_where_they_were_asked_for(able):
    """In a clip of three windows too: each one is in its own window, and is not lost at a joint."""
    found = latents(able, num_frames=21, image=A, keyframes={8: B, 12: C}, last_image=B)
    held = {name: encode_clip(able, np.stack([picture] * 9))[:, -1] for name, picture in (("B", B), ("C", C))}
    np.testing.assert_array_equal(found[:, 0], encode_clip(able, A[None])[:, 0])
    for place, name in ((2, "B"), (3, "C"), (5, "B")):
        np.testing.assert_array_equal(found[:, place], held[name], err_msg=f"latent frame {place}")
    free = latents(able, num_frames=21, image=A)
    assert all((free[:, place] != found[:, place]).any() for place in range(1, 6))


def test_later_pictures_are_fitted_behind_what_is_there(able):
    """Encoded behind itself, standing still, a picture came back with traces of that: 26 of 32 dB."""
    given = {"num_frames": 21, "image": A, "keyframes": {8: C}, "last_image": B}
    clip = vidjax.generate(able, PROMPT, progress=False, **given).frames
    sampled, cache = latents(able, **given), None
    for place in range(6):
        z, start = sampled[:, place : place + 1], max(4 * place - 3, 0)
        if place in (2, 5):
            picture = C if place == 2 else B
            held = np.concatenate([clip[max(start - 9, 0) : start], np.repeat(picture[None], 4, axis=0)])
            z = encode_clip(able, held)[:, -1:]
            z = fit_picture(able.config, able.params["vae"], cache, z, jnp.asarray(picture)[None])
        frames, cache = decode_chunk(able.config, able.params["vae"], cache, z)
        np.testing.assert_array_equal(frames[0], clip[start : 4 * place + 1], err_msg=f"latent frame {place}")


def test_fitted_latents_show_the_picture(able):
    """Of what a decoder can show it must come near; and clips that are made together know nothing of each other."""
    config, params, rng = able.config, able.params["vae"], np.random.default_rng(0)
    first, there, noise = (jnp.asarray(rng.normal(size=(2, 1, 1, 2, 4)), jnp.float32) for _ in range(3))
    _, cache = decode_chunk(config, params, None, first)

    def last(z):
        return decode_chunk(config, params, cache, z)[0][:, -1]

    pictures, near = last(there), there + 0.3 * noise
    fitted = fit_picture(config, params, cache, near, pictures)
    before, after = (np.mean((np.asarray(last(z), float) - pictures) ** 2, axis=(1, 2, 3)) for z in (near, fitted))
    assert (after < 0.5 * before).all(), (before, after)
    _, own = decode_chunk(config, params, None, first[1:])
    alone = fit_picture(config, params, own, near[1:], pictures[1:])
    np.testing.assert_allclose(fitted[1:], alone, rtol=1e-2, atol=1e-2)


def test_given_frames_reach_the_model(able):
    """The frames between see what is given: pasting pictures over a clip from words would leave them as they were."""
    a, b = (latents(able, image=A, last_image=last) for last in (B, C))
    assert jnp.abs(a[:, 1] - b[:, 1]).max() > 1e-3
    request = make_request(able, PROMPT, image=A, last_image=B)
    np.testing.assert_array_equal(make_condition(able, request).mask, [[True, False, True]])


def test_keyframes_alone(able):
    """The first frame may be free."""
    request = make_request(able, PROMPT, keyframes={"4": B})  # a number as JSON has it
    np.testing.assert_array_equal(make_condition(able, request).mask, [[False, True, False]])
    np.testing.assert_array_equal(
        make_condition(able, make_request(able, PROMPT, last_image=B)).mask, [[False, False, True]]
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"keyframes": {}}, "keyframes: pictures by frame are expected, .* not none"),
        ({"keyframes": {3: A}}, "frame 3 must be a multiple of 4; nearest: 4"),
        ({"keyframes": {12: A}}, "frame 12 must be a whole number from 0 to 8"),
        ({"keyframes": {-4: A}}, "frame -4 must be"),
        ({"keyframes": {"x": A}}, "frame 'x' must be"),
        ({"keyframes": {0: A}, "image": A}, "frame 0 is given as image too"),
        ({"keyframes": {8: A}, "last_image": A}, "frame 8 is given as last_image too"),
        ({"last_image": A, "num_frames": 1}, "num_frames=1: .* at least 5 frames"),
        ({"strength": 0.5}, "strength without video"),
        ({"mask": A}, "mask without video"),
        ({"extend": "after"}, "extend without video"),
        ({"extend": "forward", "video": CLIP}, "extend='forward': choose after or before"),
        ({"extend": "after", "video": CLIP, "image": A}, "image with extend"),
        ({"extend": "after", "video": CLIP, "strength": 0.5}, "strength with extend"),
        ({"extend": "before", "video": CLIP, "num_frames": 9}, "9 frames before the clip: up to 1 can be made"),
        ({"extend": "after", "video": CLIP, "output_type": "latent"}, "extend: the result is"),
        ({"video": CLIP, "strength": 0.0}, "strength=0.0: must lie between 0.01 and 1; nearest: 0.01"),
        ({"video": CLIP, "strength": 1.5}, "strength=1.5: must lie between 0.01 and 1; nearest: 1"),
        ({"image": 3}, "image: An image is a path, .* not int"),
        ({"keyframes": {"4": A, "04": A}}, "frame 4 is given as keyframes too"),
        ({"video": CLIP, "prompt": {0: "a", 1.0: "b"}, "num_frames": 9}, "prompt from 1 s on: .* one piece"),
        ({"video": CLIP, "num_frames": 25}, "a clip of 25 frames: video has 21 at 8 frames a second"),
        ({"video": CLIP, "mask": np.ones((8, 8), bool)}, "mask of 8x8: the clip is 16x32"),
        ({"video": CLIP, "mask": np.ones((3, 16, 32), bool)}, "mask of 3 frames: the clip has 21"),
        ({"video": CLIP, "mask": np.zeros((16, 32), bool)}, "mask: nothing is white"),
        ({"video": CLIP, "mask": np.ones((16, 32))}, "mask: an array is of bool or uint8, not float64"),
        ({"video": 3}, "video: a path, a Video or an array of frames is expected, not int"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_does_not_go_is_refused(able, compilations, asked, said):
    """Found late, each would cost minutes, or give a clip of something else."""
    with pytest.raises((InputError, MediaError), match=said) as error:
        make_request(able, **{"prompt": PROMPT, **asked})
    assert "\n" not in str(error.value)
    assert not compilations


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"keyframes": {4: A}}, "keyframes: .* not trained to be given them; the bundled model can"),
        ({"image": A, "last_image": B}, "takes image; Wan's first-and-last-frame models and the bundled model"),
        ({"video": CLIP, "extend": "before"}, "not trained to be given its end; the bundled model can"),
    ],
)
def test_models_that_know_first_frames_only(tiny, asked, said):
    """Frames that a model was never given would be ignored or spoil the clip: better to say which can."""
    with pytest.raises(InputError, match=said):
        make_request(tiny, PROMPT, **asked)


def test_models_that_cannot_be_given_a_clip(tiny):
    """Image-to-video models see pictures as channels; models from words alone cannot go on from a clip."""
    channels = dataclasses.replace(tiny.config.transformer, in_channels=12)
    model = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, transformer=channels))
    with pytest.raises(InputError, match="makes clips from pictures; models that are made from words"):
        make_request(model, PROMPT, image=A, video=CLIP)
    model = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, expand_timesteps=False))
    with pytest.raises(InputError, match=r"extend: .* cannot go on"):
        make_request(model, PROMPT, video=CLIP, extend="after")


def test_painting_over_begins_at_the_clip(tiny):
    """With a strength the walk starts from the clip's latents and that much noise, and has the last steps only."""
    request = make_request(tiny, PROMPT, video=CLIP, num_frames=9, strength=0.4, num_inference_steps=5)
    assert request.walk.num_steps == 2
    np.testing.assert_array_equal(request.walk.sigmas, make_schedule(5, 3.0).sigmas[3:])
    start = encode_clip(tiny, CLIP[:9])
    sigma = request.walk.sigmas[0]
    noise = window_noise(0, 0, start.shape[1:])[None]
    # One Euler step from the same place, computed apart.
    one = {"num_frames": 9, "num_inference_steps": 5, "solver": "euler", "guidance_scale": 1, "video": CLIP}
    found = latents(tiny, strength=0.2, **one)
    last = make_schedule(5, 3.0).sigmas[-2]
    x = (1 - last) * start + last * noise
    condition = make_condition(tiny, request)
    module = tiny.config.modules.denoiser
    context = module.context(tiny.config.transformer, tiny.params["transformer"], condition.text)
    t = jnp.full(x.shape[:2], make_schedule(5, 3.0).times[-1])
    velocity = module.velocity(tiny.config.transformer, tiny.params["transformer"], x, t, context)
    np.testing.assert_allclose(found, x - last * velocity, rtol=1e-3, atol=1e-3)
    assert 0 < last < sigma < 1


def test_what_is_masked_out_stays(tiny):
    """Inpainting is of no use if it changes what is around; and it must be new where it is asked for."""
    mask = np.zeros((16, 32), bool)
    mask[:, 20:24] = True
    found = latents(tiny, video=CLIP, mask=mask, num_frames=13)
    own = encode_clip(tiny, CLIP[:13])
    np.testing.assert_array_equal(found[:, :, :, 0], own[:, :, :, 0])
    assert jnp.abs(found - own)[:, :, :, 1].max() > 0.1
    # The pixels painted over cannot matter, but through what the encoder spreads.
    free = latents(tiny, num_frames=13)
    assert jnp.abs(found - free)[:, :, :, 1].max() > 1e-3, "the model sees what stays"


def test_places_that_stay(tiny):
    """A place of the latents is 16 x 16 pixels of four frames, of the first one of one."""
    mask = np.zeros((9, 32, 48), bool)
    mask[0, 0, 0] = mask[5, 31, 47] = True
    kept = np.ones((3, 2, 3), bool)
    kept[0, 0, 0] = kept[2, 1, 2] = False
    np.testing.assert_array_equal(kept_places(tiny.config.vae, mask), kept)


def test_masked_walk_of_every_solver(tiny):
    """The straight way of what is kept must hold at the last time too, where Heun looks at time 0."""
    mask = np.zeros((16, 32), bool)
    mask[:, 20:24] = True
    for solver in ("euler", "heun", "unipc"):
        found = latents(tiny, video=CLIP, mask=mask, num_frames=5, solver=solver, num_inference_steps=2)
        assert jnp.isfinite(found).all(), solver


def test_clip_goes_on(able):
    """The clip's own frames first, then windows that are given its end, as if it had been made in one go."""
    video = vidjax.generate(able, PROMPT, video=Video(CLIP, 8.0), extend="after", num_frames=8, progress=False)
    assert video.num_frames == 29
    np.testing.assert_array_equal(video.frames[:21], CLIP)
    end = encode_end(able, CLIP, 4)
    np.testing.assert_allclose(end, encoded(able, CLIP[-17:]), rtol=1e-4, atol=1e-4)
    past = end[:, -2:]
    window = make_request(able, PROMPT, video=CLIP, extend="after", num_frames=8).window(1)
    given = make_condition(able, window, past=past)
    np.testing.assert_array_equal(given.mask, [[True, True, False]])
    sample = jax.jit(vidjax.make_sampler(able))
    key = jax.random.fold_in(jax.random.key(0), 1)
    new = sample(able.params, key, given)[:, 2:]
    frames = np.concatenate(list(decode(able, jnp.concatenate([end, new], axis=1))), axis=1)
    difference = np.abs(frames[0, 17:21].astype(int) - video.frames[21:25])
    assert difference.max() <= 1


def test_clip_begins_earlier(able):
    """One frame is new; the window that it is of is given the clip's beginning at its end."""
    video = vidjax.generate(able, PROMPT, video=CLIP, extend="before", progress=False)
    assert video.num_frames == 22
    np.testing.assert_array_equal(video.frames[1:], CLIP)
    request = make_request(able, PROMPT, video=CLIP, extend="before").window(0)
    condition = make_condition(able, request)
    np.testing.assert_array_equal(condition.mask, [[False, True, True]])
    before = encoded(able, np.concatenate([CLIP[:1], CLIP[:8]]))[:, 1:]
    np.testing.assert_allclose(condition.given[:, 1:], before, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(encode_beginning(able, CLIP, 2), condition.given[:, 1:])


def test_short_clips_go_on(able):
    """A clip shorter than what a window is given stands still before it; a picture of one frame too."""
    video = vidjax.generate(able, PROMPT, video=CLIP[:3], extend="after", num_frames=4, progress=False)
    assert video.num_frames == 7
    still = np.concatenate([np.repeat(CLIP[:1], 6, axis=0), CLIP[:3]])
    np.testing.assert_allclose(encode_end(able, CLIP[:3], 2), encoded(able, still), rtol=1e-4, atol=1e-4)


def test_clip_at_the_models_rate_and_size(tmp_path):
    """A clip at 24 frames a second must not be slowed down threefold, nor a wide one be squeezed."""
    frames = np.zeros((24, 32, 128, 3), np.uint8)
    frames[:, :, 32:96] = np.arange(24, dtype=np.uint8)[:, None, None, None] * 10
    for source in (Video(frames, 24.0), Video(frames, 24.0).save(tmp_path / "clip.mp4")):
        found, size = read_clip(source, 8.0, 16, 32)
        assert (found.shape, size) == ((8, 16, 32, 3), (32, 128))
        np.testing.assert_allclose(found[:, 8, 16, 0], np.arange(0, 240, 30), atol=6)
    assert len(read_clip(frames, 8.0, 16, 32, most=5)[0]) == 5
    assert len(read_clip(Video(frames[:2], 1.0), 8.0, 16, 32)[0]) == 16


def test_mask_is_cut_as_the_clip_is(tmp_path):
    """A mask that lay elsewhere than on the clip would paint over the wrong thing."""
    white = np.zeros((32, 128), np.uint8)
    white[:, 64:80] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    for source in (white, white > 0, str(tmp_path / "mask.png")):
        mask = read_mask(source, (32, 128), 3, 16, 32)
        expected = np.zeros((3, 16, 32), bool)
        expected[..., 16:24] = True
        np.testing.assert_array_equal(mask, expected)
