"""Which axis of the mesh splits which axis of an array: by path for parameters, in place for activations."""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from vidjax.errors import InputError
from vidjax.typing import Array, PyTree

Rules = Sequence[tuple[str, PartitionSpec]]

AnyMesh = Mesh | AbstractMesh
"""Of devices, or only of their number: enough to say how arrays are split."""


def leaf_path(path: tuple[Any, ...]) -> str:
    """`('blocks', 'attention', 'kernel')` of a tree as `blocks/attention/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def under(part: str, rules: Rules) -> Rules:
    """The rules of a part's parameters, where these are a branch of that name in a tree."""
    return tuple((f"^{part}/{pattern.lstrip('^')}", spec) for pattern, spec in rules)


def match_rules(rules: Rules, abstract_params: PyTree) -> PyTree:
    """The `PartitionSpec` of every parameter: that of the first `(regex, spec)` found in its path.

    Raises:
      InputError: a parameter that no rule matches (all are listed), or a spec longer than the array's rank.
    """
    compiled = [(re.compile(pattern), spec) for pattern, spec in rules]
    unmatched = []

    def find(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        name = leaf_path(path)
        for pattern, spec in compiled:
            if pattern.search(name):
                if len(spec) > leaf.ndim:
                    raise InputError(
                        f"sharding rule {pattern.pattern!r} gives {spec} to {name!r}, which has only {leaf.ndim} axes"
                    )
                return spec
        unmatched.append(name)
        return PartitionSpec()

    specs = jax.tree_util.tree_map_with_path(find, abstract_params)
    if unmatched:
        raise InputError(
            f"no sharding rule matches {', '.join(sorted(unmatched))}; "
            "add a rule, or end the list with ('.*', PartitionSpec())"
        )
    return specs


def match_state(specs: PyTree, abstract_state: PyTree) -> PyTree:
    """Specs for a tree that holds copies of the parameters, such as an optimizer's state.

    A leaf whose path ends with a parameter's path is split as that parameter; anything else is replicated.
    """
    flat = jax.tree_util.tree_flatten_with_path(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))[0]
    by_path = {tuple(map(str, path)): spec for path, spec in flat}

    def find(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        parts = tuple(map(str, path))
        for start in range(len(parts)):
            spec = by_path.get(parts[start:])
            if spec is not None and len(spec) <= leaf.ndim:
                return spec
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(find, abstract_state)


def shardings(mesh: AnyMesh, specs: PyTree, abstract: PyTree) -> PyTree:
    """`NamedSharding`s for a tree of specs, each checked against its array's shape.

    Raises:
      InputError: a spec names an axis that the mesh lacks, or an axis of an array cannot be split evenly.
    """

    def named(path: tuple[Any, ...], leaf: Any, spec: PartitionSpec) -> NamedSharding:
        for axis, names in enumerate(spec):
            for name in _names(names):
                if name not in mesh.shape:
                    raise InputError(
                        f"sharding {spec} of {leaf_path(path)!r}: no mesh axis {name!r}; "
                        f"there are {', '.join(mesh.shape)}"
                    )
            parts = math.prod(mesh.shape[name] for name in _names(names))
            if leaf.shape[axis] % parts:
                raise InputError(
                    f"{leaf_path(path)!r} of shape {leaf.shape}: axis {axis} cannot be split evenly over "
                    f"{names!r} = {parts} devices; choose a mesh size that divides {leaf.shape[axis]}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(named, abstract, specs)


def shard(params: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """The parameters laid out over the mesh by the rules."""
    return jax.device_put(params, shardings(mesh, match_rules(rules, params), params))


def device_bytes(tree: PyTree) -> int:
    """Bytes of arrays, or of laid out shapes, on one of their devices."""

    def held(x: jax.Array | jax.ShapeDtypeStruct) -> int:
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(map(held, jax.tree.leaves(tree)))


def free_axes() -> dict[str, int]:
    """Sizes of the axes of the mesh of `jax.set_mesh`, less those that an enclosing `jax.shard_map` has split."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, kind in axes if kind == AxisType.Auto}


def fitting_spec(shape: Sequence[int], *axes: str | tuple[str, ...] | None) -> PartitionSpec:
    """The `PartitionSpec` of these mesh axes, less those that are not free or do not divide the shape evenly."""
    free = free_axes()
    spec = []
    for size, names in zip(shape, axes, strict=False):
        kept, parts = [], 1
        for name in _names(names):
            if name in free and size % (parts * free[name]) == 0:
                kept.append(name)
                parts *= free[name]
        spec.append(tuple(kept) or None)
    return PartitionSpec(*spec)


def constrain(x: Array, *axes: str | tuple[str, ...] | None) -> Array:
    """Ask for `x` to be split over these mesh axes; leaves it alone where no mesh is set.

    The mesh is that of `jax.set_mesh`. A layout hint, never an error: an axis of `x` that does not divide
    is whole, as is one of None or not named; what an enclosing `jax.shard_map` has split is left to it.
    """
    return jax.lax.with_sharding_constraint(x, fitting_spec(x.shape, *axes)) if free_axes() else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(kernel: Array, axes: tuple[str | None, ...]) -> Array:
    """A parameter that is stored split over `axes`, whole along `fsdp` for use; its gradient is split as it is stored.

    Left to itself the partitioner may rather move activations, where the batch is too small for `fsdp`.
    """
    return constrain(kernel, *(None if name == "fsdp" else name for name in axes))


gathered.defvjp(
    lambda kernel, axes: (gathered(kernel, axes), None),
    lambda axes, _, gradient: (constrain(gradient, *axes),),
)


def _names(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)
