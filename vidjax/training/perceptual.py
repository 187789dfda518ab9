"""How different two pictures look: distances between the features of a network that tells pictures apart (LPIPS).

Zhang et al., 1801.03924. The network is VGG16 (Simonyan and Zisserman, 1409.1556) up to its last convolution; its
weights are yours to bring.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidjax.errors import WeightsError
from vidjax.typing import Array, Float, Params
from vidjax.weights.tensor_file import listed, read_header, read_tensor

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Convolutions, by their number among torchvision's ``features``; each stage after the first halves the picture."""

SMALLEST = 2 ** (len(STAGES) - 1)
"""Pixels of a side that the last stage still sees."""

SHIFT = np.asarray((-0.030, -0.088, -0.188), np.float32)
SCALE = np.asarray((0.458, 0.448, 0.450), np.float32)
"""Mean and deviation of the colours that the network was trained on, in [-1, 1], as LPIPS has them."""


@dataclasses.dataclass(frozen=True)
class Perceptual:
    """``weight`` of the distance beside the other losses.

    ``vgg`` is a safetensors file with torchvision's names, ``features.N.weight`` and ``.bias``; where it also has
    LPIPS's own ``linK.model.1.weight``, channels count as these say, and alike otherwise.
    """

    vgg: str
    weight: float = 1.0


def read(path: Path) -> Params:
    """``{N: {"kernel", "bias"}}`` of the convolutions, float32, and the channels' weights ``{"channels": {K: [C]}}``.

    Raises:
      WeightsError: no such file, damaged, tensors missing, or of shapes that do not follow one another.
    """
    entries, _ = read_header(path)
    convolutions = [n for stage in STAGES for n in stage]
    linear = [f"lin{k}.model.1.weight" for k in range(len(STAGES))]
    needed = {f"features.{n}.{kind}" for n in convolutions for kind in ("weight", "bias")}
    if entries.keys() & set(linear):
        needed |= set(linear)
    if missing := sorted(needed - entries.keys()):
        raise WeightsError(f"{path} is no VGG16 with torchvision's names: missing: {listed(missing)}")
    shapes = {f"features.{n}.bias": entries[f"features.{n}.weight"].shape[:1] for n in convolutions}
    widths = [3, *(entries[f"features.{n}.weight"].shape[0] for n in convolutions)]
    for i, n in enumerate(convolutions):
        shapes[f"features.{n}.weight"] = (widths[i + 1], widths[i], 3, 3)
    shapes |= {name: (1, *shapes[f"features.{s[-1]}.bias"], 1, 1) for name, s in zip(linear, STAGES, strict=True)}
    wrong = [f"{n} {entries[n].shape} instead of {shapes[n]}" for n in sorted(needed) if entries[n].shape != shapes[n]]
    if wrong:
        raise WeightsError(f"{path} is no VGG16: {listed(wrong)}")

    def tensor(name: str) -> np.ndarray:
        return np.asarray(read_tensor(entries[name]), np.float32)

    params: Params = {
        str(n): {"kernel": tensor(f"features.{n}.weight").transpose(2, 3, 1, 0), "bias": tensor(f"features.{n}.bias")}
        for n in convolutions
    }
    has_linear = linear[0] in needed
    params["channels"] = {
        str(k): tensor(name).reshape(-1) if has_linear else np.ones(shapes[name][1], np.float32)
        for k, name in enumerate(linear)
    }
    return params


def distance(params: Params, x: Float[Array, "N H W 3"], y: Float[Array, "N H W 3"]) -> Float[Array, ""]:
    """LPIPS of pictures in [-1, 1], at least ``SMALLEST`` on each side, averaged over them."""
    total = jnp.zeros(())
    x, y = ((picture - SHIFT) / SCALE for picture in (x, y))
    for k, stage in enumerate(STAGES):
        x, y = (_features(params, stage, _halved(picture) if k else picture) for picture in (x, y))
        total += jnp.mean(jnp.sum((_unit(x) - _unit(y)) ** 2 * params["channels"][str(k)], axis=-1))
    return total


def _features(params: Params, stage: tuple[int, ...], x: Float[Array, "N H W C"]) -> Float[Array, "N H W D"]:
    for n in stage:
        layer = params[str(n)]
        x = lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + layer["bias"])
    return x


def _halved(x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 C"]:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _unit(x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
    # Under the root: where no feature responds, the gradient of a length would be infinite.
    return x * lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-10)
