"""What a compiled program does, read from its HLO text: matrix FLOPs, bytes sent and bytes of memory traffic.

XLA's own ``cost_analysis`` counts the body of a loop once and a kernel not at all; here a body counts as often as it
runs, and attention kernels count by the shapes that they are given. Everything is per device.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
"""Of element types whose name does not end in their width."""

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

KERNELS = {"dkv": (4, 1), "dq": (1, 2), r"splash|flash|mha|attention": (2, 0)}
"""Attention kernels by name: the matrix products that attention needs of them, and those that they repeat.

Forward are two, backward four; backward makes the weights anew instead of keeping them (Dao et al., 2205.14135), and
where the gradient of the queries is a kernel of its own, their gradient, too (see `_kernel_flops`)."""

FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "copy-done", "async-done", "async-update"),
    *(f"{kind}-done" for kind in COLLECTIVES),
)
"""What moves no memory of its own."""


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


def measure(text: str, num_devices: int, slices: int = 1) -> Work:
    """The work of a compiled module's text, ``compiled.as_text()``; device ids run through slices one by one."""
    return _Module(text, num_devices, slices).work()


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """Instructions by name, in order, of every computation; and the name of the entry."""
    computations: dict[str, dict[str, Instruction]] = {}
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

    def work(self) -> Work:
        return self.of(self.entry)

    def _of(self, name: str) -> Work:
        """Work of a computation that is run as such: the entry, a loop's body, a branch."""
        total, here = Work(), self.computations[name]
        for ins in here.values():
            if ins.opcode == "while":
                trips = self.trips(here, ins)
                total.add(self.of(ins.called("body")[0]), 1 if trips is None else trips)
                if trips is None:
                    total.unknown |= {f"loop {ins.name}"}
            elif ins.opcode == "conditional":
                branches = ins.called("branch_computations", "true_computation", "false_computation")
                total.add(max((self.of(b) for b in branches), key=lambda w: w.flops))
            elif ins.opcode == "call":
                total.add(self.of(ins.called("to_apply")[0]))
            else:
                self.single(total, here, ins)
                total.memory_bytes += self.traffic(here, ins)
        return total

    def single(self, total: Work, here: dict[str, Instruction], ins: Instruction) -> None:
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
            total.flops += _product_flops(ins, [here[o].shapes[0] for o in ins.operands])
        elif opcode in COLLECTIVES:
            sent, across = self.sent(opcode, here, ins)
            total.collectives[opcode] += sent
            total.across += across
        elif opcode == "custom-call" and ins.attribute("custom_call_target") == '"tpu_custom_call"':
            shapes = [shape for o in ins.operands for shape in here[o].shapes]
            flops = _kernel_flops(ins, shapes)
            if flops is None:
                total.unknown |= {f"kernel {_kernel_name(ins)}"}
            else:
                total.flops += flops[0]
                total.kernel_flops += flops[0]
                total.repeated_flops += flops[1]

    def sent(self, opcode: str, here: dict[str, Instruction], ins: Instruction) -> tuple[float, float]:
        """Bytes that a device sends in a collective, and those of them that leave its slice."""
        size = sum(shape.bytes for o in ins.operands for shape in here[o].shapes)
        groups = read_groups(ins.rest, self.num_devices)
        if opcode == "collective-permute":
            moves = [(a, b) for a, b in groups if a != b]
            if not moves:
                return 0.0, 0.0
            leaving = sum(self.slice_of(a) != self.slice_of(b) for a, b in moves)
            return float(size), size * leaving / len(moves)
        n = len(groups[0])
        s = len({self.slice_of(i) for i in groups[0]})
        shares = {
            # All of it, and what goes to other slices where each slice first does its own part.
            "all-gather": (n - 1, s - 1),
            "all-reduce": (2 * (n - 1) / n, 2 * (s - 1) / n),
            "reduce-scatter": ((n - 1) / n, (s - 1) / n),
            "all-to-all": ((n - 1) / n, (s - 1) / s),
        }
        everywhere, across = shares[opcode]
        return size * everywhere, size * across

    def slice_of(self, device: int) -> int:
        return device * self.slices // self.num_devices

    def trips(self, here: dict[str, Instruction], loop: Instruction) -> int | None:
        """How often a counted loop runs; None where it is not one."""
        known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        condition = self.computations[loop.called("condition")[0]]
        body = self.computations[loop.called("body")[0]]
        test = next(i for i in condition.values() if i.root)
        if test.opcode == "fusion":
            inner = self.computations[test.called("calls")[0]]
            given = {name: condition[o] for name, o in zip(_parameters(inner), test.operands, strict=True)}
            test = next(i for i in inner.values() if i.root)
            sides = [given.get(o, inner[o]) for o in test.operands]
        else:
            sides = [condition[o] for o in test.operands]
        if test.opcode != "compare" or test.attribute("direction") not in ("LT", "LE", "GT", "GE", "NE"):
            return None
        start_of = here[loop.operands[0]]

        def value(ins: Instruction) -> tuple[int | None, int | None]:
            """(value before the loop, place in the loop's state)."""
            ins = _source(condition, ins)
            if ins.opcode == "constant":
                return _number(ins), None
            if ins.opcode == "get-tuple-element":
                place = int(ins.attribute("index"))
                start = _source(here, here[start_of.operands[place]]) if start_of.opcode == "tuple" else None
                return (_number(start) if start is not None and start.opcode == "constant" else None), place
            return None, None

        (a, place_a), (b, place_b) = map(value, sides)
        result = next(i for i in body.values() if i.root)
        steps = [self._step(body, result, place) for place in (place_a, place_b)]
        if a is None or b is None or None in steps:
            return None
        speed, gap = steps[0] - steps[1], b - a
        if speed == 0:
            return None
        inclusive = test.attribute("direction") in ("LE", "GE")
        return max(0, math.floor(gap / speed) + 1 if inclusive else math.ceil(gap / speed))

    def _step(self, body: dict[str, Instruction], result: Instruction, place: int | None) -> int | None:
        """By how much a number of the loop's state changes in a run."""
        if place is None:
            return 0
        if result.opcode != "tuple":
            return None
        after = _source(body, body[result.operands[place]])
        if after.opcode == "get-tuple-element":
            return 0 if int(after.attribute("index")) == place else None
        inside = body
        given: dict[str, Instruction] = {}
        if after.opcode == "fusion":
            inside = self.computations[after.called("calls")[0]]
            given = {p: body[o] for p, o in zip(_parameters(inside), after.operands, strict=True)}
            after = next(i for i in inside.values() if i.root)
        if after.opcode not in ("add", "subtract"):
            return None
        parts = []
        for name in after.operands:
            part = _source(inside, inside[name])
            parts.append(_source(body, given[part.name]) if part.name in given else part)
        constants = [_number(p) for p in parts if p.opcode == "constant"]
        if len(constants) != 1 or constants[0] is None:
            return None
        return constants[0] if after.opcode == "add" else -constants[0]

    def traffic(self, here: dict[str, Instruction], ins: Instruction) -> float:
        """Bytes that an instruction reads from and writes to HBM; what lies nearer to the processor is free."""
        if ins.opcode in FREE:
            return 0.0
        operands = [here[o].shapes for o in ins.operands]
        if ins.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * _bytes(ins.shapes)
        if ins.opcode == "dynamic-update-slice":
            return 2 * _bytes(operands[1])
        if ins.opcode == "copy-start":
            return _bytes(operands[0]) + _bytes(ins.shapes[:1])
        if ins.opcode.endswith("-start"):
            return 2 * sum(map(_bytes, operands))
        if ins.opcode != "fusion":
            return _bytes(ins.shapes) + sum(map(_bytes, operands))
        inner = self.computations[ins.called("calls")[0]]
        read = sum(_read(inner, p, shapes) for p, shapes in zip(_parameters(inner), operands, strict=True))
        return read + _written(inner, ins)


