"""Large frames decoded in tiles: as if whole, in the memory of a tile."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vidjax
from vidjax import decoding, unfinished
from vidjax.chunks import decode_chunk
from vidjax.clip_file import make_file, part_folder
from vidjax.data import shapes
from vidjax.decoding import decode
from vidjax.errors import InputError
from vidjax.forecast import memory, outline
from vidjax.generation import Watch
from vidjax.model import ModelConfig
from vidjax.models.wan import vae
from vidjax.models.wan.presets import PRESETS
from vidjax.request import decode_tiling, make_request
from vidjax.tiles import blend, cut, make_tiling, weights

PROMPT = "a small red circle moves right on grass"


SIDES = st.integers(2, 40)
CELLS = st.integers(1, 150)


@given(CELLS, CELLS, SIDES, st.fractions(0, "1/2"), st.sampled_from((1, 2, 8)))
@settings(deadline=None)
def test_tiles_cover_everything(height, width, side, overlap, factor):
    """A gap is a hole in the picture, a tile that sticks out is shifted when it is cut, a sum off 1 is a seam."""
    tiling = make_tiling((height, width), side, max(1, int(side * overlap))).scaled(factor)
    assert tiling.size == (factor * height, factor * width)
    for size, tile, ramp, starts in zip(tiling.size, tiling.tile, tiling.ramps, tiling.starts, strict=True):
        assert starts[0] == 0
        assert starts[-1] + tile == size
        assert all(before < after <= before + tile for before, after in itertools.pairwise(starts))
        total = np.zeros(size)
        for start, share in zip(starts, weights(starts, tile, ramp), strict=True):
            assert share.min() >= 0
            total[start : start + tile] += share
        np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)


@given(CELLS, CELLS, SIDES, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_tiles_of_a_picture_are_that_picture(height, width, side, seed):
    """Rows and columns mixed up, or bands out of order, show in any picture but a uniform one."""
    tiling = make_tiling((height, width), side, side // 4)
    picture = np.random.default_rng(seed).integers(0, 256, (1, 2, height, width, 3), np.uint8)
    (h, w), corners = tiling.tile, tiling.corners
    tiles = (picture[:, :, top : top + h, left : left + w] for top, left in corners)
    found = np.concatenate(list(blend(tiling, tiles)), axis=2)
    np.testing.assert_array_equal(np.rint(found).astype(np.uint8), picture)


def test_cut():
    """It must take the cells that `blend` puts back, in one program for all of them."""
    x = np.arange(2 * 3 * 11 * 13, dtype=np.float32).reshape(1, 2, 11, 13, 3)
    for top, left in make_tiling((11, 13), 4, 1).corners:
        np.testing.assert_array_equal(cut(jnp.asarray(x), (top, left), (4, 4)), x[:, :, top : top + 4, left : left + 4])


def alone(tiling):
    """Of which rows and of which columns one tile is the only one that is seen."""
    masks = []
    for size, tile, ramp, starts in zip(tiling.size, tiling.tile, tiling.ramps, tiling.starts, strict=True):
        mask = np.zeros(size, bool)
        for start, share in zip(starts, weights(starts, tile, ramp), strict=True):
            mask[start : start + tile] |= share > 1 - 1e-6
        masks.append(mask)
    return masks


def seam_gradient(frames, mask, axis):
    """Mean change from one row (axis 2) or column (3) to the next: in seams, over that elsewhere."""
    change = np.abs(np.diff(frames.astype(float), axis=axis)).mean(tuple({0, 1, 2, 3, 4} - {axis}))
    seam = ~(mask[1:] & mask[:-1])
    return change[seam].mean() / change[~seam].mean()


def check_alike(tiled, whole, tiling):
    rows, columns = alone(tiling)
    error = (tiled.astype(float) - whole)[:, :, rows][:, :, :, columns]
    assert error.size
    away = 10 * np.log10(255**2 / max(np.mean(error**2), 1e-9))
    assert away >= 45, f"{away:.1f} dB away from seams"
    for axis, mask in ((2, rows), (3, columns)):
        if not mask.all():
            # What is in the picture there is in the whole one as well.
            ratio = seam_gradient(tiled, mask, axis) / seam_gradient(whole, mask, axis)
            assert 0.9 <= ratio <= 1.1, f"seams with {ratio:.2f} of the gradient elsewhere"


@pytest.fixture(scope="module")
def bundled():
    return vidjax.load()


@pytest.mark.parametrize(("height", "width", "tile", "tiles"), [(128, 192, 128, 2), (256, 384, 192, 6)])
def test_seams_are_not_seen(bundled, height, width, tile, tiles):
    """The project's bar: 45 dB away from seams, at seams no more than 1.1 of the gradient elsewhere.

    The decoder's attention, learned in frames of 64 pixels, sees the whole frame: tiles of half of it are 44 dB away.
    """
    config, params = bundled.config.vae, bundled.params["vae"]
    scene = shapes.sample_scene(np.random.default_rng(0))
    pixels = jnp.asarray(shapes.render(scene, 5, height, width), jnp.float32)[None] / 127.5 - 1
    mean, _ = jax.jit(vae.encode, static_argnums=0)(config, params, pixels)
    latents = vae.normalize(config, mean)
    tiling = decode_tiling(bundled.config, height, width, tile)
    assert len(tiling.corners) == tiles
    whole = np.concatenate(list(decode(bundled, latents)), axis=1)
    tiled = np.concatenate(list(decode(bundled, latents, None, tiling)), axis=1)
    assert tiled.shape == (1, 5, height, width, 3)
    assert whole.std() > 10
    check_alike(tiled, whole, tiling)


def test_random_weights_too(tiny):
    """Of random weights and noise: the hardest case for the convolutions, whose reach the overlap must cover.

    Attention, which sees the whole frame, averages noise over as much as there is of it: with it these weights get to
    45 dB only far from the borders of tiles of 24 latents, and trained ones (above) well beyond.
    """
    still = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if any(key.key == "proj" for key in path) else x, tiny.params["vae"]
    )
    model = dataclasses.replace(tiny, params={**tiny.params, "vae": still})
    latents = jax.random.normal(jax.random.key(0), (2, 2, 24, 42, 4))
    tiling = decode_tiling(tiny.config, 384, 672, 384)
    assert tiling.starts == ((0,), (0, 288)), "no more than a quarter is shared"
    whole = np.concatenate(list(decode(model, latents)), axis=1)
    tiled = np.concatenate(list(decode(model, latents, None, tiling)), axis=1)
    assert tiled.shape == (2, 5, 384, 672, 3)
    check_alike(tiled, whole, tiling)


def test_pictures_are_in_their_tiles(tiny):
    """Each tile encodes its part of a picture behind its own frames: another tile's would be a hole in the clip."""
    latents = jax.random.normal(jax.random.key(0), (1, 3, 8, 20, 4))
    picture = np.random.default_rng(0).integers(0, 255, (1, 128, 320, 3), np.uint8)
    tiling = decode_tiling(tiny.config, 128, 320, 128)
    tiled = np.concatenate(list(decode(tiny, latents, None, tiling, True, {2: picture})), axis=1)
    # The last tile's right half is in no other.
    part = latents[:, :, :, 12:], {2: picture[:, :, 192:]}
    alone = np.concatenate(list(decode(tiny, part[0], None, None, True, part[1])), axis=1)
    np.testing.assert_array_equal(tiled[:, :, :, 256:], alone[:, :, :, 64:])


