"""Rotary tables and the small layers, where the golden models would not tell which is wrong."""

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.models import layers


def test_rotary_split_of_the_published_head():
    """128 channels are 44 of time, 42 of height, 42 of width: another split is another model."""
    table = layers.spread(*map(jnp.asarray, layers.rotary_tables_3d(np.array([0, 3]), 2, 5, 128)))
    assert table.shape == (2, 10, 64)
    first, third = table[0, 0], table[1, 7]  # frame 3, row 1, column 2
    assert not first.any()
    np.testing.assert_allclose(third[:22], 3 * 1e4 ** (-np.arange(22) / 22), rtol=1e-6)
    np.testing.assert_allclose(third[22:43], 1e4 ** (-np.arange(21) / 21), rtol=1e-6)
    np.testing.assert_allclose(third[43:], 2 * 1e4 ** (-np.arange(21) / 21), rtol=1e-6)


def test_riflex_slows_the_component_that_would_repeat():
    """Of Wan's 22 time components the fourth has a period of 22 frames: of 42 frames it would go round twice."""
    plain, found = layers.rotary_table(np.arange(42), 44), layers.rotary_table(np.arange(42), 44, trained=21)
    np.testing.assert_array_equal(np.flatnonzero((plain != found).any(axis=0)), [3])
    assert plain[-1, 3] > 1.8 * 2 * np.pi
    np.testing.assert_allclose(found[:, 3], 0.9 * 2 * np.pi * np.arange(42) / 42)
    for frames in (1, 21):  # a clip that was trained stays as it is
        table = layers.rotary_table(np.arange(frames), 44, trained=21)
        np.testing.assert_array_equal(table, layers.rotary_table(np.arange(frames), 44))


def test_rotation_makes_products_relative():
    """Queries and keys turned by their positions meet in the difference of positions alone."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def product(i, j):
        a, b = (layers.rotary_table(np.array([n]), 8) for n in (i, j))
        turned = [layers.rotate(x, jnp.cos(y), jnp.sin(y)) for x, y in ((q, jnp.asarray(a)), (k, jnp.asarray(b)))]
        return float(jnp.vdot(*turned))

    np.testing.assert_allclose(product(3, 1), product(12, 10), atol=1e-5)
    assert abs(product(3, 1) - product(1, 3)) > 1e-3


def test_sinusoidal_embedding():
    """Cosines first, then sines, at frequencies 1 to nearly 1e-4."""
    found = layers.sinusoidal_embedding(jnp.array([0.0, 500.0]), 4)
    np.testing.assert_allclose(found[0], [1, 1, 0, 0])
    np.testing.assert_allclose(found[1], [np.cos(500), np.cos(5), np.sin(500), np.sin(5)], atol=1e-5)


def test_norms_in_half_precision():
    """Large activations of a bfloat16 model must not lose the mean: norms are taken in float32."""
    x = (200 + jax.random.normal(jax.random.key(0), (4, 64))).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    found = layers.LayerNorm(affine=False).apply({}, x)
    assert found.dtype == jnp.bfloat16
    expected = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.02)
    norm = layers.RMSNorm().apply({"params": {"scale": jnp.full(64, 2.0)}}, x)
    expected = 2 * exact / np.sqrt((exact**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(norm.astype(jnp.float32), expected, rtol=0.005)
