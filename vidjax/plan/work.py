"""What a compiled program does, read from its HLO text: matrix FLOPs, bytes sent and bytes of memory traffic.

XLA's own ``cost_analysis`` counts the body of a loop once and a kernel not at all; here a body counts as often as it
runs, and attention kernels count by the shapes that they are given. Everything is per device.
"""

import collections
import dataclasses
import functools

from vidjax.plan.collectives import COLLECTIVES, sent_bytes
from vidjax.plan.hlo import Computation, Instruction, parse
from vidjax.plan.products import kernel_flops, kernel_name, product_flops
from vidjax.plan.traffic import traffic
from vidjax.plan.trips import trips


@dataclasses.dataclass
class Work:
    """Of one device. ``flops`` include ``kernel_flops``, those of attention kernels, but not what these repeat,
    ``repeated_flops``. ``collectives`` are the bytes that it sends, by kind; ``across`` those to other slices.
    """

    flops: float = 0.0
    kernel_flops: float = 0.0
    repeated_flops: float = 0.0
    memory_bytes: float = 0.0
    collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    across: float = 0.0
    unknown: frozenset[str] = frozenset()
    """Kernels and loops whose work could not be told; they count as nothing, or as one run."""

    def add(self, other: "Work", times: float = 1) -> None:
        self.flops += times * other.flops
        self.kernel_flops += times * other.kernel_flops
        self.repeated_flops += times * other.repeated_flops
        self.memory_bytes += times * other.memory_bytes
        self.across += times * other.across
        self.unknown |= other.unknown
        for kind, size in other.collectives.items():
            self.collectives[kind] += times * size


def work_of(text: str, num_devices: int, slices: int = 1) -> Work:
    """The work of a compiled module's text, ``compiled.as_text()``; device ids run through slices one by one."""
    module = _Module(text, num_devices, slices)
    return module.of(module.entry)


class _Module:
    """A parsed module, and what is asked of it again and again."""

    def __init__(self, text: str, num_devices: int, slices: int):
        self.computations, self.entry = parse(text)
        self.num_devices, self.slices = num_devices, slices
        self.of = functools.cache(self._of)
        starting = (c for c in self.computations.values() if _starts(c))
        self.started = {
            (i.opcode, i.attribute("channel_id")) for c in starting for i in c.values() if i.opcode in COLLECTIVES
        }

    def _of(self, name: str) -> Work:
        """Work of a computation that is run as such: the entry, a loop's body, a branch."""
        total, here = Work(), self.computations[name]
        for ins in here.values():
            if ins.opcode == "while":
                times = trips(self.computations, here, ins)
                total.add(self.of(ins.called("body")[0]), 1 if times is None else times)
                if times is None:
                    total.unknown |= {f"loop {ins.name}"}
            elif ins.opcode == "conditional":
                branches = ins.called("branch_computations", "true_computation", "false_computation")
                total.add(max((self.of(b) for b in branches), key=lambda w: w.flops))
            elif ins.opcode == "call":
                total.add(self.of(ins.called("to_apply")[0]))
            else:
                self.single(total, here, ins)
                total.memory_bytes += traffic(self.computations, here, ins)
        return total

    def single(self, total: Work, here: Computation, ins: Instruction) -> None:
        """Add what an instruction, and what is fused in it, computes and sends."""
        opcode = ins.opcode.removesuffix("-start")
        if opcode in ("fusion", "async"):
            for name in ins.called("calls"):
                inner = self.computations[name]
                # What runs beside other work is written into every fusion that it runs beside; it is sent once.
                under_way = set() if _starts(inner) else self.started
                for part in inner.values():
                    if (part.opcode, part.attribute("channel_id")) not in under_way:
                        self.single(total, inner, part)
        elif opcode in ("dot", "convolution"):
            total.flops += product_flops(ins, [here[o].shapes[0] for o in ins.operands])
        elif opcode in COLLECTIVES:
            sent, across = sent_bytes(opcode, here, ins, self.num_devices, self.slices)
            total.collectives[opcode] += sent
            total.across += across
        elif opcode == "custom-call" and ins.attribute("custom_call_target") == '"tpu_custom_call"':
            shapes = [shape for o in ins.operands for shape in here[o].shapes]
            flops = kernel_flops(ins, shapes)
            if flops is None:
                total.unknown |= {f"kernel {kernel_name(ins)}"}
            else:
                total.flops += flops[0]
                total.kernel_flops += flops[0]
                total.repeated_flops += flops[1]


def _starts(computation: Computation) -> bool:
    """Whether a collective is begun here that goes on beside what follows."""
    return any(i.attribute("custom_call_target") == '"AsyncCollectiveStart"' for i in computation.values())
