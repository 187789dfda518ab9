"""Low-rank changes of a denoiser (LoRA; Hu et al., 2106.09685), merged into its parameters: a step costs no more.

Files name the changed modules in one of three ways: as the published folders do (``transformer.blocks.0.attn1.to_q``),
as the original repository does (``diffusion_model.blocks.0.self_attn.q``), or that with underscores
(``lora_unet_blocks_0_self_attn_q``). Besides low-rank products they may hold whole differences (``diff``, ``diff_b``).
"""

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from vidjax.errors import InputError, WeightsError
from vidjax.models.wan.original_names import original_name
from vidjax.models.wan.weights import Tensor, published_tree
from vidjax.typing import Array, Int, Params, PyTree
from vidjax.weights.tensor_file import DTYPES, Entry, listed, read_header, read_tensor, write_file

SUFFIXES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
    ".diff": "difference",
    ".diff_b": "bias",
}

METADATA = "lora_adapter_metadata"
"""Where files in the published naming keep the alpha that all modules share."""


class Change(NamedTuple):
    """What is added to a published tensor ``[out, ...]``: ``up @ down`` and ``difference``, strength included."""

    up: np.ndarray | None = None
    down: np.ndarray | None = None
    difference: np.ndarray | None = None


Changes = dict[tuple[str, ...], list[tuple[Tensor, Change]]]
"""By the path of a parameter, those of its published tensors that change."""

Modules = dict[tuple[str, str], Tensor]
"""By the name of a module in a file, and ``weight`` or ``bias``."""


def merge(params: Params, loras: Iterable[tuple[str | Path, float]]) -> Params:
    """The denoiser's parameters with the files merged in: ``W + strength * alpha / rank * B A`` for each file.

    ``alpha`` is the rank where a file names none.

    Raises:
      InputError: a strength that is not a finite number.
      WeightsError: a file that cannot be read, or does not fit the model; all that is wrong is listed.
    """
    return apply(params, read(params, loras))


def read(abstract: PyTree, loras: Iterable[tuple[str | Path, float]]) -> Changes:
    """The changes of several files, added up, for parameters of these shapes; nothing is put on a device.

    Raises: as :func:`merge`.
    """
    paths = {tensor: path for path, tensors in published_tree(abstract).items() for tensor in tensors}
    modules = _modules(paths)
    found: dict[Tensor, list[Change]] = {}
    for file, strength in loras:
        if not math.isfinite(strength):
            raise InputError(f"{file} at strength {strength}: a finite number is expected, such as 0.8")
        for tensor, change in _read_file(Path(file), strength, modules):
            found.setdefault(tensor, []).append(change)
    changes: Changes = {}
    for tensor, several in found.items():
        changes.setdefault(paths[tensor], []).append((tensor, _sum(several)))
    return changes


def apply(params: Params, changes: Changes, donate: bool = False) -> Params:
    """The parameters with the changes added, in float32 and rounded once.

    ``donate`` changes them in place, one tensor at a time: the ones given must not be used afterwards.
    """

    def leaf(path: tuple, value: Array) -> Array:
        owned = donate
        for tensor, change in changes.get(tuple(key.key for key in path), ()):
            sharding = value.sharding if isinstance(value.sharding, NamedSharding) else None
            add = _add_in_place if owned else _add
            value = add(value, change, tensor.layer, tensor.shape, tensor.order, sharding)
            owned = True
        return value

    return jax.tree_util.tree_map_with_path(leaf, params)


def write(file: Path, abstract: PyTree, changes: dict[str, dict[str, Array]], strength: float) -> None:
    """Trained changes ``{module path: {"down" [L, in, r], "up" [L, r, out]}}`` of a denoiser of these shapes as a file
    in the published naming, which :func:`read` and PyTorch tools take; ``strength`` goes into the numbers."""
    tensors = {}
    for path, published in published_tree(abstract).items():
        change = changes.get("/".join(path[:-1])) if path[-1] == "kernel" else None
        if change is None:
            continue
        down, up = (np.asarray(jax.device_get(change[kind]), np.float32) for kind in ("down", "up"))
        for tensor in published:
            module = f"transformer.{tensor.name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = np.ascontiguousarray(down[tensor.layer].T)
            tensors[f"{module}.lora_B.weight"] = np.ascontiguousarray(strength * up[tensor.layer].T)
    write_file(tensors, file)


def _added(
    parameter: Array,
    change: Change,
    layer: Int[Array, ""] | None,
    shape: tuple[int, ...],
    order: tuple[int, ...],
    sharding: Sharding | None,
) -> Array:
    delta = jnp.zeros(shape) if change.difference is None else change.difference
    if change.up is not None:
        delta = delta + jnp.matmul(change.up, change.down, precision="highest").reshape(shape)
    old = parameter if layer is None else jax.lax.dynamic_index_in_dim(parameter, layer, 0, keepdims=False)
    new = (old.astype(jnp.float32) + delta.transpose(order)).astype(parameter.dtype)
    result = new if layer is None else jax.lax.dynamic_update_index_in_dim(parameter, new, layer, 0)
    return result if sharding is None else jax.lax.with_sharding_constraint(result, sharding)


