"""Low-rank changes in training are the ones that a file of them merges to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.errors import InputError
from vidjax.models.wan import denoiser
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.training import lora
from vidjax.weights import folder
from vidjax.weights import lora as files

CONFIG = DenoiserConfig((1, 1, 1), 2, 12, 4, 4, 8, 16, 24, 2)


@pytest.fixture
def abstract():
    return folder.abstract_params("transformer", CONFIG)


def random_changes(config, abstract):
    changes = lora.init(config, abstract, jax.random.key(1))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), changes)


def test_training_starts_at_the_model_itself(abstract):
    """A change that is not zero at first would throw away what the model knows."""
    params = denoiser.init(CONFIG, jax.random.key(0))
    merged = lora.merged(params, lora.init(lora.LoRAConfig(4), abstract, jax.random.key(1)), 1.0)
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(merged), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_exported_file_merges_to_the_same_weights(tmp_path, abstract, alpha):
    """What is trained must be what ``loras=`` loads: layers, transposes and strength alike."""
    config = lora.LoRAConfig(4, alpha, ("to_q", "to_out.0", "net.0.proj"))
    params, changes = denoiser.init(CONFIG, jax.random.key(0)), random_changes(config, abstract)
    trained = lora.merged(params, changes, config.strength)
    files.write(tmp_path / "x.safetensors", abstract, changes, config.strength)
    loaded = files.merge(params, [(tmp_path / "x.safetensors", 1.0)])
    moved = 0
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    for (path, old), a, b in zip(paths, jax.tree.leaves(trained), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=str(path))
        moved += not np.allclose(old, a, atol=1e-4)
    assert moved == len(changes) == 5  # three in attention twice over, less net.0.proj that is there once


def test_gradient_reaches_every_change(abstract):
    """A change that no gradient reaches is dead weight in the file."""
    config = lora.LoRAConfig(2)
    params, changes = denoiser.init(CONFIG, jax.random.key(0)), random_changes(config, abstract)

    def loss(changes):
        merged = lora.merged(params, changes, config.strength)
        context = denoiser.context(CONFIG, merged, jnp.ones((1, 3, 8)))
        return jnp.mean(denoiser.velocity(CONFIG, merged, jnp.ones((1, 2, 2, 2, 4)), jnp.ones((1, 2)), context) ** 2)

    for path, gradient in jax.tree_util.tree_flatten_with_path(jax.grad(loss)(changes))[0]:
        assert np.abs(gradient).max() > 0, path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lora.LoRAConfig(0), "lora.rank=0: must be at least 1"),
        (lora.LoRAConfig(4, None, ("to_q", "to_x")), "modules of a block, net.0.proj, net.2, to_k"),
        (lora.LoRAConfig(4, None, ()), "choose among"),
    ],
)
def test_refused(abstract, config, message):
    with pytest.raises(InputError, match=message):
        lora.init(config, abstract, jax.random.key(0))
