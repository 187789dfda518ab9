"""Attention that goes on with finer tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models.layers import rotary_table, rotate
from vidjax.models.wan import denoiser
from vidjax.training.finer_tokens import NEAREST, farther

CONFIG = denoiser.DenoiserConfig(
    num_attention_heads=2, attention_head_dim=24, in_channels=3, out_channels=3, text_dim=8, freq_dim=16, ffn_dim=32,
    num_layers=2, rope_max_seq_len=64,
)  # fmt: skip
D, PAIRS = CONFIG.attention_head_dim, CONFIG.attention_head_dim // 6


@pytest.fixture(scope="module")
def parts():
    params = denoiser.init(CONFIG, jax.random.key(0))
    return [jax.tree.map(np.asarray, p["blocks"]["attn1"]) for p in (params, farther(CONFIG, params))]


@pytest.mark.parametrize("start", [D - 4 * PAIRS, D - 2 * PAIRS])
def test_distances_are_seen_as_they_were(parts, start):
    """Tokens that are more tokens apart turn as much as before: else all that attention knows of places is lost."""
    x = np.random.default_rng(1).normal(size=(2, CONFIG.dim)).astype(np.float32)

    def products(part, position):
        """Of a query at no distance and a key at ``position``: of each pair of channels, in each head."""

        def heads(name):
            y = x["qk".index(name)] @ part[f"to_{name}"]["kernel"][0] * part[f"norm_{name}"]["scale"][0]
            return y.reshape(1, 2, D)[..., start : start + 2 * PAIRS]

        angles = rotary_table(np.asarray([position]), 2 * PAIRS)
        cos, sin = (jnp.asarray(f(angles), jnp.float32) for f in (np.cos, np.sin))
        turned = np.asarray(rotate(jnp.asarray(heads("k"))[None], cos, sin))[0]
        return (heads("q") * turned).reshape(2, PAIRS, 2).sum(axis=-1)

    before, now = products(parts[0], 1.5), products(parts[1], 1.5 * 1e4 ** (1 / PAIRS))
    np.testing.assert_allclose(now[:, 1:], before[:, :-1], rtol=1e-4, atol=1e-5)
    new, slowest = products(parts[1], 0.0)[:, 0], products(parts[0], 0.0)[:, -1]
    np.testing.assert_allclose(new, NEAREST**2 * slowest, rtol=1e-4)


def test_time_and_values_stay(parts):
    before, now = parts
    for name in ("to_q", "to_k"):
        kernels = (part[name]["kernel"].reshape(2, CONFIG.dim, 2, D)[..., : D - 4 * PAIRS] for part in parts)
        np.testing.assert_array_equal(*kernels)
    np.testing.assert_array_equal(before["to_v"]["kernel"], now["to_v"]["kernel"])
