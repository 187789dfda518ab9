"""The published folder layout: one sub-folder a part, each a ``config.json`` and safetensors files.

Reading is strict: every tensor that the configuration implies must be there, with its shape, finite, and no other.
All mistakes that headers show are listed in one error, before anything is put on a device.
"""

import dataclasses
import functools
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jax.typing import DTypeLike

from vidjax.config import describe, is_of
from vidjax.errors import InputError, WeightsError
from vidjax.models import clip, t5, upsampler
from vidjax.models.wan import camera_adapter, denoiser, vae
from vidjax.models.wan.weights import Tensor, abstract_params, published_tree, spellings
from vidjax.typing import Array, Int, Params, PyTree
from vidjax.weights.tensor_file import DTYPES, Entry, all_finite, listed, read_header, read_rows, write_file

MAX_SHARD_BYTES = 10 * 10**9

STREAMED_BYTES = 64 * 2**20
"""A larger stacked parameter is put together on the device, so that the host never holds it; stacking is faster."""

READERS = 4
"""Threads that read, check and cast: while one waits for the disk, others work."""

BLOCK_BYTES = 4 * 2**20
"""What a thread reads in one go, a few rows at a time."""

CACHED_ROWS = 64
CACHED_VALUES = 2**16
"""How many rows at least, or values of short rows, are cast and transposed together, in the processor's cache."""

FILE_NAME = {"text_encoder": "model", "image_encoder": "model"}
CLASS_NAME = {
    "transformer": "WanTransformer3DModel",
    "transformer_2": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
    "upsampler": "FrameUpsampler",
    "text_encoder": "UMT5EncoderModel",
    "image_encoder": "CLIPVisionModel",
    "camera_adapter": "WanCameraAdapter",
}
CONFIG_TYPE = {
    "transformer": denoiser.DenoiserConfig,
    "transformer_2": denoiser.DenoiserConfig,
    "vae": vae.VAEConfig,
    "upsampler": upsampler.UpsamplerConfig,
    "text_encoder": t5.T5Config,
    "image_encoder": clip.CLIPConfig,
    "camera_adapter": camera_adapter.CameraAdapterConfig,
}
CHECK = {
    denoiser.DenoiserConfig: denoiser.check_config,
    vae.VAEConfig: vae.check_config,
    upsampler.UpsamplerConfig: upsampler.check_config,
}
"""Whether the values of a configuration go together."""

T = TypeVar("T")


def read_config(folder: Path, part: str) -> Any:
    """Configuration of a part; fields that its dataclass does not have are ignored.

    Raises:
      WeightsError: no ``config.json``, or not JSON, or a value of another type, or sizes that do not fit together.
    """
    config = read_fields(folder / part / "config.json", CONFIG_TYPE[part])
    check = CHECK.get(type(config))
    if check is not None:
        try:
            check(config)
        except InputError as error:
            raise WeightsError(f"{folder / part}: {error}") from error
    return config


def read_fields(path: Path, kind: type[T]) -> T:
    """A dataclass from a JSON object; what is not a field of it is ignored.

    Raises:
      WeightsError: missing, or not a JSON object, or a value of another type.
    """
    values, types = read_json(path), get_type_hints(kind)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in types}
    wrong = [
        f"{k} is {json.dumps(values[k])}, not {describe(types[k])}" for k, v in fields.items() if not is_of(v, types[k])
    ]
    if wrong:
        raise WeightsError(f"{path}: {'; '.join(wrong)}")
    return kind(**fields)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      WeightsError: missing, or not a JSON object.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(f"{path} is missing: a model folder in the published layout is expected") from error
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} holds {type(values).__name__}, a JSON object is expected")
    return values


