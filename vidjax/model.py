"""A model in memory: configurations, parameters, tokenizer; and loading one."""

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.typing import DTypeLike

from vidjax import tokenizer as tokenizers
from vidjax.checks import number, truth
from vidjax.errors import InputError, WeightsError
from vidjax.models.clip import CLIPConfig
from vidjax.models.families import FAMILIES, Family
from vidjax.models.t5 import T5Config
from vidjax.models.upsampler import UpsamplerConfig
from vidjax.models.wan.camera_adapter import CameraAdapterConfig
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.presets import PRESETS, SamplingDefaults
from vidjax.models.wan.vae import VAEConfig
from vidjax.parallel.mesh import batch_layout
from vidjax.parallel.rules import AnyMesh, match_rules, shardings
from vidjax.typing import Array, Params, PyTree
from vidjax.weights import folder, hub, lora

DTYPES = ("float32", "bfloat16")
MAX_TEXT_LENGTH = 512


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything about a model that is known before its weights are: hashable, so that it can be a static argument.

    ``expand_timesteps`` marks weights trained with one time per frame. With a ``boundary_ratio`` there are two
    denoisers of one form: ``transformer`` for the diffusion times from there on, ``transformer_2`` for those below.
    With a ``camera_adapter`` they are given the camera's rays. ``dtype`` is what denoisers and encoders compute in;
    autoencoder and upsampler always run in float32. With ``riflex`` clips that are longer than the model's own have the
    positions in time of RIFLEx.
    """

    transformer: DenoiserConfig
    text_encoder: T5Config
    vae: VAEConfig
    sampling: SamplingDefaults
    expand_timesteps: bool
    family: str
    image_encoder: CLIPConfig | None = None
    boundary_ratio: float | None = None
    camera_adapter: CameraAdapterConfig | None = None
    upsampler: UpsamplerConfig | None = None
    dtype: str = "float32"
    riflex: bool = False

    @property
    def parts(self) -> dict[str, Any]:
        """The configuration of each part, by the name of its folder."""
        optional = {
            "transformer_2": self.transformer if self.boundary_ratio is not None else None,
            "image_encoder": self.image_encoder,
            "upsampler": self.upsampler,
            "camera_adapter": self.camera_adapter,
        }
        always = {"transformer": self.transformer, "text_encoder": self.text_encoder, "vae": self.vae}
        return always | {name: part for name, part in optional.items() if part is not None}

    @property
    def pictures(self) -> Literal["frames", "channels"] | None:
        """How the denoiser is given pictures: as latent frames at time 0, as channels beside the latents, or not."""
        if self.transformer.in_channels > self.vae.z_dim:
            return "channels"
        return "frames" if self.expand_timesteps else None

    @property
    def num_pictures(self) -> tuple[int, int]:
        """The fewest and the most pictures (first frame, last frame) that a clip can be made from."""
        tokens = self.transformer.pos_embed_seq_len
        if tokens is not None:
            return (tokens // self.image_encoder.num_tokens,) * 2 if self.image_encoder else (1, 1)
        if self.pictures == "channels":
            return 1, 1 if self.image_encoder else 2
        return 0, 1 if self.pictures == "frames" else 0

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
    """A loaded model. ``params`` holds one tree per part; pass it to jitted functions explicitly.

    With ``offload`` the denoisers wait in the host's memory, and come to the device one at a time.
    """

    config: ModelConfig
    params: dict[str, Params]
    tokenizer: tokenizers.Tokenizer
    name: str
    mesh: Mesh | None = None
    offload: bool = False

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.params))
        return f"Model({self.name!r}, {count / 1e6:.1f}M parameters, {self.config.dtype})"


def load(
    model: str | Path | None = None,
    *,
    mesh: Mesh | None = None,
    dtype: DTypeLike = "float32",
    loras: Mapping[str | Path, float] | None = None,
    loras_2: Mapping[str | Path, float] | None = None,
    offload: bool = False,
    revision: str | None = None,
) -> Model:
    """A model from the bundled weights (None), a folder in the published layout, or a Hugging Face hub id.

    Args:
      mesh: devices to spread the parameters over, see ``vidjax.parallel.make_mesh``; None: the default device.
      dtype: ``float32`` or ``bfloat16``, for the denoiser and text encoder.
      loras: files of changes to the denoiser that are merged into it, each with its strength.
      loras_2: the same for the second denoiser, of models that have one.
      offload: keep the denoisers in the host's memory while they do not run: for two, where memory is short.
      revision: branch, tag or commit of a hub repository.

    Raises:
      InputError: an unknown ``dtype``, ``loras_2`` for a model with one denoiser, or a mesh that does not divide it.
      WeightsError: no such folder or repository, or its files or ``loras`` do not fit the configuration.
    """
    dtype = _dtype_name(dtype)
    if mesh is not None and not isinstance(mesh, AnyMesh):
        raise InputError(f"mesh={mesh!r:.80}: a mesh is expected, as vidjax.parallel.make_mesh(data=-1) gives")
    offload = truth("offload", offload)
    strengths = {name: _strengths(name, files) for name, files in (("loras", loras), ("loras_2", loras_2))}
    if model is not None and not str(model).strip():
        raise InputError(f"model={model!r}: give a folder or a hub id; None is the bundled model")
    path = bundled() if model is None else hub.find(str(model), revision)
    config = dataclasses.replace(read_config(path), dtype=dtype)
    if mesh is not None:
        config.modules.denoiser.check_mesh(config.transformer, mesh.shape)
    tokenizer = tokenizers.load(path / "tokenizer" / "spiece.model", config.sampling.max_text_length)
    # Everything that can be wrong is found before the first gigabyte is moved.
    for name, part in config.parts.items():
        folder.check_part(path, name, part)
    if strengths["loras_2"] and config.boundary_ratio is None:
        raise InputError(f"loras_2={strengths['loras_2']}: {path} has one denoiser; give them as loras")
    abstract = folder.abstract_params("transformer", config.transformer)
    wanted = {"transformer": strengths["loras"], "transformer_2": strengths["loras_2"]}
    changes = {name: lora.read(abstract, files.items()) for name, files in wanted.items()}

    def read(name: str) -> Params:
        stored = "float32" if name in ("vae", "upsampler") else dtype
        layout = host_layout(abstract) if offload and name in wanted else part_layout(name, config, mesh)
        params = folder.read_part(path, name, config.parts[name], stored, layout)
        return lora.apply(params, changes[name], donate=True) if changes.get(name) else params

    params = {name: read(name) for name in config.parts}
    return Model(config, params, tokenizer, "bundled" if model is None else str(model), mesh, offload)


def _dtype_name(dtype: Any) -> str:
    """The name of ``bfloat16`` or ``jax.numpy.bfloat16``, if it is one of ``DTYPES``."""
    try:
        name = jax.numpy.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise InputError(f"dtype={dtype!r:.80}: choose {' or '.join(DTYPES)}")
    return name


def _strengths(name: str, files: Any) -> dict[str | Path, float]:
    if files is None:
        return {}
    if not isinstance(files, Mapping):
        example = "{'style.safetensors': 0.8}"
        raise InputError(f"{name}={files!r:.80}: files with their strengths are expected, as in {example}")
    return {file: number(f"{name}[{str(file)!r}]", strength, -100, 100) for file, strength in files.items()}


def check_model(model: Any) -> None:
    """See that what is used as a model is one.

    Raises:
      InputError: it is something else, such as the name of a folder.
    """
    if not isinstance(model, Model):
        raise InputError(f"model={model!r:.80}: a loaded model is expected, as vidjax.load() gives")


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
    boundary = index.get("boundary_ratio") if _has(index, "transformer_2") else None
    if _has(index, "transformer_2") and not (isinstance(boundary, int | float) and 0 < boundary < 1):
        raise WeightsError(
            f"{path / 'model_index.json'}: two denoisers need a boundary_ratio between 0 and 1, not {boundary!r}"
        )
    transformer = folder.read_config(path, "transformer")
    if boundary is not None and folder.read_config(path, "transformer_2") != transformer:
        raise WeightsError(f"{path}: the config.json of transformer and transformer_2 differ; they must be of one form")
    return ModelConfig(
        transformer=transformer,
        text_encoder=folder.read_config(path, "text_encoder"),
        vae=folder.read_config(path, "vae"),
        sampling=_sampling(path, transformer, boundary),
        expand_timesteps=bool(index.get("expand_timesteps", False)),
        family=family,
        image_encoder=folder.read_config(path, "image_encoder") if _has(index, "image_encoder") else None,
        boundary_ratio=boundary,
        camera_adapter=_camera_adapter(path, transformer),
        upsampler=folder.read_config(path, "upsampler") if (path / "upsampler").is_dir() else None,
    )


def _camera_adapter(path: Path, transformer: DenoiserConfig) -> CameraAdapterConfig | None:
    """That of a folder that has one: no index lists it, so that programs which know none read the rest."""
    if not (path / "camera_adapter").is_dir():
        return None
    adapter = folder.read_config(path, "camera_adapter")
    if (adapter.dim, (1, *adapter.patch_size)) != (transformer.dim, transformer.patch_size):
        own, of = ((c.dim, *c.patch_size[-2:]) for c in (adapter, transformer))
        raise WeightsError(
            f"{path / 'camera_adapter'}: made for a width of {own[0]} and patches of {own[1]}x{own[2]}; the "
            f"denoiser's are {of[0]} and {of[1]}x{of[2]}"
        )
    return adapter


def _has(index: dict[str, Any], part: str) -> bool:
    listed = index.get(part)
    return isinstance(listed, list) and len(listed) > 0 and listed[0] is not None


def _sampling(path: Path, transformer: DenoiserConfig, boundary: float | None) -> SamplingDefaults:
    """The folder's own ``sampling.json``; else its authors' settings; else the scheduler's shift."""
    if (path / "sampling.json").exists():
        return folder.read_fields(path / "sampling.json", SamplingDefaults)
    for preset in PRESETS.values():
        if preset.transformer == transformer and preset.boundary_ratio == boundary:
            return preset.sampling
    scheduler = folder.read_json(path / "scheduler" / "scheduler_config.json")
    return SamplingDefaults(flow_shift=float(scheduler.get("flow_shift", 5.0)))


