"""The text encoder against the published one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.models import t5
from vidjax.weights import folder

GOLDEN = Path(__file__).parents[1] / "golden" / "text_encoder"

encode = jax.jit(t5.encode, static_argnames=("config", "dtype"))


def golden():
    config = folder.read_config(GOLDEN, "text_encoder")
    params = folder.read_part(GOLDEN, "text_encoder", config, dtype=np.float32)
    with np.load(GOLDEN / "arrays.npz") as arrays:
        return config, params, {k: jnp.asarray(v) for k, v in arrays.items()}


def test_text_equals_published():
    """Published denoisers were trained on just these numbers: another embedding is another prompt."""
    config, params, a = golden()
    found = encode(config, params, a["tokens"], a["lengths"])
    np.testing.assert_allclose(found, a["text"], rtol=0, atol=2e-5 * np.abs(a["text"]).max())


def test_padding_is_invisible():
    """What stands past the end of a text must not change it, and its embedding there is zero."""
    config, params, a = golden()
    found = encode(config, params, a["tokens"], a["lengths"])
    other = encode(config, params, a["tokens"].at[1, 9:].set(7), a["lengths"])
    np.testing.assert_array_equal(found, other)
    assert not found[1, 9:].any()
    alone = encode(config, params, a["tokens"][1:, :9], a["lengths"][1:])
    np.testing.assert_allclose(found[1:, :9], alone, rtol=0, atol=2e-5 * np.abs(alone).max())


def test_relative_buckets():
    """Half of the buckets for what follows; every distance up to 7 its own, the last for 128 and more."""
    buckets = t5.relative_buckets(300, 32, 128)
    np.testing.assert_array_equal(buckets[:8, 0], np.arange(8))
    np.testing.assert_array_equal(buckets[0, 1:8], 16 + np.arange(1, 8))
    assert (buckets[128:, 0] == 15).all()
    assert (buckets[0, 128:] == 31).all()
    np.testing.assert_array_equal(buckets[100:, 100], buckets[:200, 0])
    assert (np.diff(buckets[:, 0]) >= 0).all()