def check_part(folder: Path, part: str, config: Any) -> dict[str, Entry]:
    """Where every tensor of a part lies, by published name; nothing but headers is read.

    Raises:
      WeightsError: a file is damaged or of another kind; or all that is missing, extra, of a wrong shape or type.
    """
    tree = published_tree(abstract_params(part, config))
    expected = {tensor.name: tensor for tensors in tree.values() for tensor in tensors}
    present = _entries(folder / part)
    names = {name: spellings(part, name) for name in expected}
    # Reversed: where a tensor stands under two names, the first spelling stays.
    found = {name: present[s] for name in expected for s in reversed(names[name]) if s in present}
    known = {spelling for name in expected for spelling in names[name]}
    mistakes = {
        "missing": sorted(expected.keys() - found.keys()),
        # Published files carry a norm that no code applies.
        "not expected": sorted(n for n in present.keys() - known if not n.endswith("norm_added_q.weight")),
        "of another shape": [
            f"{entry.name} {entry.shape} instead of {expected[name].shape}"
            for name, entry in found.items()
            if entry.shape != expected[name].shape
        ],
        "of a type that is not read": [f"{e.name} {e.dtype}" for e in found.values() if e.dtype not in DTYPES],
    }
    said = "; ".join(f"{what}: {listed(names)}" for what, names in mistakes.items() if names)
    if said:
        raise WeightsError(f"{folder / part} does not fit its config.json: {said}")
    return found


