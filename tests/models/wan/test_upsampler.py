"""The latent upsampler: in pieces as whole, and no look ahead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models.wan import upsampler
from vidjax.models.wan.upsampler import UpsamplerConfig

CONFIG = UpsamplerConfig(z_dim=4, dim=8, num_res_blocks=1)


@pytest.fixture(scope="module")
def params():
    """Every parameter drawn: at the beginning no frame sees those before it."""
    rng = np.random.default_rng(0)
    first = upsampler.init(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda x: x + jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32), first)


def test_pieces_are_the_whole(params):
    """If a piece forgot what was before it, long clips would flicker where pieces meet."""
    x = jax.random.normal(jax.random.key(1), (2, 4, 3, 5, 4))
    whole, _ = upsampler.upsample_chunk(CONFIG, params, None, x)
    assert whole.shape == (2, 4, 6, 10, 4)
    cache, pieces = None, []
    for start, end in ((0, 1), (1, 3), (3, 4)):
        piece, cache = upsampler.upsample_chunk(CONFIG, params, cache, x[:, start:end])
        pieces.append(piece)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)


def test_looks_back_only(params):
    """A frame that depended on later ones could not be made before they are."""
    x = jax.random.normal(jax.random.key(1), (1, 3, 4, 4, 4))
    one, other = (upsampler.upsample_chunk(CONFIG, params, None, z)[0] for z in (x, x.at[:, 2].set(0.0)))
    np.testing.assert_array_equal(one[:, :2], other[:, :2])
    assert not np.allclose(one[:, 2], other[:, 2])


def test_cells_are_laid_out_by_rows_and_columns():
    x = jnp.arange(8.0).reshape(1, 1, 1, 1, 8)  # (row, column, channel)
    np.testing.assert_array_equal(upsampler.doubled(x)[0, 0, ..., 0], [[0, 2], [4, 6]])
