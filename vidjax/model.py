"""A model in memory: configurations, parameters, tokenizer; and loading one."""

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jax
from jax.sharding import Mesh

from vidjax import tokenizer as tokenizers
from vidjax.errors import InputError, WeightsError
from vidjax.models.families import FAMILIES, Family
from vidjax.models.t5 import T5Config
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.presets import PRESETS, SamplingDefaults
from vidjax.models.wan.vae import VAEConfig
from vidjax.parallel.rules import match_rules, shardings
from vidjax.typing import Params, PyTree
from vidjax.weights import folder, hub, lora

PARTS = ("transformer", "text_encoder", "vae")
DTYPES = ("float32", "bfloat16")
MAX_TEXT_LENGTH = 512


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything about a model that is known before its weights are: hashable, so that it can be a static argument.

    ``expand_timesteps`` marks weights trained with one time per frame, which can be given frames.
    ``dtype`` is what the denoiser and text encoder compute in; the autoencoder always runs in float32.
    """

    transformer: DenoiserConfig
    text_encoder: T5Config
    vae: VAEConfig
    sampling: SamplingDefaults
    expand_timesteps: bool
    family: str
    dtype: str = "float32"

    @property
    def modules(self) -> Family:
        return FAMILIES[self.family]

    @property
    def size_multiple(self) -> tuple[int, int]:
        """What height and width must be multiples of, in pixels."""
        _, ph, pw = self.transformer.patch_size
        return self.vae.spatial_factor * ph, self.vae.spatial_factor * pw

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[f, h, w, z] of a clip."""
        s = self.vae.spatial_factor
        return 1 + (num_frames - 1) // self.vae.temporal_factor, height // s, width // s, self.vae.z_dim


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model. ``params`` holds one tree per part; pass it to jitted functions explicitly."""

    config: ModelConfig
    params: dict[str, Params]
    tokenizer: tokenizers.Tokenizer
    name: str
    mesh: Mesh | None = None

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.params))
        return f"Model({self.name!r}, {count / 1e6:.1f}M parameters, {self.config.dtype})"


def load(
    model: str | Path | None = None,
    *,
    mesh: Mesh | None = None,
    dtype: str = "float32",
    loras: Mapping[str | Path, float] | None = None,
    revision: str | None = None,
) -> Model:
    """A model from the bundled weights (None), a folder in the published layout, or a Hugging Face hub id.

    Args:
      mesh: devices to spread the parameters over, see ``vidjax.parallel.make_mesh``; None: the default device.
      dtype: ``float32`` or ``bfloat16``, for the denoiser and text encoder.
      loras: files of changes to the denoiser that are merged into it, each with its strength.
      revision: branch, tag or commit of a hub repository.

    Raises:
      InputError: an unknown ``dtype``.
      WeightsError: no such folder or repository, or its files or ``loras`` do not fit the configuration.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}: choose {' or '.join(DTYPES)}")
    path = bundled() if model is None else hub.find(str(model), revision)
    config = dataclasses.replace(read_config(path), dtype=dtype)
    tokenizer = tokenizers.load(path / "tokenizer" / "spiece.model", config.sampling.max_text_length)
    # Everything that can be wrong is found before the first gigabyte is moved.
    for name in PARTS:
        folder.check_part(path, name, getattr(config, name))
    changes = lora.read(folder.abstract_params("transformer", config.transformer), (loras or {}).items())

    def part(name: str) -> Params:
        stored = "float32" if name == "vae" else dtype
        return folder.read_part(path, name, getattr(config, name), stored, _shardings(name, config, mesh))

    params = {name: part(name) for name in PARTS}
    params["transformer"] = lora.apply(params["transformer"], changes, donate=True)
    return Model(config, params, tokenizer, "bundled" if model is None else str(model), mesh)


def bundled() -> Path:
    """The folder of the bundled model."""
    return Path(str(resources.files("vidjax") / "assets" / "shapes"))


def read_config(path: Path) -> ModelConfig:
    """The configuration of a model folder; no weights are read.

    Raises:
      WeightsError: a file is missing, or the pipeline is of a family that is not known.
    """
    index = folder.read_json(path / "model_index.json")
    family = index.get("_class_name")
    if family not in FAMILIES:
        raise WeightsError(f"{path} holds a {family}; these can be loaded: {', '.join(FAMILIES)}")
    if index.get("transformer_2", [None])[0] is not None:
        raise WeightsError(f"{path} holds two denoisers: models with two experts cannot be run yet")
    transformer = folder.read_config(path, "transformer")
    return ModelConfig(
        transformer=transformer,
        text_encoder=folder.read_config(path, "text_encoder"),
        vae=folder.read_config(path, "vae"),
        sampling=_sampling(path, transformer),
        expand_timesteps=bool(index.get("expand_timesteps", False)),
        family=family,
    )


def _sampling(path: Path, transformer: DenoiserConfig) -> SamplingDefaults:
    """The folder's own ``sampling.json``; else its authors' settings; else the scheduler's shift."""
    known = {f.name for f in dataclasses.fields(SamplingDefaults)}
    if (path / "sampling.json").exists():
        values = folder.read_json(path / "sampling.json")
        return SamplingDefaults(**{k: v for k, v in values.items() if k in known})
    for preset in PRESETS.values():
        if preset.transformer == transformer and preset.boundary_ratio is None:
            return preset.sampling
    scheduler = folder.read_json(path / "scheduler" / "scheduler_config.json")
    return SamplingDefaults(flow_shift=float(scheduler.get("flow_shift", 5.0)))


def _shardings(part: str, config: ModelConfig, mesh: Mesh | None) -> PyTree | None:
    if mesh is None:
        return None
    abstract = folder.abstract_params(part, getattr(config, part))
    return shardings(mesh, match_rules(config.modules.rules[part], abstract), abstract)
