"""The spatial upsampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models import upsampler
from vidjax.models.upsampler import UpsamplerConfig

CONFIG = UpsamplerConfig(dim=8, num_res_blocks=1)


def test_begins_as_interpolation():
    """Training goes on from what it is to beat; random frames would have to be unlearned."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 5, 7, 3)), jnp.float32)
    found = upsampler.upsample(CONFIG, upsampler.init(CONFIG, jax.random.key(0)), x)
    np.testing.assert_allclose(found, jax.image.resize(x, (2, 10, 14, 3), "cubic"), atol=1e-6)


@pytest.mark.parametrize("blocks", [0, 2])
def test_reach(blocks):
    """Tiles that were cut with less would show where they meet; with more they would be work for nothing."""
    config = UpsamplerConfig(dim=4, num_res_blocks=blocks)
    # Positive throughout, so that no layer hides what it is given.
    params = jax.tree.map(lambda p: 0.1 + jnp.abs(p), upsampler.init(config, jax.random.key(0)))
    x = jnp.ones((1, 1, 24, 3))
    found, other = (upsampler.upsample(config, params, frames) for frames in (x, x.at[:, :, 0].set(2.0)))
    changed = np.flatnonzero(np.abs(found - other)[0, 0].max(axis=-1))
    assert changed.max() // 2 == config.reach


def test_cells_are_laid_out_by_rows_and_columns():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)  # (row, column, channel)
    np.testing.assert_array_equal(upsampler.cells(x)[0, ..., 0], [[0, 2], [4, 6]])
