"""Clips enlarged by a model's own upsampler; by interpolation alone: test_resolution.py."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.encoding import encode_clip
from vidjax.errors import WeightsError
from vidjax.image import fit_image
from vidjax.models import upsampler
from vidjax.models.upsampler import UpsamplerConfig
from vidjax.resolution import doublings
from vidjax.upsampling import upsample
from vidjax.video import from_uint8, to_uint8
from vidjax.weights import folder

CONFIG = UpsamplerConfig(dim=8, num_res_blocks=1)
PROMPT = "a small red circle moves right on grass"


@pytest.fixture(scope="module")
def with_upsampler(tiny_folder, tmp_path_factory):
    """The folder of the tiny model, with a random upsampler in it."""
    place = tmp_path_factory.mktemp("upsampler") / "tiny"
    shutil.copytree(tiny_folder, place)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.1 * rng.normal(size=p.shape), jnp.float32),
        upsampler.init(CONFIG, jax.random.key(0)),
    )
    folder.write_part(place, "upsampler", CONFIG, params, "bfloat16")
    sampling = json.loads((place / "sampling.json").read_text())
    folder.write_json(place / "sampling.json", {**sampling, "refine": 0.0})
    return place


@pytest.fixture(scope="module")
def model(with_upsampler):
    return vidjax.load(with_upsampler)


def frames(model, **asked):
    return vidjax.generate(model, PROMPT, progress=False, **asked).frames


def doubled(model, clip):
    """The whole frames through the network: what tiles must not be told from."""
    return np.asarray(to_uint8(upsampler.upsample(CONFIG, model.params["upsampler"], from_uint8(jnp.asarray(clip)))))


def same(found, want):
    """But for how floats are rounded, by programs of other shapes."""
    assert found.shape == want.shape
    assert np.abs(found.astype(int) - want).max() <= 1


@pytest.mark.parametrize(
    ("small", "large", "times"),
    [
        ((64, 64), (128, 128), 1),
        ((64, 64), (480, 480), 3),
        ((64, 64), (2160, 2160), 3),
        ((48, 80), (64, 112), 0),
        ((48, 80), (72, 128), 1),
    ],
)
def test_doublings_come_nearest(model, small, large, times):
    assert doublings(model.config, small, large) == times
    without = dataclasses.replace(model.config, upsampler=None)
    assert doublings(without, small, large) == 0


def test_twice_the_size_is_the_upsampled_clip(model):
    """Of a long clip too, whose windows come one after another."""
    same(frames(model, num_frames=21, resolution=32), doubled(model, frames(model, num_frames=21)))


def test_other_sizes_are_reached_by_interpolation_from_there(model):
    want = doubled(model, doubled(model, frames(model, num_frames=5)))
    same(frames(model, num_frames=5, resolution=48), np.stack([fit_image(frame, 48, 96) for frame in want]))


def test_latents_and_pictures_are_of_upsampled_frames(model):
    """What is walked on, or given out as latents, is encoded at the large size."""
    want = encode_clip(model, doubled(model, frames(model, num_frames=9)))
    found = vidjax.generate(model, PROMPT, num_frames=9, resolution=32, output_type="latent", progress=False)
    np.testing.assert_allclose(found, want, atol=0.05)


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"num_res_blocks": -1}])
def test_no_such_upsampler(with_upsampler, tmp_path, wrong):
    place = tmp_path / "model"
    shutil.copytree(with_upsampler, place)
    config = json.loads((place / "upsampler" / "config.json").read_text())
    folder.write_json(place / "upsampler" / "config.json", {**config, **wrong})
    name, value = next(iter(wrong.items()))
    with pytest.raises(WeightsError, match=f"upsampler: {name}={value}: must"):
        vidjax.load(place)


@pytest.mark.parametrize("size", [(16, 16), (23, 41), (64, 19)])
def test_tiles_are_not_seen(model, monkeypatch, size):
    """Without as much of the neighbours as the network looks at, a grid would lie over large frames."""
    monkeypatch.setattr("vidjax.upsampling.TILE", 16)
    clip = np.random.default_rng(0).integers(0, 256, (2, 2, *size, 3), dtype=np.uint8)
    want = doubled(model, clip.reshape(4, *size, 3)).reshape(2, 2, 2 * size[0], 2 * size[1], 3)
    same(upsample(model, clip), want)
