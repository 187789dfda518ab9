"""Clips enlarged by a model's own upsampler; by pixels alone: test_resolution.py."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.models.wan import upsampler
from vidjax.models.wan.upsampler import UpsamplerConfig
from vidjax.resolution import doublings
from vidjax.weights import folder

CONFIG = UpsamplerConfig(z_dim=4, dim=8, num_res_blocks=1)
PROMPT = "a small red circle moves right on grass"


@pytest.fixture(scope="module")
def with_upsampler(tiny_folder, tmp_path_factory):
    """The folder of the tiny model, with a random upsampler in it."""
    place = tmp_path_factory.mktemp("upsampler") / "tiny"
    shutil.copytree(tiny_folder, place)
    folder.write_part(place, "upsampler", CONFIG, upsampler.init(CONFIG, jax.random.key(0)), "bfloat16")
    sampling = json.loads((place / "sampling.json").read_text())
    folder.write_json(place / "sampling.json", {**sampling, "refine": 0.0})
    return place


@pytest.fixture(scope="module")
def model(with_upsampler):
    return vidjax.load(with_upsampler)


def latents(model, **asked):
    return np.asarray(vidjax.generate(model, PROMPT, output_type="latent", progress=False, **asked))


@pytest.mark.parametrize(
    ("small", "large", "times"),
    [((64, 64), (128, 128), 1), ((64, 64), (480, 480), 3), ((48, 80), (64, 112), 0), ((48, 80), (72, 128), 1)],
)
def test_doublings_come_nearest(model, small, large, times):
    assert doublings(model.config, small, large) == times
    without = dataclasses.replace(model.config, upsampler=None)
    assert doublings(without, small, large) == 0


def test_twice_the_size_is_the_upsampled_clip(model):
    """No trip through pixels: what comes out is what the upsampler makes of the small latents."""
    small = latents(model, num_frames=9)
    want, _ = upsampler.upsample_chunk(CONFIG, model.params["upsampler"], None, jnp.asarray(small))
    np.testing.assert_allclose(latents(model, num_frames=9, resolution=32), want, atol=1e-4)


def test_other_sizes_are_reached_in_pixels_from_there(model, tiny):
    large = latents(model, num_frames=5, resolution=48)
    assert large.shape[2:4] == (3, 6)
    assert not np.allclose(large, latents(tiny, num_frames=5, resolution=48, refine=0.0), atol=1e-2)


def test_long_clips_are_upsampled_as_one(model):
    """The cache is carried over windows."""
    small, large = latents(model, num_frames=21), latents(model, num_frames=21, resolution=32)
    want, _ = upsampler.upsample_chunk(CONFIG, model.params["upsampler"], None, jnp.asarray(small))
    np.testing.assert_allclose(large, want, atol=1e-4)
