"""The published folder layout: one sub-folder a part, each a ``config.json`` and safetensors files.

Reading is strict: every tensor that the configuration implies must be there, with its shape, finite, and no other.
All mistakes are listed in one error, before anything is put on a device.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors needs
import numpy as np

from vidjax.errors import WeightsError
from vidjax.models import t5
from vidjax.models.wan import denoiser, vae
from vidjax.models.wan.weights import TIED, Tensor, abstract_params, published_tree
from vidjax.typing import Params, PyTree

MAX_SHARD_BYTES = 10 * 10**9
LISTED = 8
"""How many names an error lists before it counts the rest."""

FILE_NAME = {"text_encoder": "model"}
CLASS_NAME = {
    "transformer": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
    "text_encoder": "UMT5EncoderModel",
}
CONFIG_TYPE = {"transformer": denoiser.DenoiserConfig, "vae": vae.VAEConfig, "text_encoder": t5.T5Config}


def read_config(folder: Path, part: str) -> Any:
    """Configuration of a part; fields that its dataclass does not have are ignored.

    Raises:
      WeightsError: no ``config.json``, or not JSON.
    """
    kind = CONFIG_TYPE[part]
    values = read_json(folder / part / "config.json")
    known = {f.name for f in dataclasses.fields(kind)}
    freeze = lambda v: tuple(v) if isinstance(v, list) else v  # noqa: E731
    return kind(**{k: freeze(v) for k, v in values.items() if k in known})


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


def read_part(
    folder: Path,
    part: str,
    config: Any,
    dtype: Any = None,
    place: Callable[[tuple[str, ...], np.ndarray], jax.Array] | None = None,
) -> Params:
    """Parameters of a part, on the device.

    Args:
      dtype: what floating tensors are cast to; None keeps the stored type.
      place: puts the parameter at a path on its devices; default: the default device.

    Raises:
      WeightsError: all that is missing, extra, of a wrong shape or not finite.
    """
    abstract = abstract_params(part, config)
    tree = published_tree(abstract)
    files = _tensor_files(folder / part)
    _check(folder / part, {t.name: t for tensors in tree.values() for t in tensors}, files)
    place = place or (lambda path, value: jax.numpy.asarray(value))

    def leaf(path: tuple[Any, ...], spec: jax.ShapeDtypeStruct) -> jax.Array:
        keys = tuple(key.key for key in path)
        tensors = tree[keys]
        parts = [tensor.from_published(_read(files, tensor)) for tensor in tensors]
        value = parts[0] if tensors[0].layer is None else np.stack(parts)
        bad = [t.name for t, p in zip(tensors, parts, strict=True) if not np.isfinite(p.astype(np.float32)).all()]
        if bad:
            raise WeightsError(f"{folder / part}: not finite: {_listed(bad)}")
        return place(keys, value.astype(dtype or value.dtype).reshape(spec.shape))

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def _tensor_files(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """File and shape of every tensor in a part's folder, from the headers alone."""
    from safetensors import SafetensorError, safe_open

    names = {path.name for path in folder.glob("*.safetensors")}
    index = sorted(folder.glob("*.safetensors.index.json"))
    if index:
        listed = set(read_json(index[0]).get("weight_map", {}).values())
        strange = sorted(name for name in listed if Path(name).name != name or name not in names)
        if strange:
            raise WeightsError(f"{index[0]} names files that are not beside it: {_listed(strange)}")
        names = listed
    if not names:
        other = sorted(p.name for p in folder.glob("*.bin")) if folder.is_dir() else []
        hint = f"; {_listed(other)} cannot be read: convert to safetensors" if other else ""
        raise WeightsError(f"{folder} has no .safetensors file{hint}")
    found = {}
    for name in sorted(names):
        try:
            with safe_open(folder / name, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118  not a dict
                    found[key] = (folder / name, tuple(file.get_slice(key).get_shape()))
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{folder / name} is damaged or not a safetensors file: {error}") from error
    return found


def _check(folder: Path, expected: dict[str, Tensor], files: dict[str, tuple[Path, tuple[int, ...]]]) -> None:
    twins = {twin: name for name, twin in TIED.items()}
    present = {twins.get(name, name) for name in files}
    # Published files carry a norm that no code applies.
    extra = sorted(n for n in present - expected.keys() if not n.endswith("norm_added_q.weight"))
    wrong = [
        f"{name} {files[name][1]} instead of {tensor.shape}"
        for name, tensor in expected.items()
        if name in files and files[name][1] != tensor.shape
    ]
    mistakes = {"missing": sorted(expected.keys() - present), "not expected": extra, "of another shape": wrong}
    said = "; ".join(f"{what}: {_listed(names)}" for what, names in mistakes.items() if names)
    if said:
        raise WeightsError(f"{folder} does not fit its config.json: {said}")


def _read(files: dict[str, tuple[Path, tuple[int, ...]]], tensor: Tensor) -> np.ndarray:
    from safetensors import safe_open

    name = tensor.name if tensor.name in files else TIED[tensor.name]
    with safe_open(files[name][0], framework="numpy") as file:
        return file.get_tensor(name)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def write_part(folder: Path, part: str, config: Any, params: PyTree, dtype: Any = None) -> None:
    """Write a part in the published layout; the tensors of one file at most ``MAX_SHARD_BYTES`` together."""
    from safetensors.numpy import save_file

    target = folder / part
    target.mkdir(parents=True, exist_ok=True)
    fields = {"_class_name": CLASS_NAME[part], **dataclasses.asdict(config)}
    if part == "text_encoder":
        fields = {"architectures": [CLASS_NAME[part]], "model_type": "umt5", **dataclasses.asdict(config)}
        fields |= {"tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1, "is_encoder_decoder": True}
    write_json(target / "config.json", fields)

    shards, sizes = [{}], [0]
    for path, tensors in published_tree(params).items():
        value = np.asarray(jax.device_get(_at(params, path)))
        value = value.astype(dtype or value.dtype)
        for tensor in tensors:
            array = np.ascontiguousarray(tensor.to_published(value))
            if sizes[-1] and sizes[-1] + array.nbytes > MAX_SHARD_BYTES:
                shards.append({})
                sizes.append(0)
            shards[-1][tensor.name] = array
            sizes[-1] += array.nbytes
    stem = FILE_NAME.get(part, "diffusion_pytorch_model")
    count = len(shards)
    for i, shard in enumerate(shards):
        name = stem if count == 1 else f"{stem}-{i + 1:05d}-of-{count:05d}"
        save_file(shard, target / f"{name}.safetensors", metadata={"format": "pt"})
    if count > 1:
        weight_map = {n: f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i, s in enumerate(shards) for n in s}
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
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