def part_layout(part: str, config: ModelConfig, mesh: AnyMesh | None) -> PyTree | None:
    """How each parameter of a part is laid out over the mesh; None: on the default device."""
    if mesh is None:
        return None
    abstract = folder.abstract_params(part, config.parts[part])
    return shardings(mesh, match_rules(config.modules.rules[part], abstract), abstract)


def host_layout(abstract: PyTree) -> PyTree:
    """Every parameter in the host's memory."""
    host = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return jax.tree.map(lambda _: host, abstract)


def denoiser_params(model: Model, part: str) -> Params:
    """A denoiser's parameters where they are used; of an offloaded model a copy, gone when it is let go."""
    if not model.offload:
        return model.params[part]
    layout = part_layout(part, model.config, model.mesh)
    if layout is None or jax.process_count() == 1:
        return jax.device_put(model.params[part], jax.local_devices()[0] if layout is None else layout)

    def spread(x: Array, sharding: NamedSharding) -> Array:
        # Each process has the whole, and brings its devices' pieces.
        return jax.make_array_from_callback(x.shape, sharding, lambda index: np.asarray(x)[index])

    return jax.tree.map(spread, model.params[part], layout)


def spread_batch(model: Model, x: Array) -> Array:
    """Lay a batch out over the mesh, where it divides."""
    if model.mesh is None:
        return x
    return jax.device_put(x, batch_layout(model.mesh, x.shape[0]))