def _starts(computation: dict[str, Instruction]) -> bool:
    """Whether a collective is begun here that goes on beside what follows."""
    return any(i.attribute("custom_call_target") == '"AsyncCollectiveStart"' for i in computation.values())


def _bytes(shapes: Iterable[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == 0)


def _parameters(computation: dict[str, Instruction]) -> list[str]:
    found = [i for i in computation.values() if i.opcode == "parameter"]
    return [i.name for i in sorted(found, key=lambda i: int(i.inside))]


def _read(inner: dict[str, Instruction], parameter: str, shapes: tuple[Shape, ...]) -> float:
    """Of an operand of a fusion: all of it, unless only slices of it are used, or it is written over."""
    users = [i for i in inner.values() if parameter in i.operands]
    while len(users) == 1 and users[0].opcode in ("bitcast", "copy") and not users[0].root:
        parameter = users[0].name
        users = [i for i in inner.values() if parameter in i.operands]
    whole = _bytes(shapes)
    if users and whole and all(_partial(i, parameter) for i in users):
        return min(whole, sum(0 if i.opcode == "dynamic-update-slice" else _all(i.shapes) for i in users))
    return whole


def _partial(user: Instruction, operand: str) -> bool:
    return user.operands[0] == operand and user.opcode in ("dynamic-slice", "slice", "gather", "dynamic-update-slice")


def _written(inner: dict[str, Instruction], fusion: Instruction) -> float:
    root = next(i for i in inner.values() if i.root)
    parts = [inner[o] for o in root.operands] if root.opcode == "tuple" else [root]
    if len(parts) != len(fusion.shapes):
        return _bytes(fusion.shapes)
    total = 0.0
    for part, shape in zip(parts, fusion.shapes, strict=True):
        source = _source(inner, part)
        if source.opcode == "dynamic-update-slice" and shape.space == 0:
            total += 2 * _all(inner[source.operands[1]].shapes)
        else:
            total += _bytes([shape])
    return total


def _all(shapes: Iterable[Shape]) -> int:
    return sum(shape.bytes for shape in shapes)


def _source(computation: dict[str, Instruction], ins: Instruction) -> Instruction:
    while ins.opcode in ("copy", "bitcast", "copy-done", "copy-start", "convert", "reshape") and ins.operands:
        ins = computation[ins.operands[0]]
    return ins


def _number(ins: Instruction) -> int | None:
    return int(ins.inside) if re.fullmatch(r"-?\d+", ins.inside) else None


def _product_flops(ins: Instruction, operands: list[Shape]) -> float:
    """Two for each multiplication that a matrix product or convolution needs; padding and dilation need none."""
    left, right = operands[:2]
    result = ins.shapes[0].sizes
    if ins.opcode == "dot":
        contracted = [int(n) for n in re.findall(r"\d+", ins.attribute("lhs_contracting_dims") or "")]
        return 2.0 * math.prod(result) * math.prod(left.sizes[i] for i in contracted)
    lhs, rhs, out = re.match(r"(\w+)_(\w+)->(\w+)", ins.attribute("dim_labels")).groups()
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", ins.attribute("window") or ""))
    count = sum(label.isdigit() for label in out)
    defaults = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    options = [window[name].split("x") if name in window else [value] * count for name, value in defaults.items()]
    spatial = 1
    for i, (stride, pad, spread, reach) in enumerate(zip(*options, strict=True)):
        size, taps, steps = (t.sizes[x.index(str(i))] for t, x in ((left, lhs), (right, rhs), (ins.shapes[0], out)))
        at = np.arange(steps)[:, None] * int(stride) + np.arange(taps) * int(reach) - int(pad.split("_")[0])
        spatial *= int(((at >= 0) & (at <= (size - 1) * int(spread)) & (at % int(spread) == 0)).sum())
    batch = result[out.index("b")] / int(ins.attribute("batch_group_count") or 1)
    if (ins.attribute("batch_group_count") or "1") != "1":
        batch = left.sizes[lhs.index("b")] / int(ins.attribute("batch_group_count"))
    return 2.0 * spatial * batch * result[out.index("f")] * right.sizes[rhs.index("i")]


def _kernel_name(ins: Instruction) -> str:
    named = re.search(r'kernel_name\W+([\w.\-]+)|op_name="([^"]*)"', ins.rest)
    return next(filter(None, named.groups()), ins.name) if named else ins.name


def _kernel_flops(ins: Instruction, operands: list[Shape]) -> tuple[float, float] | None:
    """FLOPs of an attention kernel, needed and repeated, by its queries [..., N, D] and keys [..., M, D]."""
    name = f"{ins.name} {_kernel_name(ins)}".lower()
    products = next((count for pattern, count in KERNELS.items() if re.search(pattern, name)), None)
    arrays = [shape for shape in operands if len(shape.sizes) >= 3 and shape.dtype in ("bf16", "f32", "f16")]
    if products is None or len(arrays) < 3:
        return None
    queries, keys = arrays[:2]
    if products == KERNELS["dkv"] and sum(len(s.sizes) >= 3 for s in ins.shapes) < 3:
        products = 3, 1  # the gradient of the queries is another kernel's
    each = 2.0 * math.prod(queries.sizes) * keys.sizes[-2]
    return products[0] * each, products[1] * each
