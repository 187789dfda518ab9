"""The device mesh: four named axes, sized by the configuration.

`data` splits the batch, `fsdp` the batch and the parameters, `context` the video's tokens, `tensor` heads and
hidden features.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vidjax.errors import InputError

AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(data: int = 1, fsdp: int = 1, context: int = 1, tensor: int = 1, devices: Sequence | None = None) -> Mesh:
    """A mesh over `devices` (all of them when None); one size may be -1 and takes the rest.

    Sizes that leave devices idle are an error, as nobody means that. Only one device, in one process, is let
    through, so that the default runs anywhere.

    Raises:
      InputError: a size is neither positive nor -1, or the sizes do not fit the number of devices.
    """
    sizes = dict(zip(AXES, (data, fsdp, context, tensor), strict=True))
    devices = list(jax.devices() if devices is None else devices)
    shape = tuple(mesh_shape(sizes, len(devices)).values())
    count = math.prod(shape)
    types = (AxisType.Auto,) * len(AXES)
    if count == len(devices):
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    return Mesh(np.array(devices[:count]).reshape(shape), AXES, axis_types=types)


def mesh_shape(sizes: dict[str, int], num_devices: int) -> dict[str, int]:
    """The sizes with -1 filled in, checked against the number of devices."""
    asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
    free = [name for name, size in sizes.items() if size == -1]
    wrong = [name for name, size in sizes.items() if size < 1 and size != -1]
    if wrong:
        raise InputError(f"mesh {asked}: the size of {wrong[0]!r} must be a positive number, or -1 to fill")
    if len(free) > 1:
        raise InputError(f"mesh {asked}: only one axis may be -1, but {' and '.join(free)} are")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    if free:
        if num_devices % fixed:
            raise InputError(
                f"mesh {asked}: the fixed sizes multiply to {fixed}, which does not divide {num_devices} "
                f"devices; choose a product among {', '.join(map(str, divisors))}"
            )
        return sizes | {free[0]: num_devices // fixed}
    if fixed != num_devices and (fixed != 1 or jax.process_count() > 1):
        raise InputError(
            f"mesh {asked}: needs {fixed} devices and there are {num_devices}; "
            f"let the sizes multiply to {num_devices}, or set one of {', '.join(sizes)} to -1"
        )
    return sizes


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over `data` and `fsdp`, the others whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shard(mesh: Mesh) -> tuple[int, int]:
    """`(index, count)`: this process reads block `index` of the `count` blocks a batch is cut into.

    Processes whose devices differ only along `context` or `tensor` share a block, so they read the same rows.
    """
    blocks = mesh.shape["data"] * mesh.shape["fsdp"]
    placed = batch_sharding(mesh).devices_indices_map((blocks,))
    mine = sorted({placed[d][0].indices(blocks)[0] for d in mesh.local_devices})
    if mine != list(range(mine[0], mine[0] + len(mine))) or blocks % len(mine) or mine[0] % len(mine):
        raise InputError(
            f"mesh {dict(mesh.shape)}: the rows of this process, {mine} of {blocks}, are not one block; "
            "let `data` times `fsdp` be a multiple of the number of processes"
        )
    return mine[0] // len(mine), blocks // len(mine)
