"""The model's own FLOPs, against formulas and against the compiler."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from vidjax.arithmetic import matrix_flops
from vidjax.models.wan import denoiser, vae
from vidjax.models.wan.vae import VAEConfig
from vidjax.plan.work import work_of
from vidjax.weights.folder import abstract_params

SMALL = denoiser.DenoiserConfig(
    num_attention_heads=4, attention_head_dim=32, in_channels=8, out_channels=8, text_dim=48, freq_dim=64, ffn_dim=512,
    num_layers=3,
)  # fmt: skip
B, F, H, W, L = 2, 3, 16, 16, 24


def parts(config):
    """The denoiser as a function, and shapes of its arguments."""
    params = abstract_params("transformer", config)
    x = jax.ShapeDtypeStruct((B, F, H, W, config.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((B, F), jnp.float32)
    text = jax.ShapeDtypeStruct((B, L, config.text_dim), jnp.float32)

    def both(params, x, t, text):
        return denoiser.velocity(config, params, x, t, denoiser.context(config, params, text))

    return both, (params, x, t, text)


def formula(c):
    """Two for each multiplication: products with matrices by tokens, attention by pairs of tokens."""
    D, N = c.dim, F * (H // 2) * (W // 2)
    patch = 4 * c.in_channels * D + 4 * c.out_channels * D
    time = B * F * (c.freq_dim * D + D * D + 6 * D * D)
    text = B * L * (c.text_dim * D + D * D + c.num_layers * 2 * D * D)
    matrices = 6 * D * D + 2 * D * c.ffn_dim  # q, k, v, out; q and out across; two of the feed-forward
    attention = 2 * N * D + 2 * L * D
    return 2 * (B * N * (patch + c.num_layers * (matrices + attention)) + time + text)


def test_denoiser_is_its_formula():
    """A wrong numerator makes every FLOPs ratio wrong."""
    function, arguments = parts(SMALL)
    assert matrix_flops(function, *arguments) == formula(SMALL)


def test_denoiser_is_what_is_compiled():
    """On one device nothing is repeated: what the compiled text says must be the same, loops included."""
    function, arguments = parts(SMALL)
    compiled = jax.jit(function).lower(*arguments).compile()
    assert work_of(compiled.as_text(), 1).flops == pytest.approx(formula(SMALL), rel=1e-3)


def test_denoiser_is_what_the_compiler_counts():
    """With one layer there is no loop to miscount: XLA's count, with elementwise work, is a little more."""
    one = dataclasses.replace(SMALL, num_layers=1)
    function, arguments = parts(one)
    counted = jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]
    assert formula(one) < counted < 1.15 * formula(one)


def test_autoencoder_is_what_is_compiled():
    """Its convolutions have other forms on the CPU, of the same products; only padding is left out there."""
    config = VAEConfig(base_dim=8, z_dim=4, dim_mult=(1, 2), num_res_blocks=1, temperal_downsample=(True,))
    params = abstract_params("vae", config)
    latents = jax.ShapeDtypeStruct((1, 2, 16, 16, 4), jnp.float32)
    decode = functools.partial(vae.decode, config)
    compiled = jax.jit(decode).lower(params, latents).compile()
    own = matrix_flops(decode, params, latents)
    assert 0.9 * own < work_of(compiled.as_text(), 1).flops <= 1.01 * own
