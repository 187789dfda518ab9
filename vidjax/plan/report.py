"""What a plan says: as numbers, and as a table for people."""

import dataclasses
from typing import Any

from vidjax.plan.chips import GIB, Chip
from vidjax.plan.work import Work


@dataclasses.dataclass(frozen=True)
class Plan:
    """A program on a mesh of chips. Bytes are of one device; FLOPs are of matrix products, by all devices.

    Args:
      fits: ``peak_bytes`` is no more than ``memory_bytes``.
      peak_bytes: arguments, temporaries, results and the program itself, and ``other_parts_bytes``.
      other_parts_bytes: parts of the model that wait on the device meanwhile, such as the text encoder.
      memory_bytes: what a device of this chip lets programs use.
      model_flops: the model's own arithmetic. compiled_flops: what the compiled program does, of which
        attention_flops in kernels, not counting repeated_flops: the softmax weights that kernels make anew backwards.
      flops_ratio: model_flops over compiled_flops; recomputation and repetition on several devices lower it.
      collective_bytes: what a device sends, by kind. dcn_bytes: what of that goes to other slices.
      hbm_bytes: read from and written to the device's memory.
      seconds: the least time for compute, memory, interconnect and dcn, each as if alone at its peak.
      estimated_seconds: the longest of them, ``bound`` its name.
      advice: where it does not fit: what might. notes: what could not be counted.
    """

    program: str
    topology: str
    devices: int
    mesh: dict[str, int]
    size: str
    num_frames: int
    batch: int
    remat: str | None
    fits: bool
    peak_bytes: int
    memory_bytes: int
    compile_seconds: float
    argument_bytes: int | None = None
    temporary_bytes: int | None = None
    other_parts_bytes: int = 0
    model_flops: float | None = None
    compiled_flops: float | None = None
    attention_flops: float | None = None
    repeated_flops: float | None = None
    flops_ratio: float | None = None
    collective_bytes: dict[str, float] = dataclasses.field(default_factory=dict)
    dcn_bytes: float = 0.0
    hbm_bytes: float | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    estimated_seconds: float | None = None
    bound: str | None = None
    advice: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def mesh_text(self) -> str:
        return ",".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1) or "data=1"

    def __str__(self) -> str:
        what = f"{self.program}, {self.batch} x {self.num_frames} frames of {self.size}"
        how = f"{self.topology} ({self.devices} devices), mesh {self.mesh_text}"
        lines = [what, how + (f", remat {self.remat}" if self.remat else ""), ""]
        rows = [(name, text) for name, text in self._rows() if text]
        width = max(len(name) for name, _ in rows)
        return "\n".join(lines + [f"{name:{width}}  {text}" for name, text in rows])

    def _rows(self) -> list[tuple[str, str]]:
        fit = "fits" if self.fits else f"does not fit: {self.advice}"
        memory = [("memory", f"{in_gib(self.peak_bytes)} of {in_gib(self.memory_bytes)} a device: {fit}")]
        if self.argument_bytes is not None:
            memory += [("  arguments", in_gib(self.argument_bytes)), ("  temporaries", in_gib(self.temporary_bytes))]
        if self.other_parts_bytes:
            memory += [("  the model's other parts", in_gib(self.other_parts_bytes))]
        compiled = ("compiled in", f"{self.compile_seconds:.1f} s")
        if self.compiled_flops is None:
            return [*memory, compiled]
        in_kernels = self.attention_flops / self.compiled_flops
        ratio = f"the model's own are {self.flops_ratio:.3f} of them"
        sent = [(f"  {kind}", in_gib(size)) for kind, size in sorted(self.collective_bytes.items())]
        times = ", ".join(f"{name} {in_seconds(seconds)}" for name, seconds in self.seconds.items())
        return [
            *memory,
            ("FLOPs", f"{self.compiled_flops:.4g}, {in_kernels:.0%} in kernels; {ratio}"),
            ("  repeated in kernels", f"{self.repeated_flops:.4g}" if self.repeated_flops else ""),
            ("sent by a device", in_gib(sum(self.collective_bytes.values()))),
            *sent,
            ("  to other slices", in_gib(self.dcn_bytes) if self.dcn_bytes else ""),
            ("at best", f"{in_seconds(self.estimated_seconds)}, bound by {self.bound} ({times})"),
            compiled,
            *[("note", note) for note in self.notes],
        ]


def rooflines(work: Work, chip: Chip) -> dict[str, float]:
    """The least seconds a device needs for each kind of work, as if it did nothing else (Williams et al., 2009)."""
    each = chip.devices
    inside = sum(work.collectives.values()) - work.across
    times = {
        "compute": (work.flops + work.repeated_flops) / (chip.flops / each),
        "memory": work.memory_bytes / (chip.hbm_bytes / each),
        # Half of the links' rate: a byte is sent in one direction.
        "interconnect": inside / (chip.ici_bytes / 2 / each),
    }
    return times | ({"dcn": work.across / (chip.dcn_bytes / each)} if work.across else {})


def ranking(plans: list[Plan]) -> str:
    """Plans of one program on several meshes as a table, in the order that they are given in."""
    rows = [("mesh", "remat", "GiB a device", "FLOPs ratio", "s a clip at best", "bound by")]
    for p in plans:
        memory = f"{p.peak_bytes / GIB:.1f} of {p.memory_bytes / GIB:.1f}"
        if p.fits:
            rest = f"{p.flops_ratio:.3f}", f"{p.estimated_seconds / p.batch:.3g}", p.bound
        else:
            rest = "does not fit", "", ""
        rows.append((p.mesh_text, p.remat or "", memory, *rest))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join((f"{plans[0].program} on {plans[0].topology}", *lines))


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values."""
    return dataclasses.asdict(plan)


def in_gib(size: float) -> str:
    """Bytes in GiB, or MiB where there are few."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"


def in_seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
