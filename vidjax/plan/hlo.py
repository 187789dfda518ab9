"""The HLO text of a compiled program, read: computations of instructions, with shapes, attributes and groups."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
"""Of element types whose name does not end in their width."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's element type, sizes, and memory space (0 is HBM)."""

    dtype: str
    sizes: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        digits = re.match(r"[a-z]+(\d+)", self.dtype)
        bits = BITS.get(self.dtype) or (int(digits[1]) if digits else 0)
        return math.prod(self.sizes) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO. ``shapes`` are the arrays of its result, ``rest`` what follows its operands."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """``{...}`` or a word after ``name=``."""
        found = re.search(rf"(?:^|[ ,]){name}=(\{{[^{{}}]*\}}|[^ ,{{}}]+)", self.rest)
        return found[1] if found else None

    def called(self, *names: str) -> list[str]:
        """Computations named by these attributes."""
        return [c for name in names for c in re.findall(r"[\w.\-]+", self.attribute(name) or "")]


Computation: TypeAlias = dict[str, Instruction]
"""Instructions by name, in order."""


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Every computation by its name, and the name of the entry."""
    computations: dict[str, Computation] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")) and line.rstrip().endswith("{"):
            name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", line)[1]
            current = computations[name] = {}
            entry = name if line.startswith("ENTRY") else entry
        elif line.startswith("  ") and current is not None and (instruction := _parse_line(line)):
            current[instruction.name] = instruction
    return computations, entry


def _parse_line(line: str) -> Instruction | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    rest = line[found.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shapes, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    close = _closing("(" + rest) - 1
    inside, rest = rest[:close], rest[close + 1 :]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(found[2], opcode, tuple(read_shapes(shapes)), operands, inside, rest, bool(found[1]))


def _closing(text: str) -> int:
    """Where the bracket that ``text`` starts with is closed."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text) - 1


def read_shapes(text: str) -> Iterator[Shape]:
    """The arrays in ``f32[2,3]{1,0:S(1)}`` or a tuple of such."""
    for dtype, sizes, layout in re.findall(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?", text):
        space = re.search(r"S\((\d+)\)", layout)
        yield Shape(dtype, tuple(int(n.lstrip("<=")) for n in sizes.split(",") if n), int(space[1]) if space else 0)


def read_groups(text: str, num_devices: int) -> list[list[int]]:
    """Devices that take part together, from the three spellings of ``replica_groups``; of a permute, its pairs.

    ``{{0,1},{2,3}}``; ``[2,2]<=[4]`` or ``[2,2]<=[2,2]T(1,0)``; ``mesh['a'=2,'b'=2] {'b'}``.
    """
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", text)
    if listed:
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        sizes, source, order = ([int(n) for n in (g or "").split(",") if n] for g in iota.groups())
        ids = np.arange(math.prod(source)).reshape(source)
        return ids.transpose(order or range(len(source))).reshape(sizes).tolist()
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*\)?)\))? ?\{([^}]*)\}", text)
    if mesh:
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        ids = np.arange(math.prod(axes.values()))
        order = re.search(r"\[([\d,]+)\]T\(([\d,]+)\)", mesh[2] or "")
        if order:
            source, turn = ([int(n) for n in g.split(",")] for g in order.groups())
            ids = ids.reshape(source).transpose(turn)
        # Part of an axis is written 'a':(2)4 - of size 4, after 2 that are left of it.
        sizes, chosen = [], []
        used = {name: (before, size) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[3])}
        for name, size in axes.items():
            before, part = (int(n) if n else 0 for n in used.get(name, ("", "")))
            split = [size] if not part else [before, part, size // before // part]
            if name in used:
                chosen.append(len(sizes) + (1 if part else 0))
            sizes += split
        ids = np.moveaxis(ids.reshape(sizes), chosen, range(-len(chosen), 0))
        return ids.reshape(-1, math.prod(sizes[axis] for axis in chosen)).tolist()
    return [list(range(num_devices))]


def root(computation: Computation) -> Instruction:
    """What a computation gives."""
    return next(i for i in computation.values() if i.root)


def parameters(computation: Computation) -> list[str]:
    """Names of what a computation is given, in order."""
    found = [i for i in computation.values() if i.opcode == "parameter"]
    return [i.name for i in sorted(found, key=lambda i: int(i.inside))]


def source(computation: Computation, ins: Instruction) -> Instruction:
    """Where a value comes from, before it was copied or took another form."""
    while ins.opcode in ("copy", "bitcast", "copy-done", "copy-start", "convert", "reshape") and ins.operands:
        ins = computation[ins.operands[0]]
    return ins


def number(ins: Instruction) -> int | None:
    """The value of a constant that is a whole number."""
    return int(ins.inside) if re.fullmatch(r"-?\d+", ins.inside) else None
