"""LPIPS against its definition, on a narrow network of the same form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from vidjax.errors import WeightsError
from vidjax.training import perceptual

WIDTHS = {0: 2, 2: 3, 5: 4, 7: 2, 10: 3, 12: 4, 14: 5, 17: 3, 19: 2, 21: 4, 24: 3, 26: 2, 28: 3}
LAST = (2, 7, 14, 21, 28)


@pytest.fixture
def tensors():
    rng, before, found = np.random.default_rng(0), 3, {}
    for n, width in WIDTHS.items():
        found[f"features.{n}.weight"] = rng.normal(0, (2 / 9 / before) ** 0.5, (width, before, 3, 3)).astype(np.float32)
        found[f"features.{n}.bias"] = rng.normal(0.3, 0.1, width).astype(np.float32)
        before = width
    found["classifier.0.weight"] = np.zeros((2, 2), np.float32)  # published files have it
    return found


@pytest.fixture
def linear():
    rng = np.random.default_rng(1)
    return {f"lin{k}.model.1.weight": rng.random((1, WIDTHS[n], 1, 1), np.float32) for k, n in enumerate(LAST)}


def write(tmp_path, tensors):
    save_file(tensors, tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


def expected_distance(tensors, linear, a, b):
    """The paper's equation 1, position by position, in float64; torchvision's ``features`` one after another."""

    def features(x):
        x = ((x - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]).transpose(2, 0, 1)
        for n in range(30):
            if n in WIDTHS:
                weight, bias = tensors[f"features.{n}.weight"].astype(np.float64), tensors[f"features.{n}.bias"]
                windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
                x = np.maximum(np.einsum("chwij,dcij->dhw", windows, weight) + bias[:, None, None], 0)
                if n in LAST:
                    yield x / np.sqrt((x**2).sum(0) + 1e-10)
            elif n in (4, 9, 16, 23):
                c, h, w = x.shape
                x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(c, h // 2, 2, w // 2, 2).max((2, 4))

    pairs = zip(features(a.astype(np.float64)), features(b.astype(np.float64)), strict=True)
    weights = [linear.get(f"lin{k}.model.1.weight", np.ones(1)).reshape(-1, 1, 1) for k in range(5)]
    return sum(((x - y) ** 2 * w).sum(0).mean() for (x, y), w in zip(pairs, weights, strict=True))


@pytest.mark.parametrize("with_linear", [False, True])
def test_distance_is_the_papers(tmp_path, tensors, linear, with_linear):
    """A transposed kernel, a wrong layer, or colours scaled otherwise, would train towards another look."""
    linear = linear if with_linear else {}
    x, y = np.random.default_rng(2).uniform(-1, 1, (2, 3, 16, 20, 3)).astype(np.float32)
    params = perceptual.read(write(tmp_path, tensors | linear))
    found = jax.jit(perceptual.distance)(params, jnp.asarray(x), jnp.asarray(y))
    expected = np.mean([expected_distance(tensors, linear, a, b) for a, b in zip(x, y, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert perceptual.distance(params, jnp.asarray(x), jnp.asarray(x)) == 0


def test_gradient_where_nothing_responds(tmp_path, tensors):
    """Features that are all zero, as on black frames, would make every parameter NaN."""
    silent = {name: -np.abs(value) if "bias" in name else 0 * value for name, value in tensors.items()}
    params = perceptual.read(write(tmp_path, silent))
    gradient = jax.jit(jax.grad(perceptual.distance, argnums=1))(
        params, jnp.ones((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 3))
    )
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("features.28.bias"), r"missing: features\.28\.bias"),
        (lambda t: t.update({"lin0.model.1.weight": np.ones((1, 3, 1, 1), np.float32)}), r"missing: lin1\.model"),
        (lambda t: t.update({"features.5.weight": np.zeros((4, 9, 3, 3), np.float32)}), r"\(4, 9, 3, 3\) instead of"),
    ],
)
def test_another_network_is_refused(tmp_path, tensors, edit, message):
    """Found in the first step, it would be an error about shapes that the user never wrote."""
    edit(tensors)
    with pytest.raises(WeightsError, match=f"is no VGG16.*{message}"):
        perceptual.read(write(tmp_path, tensors))