def read_part(
    folder: Path, part: str, config: Any, dtype: DTypeLike | None = None, shardings: PyTree | None = None
) -> Params:
    """Parameters of a part, on the device. The host never holds more than one large tensor, or a few small ones.

    On a CPU without ``shardings``, where the host's memory is the device's, all is read to where it stays.

    Args:
      dtype: what tensors are cast to; None keeps the stored type.
      shardings: a tree like the parameters, of how each is laid out over a mesh; None: the default device.

    Raises:
      WeightsError: as :func:`check_part`, before anything is put on a device; or a tensor is not finite.
    """
    abstract = abstract_params(part, config)
    entries = check_part(folder, part, config)
    tree = published_tree(abstract)

    def sources(path: tuple[Any, ...]) -> list[tuple[Tensor, Entry]]:
        return [(tensor, entries[tensor.name]) for tensor in tree[tuple(key.key for key in path)]]

    def kept(path: tuple[Any, ...]) -> np.dtype:
        return jnp.dtype(dtype or jnp.result_type(*{DTYPES[entry.dtype] for _, entry in sources(path)}))

    def streamed(path: tuple[Any, ...], spec: jax.ShapeDtypeStruct) -> bool:
        stacked = sources(path)[0][0].layer is not None
        return stacked and spec.size * kept(path).itemsize > STREAMED_BYTES

    def leaf(path: tuple[Any, ...], spec: jax.ShapeDtypeStruct, sharding: Sharding | None = None) -> Array:
        if streamed(path, spec):
            return _read_streamed(readers, scratch, sources(path), spec.shape, kept(path), sharding)
        value = _empty(spec.shape, kept(path))
        _fill(readers, [(_as_published(value, tensor), entry) for tensor, entry in sources(path)])
        return _to_device(value, sharding)

    with ThreadPoolExecutor(READERS) as readers:
        if shardings is not None or jax.default_backend() != "cpu":
            # One piece of memory for the tensors of all large stacks: what was sent away is let go of late.
            leaves = jax.tree_util.tree_leaves_with_path(abstract)
            sizes = [s.size // s.shape[0] * kept(path).itemsize for path, s in leaves if streamed(path, s)]
            scratch = np.empty(max(sizes, default=0), np.uint8)
            return jax.tree_util.tree_map_with_path(leaf, abstract, *([] if shardings is None else [shardings]))
        params = jax.tree_util.tree_map_with_path(lambda path, spec: _empty(spec.shape, kept(path)), abstract)
        values = jax.tree_util.tree_leaves_with_path(params)
        _fill(readers, [(_as_published(v, tensor), entry) for path, v in values for tensor, entry in sources(path)])
        return jax.device_put(params)


def _fill(readers: ThreadPoolExecutor, targets: list[tuple[np.ndarray, Entry]]) -> None:
    """Reads tensors into views that have their order of axes, block by block in the order of the files."""
    blocks = []
    for view, entry in sorted(targets, key=lambda target: (target[1].path, target[1].offset)):
        rows = max(1, BLOCK_BYTES // max(1, view[:1].nbytes) // CACHED_ROWS * CACHED_ROWS)
        blocks += [(view, entry, start, min(start + rows, len(view))) for start in range(0, len(view), rows)]
    for _ in readers.map(lambda block: _read_block(*block), blocks):
        pass


def _read_block(view: np.ndarray, entry: Entry, start: int, stop: int) -> None:
    """Reads some rows of a tensor into a view of all of it, cast.

    A few at a time: a transposition that strides through all the memory would cost several times the reading.
    """
    columns = math.prod(view.shape[1:])
    step = max(CACHED_ROWS, CACHED_VALUES // columns)
    # A distance between rows that is a power of two would have them all meet in the same few lines of the cache.
    distance = columns + (32 if columns > 1 else 0)
    cached = np.empty((min(step, stop - start), distance), view.dtype)[:, :columns]
    bits = f"u{view.itemsize}"  # which numpy moves faster than bfloat16
    for rows in read_rows(entry, start, stop, step):
        if not all_finite(rows):
            raise WeightsError(f"{entry.path}: not finite: {entry.name}")
        here = cached[: len(rows)]
        here[...] = rows.reshape(here.shape)
        target = view[start : start + len(rows)].view(bits)
        target[...] = here.view(bits).reshape(target.shape)
        start += len(rows)


def _as_published(parameter: np.ndarray, tensor: Tensor) -> np.ndarray:
    """View of a tensor's place in its parameter, axes in the published order."""
    value = parameter if tensor.layer is None else parameter[tensor.layer]
    return value.transpose(tensor.axes)


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array aligned so that a CPU device takes it over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def _read_streamed(
    readers: ThreadPoolExecutor,
    scratch: np.ndarray,
    sources: list[tuple[Tensor, Entry]],
    shape: tuple[int, ...],
    dtype: np.dtype,
    sharding: Sharding | None,
) -> Array:
    """A stacked parameter, put together on the device tensor by tensor."""
    value = jnp.zeros(shape, dtype, device=sharding)
    published = scratch.view(dtype)[: math.prod(sources[0][1].shape)].reshape(sources[0][1].shape)
    for tensor, entry in sources:
        _fill(readers, [(published, entry)])
        there = _to_device(published, _of_published(sharding, tensor))
        # Waited for: the next one is read into the same memory.
        value = jax.block_until_ready(_insert(value, there, tensor.layer, tensor.order, sharding))
    return value


@functools.partial(jax.jit, static_argnames=("order", "sharding"), donate_argnames="stack")
def _insert(
    stack: Array, tensor: Array, layer: Int[Array, ""], order: tuple[int, ...], sharding: Sharding | None
) -> Array:
    stack = jax.lax.dynamic_update_index_in_dim(stack, tensor.transpose(order), layer, 0)
    return jax.lax.with_sharding_constraint(stack, sharding) if sharding else stack


def _of_published(sharding: Sharding | None, tensor: Tensor) -> Sharding | None:
    """How a published tensor is split, given how the stacked parameter is: each device reads its piece only."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec = (*sharding.spec, *[None] * (1 + len(tensor.axes) - len(sharding.spec)))
    return NamedSharding(sharding.mesh, PartitionSpec(*(spec[1 + axis] for axis in tensor.axes)))


def _to_device(value: np.ndarray, sharding: Sharding | None) -> Array:
    if sharding is None:
        return jax.device_put(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _entries(folder: Path) -> dict[str, Entry]:
    """Every tensor in a part's folder, by the name it has there."""
    names = {path.name for path in folder.glob("*.safetensors")}
    index = sorted(folder.glob("*.safetensors.index.json"))
    if index:
        listing = read_json(index[0]).get("weight_map")
        if not isinstance(listing, dict) or not all(isinstance(name, str) for name in listing.values()):
            raise WeightsError(f"{index[0]} has no 'weight_map' of tensor names to file names")
        strange = sorted(name for name in set(listing.values()) if Path(name).name != name or name not in names)
        if strange:
            raise WeightsError(f"{index[0]} names files that are not beside it: {listed(strange)}")
        names = set(listing.values())
    if not names:
        other = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".ckpt", ".pt", ".pth"))
        hint = f"; {listed(other)} cannot be read: convert to safetensors" if other else ""
        raise WeightsError(f"{folder} has no .safetensors file{hint}")
    found = {}
    for name in sorted(names):
        entries, _ = read_header(folder / name)
        twice = sorted(found.keys() & entries.keys())
        if twice:
            raise WeightsError(f"{folder / name} holds what {found[twice[0]].path.name} holds too: {listed(twice)}")
        found |= entries
    return found


def write_part(folder: Path, part: str, config: Any, params: PyTree, dtype: Any = None) -> None:
    """Write a part in the published layout; the tensors of one file at most ``MAX_SHARD_BYTES`` together."""
    write_config(folder, part, config)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for path, group in published_tree(params).items():
            value = np.asarray(jax.device_get(_at(params, path)))
            value = value.astype(dtype or value.dtype)
            yield from ((tensor.name, np.ascontiguousarray(tensor.to_published(value))) for tensor in group)

    write_tensors(folder, part, tensors(), MAX_SHARD_BYTES)


def write_config(folder: Path, part: str, config: Any) -> None:
    """A part's ``config.json``, in its folder, which is made."""
    target = folder / part
    target.mkdir(parents=True, exist_ok=True)
    fields = {"_class_name": CLASS_NAME[part], **dataclasses.asdict(config)}
    if part == "text_encoder":
        fields = {"architectures": [CLASS_NAME[part]], "model_type": "umt5", **dataclasses.asdict(config)}
        fields |= {"tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1, "is_encoder_decoder": True}
    if part == "image_encoder":
        fields = {"architectures": [CLASS_NAME[part]], "model_type": "clip_vision_model", **dataclasses.asdict(config)}
    write_json(target / "config.json", fields)


def write_tensors(folder: Path, part: str, tensors: Iterable[tuple[str, np.ndarray]], max_shard_bytes: int) -> None:
    """A part's tensors by published name, with an index where they need several files; one file is held at a time."""
    target, stem = folder / part, FILE_NAME.get(part, "diffusion_pytorch_model")
    shards: list[list[str]] = []
    total = 0

    def write(shard: dict[str, np.ndarray]) -> None:
        write_file(shard, target / f"{stem}-{len(shards) + 1:05d}.safetensors")
        shards.append(list(shard))

    shard, size = {}, 0
    for name, array in tensors:
        if size and size + array.nbytes > max_shard_bytes:
            write(shard)
            shard, size = {}, 0
        shard[name] = array
        size += array.nbytes
        total += array.nbytes
    write(shard)
    # Only now is it known how many there are, which each name says.
    weight_map = {}
    for i, names in enumerate(shards, 1):
        name = f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else f"{stem}.safetensors"
        os.replace(target / f"{stem}-{i:05d}.safetensors", target / name)
        weight_map |= dict.fromkeys(names, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(target / f"{stem}.safetensors.index.json", index)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON file, indented."""
    path.write_text(json.dumps(values, indent=2) + "\n")


def write_tokenizer(folder: Path, spiece: bytes, max_length: int) -> None:
    """The sentencepiece model with the configuration that PyTorch's tokenizers read."""
    target = folder / "tokenizer"
    target.mkdir(parents=True, exist_ok=True)
    (target / "spiece.model").write_bytes(spiece)
    tokens = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(
        target / "tokenizer_config.json",
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": max_length, **tokens},
    )


def write_index(folder: Path, flow_shift: float, expand_timesteps: bool, sampling: dict[str, Any]) -> None:
    """``model_index.json``, the scheduler's configuration, and ``sampling.json``: the defaults of this model."""
    index = {
        "_class_name": "WanPipeline",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", CLASS_NAME["transformer"]],
        "vae": ["diffusers", CLASS_NAME["vae"]],
        "expand_timesteps": expand_timesteps,
    }
    write_json(folder / "model_index.json", index)
    scheduler = {
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": flow_shift,
        "num_train_timesteps": 1000,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "final_sigmas_type": "zero",
    }
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "sampling.json", sampling)


def copy_others(source: Path, target: Path, parts: Iterable[str]) -> None:
    """A model's folder without some parts, which are written anew, and without its card, which tells of the old."""
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md", *parts))


def replace_folder(finished: Path, target: Path) -> None:
    """Move a finished folder into place, over an older one: readers see the old or the new, never half."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(finished, target)
    shutil.rmtree(old, ignore_errors=True)


def _at(tree: PyTree, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
