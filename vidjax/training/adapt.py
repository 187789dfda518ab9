"""Moving a denoiser to the latents of another autoencoder, so that training goes on from what it knows.

A denoiser sees latents in its first layer and in its last; in between there are tokens only. What patches of one
autoencoder have to do with those of the other is found by least squares, on the latents of the same clips, and goes
into these two layers, as DC-VideoGen (Chen et al., 2509.25182) aligns embedder and head before it fine-tunes.
"""

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.checks import try_folder
from vidjax.data.buckets import first_examples
from vidjax.data.latents import open_latents
from vidjax.data.source import DataConfig
from vidjax.errors import InputError
from vidjax.model import ModelConfig, bundled, read_config
from vidjax.models.wan.denoiser import DenoiserConfig, patchify
from vidjax.models.wan.vae import VAEConfig
from vidjax.training.finer_tokens import farther
from vidjax.typing import Float, Params
from vidjax.weights import folder, hub

NOISE = 0.5
"""Variance of the noise that patches are mapped against: what a denoiser sees is noisy."""

ROUNDING = 1e-3
"""The same for velocities, which are not: it keeps what hardly varies from being blown up."""

OF_TOKENS = ("camera_adapter",)
"""Parts that would have to be moved too, and are left out, where tokens are halved."""


class Linear(NamedTuple):
    """``y = x @ weight + bias``, and which share of the variance of y that explains on clips not fitted to."""

    weight: Float[np.ndarray, "I O"]
    bias: Float[np.ndarray, "O"]
    explained: float


def adapt(
    model: str | Path | None,
    vae: str | Path,
    out: str | Path,
    data: DataConfig,
    num_clips: int = 2000,
    halvings: int = 0,
) -> float:
    """Write a copy of a model with another folder's autoencoder and a denoiser that begins to know its latents.

    Its tokens stay what they are, the same pixels of the same frames, unless they are halved. Train on with
    `FinetuneTask(model=out)`.

    Args:
      model: a folder in the published layout or a hub id; None: the bundled model.
      vae: a folder with a part ``vae``.
      data: its first clips, of training, are what both autoencoders are compared on.
      halvings: how often the side of a token is halved.

    Returns:
      The share, from 0 to 1, of the variance of the model's own latents that the new ones explain.

    Raises:
      InputError: the model has two denoisers or is given pictures as channels, or tokens of the same pixels cannot be
        made of such latents or halved so often, or ``out`` is there already or cannot be, or there are no clips.
      WeightsError: a folder cannot be read.
    """
    path = bundled() if model is None else hub.find(str(model))
    own, place, out = read_config(path), Path(vae).expanduser(), Path(out)
    other = folder.read_config(place, "vae")
    moved = _moved(path, own, other, halvings)
    if out.exists():
        raise InputError(f"{out} is there already; choose another folder")
    if num_clips < 1:
        raise InputError(f"num_clips={num_clips}: must be at least 1")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        try_folder(out.absolute().parent)
    except OSError as error:
        raise InputError(f"{out}: no folder can be made there ({error.strerror})") from error
    groups = first_examples(data.open("train"), num_clips)
    parts = 2**halvings
    before = _patches(path, own.vae, own.transformer.patch_size, groups, parts=1).repeat(parts**2, axis=0)
    after = _patches(place, other, moved.patch_size, groups, parts)
    given, said = fit(after, before, NOISE), fit(before, after, ROUNDING)
    params = move(moved, folder.read_part(path, "transformer", own.transformer, "float32"), given, said)
    for _ in range(halvings):
        params = farther(moved, params)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent) as unfinished:
        target = Path(unfinished) / "model"
        folder.copy_others(path, target, ("transformer", "vae", *(OF_TOKENS if halvings else ())))
        shutil.copytree(place / "vae", target / "vae")
        folder.write_part(target, "transformer", moved, params, "bfloat16")
        target.rename(out)
    return given.explained


