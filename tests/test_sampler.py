"""The pure sampler computes what people get, and can be transformed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.diffusion.flow import initial_noise, make_schedule
from vidjax.diffusion.guidance import make_guidance
from vidjax.encoding import make_condition
from vidjax.errors import InputError
from vidjax.request import make_request
from vidjax.sampler import make_legs, make_velocity, text_contexts

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


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        ({"guidance": "cfg-zero"}, PICTURE),
        ({"guidance": "apg"}, None),
        ({"guidance": "apg", "guidance_interval": [0.2, 0.9]}, PICTURE),
    ],
    ids=["cfg-zero", "apg", "interval"],
)
def test_guidance_in_both_loops(tiny, settings, image):
    """Programs and people must see the same clip under every rule, and another than plain guidance gives."""
    settings = settings | {"num_inference_steps": 4}
    condition = make_condition(tiny, make_request(tiny, PROMPT, image=image))
    found = jax.jit(vidjax.make_sampler(tiny, **settings))(tiny.params, jax.random.key(7), condition)
    noise = initial_noise(jax.random.key(7), condition.given.shape)
    given = {"latents": noise, "image": image, "output_type": "latent", "progress": False}
    expected = vidjax.generate(tiny, PROMPT, **given, **settings)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    plain = vidjax.generate(tiny, PROMPT, num_inference_steps=4, **given)
    assert np.abs(expected - plain).max() > 1e-2
    np.testing.assert_array_equal(expected[:, :1][condition.mask[:, :1]], condition.given[:, :1][condition.mask[:, :1]])


@pytest.mark.parametrize("rule", ["cfg-zero", "apg"])
def test_scale_one_is_unguided_whatever_the_rule(tiny, rule):
    """A scale of 1 is how guidance is turned off."""
    asked = {"guidance_scale": 1.0, "num_inference_steps": 2, "output_type": "latent", "progress": False}
    plain = vidjax.generate(tiny, PROMPT, **asked)
    np.testing.assert_array_equal(vidjax.generate(tiny, PROMPT, guidance=rule, **asked), plain)


def test_outside_the_interval_the_prompt_is_alone(tiny):
    """An interval that holds no step is no guidance; one that holds all of them is guidance as before."""
    asked = {"num_inference_steps": 3, "output_type": "latent", "progress": False}
    times = make_schedule(3, tiny.config.sampling.flow_shift).times
    never = vidjax.generate(tiny, PROMPT, guidance_interval=(0.0, float(times[-1]) / 2), **asked)
    alone = vidjax.generate(tiny, PROMPT, guidance_scale=1.0, **asked)
    np.testing.assert_allclose(never, alone, rtol=0, atol=1e-5)
    always = vidjax.generate(tiny, PROMPT, guidance_interval=(float(times[-1]), float(times[0])), **asked)
    np.testing.assert_allclose(always, vidjax.generate(tiny, PROMPT, **asked), rtol=0, atol=1e-5)


def test_given_frames_do_not_count(tiny):
    """A rule that measures whole clips must not measure the picture: only what is being made is guided."""
    request = make_request(tiny, PROMPT, image=PICTURE)
    condition = make_condition(tiny, request)
    contexts = text_contexts(tiny.config, tiny.params["transformer"], condition, False, True)
    x = initial_noise(jax.random.key(0), condition.given.shape)
    for rule in ("cfg-zero", "apg"):
        guidance = make_guidance(rule, (0.0, 1.0), request.schedule)
        velocity = make_velocity(tiny.config, tiny.params["transformer"], contexts, condition, 3.0, guidance)
        t = jnp.float32(0.5)
        np.testing.assert_array_equal(velocity(x, t)[:, 1:], velocity(x.at[:, 0].set(100.0), t)[:, 1:])
        assert not velocity(x, t)[:, 0].any()


@pytest.fixture
def two(tiny):
    """The tiny model with a second denoiser, for the times below 0.8: the first one's mirror image."""
    second = jax.tree.map(lambda x: -x, tiny.params["transformer"]["proj_out"])
    params = {**tiny.params, "transformer_2": {**tiny.params["transformer"], "proj_out": second}}
    config = dataclasses.replace(tiny.config, boundary_ratio=0.8)
    return dataclasses.replace(tiny, config=config, params=params)


def test_each_denoiser_walks_its_times(two):
    """Steps of the wrong expert blur what the other one made."""
    schedule = make_schedule(10, 3.0)
    legs = make_legs(two.config, schedule, (3.0, 2.0))
    assert [(leg.part, leg.scale) for leg in legs] == [("transformer", 3.0), ("transformer_2", 2.0)]
    assert legs[0].first == 0
    assert legs[0].last == legs[1].first
    assert legs[1].last == 10
    assert schedule.times[legs[0].last - 1] >= 0.8 > schedule.times[legs[1].first]
    late = make_schedule(1, 1.0)
    assert [leg.part for leg in make_legs(two.config, late, (3.0, 2.0))] == ["transformer"], "no leg without steps"


@pytest.mark.parametrize("offload", [False, True])
def test_two_denoisers_in_both_loops(two, offload):
    """The scan and the host loop must switch at the same step; waiting in the host's memory changes no number."""
    condition = make_condition(two, make_request(two, PROMPT))
    key, settings = jax.random.key(7), {"num_inference_steps": 4, "guidance_scale": 3.0, "guidance_scale_2": 1.0}
    found = jax.jit(vidjax.make_sampler(two, **settings))(two.params, key, condition)
    model = dataclasses.replace(two, offload=offload)
    noise = initial_noise(key, condition.given.shape)
    expected = vidjax.generate(model, PROMPT, latents=noise, output_type="latent", progress=False, **settings)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    same = {**two.params, "transformer_2": two.params["transformer"]}
    other = vidjax.make_sampler(two, **settings)(same, key, condition)
    assert np.abs(found - other).max() > 0.1, "the second denoiser was not used"


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
        ({"guidance": "cfgzero"}, "guidance='cfgzero': choose one of cfg, cfg-zero, apg"),
        ({"guidance_interval": (0.5, 2.0)}, r"guidance_interval=2\.0: .* nearest: 1"),
    ],
)
def test_settings_are_checked(tiny, settings, said):
    """A sampler of zero steps or of NaN would return noise, inside somebody's jit."""
    with pytest.raises(InputError, match=said):
        vidjax.make_sampler(tiny, **settings)