_STATIC = ("shape", "order", "sharding")
_add = functools.partial(jax.jit, static_argnames=_STATIC)(_added)
_add_in_place = functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames="parameter")(_added)


def _modules(tensors: Iterable[Tensor]) -> Modules:
    modules = {}
    for tensor in tensors:
        word = "bias" if tensor.name.endswith(".bias") else "weight"
        published, original = (n.removesuffix(f".{word}") for n in (tensor.name, original_name(tensor.name)))
        modules[f"transformer.{published}", word] = tensor
        modules[f"diffusion_model.{original}", word] = tensor
        modules[f"lora_unet_{original.replace('.', '_')}", word] = tensor
    return modules


def _read_file(path: Path, strength: float, modules: Modules) -> list[tuple[Tensor, Change]]:
    entries, metadata = read_header(path)
    groups: dict[str, dict[str, Entry]] = {}
    unknown = []
    for name, entry in entries.items():
        suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
        module, kind = name.removesuffix(suffix), SUFFIXES.get(suffix)
        if kind is None or (module, _word(kind)) not in modules:
            unknown.append(name)
        else:
            groups.setdefault(module, {})[kind] = entry
    _check(path, groups, unknown, modules)
    shared = _shared_alpha(path, metadata)
    changes = []
    for module, group in groups.items():
        values = {kind: _values(entry) for kind, entry in group.items()}
        if "up" in values:
            rank = len(values["down"])
            alpha = values["alpha"].item() if "alpha" in values else rank if shared is None else shared
            up = values["up"].reshape(-1, rank) * np.float32(strength * alpha / rank)
            changes.append((modules[module, "weight"], Change(up, values["down"].reshape(rank, -1))))
        for kind in ("difference", "bias"):
            if kind in values:
                change = Change(difference=values[kind] * np.float32(strength))
                changes.append((modules[module, _word(kind)], change))
    return changes


def _word(kind: str) -> str:
    return "bias" if kind == "bias" else "weight"


def _check(path: Path, groups: dict[str, dict[str, Entry]], unknown: list[str], modules: Modules) -> None:
    halves, wrong = [], []
    for module, group in groups.items():
        if ("up" in group) != ("down" in group) or ("alpha" in group and "up" not in group):
            halves.append(module)
            continue
        expected = {kind: modules[module, _word(kind)].shape for kind in ("difference", "bias") if kind in group}
        if "up" in group:
            out, *inner = modules[module, "weight"].shape
            rank = max((*group["down"].shape[:1], 1))
            # Convolutions have their window on the way down, and one of size 1 on the way up.
            expected |= {"down": (rank, *inner), "up": (out, rank, *[1] * (len(inner) - 1))}
        if "alpha" in group and math.prod(group["alpha"].shape) != 1:
            expected["alpha"] = ()
        for kind, shape in expected.items():
            if group[kind].shape != shape:
                wrong.append(f"{group[kind].name} {group[kind].shape} instead of {shape}")
    used = [entry for group in groups.values() for entry in group.values()]
    mistakes = {
        "not in this model": sorted(unknown),
        "not a pair of up and down": sorted(halves),
        "of another shape": wrong,
        "of a type that is not read": [f"{e.name} {e.dtype}" for e in used if e.dtype not in DTYPES],
    }
    said = "; ".join(f"{what}: {listed(names)}" for what, names in mistakes.items() if names)
    if said:
        raise WeightsError(f"{path} does not fit the model: {said}")


def _shared_alpha(path: Path, metadata: dict[str, str]) -> float | None:
    try:
        values = json.loads(metadata.get(METADATA, "{}"))
        alpha = values.get("transformer.lora_alpha")
        differs = values.get("transformer.alpha_pattern") or values.get("transformer.use_rslora")
        alpha = None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: its metadata {METADATA!r} is not what it should be: {error}") from error
    if differs:
        raise WeightsError(f"{path}: scales that differ by module (alpha_pattern, use_rslora) are not supported")
    return alpha


def _values(entry: Entry) -> np.ndarray:
    value = read_tensor(entry).astype(np.float32)
    if not np.isfinite(value).all():
        raise WeightsError(f"{entry.path}: not finite: {entry.name}")
    return value


def _sum(changes: list[Change]) -> Change:
    """Several changes of one tensor as one: products side by side along the rank."""
    ups = [c.up for c in changes if c.up is not None]
    downs = [c.down for c in changes if c.down is not None]
    differences = [c.difference for c in changes if c.difference is not None]
    return Change(
        np.concatenate(ups, axis=1) if ups else None,
        np.concatenate(downs, axis=0) if downs else None,
        sum(differences[1:], differences[0]) if differences else None,
    )