def move(config: DenoiserConfig, params: Params, given: Linear, said: Linear) -> Params:
    """A denoiser's parameters, for latents whose patches are mapped to its own by ``given``, and back by ``said``."""
    first, last = params["patch_embedding"], params["proj_out"]
    kernel = np.asarray(first["kernel"], np.float64).reshape(-1, config.dim)
    out = np.asarray(last["kernel"], np.float64)
    shape = (*config.patch_size, config.in_channels, config.dim)
    # The velocity is noise less latents: of the mean of these it has the opposite.
    new = {
        "patch_embedding": {
            "kernel": (given.weight @ kernel).reshape(shape),
            "bias": np.asarray(first["bias"]) + given.bias @ kernel,
        },
        "proj_out": {"kernel": out @ said.weight, "bias": np.asarray(last["bias"]) @ said.weight - said.bias},
    }
    return {**params, **jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), new)}


def fit(x: Float[np.ndarray, "n I"], y: Float[np.ndarray, "n O"], noise: float) -> Linear:
    """The best linear map to ``y`` from ``x`` with white noise of this variance; a tenth is kept to judge it."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    count = len(x) * 9 // 10
    mean_x, mean_y = x[:count].mean(0), y[:count].mean(0)
    a, b = x[:count] - mean_x, y[:count] - mean_y
    weight = np.linalg.solve(a.T @ a + noise * count * np.eye(a.shape[1]), a.T @ b)
    bias = mean_y - mean_x @ weight
    error, spread = y[count:] - x[count:] @ weight - bias, y[count:] - mean_y
    return Linear(weight, bias, 1.0 - float(np.sum(error**2) / np.sum(spread**2)))


def _moved(path: Path, model: ModelConfig, vae: VAEConfig, halvings: int) -> DenoiserConfig:
    """The denoiser's configuration, with patches of as many pixels as before, or of sides halved so often."""
    if "transformer_2" in model.parts:
        raise InputError(f"{path} has two denoisers; models with one can be moved")
    if model.pictures == "channels":
        raise InputError(f"{path} is given pictures as channels; models that are made from words can be moved")
    time, *pixels = model.transformer.patch_size
    pixels = [size * model.vae.spatial_factor for size in pixels]
    if vae.temporal_factor != model.vae.temporal_factor or any(size % vae.spatial_factor for size in pixels):
        raise InputError(
            f"a token of {path} is of {pixels[0]} x {pixels[1]} pixels and {model.vae.temporal_factor} frames, "
            f"a latent of the other autoencoder of {vae.spatial_factor} x {vae.spatial_factor} and "
            f"{vae.temporal_factor}: the frames must be the same, and the pixels a multiple"
        )
    rows, columns = (size // vae.spatial_factor for size in pixels)
    if halvings < 0 or rows % 2**halvings or columns % 2**halvings:
        raise InputError(
            f"halvings={halvings}: a token of {path} is of {rows} x {columns} latents of the other autoencoder; at "
            "least 0, and one latent must be left"
        )
    patch = (time, rows // 2**halvings, columns // 2**halvings)
    return dataclasses.replace(model.transformer, patch_size=patch, in_channels=vae.z_dim, out_channels=vae.z_dim)


def _patches(
    path: Path, config: VAEConfig, size: tuple[int, int, int], groups: list[list[dict[str, Any]]], parts: int
) -> Float[np.ndarray, "n P"]:
    """Patches of the latents of clips, of each of the groups of one shape; see ``in_parts``."""
    params = folder.read_part(path, "vae", config, "float32")
    time, *sides = size
    with tempfile.TemporaryDirectory() as kept:
        latents = [open_latents(config, params, group, Path(kept), str(i)).latents for i, group in enumerate(groups)]
        large = [np.asarray(patchify(jnp.asarray(each), (time, *(parts * n for n in sides)))) for each in latents]
    return in_parts(np.concatenate([each.reshape(-1, each.shape[-1]) for each in large]), size, parts)


def in_parts(patches: Float[np.ndarray, "n Q"], size: tuple[int, int, int], parts: int) -> Float[np.ndarray, "m P"]:
    """Each patch as ``parts`` x ``parts`` of ``size``, one after another, row by row."""
    time, height, width = size
    split = patches.reshape(len(patches), time, parts, height, parts, width, -1).transpose(0, 2, 4, 1, 3, 5, 6)
    return split.reshape(len(patches) * parts**2, -1)
