"""Parameters of the Wan family against the published tensors: names, shapes, layouts.

A parameter's path joined by dots is the published name, but for the last word (``kernel`` and ``scale`` are
published as ``weight``), the layer index of stacked blocks, and the order of axes.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from vidjax.errors import InputError
from vidjax.models import clip, t5, upsampler
from vidjax.models.wan import camera_adapter, denoiser, vae
from vidjax.models.wan.original_names import original_name
from vidjax.models.wan.presets import PRESETS
from vidjax.typing import PyTree

STACKED = ("blocks", "encoder.block", "vision_model.encoder.layers")
"""Modules whose parameters hold all layers along axis 0."""

LAST_WORD = {"kernel": "weight", "scale": "weight", "embedding": "weight"}

TIED = {"shared.weight": "encoder.embed_tokens.weight"}
"""Published under two names; either may be present."""

INIT = {
    "transformer": denoiser.init,
    "transformer_2": denoiser.init,
    "vae": vae.init,
    "upsampler": upsampler.init,
    "text_encoder": t5.init,
    "image_encoder": clip.init,
    "camera_adapter": camera_adapter.init,
}
"""Random parameters of each part, by the name of its folder."""


class Tensor(NamedTuple):
    """One published tensor as a slice of a parameter.

    ``layer`` is its index in a stacked parameter, else None; ``axes`` the order that turns the parameter's axes
    into the published ones.
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    axes: tuple[int, ...]

    def to_published(self, parameter: Any) -> Any:
        """The published tensor inside ``parameter``."""
        value = parameter if self.layer is None else parameter[self.layer]
        return value.transpose(self.axes).reshape(self.shape)

    def from_published(self, tensor: Any) -> Any:
        """This tensor as it stands in its parameter (a view where numpy allows)."""
        return tensor.reshape(self.shape[: len(self.axes)]).transpose(self.order)

    @property
    def order(self) -> tuple[int, ...]:
        """The order that turns published axes into the parameter's."""
        return tuple(int(i) for i in np.argsort(self.axes))


def published(path: tuple[str, ...], shape: tuple[int, ...]) -> list[Tensor]:
    """The published tensors that make up the parameter at ``path``."""
    *modules, last = path
    stacked = modules[0] in STACKED if modules else False
    layers = range(shape[0]) if stacked else [None]
    inner = shape[1:] if stacked else shape
    axes = _axes(last, len(inner))
    out = tuple(inner[i] for i in axes)
    if last == "gamma":  # broadcast over channels-first frames: images have no time axis
        out += (1, 1) if modules[-1] == "norm" else (1, 1, 1)
    word = LAST_WORD.get(last, last)
    head, tail = (modules[:1], modules[1:]) if stacked else ([], modules)
    return [Tensor(".".join([*head, *([] if i is None else [str(i)]), *tail, word]), out, i, axes) for i in layers]


def _axes(last: str, ndim: int) -> tuple[int, ...]:
    if last != "kernel":
        return tuple(range(ndim))
    # Dense [in, out] and convolutions [..., in, out] are published output first, then input, then the window.
    return (ndim - 1, ndim - 2, *range(ndim - 2))


def published_tree(abstract: PyTree) -> dict[tuple[str, ...], list[Tensor]]:
    """Every parameter of a tree with its published tensors."""
    leaves = jax.tree_util.tree_flatten_with_path(abstract)[0]
    paths = [(tuple(key.key for key in path), leaf.shape) for path, leaf in leaves]
    return {path: published(path, shape) for path, shape in paths}


def spellings(part: str, name: str) -> tuple[str, ...]:
    """The names under which files hold a published tensor, the published one first."""
    if part.startswith("transformer"):
        original = original_name(name)
        return name, original, f"model.diffusion_model.{original}"
    if part == "image_encoder":
        return name, name.removeprefix("vision_model.")
    return (name, TIED[name]) if name in TIED else (name,)


def abstract_params(part: str, config: Any) -> PyTree:
    """Shapes of a part's parameters; nothing is allocated."""
    return jax.tree.map(lambda x: x, _traced(part, config))  # the caller's own dicts


@functools.cache
def _traced(part: str, config: Any) -> PyTree:
    return jax.eval_shape(lambda key: INIT[part](config, key), jax.random.key(0))


def published_shapes(preset: str, part: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every published tensor of a part, which is named as its folder is.

    Raises:
      InputError: no such preset or part, or a part that the preset does not have.
    """
    if preset not in PRESETS:
        raise InputError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    tree = published_tree(abstract_params(part, PRESETS[preset].part(part)))
    shapes = {tensor.name: tensor.shape for tensors in tree.values() for tensor in tensors}
    return shapes | {twin: shapes[name] for name, twin in TIED.items() if name in shapes}
