"""The pure sampler computes what people get, and can be transformed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.diffusion.flow import initial_noise
from vidjax.errors import InputError
from vidjax.generation import make_condition
from vidjax.request import make_request

PROMPT = "a large blue star spins in the snow, anime style"
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("solver", "scale", "image"), [("unipc", 3.0, None), ("heun", 1.0, PICTURE)], ids=["unipc", "heun-unguided-image"]
)
def test_sampler_equals_generate(tiny, solver, scale, image):
    """One scan for programs, a host loop for people: what a program finds must be what people see."""
    condition = make_condition(tiny, make_request(tiny, PROMPT, image=image))
    sample = jax.jit(vidjax.make_sampler(tiny, guidance_scale=scale, solver=solver))
    found = sample(tiny.params, jax.random.key(7), condition)
    noise = initial_noise(jax.random.key(7), condition.given.shape)
    expected = vidjax.generate(
        tiny, PROMPT, latents=noise, image=image, guidance_scale=scale, solver=solver, output_type="latent",
        progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.abs(found - noise).max() > 0.1, "the walk went nowhere"


def test_vmap_over_keys(tiny):
    """Programs draw many clips of one prompt: under ``vmap`` each key's clip is the one that the key gives alone."""
    condition = make_condition(tiny, make_request(tiny, PROMPT))
    sample = vidjax.make_sampler(tiny, num_inference_steps=2, guidance_scale=1.0, solver="euler")
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(sample, in_axes=(None, 0, None)))(tiny.params, keys, condition)
    one = jax.jit(sample)(tiny.params, keys[1], condition)
    assert many.shape == (3, 1, 3, 1, 2, 4)
    np.testing.assert_allclose(many[1], one, rtol=0, atol=1e-4)
    assert jnp.abs(many[0] - many[1]).max() > 0.1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0: .* nearest: 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan: must be a finite number"),
        ({"flow_shift": 0.0}, r"flow_shift=0\.0: .* nearest: 0\.01"),
        ({"solver": "dpm"}, "choose one of unipc, euler, heun"),
    ],
)
def test_settings_are_checked(tiny, settings, said):
    """A sampler of zero steps or of NaN would return noise, inside somebody's jit."""
    with pytest.raises(InputError, match=said):
        vidjax.make_sampler(tiny, **settings)