def test_pieces_in_time_are_exact(tiny, compilations):
    """A tile that forgets the frames before jumps at each window; a program for each tile compiles for an hour."""
    latents = jax.random.normal(jax.random.key(0), (1, 5, 8, 20, 4))
    tiling = decode_tiling(tiny.config, 128, 320, 128)
    assert len(tiling.corners) == 4
    whole = list(decode(tiny, latents, None, tiling))
    assert [chunk.shape[1] for chunk in whole] == [1, 4, 4, 4, 4]
    del compilations[:]
    list(decode(tiny, jnp.zeros((1, 5, 16, 32, 4)), None, decode_tiling(tiny.config, 256, 512, 128)))
    assert len(compilations) <= 2, "a larger frame needs no other decoder: the tiles of a frame share one"
    cache, pieces = None, []

    def piece(part, last):
        nonlocal cache
        cache = yield from decode(tiny, part, cache, tiling, last)

    for first, end in ((0, 2), (2, 3), (3, 5)):
        pieces += piece(latents[:, first:end], end == 5)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), np.concatenate(whole, axis=1))
    assert not cache, "nothing follows the last one"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"decode_tile": 100}, "between 128 and 8192; nearest: 128"),
        ({"decode_tile": 200}, "must be a multiple of 16; nearest: 192"),
        ({"decode_tile": 10**6}, "nearest: 8192"),
        ({"decode_tile": True}, "whole number"),
    ],
)
def test_tile_that_does_not_fit_is_refused(tiny, compilations, asked, said):
    """Found when the clip is sampled, it would cost the hours of that."""
    with pytest.raises(InputError, match=said):
        make_request(tiny, PROMPT, height=256, width=320, **asked)
    assert not compilations


