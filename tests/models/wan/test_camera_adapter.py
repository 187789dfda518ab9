"""The camera adapter: published names and arithmetic, and nothing changed before it has learnt."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vidjax.models.wan import camera_adapter, denoiser
from vidjax.models.wan.camera_adapter import CameraAdapterConfig
from vidjax.weights import folder

CONFIG = CameraAdapterConfig(6, 24, (2, 2), 2)
MODEL = denoiser.DenoiserConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=3, out_channels=3, text_dim=8, freq_dim=8, ffn_dim=16,
    num_layers=2,
)  # fmt: skip
RAYS = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 8, 12, 6)), jnp.float32)
"""Of latents of 4 x 6: tokens of 2 x 3."""


def drawn(abstract, scale=0.3):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.standard_normal(x.shape), jnp.float32), abstract)


@pytest.fixture(scope="module")
def params():
    return drawn(folder.abstract_params("camera_adapter", CONFIG))


def conv(x, weight, bias, stride, pad):
    """By its definition, channels first, as PyTorch has it: x [C, H, W], weight [D, C, kh, kw]."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    kh, kw = weight.shape[2:]
    rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    out = np.zeros((len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, stride * i : stride * i + kh, stride * j : stride * j + kw]
            out[:, i, j] = (weight * window).sum((1, 2, 3)) + bias
    return out


@pytest.mark.parametrize("num_residual_blocks", [0, 1, 2])
def test_published_arithmetic(num_residual_blocks, tmp_path):
    """From the tensors in the file, by hand: pixel-unshuffle, convolution to patches, residual blocks."""
    config = dataclasses.replace(CONFIG, num_residual_blocks=num_residual_blocks)
    params = drawn(folder.abstract_params("camera_adapter", config))
    folder.write_part(tmp_path, "camera_adapter", config, params)
    tensors = load_file(tmp_path / "camera_adapter" / "diffusion_pytorch_model.safetensors")
    blocks = [f"control_adapter.residual_blocks.{i}" for i in range(num_residual_blocks)]
    convolutions = ["control_adapter.conv", *(f"{block}.conv{i}" for block in blocks for i in (1, 2))]
    assert set(tensors) == {f"{module}.{kind}" for module in convolutions for kind in ("weight", "bias")}
    get = lambda module: (tensors[f"{module}.weight"].astype(float), tensors[f"{module}.bias"].astype(float))  # noqa: E731
    frame = np.asarray(RAYS[1, 2]).transpose(2, 0, 1).astype(float)
    # torch.nn.PixelUnshuffle: channel c * r * r + row * r + column.
    folded = frame.reshape(6, 4, 2, 6, 2).transpose(0, 2, 4, 1, 3).reshape(24, 4, 6)
    x = conv(folded, *get("control_adapter.conv"), 2, 0)
    for block in blocks:
        x = x + conv(np.maximum(conv(x, *get(f"{block}.conv1"), 1, 1), 0), *get(f"{block}.conv2"), 1, 1)
    found = camera_adapter.apply(config, params, RAYS)
    assert found.shape == (2, 3, 6, 24)
    np.testing.assert_allclose(found[1, 2], x.reshape(24, 6).T, rtol=1e-4, atol=1e-4)
    again = folder.read_part(tmp_path, "camera_adapter", folder.read_config(tmp_path, "camera_adapter"))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def velocity():
    model = drawn(folder.abstract_params("transformer", MODEL))
    context = denoiser.context(MODEL, model, jnp.ones((2, 5, 8)))
    x, t = jax.random.normal(jax.random.key(1), (2, 3, 4, 6, 3)), jnp.full((2, 3), 0.5)
    return jax.jit(lambda added: denoiser.velocity(MODEL, model, x, t, context, added=added))


def test_new_adapter_changes_nothing_and_learns(velocity):
    """The first step must see the model as it was, and have a way to go from there."""
    fresh = camera_adapter.init(CONFIG, jax.random.key(0))
    np.testing.assert_array_equal(velocity(camera_adapter.apply(CONFIG, fresh, RAYS)), velocity(None))

    def loss(params):
        return jnp.mean(velocity(camera_adapter.apply(CONFIG, params, RAYS)) ** 2)

    step = lambda params, grads: jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)  # noqa: E731
    grads = jax.grad(loss)(fresh)
    assert grads["control_adapter.conv"]["kernel"].any()
    later = jax.grad(loss)(step(fresh, grads))
    still = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(later) if not g.any()]
    assert not still


def test_adapter_changes_the_velocity(velocity, params):
    """Tokens that are added anywhere but to the patches' own would not move what they stand for."""
    tokens = camera_adapter.apply(CONFIG, params, RAYS)
    plain, changed = velocity(jnp.zeros_like(tokens)), velocity(tokens)
    np.testing.assert_array_equal(plain, velocity(None))
    assert np.abs(changed - plain).max() > 0.1
    # Nothing but that token's patch reaches a model whose blocks do nothing: here it does most there.
    one = velocity(jnp.zeros_like(tokens).at[0, 1, 4].set(3.0))
    apart = np.abs(one - plain).sum(-1)
    assert np.unravel_index(apart.argmax(), apart.shape)[:2] == (0, 1)
    assert apart[1].max() == 0, "another clip"
