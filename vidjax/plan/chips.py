"""The chips that programs are planned for, and the shapes in which they come."""

import dataclasses
import math
import re

from vidjax.errors import InputError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. Rates are per second; ``flops`` of bfloat16 matrix products.

    ``devices`` is how many JAX devices it counts as where it is compiled for; each has its share of the rates.
    ``memory`` is what a program may use of one device, in bytes, as the compiler states it. ``ici_bytes`` counts both
    directions of all links to other chips, as the sources do; ``dcn_bytes`` is the chip's share of the network
    between slices.
    """

    name: str
    memory: int
    flops: float
    hbm_bytes: float
    ici_bytes: float
    dcn_bytes: float
    dimensions: int
    devices: int = 1


CHIPS = {
    chip.name: chip
    for chip in (
        # cloud.google.com/tpu/docs/v4: 32 GiB, 275 TFLOPs, 1200 GB/s, six links of 50 GB/s. The compiler lists both
        # TensorCores, although a host joins them to one device ("megacore"): such a plan is on the safe side.
        Chip("v4", int(15.25 * GIB), 275e12, 1200e9, 300e9, 6.25e9, dimensions=3, devices=2),
        # docs.cloud.google.com/tpu/docs/v5e: 16 GB, 197 TFLOPs, 819 GB/s, 400 GB/s; two 100 Gb/s cards a host of 8.
        Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 400e9, 3.125e9, dimensions=2),
        # docs.cloud.google.com/tpu/docs/tpu7x compares these three: 95, 32 and 192 GiB; compute, HBM, ICI and DCN.
        Chip("v5p", int(95.73 * GIB), 459e12, 2765e9, 1200e9, 6.25e9, dimensions=3),
        Chip("v6e", int(31.24 * GIB), 918e12, 1638e9, 800e9, 12.5e9, dimensions=2),
        Chip("tpu7x", int(94.74 * GIB), 2307e12, 7380e9, 1200e9, 12.5e9, dimensions=3, devices=2),
    )
}

FLAT_SHAPES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
DEEP_SHAPES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
"""The shapes that can be asked for, small to large."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind in slices of one shape."""

    chip: Chip
    shape: str
    slices: int = 1

    @property
    def name(self) -> str:
        """What the compiler calls a slice."""
        return f"{self.chip.name}:{self.shape}"

    @property
    def num_devices(self) -> int:
        return self.slices * self.chip.devices * math.prod(map(int, self.shape.split("x")))

    def __str__(self) -> str:
        return self.name if self.slices == 1 else f"{self.slices} x {self.name}"


def parse_topology(text: str, slices: int = 1) -> Topology:
    """``v5p:2x2x4`` as a topology of that many slices.

    Raises:
      InputError: no such chip or shape; the nearest are named.
    """
    name, _, shape = text.lower().replace("tpu-", "").partition(":")
    if name not in CHIPS:
        raise InputError(f"topology {text!r}: choose a chip among {', '.join(CHIPS)}, as in v5e:2x4 or v5p:2x2x2")
    if not 1 <= slices <= 64:
        raise InputError(f"slices={slices}: must lie between 1 and 64")
    chip = CHIPS[name]
    shapes = FLAT_SHAPES if chip.dimensions == 2 else DEEP_SHAPES
    sizes = "x".join(sorted(shape.split("x"), key=lambda n: (len(n), n)))
    match = {"x".join(sorted(s.split("x"), key=lambda n: (len(n), n))): s for s in shapes}.get(sizes)
    if match is None:
        count = math.prod(int(n) for n in re.findall(r"\d+", shape) or [1])
        near = min(shapes, key=lambda s: abs(math.log(math.prod(map(int, s.split("x"))) / max(count, 1))))
        raise InputError(f"topology {text!r}: {name} comes as {', '.join(shapes)}; nearest: {name}:{near}")
    return Topology(chip, match, slices)
