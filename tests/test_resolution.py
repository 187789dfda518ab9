"""Sizes by name and ratio; clips larger than the model's own, made of one of that size in tiles."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vidjax
from vidjax import campaign, unfinished
from vidjax.conditioning.condition import Condition, cut_condition
from vidjax.data import shapes
from vidjax.decoding import decode, decode_tiling
from vidjax.encoding import encode_clip, encode_tiles
from vidjax.errors import InputError, MediaError
from vidjax.forecast import memory, outline
from vidjax.image import fit_image
from vidjax.models.wan import denoiser
from vidjax.parallel import make_mesh
from vidjax.request import make_request
from vidjax.resolution import base_size, clip_sizes
from vidjax.tiles import make_tiling, tiled

PROMPT = "a small red circle moves right on grass"
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (48, 96, 3), np.uint8)
CLIP = RNG.integers(0, 255, (9, 32, 64, 3), np.uint8)


def sized(model, height, width, **sampling):
    """The model as if it were trained for another size."""
    sampling = dataclasses.replace(model.config.sampling, height=height, width=width, **sampling)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, sampling=sampling))


@pytest.fixture(scope="module")
def wan(tiny):
    return sized(tiny, 480, 832)


@pytest.fixture(scope="module")
def small(tiny):
    """2 x 4 latents, so that tiles share something."""
    return sized(tiny, 32, 64)


def latents(model, prompt=PROMPT, **asked):
    return vidjax.generate(model, prompt, output_type="latent", progress=False, **asked)


@pytest.mark.parametrize(
    ("asked", "base", "result"),
    [
        ({}, (480, 832), None),
        ({"aspect_ratio": "16:9"}, (480, 848), None),
        ({"aspect_ratio": 16 / 9}, (480, 848), None),
        ({"aspect_ratio": "1.7778"}, (480, 848), None),
        ({"aspect_ratio": "9:16"}, (848, 480), None),
        ({"aspect_ratio": 1}, (624, 624), None),
        ({"aspect_ratio": "2.39:1"}, (416, 976), None),
        ({"aspect_ratio": "image"}, (448, 896), None),
        ({"aspect_ratio": "2:1", "height": 320}, (320, 640), None),
        ({"aspect_ratio": "2:1", "width": 320}, (160, 320), None),
        ({"height": 640}, (640, 832), None),
        ({"resolution": "480p"}, (480, 832), None),
        ({"resolution": "480p", "aspect_ratio": "16:9"}, (480, 848), None),
        ({"resolution": 240}, (240, 432), None),
        ({"resolution": "480p", "aspect_ratio": "1:1"}, (480, 480), None),
        ({"resolution": "720p", "aspect_ratio": "1:1"}, (624, 624), (720, 720)),
        ({"resolution": "720p"}, (480, 832), (720, 1280)),
        ({"resolution": "1080p"}, (480, 832), (1088, 1920)),
        ({"resolution": "4K"}, (480, 832), (2160, 3840)),
        ({"resolution": "2160", "aspect_ratio": "9:16"}, (848, 480), (3840, 2160)),
        ({"resolution": 1000, "aspect_ratio": "image"}, (448, 896), (1008, 2000)),
    ],
)
def test_sizes(wan, asked, base, result):
    """A wrong base is what the model was not trained for; a wrong result not what was asked for."""
    wanted = {"height": None, "width": None, "resolution": None, "aspect_ratio": None, **asked}
    assert clip_sizes(wan.config, **wanted, image=PICTURE) == (base, result or base)


@given(st.floats(1 / 8, 8), st.sampled_from(((64, 64), (480, 832), (720, 1280))))
@settings(deadline=None)
def test_base_has_the_models_number_of_pixels(wan, ratio, own):
    """More pixels than trained for repeat things and take longer; another ratio squeezes them."""
    config = sized(wan, *own).config
    height, width = base_size(config, ratio)
    exact = math.sqrt(own[0] * own[1] / ratio)
    # To the nearest multiple, but one at least.
    assert abs(height - exact) <= 8 or height == 16
    assert abs(width - exact * ratio) <= 8 or width == 16


def test_picture_alone_changes_no_size(small):
    """Models that know squares only would be given something else by any picture."""
    request = make_request(small, PROMPT, image=PICTURE[:, :48])
    assert (request.height, request.width) == (32, 64)


def test_first_keyframe_has_the_ratio(tiny):
    model = sized(tiny, 64, 64, given="any")
    pictures = {"8": PICTURE[:, :48], "4": PICTURE}
    request = make_request(model, PROMPT, keyframes=pictures, aspect_ratio="image")
    assert (request.height, request.width) == (48, 96)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"resolution": "8k"}, "resolution='8k': choose one of 480p, 720p, 1080p, 4k, or the pixels"),
        ({"resolution": ""}, "resolution='': choose one of 480p"),
        ({"resolution": "-5"}, "resolution='-5': choose one of 480p"),
        ({"resolution": 8}, "resolution=8: must lie between 16 and 8192; nearest: 16"),
        ({"resolution": 10**6}, "nearest: 8192"),
        ({"resolution": True}, "resolution=True: must be a whole number"),
        ({"resolution": 8000}, "resolution=8000: the longer side would have 16000 pixels; nearest: 4096"),
        ({"resolution": 64, "height": 64}, "resolution with height or width"),
        ({"aspect_ratio": "16:9", "height": 64, "width": 64}, "height=64, width=64 and aspect_ratio: give two"),
        ({"aspect_ratio": "2:1", "height": 50}, "height=50: must be a multiple of 16; nearest: 48"),
        ({"aspect_ratio": "wide"}, "aspect_ratio='wide': W:H as in 16:9"),
        ({"aspect_ratio": "1:0"}, "aspect_ratio='1:0': W:H"),
        ({"aspect_ratio": "1:2:3"}, "aspect_ratio='1:2:3': W:H"),
        ({"aspect_ratio": "nan"}, "aspect_ratio='nan': W:H"),
        ({"aspect_ratio": "-16:9"}, "aspect_ratio=-1.7.* must lie between 0.125 and 8.0; nearest: 0.125"),
        ({"aspect_ratio": 100}, "aspect_ratio=100.* nearest: 8.0"),
        ({"aspect_ratio": True}, "aspect_ratio=True: W:H"),
        ({"aspect_ratio": "16/9"}, "aspect_ratio='16/9': W:H"),
        ({"resolution": "1.5"}, "resolution='1.5': choose one of 480p"),
        ({"aspect_ratio": "image"}, "aspect_ratio='image': there is no picture to follow"),
        ({"refine": 0.5}, "refine=0.5 without resolution: give one above 32x64"),
        ({"refine": 1.5, "resolution": 64}, "refine=1.5: must lie between 0 and 1; nearest: 1"),
        ({"resolution": 64, "decode_tile": 100}, "decode_tile=100: must lie between 128"),
        ({"resolution": 64, "video": CLIP, "extend": "after"}, "extend with resolution: .* give height and width"),
        ({"resolution": 64, "video": CLIP, "mask": np.ones((32, 64), bool)}, "mask with resolution"),
        ({"resolution": 64, "latents": np.zeros((3, 4, 8, 4))}, r"latents of shape \(1, 3, 4, 8, 4\): "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_what_does_not_go_is_refused(small, compilations, asked, said):
    """Found late, each would cost the time of the clip that is enlarged."""
    with pytest.raises((InputError, MediaError), match=said) as error:
        make_request(small, PROMPT, **asked)
    assert "\n" not in str(error.value)
    assert not compilations


def test_windows_from_frames_are_not_enlarged(small):
    """Image-to-video models go on from decoded frames: those of the small clip are not those of the large one."""
    transformer = dataclasses.replace(small.config.transformer, in_channels=12)
    config = dataclasses.replace(small.config, transformer=transformer, expand_timesteps=False)
    model = dataclasses.replace(small, config=config)
    with pytest.raises(InputError, match="not enlarged; give num_frames=9 at most"):
        make_request(model, PROMPT, image=PICTURE, resolution=64, num_frames=21)
    assert make_request(model, PROMPT, image=PICTURE, resolution=64).base is not None


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
@settings(deadline=None, max_examples=8)
def test_tiled_velocity_is_the_whole_one(height, width, rows, columns, overlap):
    """What acts on each place alone cannot know of tiles; and a tile must be told where it lies."""
    overlaps = min(overlap, rows - 1), min(overlap, columns - 1)
    tiling = make_tiling((height, width), (rows, columns), overlaps)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, height, width, 3)), jnp.float32)
    where = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1)

    def velocity(x, t, places):
        return jnp.concatenate([t * jnp.sin(x), jnp.broadcast_to(places, (*x.shape[:-1], 2))], axis=-1)

    def of_tile(corner, x, t):
        assert x.shape[2:4] == tiling.tile
        own = jnp.stack(
            jnp.meshgrid(*(c + jnp.arange(n) for c, n in zip(corner, tiling.tile, strict=True)), indexing="ij")
        )
        return velocity(x, t, own.transpose(1, 2, 0))

    found = jax.jit(tiled(of_tile, tiling))(x, jnp.float32(0.3))
    np.testing.assert_allclose(found, velocity(x, jnp.float32(0.3), where), rtol=2e-6, atol=2e-6)


def test_tile_has_its_part_of_what_is_given():
    """A given frame of another place would pull a tile towards what is not there."""
    given_, channels = (jnp.arange(2 * 6 * 8 * c, dtype=jnp.float32).reshape(1, 2, 6, 8, c) for c in (4, 5))
    text, mask = jnp.zeros((1, 3, 4)), jnp.asarray([[True, False]])
    found = cut_condition(Condition(text, text, given_, mask, channels), (jnp.int32(2), jnp.int32(3)), (4, 5))
    np.testing.assert_array_equal(found.given, given_[:, :, 2:6, 3:8])
    np.testing.assert_array_equal(found.channels, channels[:, :, 2:6, 3:8])
    np.testing.assert_array_equal(found.mask, mask)


def test_part_of_an_enlarged_frame():
    """Parts that were enlarged from less than their surroundings would show their borders."""
    whole = fit_image(PICTURE, 200, 330)
    for part in ((0, 0, 200, 330), (0, 0, 64, 80), (136, 250, 64, 80), (50, 60, 100, 11)):
        top, left, rows, columns = part
        found = fit_image(PICTURE, 200, 330, part).astype(int)
        assert np.abs(found - whole[top : top + rows, left : left + columns]).max() <= 1


def test_clip_has_the_size_and_is_the_seeds(small):
    asked = {"resolution": 64, "progress": False}
    clip = vidjax.generate(small, PROMPT, **asked)
    assert clip.frames.shape == (9, 64, 128, 3)
    np.testing.assert_array_equal(vidjax.generate(small, PROMPT, **asked).frames, clip.frames)
    assert (vidjax.generate(small, PROMPT, **asked, seed=1).frames != clip.frames).any()
    found = latents(small, resolution=64)
    assert found.shape == (1, 3, 4, 8, 4)
    np.testing.assert_array_equal(np.concatenate(list(decode(small, found)), axis=1)[0], clip.frames)


def test_enlarged_only(small):
    """Without steps nothing may be made up: the small clip, enlarged, through the autoencoder."""
    base = vidjax.generate(small, PROMPT, progress=False).frames
    enlarged = encode_clip(small, np.stack([fit_image(frame, 64, 128) for frame in base]))
    np.testing.assert_allclose(latents(small, resolution=64, refine=0), enlarged, rtol=1e-3, atol=1e-3)
    assert jnp.abs(latents(small, resolution=64, refine=0.4) - enlarged).max() > 0.1


def test_frames_are_enlarged_where_nothing_else_is_made(small, compilations):
    """Another turn through the autoencoder would blur them, and of 4K frames take minutes."""
    asked = {"num_frames": 21, "progress": False}
    base = vidjax.generate(small, PROMPT, **asked).frames
    count = len(compilations)
    found = vidjax.generate(small, PROMPT, resolution=64, refine=0, **asked).frames
    assert len(compilations) == count, "no other program runs than those of the small clip"
    np.testing.assert_array_equal(found, np.stack([fit_image(frame, 64, 128) for frame in base]))


def test_frame_by_frame_and_enlarged(small):
    sampling = dataclasses.replace(small.config.sampling, causal=True, refine=0.0)
    trained = dataclasses.replace(small, config=dataclasses.replace(small.config, sampling=sampling))
    base = vidjax.generate(trained, PROMPT, num_frames=13, causal=True, progress=False).frames
    chunks = list(vidjax.stream(trained, PROMPT, num_frames=13, causal=True, resolution=64))
    assert len(chunks) > 2
    np.testing.assert_array_equal(np.concatenate(chunks), np.stack([fit_image(frame, 64, 128) for frame in base]))
    sampling = dataclasses.replace(sampling, refine=0.35)
    refines = dataclasses.replace(small, config=dataclasses.replace(small.config, sampling=sampling))
    with pytest.raises(InputError, match=r"resolution with causal: .* whose refine is 0; nearest: 32x64"):
        make_request(refines, PROMPT, causal=True, resolution=64)


def test_pictures_are_there_at_the_full_size(small):
    """Enlarged from the small clip a photo would come back as a blur."""
    sampling = dataclasses.replace(small.config.sampling, given="any")
    able = dataclasses.replace(small, config=dataclasses.replace(small.config, sampling=sampling))
    asked = {"image": PICTURE, "keyframes": {16: PICTURE[::-1]}, "num_frames": 21, "progress": False}
    base = vidjax.generate(able, PROMPT, **asked).frames
    found = vidjax.generate(able, PROMPT, resolution=64, refine=0, **asked).frames
    for i in range(21):
        picture = {0: PICTURE, 16: PICTURE[::-1]}.get(i)
        np.testing.assert_array_equal(found[i], fit_image(base[i] if picture is None else picture, 64, 128))


def test_size_that_no_training_saw_is_told(small):
    """What comes out has its subject several times, and nobody would know why."""
    with pytest.warns(UserWarning, match="128x64 is far from the 64x32 .*; resolution=64 enlarges"):
        make_request(small, PROMPT, height=64, width=128)


def test_large_frames_are_encoded_in_tiles(small, monkeypatch):
    """Of 4K frames the encoder has no room for a whole one; and a smaller tile for the decoder changes no latents."""
    monkeypatch.setattr("vidjax.decoding.MAX_WHOLE", 1)
    monkeypatch.setattr("vidjax.decoding.TILE", 128)
    seen, encode_chunk = set(), vidjax.encoding.encode_chunk

    def note(config, params, cache, frames):
        seen.add(frames.shape[2:4])
        return encode_chunk(config, params, cache, frames)

    monkeypatch.setattr("vidjax.encoding.encode_chunk", note)
    monkeypatch.setattr("vidjax.chunks.encode_chunk", note)
    asked = {"resolution": 192, "refine": 0, "num_frames": 5}
    found = latents(small, **asked, image=PICTURE)
    assert seen == {(128, 128), (32, 64)}, "the picture of the small clip is encoded whole"
    np.testing.assert_array_equal(latents(small, **asked, image=PICTURE, decode_tile=192), found)


def test_seams_of_encoded_tiles_are_not_seen():
    """As for tiles that are decoded: what is seen of them is that of the whole, to 45 dB."""
    model = vidjax.load()
    frames = shapes.render(shapes.sample_scene(np.random.default_rng(0)), 5, 128, 256)

    def part(of):
        top, left, rows, columns = of
        for start, end in ((0, 1), (1, 5)):
            yield frames[None, start:end, top : top + rows, left : left + columns]

    tiling = decode_tiling(model.config, 128, 256, 128)
    assert len(tiling.corners) == 3
    found, caches = encode_tiles(model, part, None, tiling, last=True)
    assert not caches
    tiled, whole = (
        np.concatenate(list(decode(model, jnp.asarray(x))), axis=1).astype(float)
        for x in (found, encode_clip(model, frames))
    )
    assert 10 * np.log10(255**2 / np.mean((tiled - whole) ** 2)) > 45


def test_denoiser_sees_tiles_of_one_shape(small, monkeypatch, compilations):
    """A program for each tile would compile for hours; the whole at once would not fit."""
    seen, velocity = [], denoiser.velocity

    def note(config, params, x, *rest, **named):
        seen.append(x.shape)
        return velocity(config, params, x, *rest, **named)

    monkeypatch.setattr(denoiser, "velocity", note)
    request = make_request(small, PROMPT, resolution=96, num_inference_steps=4)
    assert len(request.tiles.corners) == 25
    latents(small, resolution=96, num_inference_steps=4)
    assert {shape[2:4] for shape in seen} == {(2, 4)}
    assert len(seen) < 8, "traced once for all tiles"
    del compilations[:]
    latents(small, "a blue star", resolution=96, num_inference_steps=4, seed=7)
    assert not compilations


def test_long_clip_begins_as_a_short_one(small):
    """Windows go on from the large end of the window before, and the caches of both autoencoder passes with them."""
    long = latents(small, resolution=64, num_frames=21)
    assert long.shape == (1, 6, 4, 8, 4)
    np.testing.assert_array_equal(long[:, :3], latents(small, resolution=64))
    base = vidjax.generate(small, PROMPT, num_frames=21, progress=False).frames
    enlarged = encode_clip(small, np.stack([fit_image(frame, 64, 128) for frame in base]))
    found = latents(small, resolution=64, num_frames=21, refine=0)
    np.testing.assert_allclose(found, enlarged, rtol=1e-3, atol=1e-3)


def test_stopped_clip_goes_on(small, tmp_path, monkeypatch):
    """Small and large windows are kept apart, and those that are there are not made again."""
    asked = {"resolution": 64, "num_frames": 21, "workdir": tmp_path / "part"}
    whole = np.concatenate(list(vidjax.stream(small, PROMPT, **asked)))
    written, write = [], unfinished.write

    def stop(kept, window, latents):
        written.append((kept.name, window))
        if len(written) == 4:
            raise KeyboardInterrupt
        write(kept, window, latents)

    monkeypatch.setattr(unfinished, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        list(vidjax.stream(small, PROMPT, **asked))
    found = json.loads((tmp_path / "part" / "request.json").read_text())
    assert (found["resolution"], found["refine"]) == ([64, 128], 0.35)
    with pytest.raises(InputError, match=r"another request \(refine=0.35, not 0.1\)"):
        vidjax.stream(small, PROMPT, **asked, refine=0.1)
    np.testing.assert_array_equal(np.concatenate(list(vidjax.stream(small, PROMPT, **asked))), whole)
    first, again = written[:4], written[4:]
    assert first == [("base", 0), ("window", 0), ("base", 1), ("window", 1)]
    assert again == [("window", 1), ("base", 2), ("window", 2), ("base", 3), ("window", 3)]


def test_batch(tiny_folder, small):
    """Each clip of a batch is enlarged from its own base; devices share the work and change nothing."""
    prompts = [PROMPT, "a blue star"]
    spread = sized(vidjax.load(tiny_folder, mesh=make_mesh(data=2, fsdp=4)), 32, 64)
    both = latents(spread, prompts, resolution=64, seed=[3, 4])
    for i, prompt in enumerate(prompts):
        np.testing.assert_allclose(both[i : i + 1], latents(small, prompt, resolution=64, seed=3 + i), atol=1e-3)


def test_picture_is_given_at_the_full_size(small):
    """The first frame is there as it was given, not enlarged from a smaller one."""
    found = latents(small, resolution=64, image=PICTURE)
    picture = encode_clip(small, fit_image(PICTURE, 64, 128)[None])
    np.testing.assert_allclose(found[:, 0], picture[:, 0], rtol=1e-4, atol=1e-4)


def test_painted_over_and_enlarged(small):
    found = vidjax.generate(small, PROMPT, video=CLIP, strength=0.4, resolution=64, progress=False)
    assert found.frames.shape == (9, 64, 128, 3)
    assert (found.frames != vidjax.generate(small, PROMPT, resolution=64, progress=False).frames).any()


def test_what_is_said_of_it(small):
    """What a clip takes must not come as a surprise."""
    said = "1 window of 9 frames, 3 steps each: 9 of 128x64, 1.1 s, made at 64x32 and enlarged"
    assert outline(make_request(small, PROMPT, resolution=64)) == f"{said}, then 1 steps in 9 tiles of that size"
    assert outline(make_request(small, PROMPT, resolution=64, refine=0)) == said
    request = make_request(small, PROMPT, resolution=128)
    tiles, whole = (memory(small, r) for r in (request, make_request(small, PROMPT, height=128, width=256)))
    assert whole.parameters < tiles.sampling < whole.sampling


def test_campaign_makes_it_again(small, tmp_path):
    """A manifest's line gives the very clip; clips of other sizes are no batch."""
    line = {"prompt": PROMPT, "resolution": 64, "refine": 0.5}
    path = tmp_path / "requests.jsonl"
    path.write_text(
        "\n".join(map(json.dumps, (line, {**line, "refine": 0.7}, {"prompt": PROMPT}, {**line, "seed": 3})))
    )
    batches, errors = campaign.plan(small, campaign.read_jobs(path), 4)
    assert [len(batch.jobs) for batch in batches] == [2, 1, 1]
    assert not errors
    for batch in batches:
        for again in batch.settings:
            assert campaign._complete(small, again)[1] == again
    own = batches[0].settings[0]
    assert make_request(small, **own).program == make_request(small, **line).program
