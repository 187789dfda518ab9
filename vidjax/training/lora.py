"""Low-rank changes of a denoiser as parameters to train (LoRA; Hu et al., 2106.09685).

Beside a stacked kernel ``[layers, in, out]`` stand ``down`` ``[layers, in, rank]`` and ``up`` ``[layers, rank, out]``;
the kernel in use is ``kernel + strength * down @ up``.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vidjax.errors import InputError
from vidjax.parallel.rules import leaf_path
from vidjax.typing import Array, Params, PyTree

RULES = ((r"/down$", P(None, "fsdp", None)), (r"/up$", P(None, None, "tensor")))


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """How much may change: the rank, and the modules of every block, under their published names.

    ``alpha`` over ``rank`` is the strength of the change; None: the rank, strength 1.
    """

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    @property
    def strength(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


def init(config: LoRAConfig, abstract: PyTree, key: Array) -> Params:
    """``{path of a module: {"down", "up"}}`` for the blocks of a denoiser of these shapes; ``up`` is zero.

    Raises:
      InputError: a rank below 1, or a target that no block has.
    """
    if config.rank < 1:
        raise InputError(f"lora.rank={config.rank}: must be at least 1")
    kernels = _kernels(abstract)
    unknown = [target for target in config.targets if not any(path.endswith(f"/{target}") for path in kernels)]
    if unknown or not config.targets:
        names = sorted({path.split("/", 2)[-1] for path in kernels})
        raise InputError(f"lora.targets={config.targets}: choose among the modules of a block, {', '.join(names)}")
    found = {path: k for path, k in kernels.items() if path.endswith(tuple(f"/{target}" for target in config.targets))}
    params = {}
    for i, (path, kernel) in enumerate(sorted(found.items())):
        layers, inner, out = kernel.shape
        down = jax.random.normal(jax.random.fold_in(key, i), (layers, inner, config.rank)) * inner**-0.5
        params[path] = {"down": down, "up": jnp.zeros((layers, config.rank, out))}
    return params


def merged(params: Params, changes: Params, strength: float) -> Params:
    """The denoiser's parameters with the changes added; differentiable in the changes."""

    def leaf(path: tuple[Any, ...], kernel: Array) -> Array:
        module, _, last = leaf_path(path).rpartition("/")
        if last != "kernel" or module not in changes:
            return kernel
        change = changes[module]
        delta = strength * jnp.einsum("lir,lro->lio", change["down"], change["up"])
        return kernel + delta.astype(kernel.dtype)

    return jax.tree_util.tree_map_with_path(leaf, params)


def _kernels(abstract: PyTree) -> dict[str, Any]:
    """The stacked kernels of the blocks, by the path of their module."""
    leaves = jax.tree_util.tree_flatten_with_path(abstract)[0]
    named = {leaf_path(path): leaf for path, leaf in leaves}
    return {
        name.removesuffix("/kernel"): leaf
        for name, leaf in named.items()
        if name.startswith("blocks/") and name.endswith("/kernel") and leaf.ndim == 3
    }
