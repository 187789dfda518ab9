"""The device mesh: four named axes, sized by the configuration.

`data` splits the batch, `fsdp` the batch and the parameters, `context` the video's tokens, `tensor` heads and
hidden features.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vidjax.errors import InputError
from vidjax.parallel.rules import AnyMesh

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
    return Mesh(arrange(shape, devices[:count]), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(shape: tuple[int, ...], devices: Sequence) -> np.ndarray:
    """The devices as an array of this shape: neighbours on the chips' torus lie next to each other.

    Slices, which only the data centre's network connects, lie behind one another along the first axis, `data`: of a
    step, its gradients alone cross that network.

    Raises:
      InputError: `data` is not a multiple of the number of slices.
    """
    slices: dict[int, list] = {}
    for device in devices:
        # GPUs call their nodes slices; those lie behind one another in the plain order, whatever the shape.
        index = getattr(device, "slice_index", 0) if device.platform == "tpu" else 0
        slices.setdefault(index, []).append(device)
    count = len(slices)
    if shape[0] % count:
        near = max(round(shape[0] / count), 1) * count
        raise InputError(f"mesh data={shape[0]}: must be a multiple of the {count} slices; nearest: {near}")
    inside = (shape[0] // count, *shape[1:])
    return np.concatenate([_arrange_slice(inside, slices[index]) for index in sorted(slices)])


def _arrange_slice(shape: tuple[int, ...], devices: Sequence) -> np.ndarray:
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:  # an axis of the mesh takes a part of an axis of the torus
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def parse_mesh(text: str) -> dict[str, int]:
    """`data=-1,fsdp=4` as sizes for `make_mesh`.

    Raises:
      InputError: an item is not AXIS=SIZE, or there is no such axis.
    """
    sizes = {}
    for item in text.split(","):
        axis, _, size = (part.strip() for part in item.partition("="))
        wrong = None
        if not size.removeprefix("-").isdecimal():
            wrong = f"{item.strip()!r} is not AXIS=SIZE, as in data=4"
        elif axis not in AXES:
            wrong = f"there is no axis {axis!r}"
        elif axis in sizes:
            wrong = f"{axis!r} is given twice"
        if wrong is not None:
            raise InputError(f"mesh {text!r}: {wrong}; the axes are {', '.join(AXES)}, each at most once")
        sizes[axis] = int(size)
    return sizes


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


def batch_blocks(mesh: AnyMesh) -> int:
    """Into how many blocks `batch_sharding` cuts the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_layout(mesh: AnyMesh, rows: int) -> NamedSharding:
    """`batch_sharding` where these rows divide, and else whole on every device."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES) if rows % batch_blocks(mesh) == 0 else PartitionSpec())


def batch_shard(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """`(blocks, count)`: this process reads these of the `count` blocks that the rows of a batch are cut into.

    Processes whose devices differ only along `context` or `tensor` read the same blocks.

    Raises:
      InputError: the blocks of one process overlap those of another, without being the same.
    """
    count = batch_blocks(mesh)
    placed = batch_sharding(mesh).devices_indices_map((count,))
    blocks: dict[int, set[int]] = {}
    for device, index in placed.items():
        blocks.setdefault(_owner(device), set()).add(index[0].indices(count)[0])
    mine = blocks[jax.process_index()]
    if any(mine & other and mine != other for other in blocks.values()):
        raise InputError(
            f"mesh {dict(mesh.shape)}: processes share some of the rows of a batch; let `data` times `fsdp` be a "
            f"multiple of the {len(blocks)} processes, or `context` times `tensor` of the devices of each"
        )
    # As few as possible: a process reads fewer, larger pieces.
    size = len(mine)
    first = min(mine) // size
    if count % size == 0 and mine == set(range(first * size, (first + 1) * size)):
        return (first,), count // size
    return tuple(sorted(mine)), count


def _owner(device: jax.Device) -> int:
    return device.process_index
