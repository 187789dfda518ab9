"""The TPU compiler on a machine without a TPU: a mesh of devices that are not there, and programs compiled for them."""

import importlib.util
import os
import re
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.stages import Lowered

from vidjax.errors import InputError
from vidjax.parallel.mesh import AXES, arrange, mesh_shape
from vidjax.parallel.rules import device_bytes
from vidjax.plan.chips import Topology
from vidjax.typing import PyTree

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # There is no metadata server to ask what this machine is, and nothing on it to lock.
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # Its log goes nowhere.
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def prepare_process() -> None:
    """Make this process one that compiles for TPUs and runs on the CPU; for a program's start, before JAX is used.

    Raises:
      InputError: the compiler is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("vidjax plan needs the TPU compiler, though no TPU: pip install 'vidjax[plan]'")
    wanted = re.search(r"libtpu==([\d.]+)\.\*", " ".join(metadata.requires("jax") or ()))
    found = metadata.version("libtpu")
    if wanted and not found.startswith(f"{wanted[1]}."):
        warnings.warn(f"this jax goes with libtpu {wanted[1]}, not {found}: pip install 'vidjax[plan]'", stacklevel=2)
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")


def make_plan_mesh(topology: Topology, sizes: dict[str, int]) -> Mesh:
    """The mesh over all devices of a topology.

    Raises:
      InputError: the sizes do not multiply to the number of devices, or `data` is not a multiple of the slices.
    """
    sizes = check_sizes(topology, sizes)
    shape = tuple(sizes[axis] for axis in AXES)
    devices = _devices(topology)
    # JAX arranges a chip's two devices only where it has to, on TPU7x; others stay in the compiler's order.
    plain = topology.chip.devices > 1 and topology.chip.name != "tpu7x"
    ordered = np.array(devices).reshape(shape) if plain else arrange(shape, devices)
    return Mesh(ordered, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_sizes(topology: Topology, sizes: dict[str, int]) -> dict[str, int]:
    """All four sizes, with -1 filled in.

    Raises:
      InputError: as `make_plan_mesh`.
    """
    n = topology.num_devices
    full = mesh_shape({axis: sizes.get(axis, 1) for axis in AXES}, n)
    if (count := int(np.prod(list(full.values())))) != n:
        asked = ", ".join(f"{axis}={size}" for axis, size in full.items())
        raise InputError(f"mesh {asked}: needs {count} devices and {topology} has {n}; set an axis to -1 to fill it")
    if full["data"] % topology.slices:
        raise InputError(
            f"mesh data={full['data']}: must be a multiple of slices={topology.slices}, which only `data` may span; "
            f"nearest: data={topology.slices}"
        )
    return full


def _devices(topology: Topology) -> list:
    from jax.experimental import topologies

    options = {"chips_per_host_bounds": (1, 1, 1)} if topology.shape == "1x1" else {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices)


class Compiled(NamedTuple):
    """A program that fits its devices. Bytes are of one device; ``peak`` is the most that is in use at a time."""

    executable: jax.stages.Compiled
    seconds: float
    arguments: int
    temporaries: int
    peak: int


class TooLarge(NamedTuple):
    """A program that does not: what it ``needs`` of what the device ``has``, in bytes."""

    seconds: float
    needs: int
    has: int


def compile_program(lower: Callable[[], tuple[Lowered, PyTree]]) -> Compiled | TooLarge:
    """Lower and compile; a program that does not fit is an answer, too.

    Arguments that the program does not use, which the compiler drops, take their place all the same.
    """
    start = time.perf_counter()
    try:
        lowered, arguments = lower()
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = _exhausted(str(error))
        if sizes is None:
            raise
        return TooLarge(time.perf_counter() - start, *sizes)
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    held = max(memory.argument_size_in_bytes, device_bytes(arguments))
    fresh = max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0)
    peak = held + memory.temp_size_in_bytes + fresh + memory.generated_code_size_in_bytes
    return Compiled(executable, seconds, held, memory.temp_size_in_bytes, peak)


def _exhausted(message: str) -> tuple[int, int] | None:
    """Bytes needed and there, from the compiler's words; None where it says something else."""
    size = r"([\d.]+)([KMGT])?\w*"
    found = re.search(rf"\({size}\) exceeds available \w+ \({size}\)", message)
    found = found or re.search(rf"[Uu]sed {size} of {size} \w+", message)
    if "RESOURCE_EXHAUSTED" not in message or not found:
        return None
    return tuple(int(float(found[i]) * 1024.0 ** " KMGT".index(found[i + 1] or " ")) for i in (1, 3))