def test_large_frames_are_tiled_and_said_so(tiny):
    """A 4K frame whole takes a hundred gigabytes: nobody must need to know that beforehand."""
    large = make_request(tiny, PROMPT, height=2160, width=3840)
    assert outline(large).endswith("9 of 3840x2160, 1.1 s, decoded in 60 tiles of 512x512")
    assert len(make_request(tiny, PROMPT, height=1024, width=1024).tiling.corners) == 1
    assert len(make_request(tiny, PROMPT, height=1024, width=1040).tiling.corners) > 1
    assert len(make_request(tiny, PROMPT, height=1088, width=1920, decode_tile=1920).tiling.corners) == 1
    for request in (large, make_request(tiny, PROMPT)):
        side = max(request.tiling.tile)
        again = make_request(tiny, PROMPT, height=request.height, width=request.width, decode_tile=side)
        assert again.tiling == request.tiling, "a campaign's manifest makes the same clip again"


def test_memory_of_the_decoder_is_that_of_a_tile(tiny):
    """Otherwise the forecast turns away what fits."""
    whole, tiled = (memory(tiny, make_request(tiny, PROMPT, height=128, width=512, decode_tile=s)) for s in (512, 128))
    assert tiled.sampling == whole.sampling
    assert tiled.decoding - tiled.parameters < (whole.decoding - whole.parameters) / 2


@pytest.mark.slow
def test_4k_in_24_gigabytes():
    """A tile that brings the whole frame's caches along, 73 GiB of them, decodes 4K nowhere; this one compiles only."""
    preset = PRESETS["wan2.1-t2v-1.3b"]
    parts = preset.transformer, preset.text_encoder, preset.vae, preset.sampling, preset.expand_timesteps
    config = ModelConfig(*parts, family="WanPipeline")
    tiling = decode_tiling(config, 2160, 3840, None)
    params = jax.eval_shape(lambda key: vae.init(config.vae, key), jax.random.key(0))
    latents = jax.ShapeDtypeStruct((1, 1, *(n // 8 for n in tiling.tile), 16), jnp.float32)
    _, cache = jax.eval_shape(lambda p, z: decode_chunk(config, p, None, z), params, latents)
    need = decode_chunk.lower(config, params, cache, latents).compile().memory_analysis()
    tile = need.argument_size_in_bytes + need.output_size_in_bytes + need.temp_size_in_bytes
    # 81 frames in bytes, and in float32 two bands of a row of tiles, the one at work and the next.
    host = 81 * 3840 * 3 * (2160 + 2 * 4 * tiling.tile[0])
    assert tile + host < 24e9, f"{tile / 1e9:.1f} GB for a tile, {host / 1e9:.1f} GB for the frames"


@pytest.fixture
def small_device(monkeypatch):
    """A decoder that takes up to so many latents a frame, 128 x 128 pixels; what a device says to more is made up."""
    room = [8 * 8]

    def decode_or_fail(config, params, cache, latents):
        if latents.shape[2] * latents.shape[3] > room[0]:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.\n  more")
        return decode_chunk(config, params, cache, latents)

    monkeypatch.setattr(decoding, "decode_chunk", decode_or_fail)
    return room


@pytest.fixture
def sampled(monkeypatch):
    """The windows that were sampled."""
    windows, write = [], unfinished.write

    def note(kept, window, latents):
        windows.append(window)
        write(kept, window, latents)

    monkeypatch.setattr(unfinished, "write", note)
    return windows


def test_out_of_memory_goes_on_with_smaller_tiles(tiny, tmp_path, small_device, sampled):
    """Sampling takes hours, decoding minutes: a decoder that lacks memory must not cost what is sampled."""
    asked = {"height": 128, "width": 256, "num_frames": 21, "num_inference_steps": 1}
    with pytest.raises(InputError, match=r"memory with 256x128 pixels at a time: give decode_tile=128 ") as error:
        list(vidjax.stream(tiny, PROMPT, **asked, workdir=tmp_path / "part"))
    assert "\n" not in str(error.value)
    assert sampled == [0]
    frames = list(vidjax.stream(tiny, PROMPT, **asked, workdir=tmp_path / "part", decode_tile=128))
    assert sampled == [0, 1, 2, 3], "the first window was there"
    assert np.concatenate(frames).shape == (21, 128, 256, 3)
    small_device[0] = 1
    with pytest.raises(InputError, match="memory with 128x128 pixels at a time; there are no smaller tiles"):
        list(vidjax.stream(tiny, PROMPT, **asked, workdir=tmp_path / "part", decode_tile=128))


def test_large_clip_of_one_window_is_kept_too(tiny, tmp_path, small_device, sampled):
    """The largest frames are those for which memory ends, and their clips are often short."""
    asked = {"height": 512, "width": 528, "num_frames": 1, "num_inference_steps": 1}
    out = tmp_path / "clip.png"
    with pytest.raises(InputError, match="give decode_tile=256"):
        make_file(tiny, make_request(tiny, PROMPT, **asked), out, Watch())
    assert (part_folder(out) / "window-00000.npy").exists()
    make_file(tiny, make_request(tiny, PROMPT, **asked, decode_tile=128), out, Watch())
    assert sampled == [0]
    assert out.exists()
    assert not part_folder(out).exists()
