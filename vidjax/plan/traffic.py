"""Bytes that an instruction of a compiled program moves to and from the device's memory."""

from collections.abc import Iterable

from vidjax.plan.collectives import COLLECTIVES
from vidjax.plan.hlo import Computation, Instruction, Shape, parameters, root, source

FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "copy-done", "async-done", "async-update"),
    *(f"{kind}-done" for kind in COLLECTIVES),
)
"""What moves no memory of its own."""


def traffic(computations: dict[str, Computation], here: Computation, ins: Instruction) -> float:
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
    inner = computations[ins.called("calls")[0]]
    read = sum(_read(inner, p, shapes) for p, shapes in zip(parameters(inner), operands, strict=True))
    return read + _written(inner, ins)


def _read(inner: Computation, parameter: str, shapes: tuple[Shape, ...]) -> float:
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


def _written(inner: Computation, fusion: Instruction) -> float:
    result = root(inner)
    parts = [inner[o] for o in result.operands] if result.opcode == "tuple" else [result]
    if len(parts) != len(fusion.shapes):
        return _bytes(fusion.shapes)
    total = 0.0
    for part, shape in zip(parts, fusion.shapes, strict=True):
        writer = source(inner, part)
        if writer.opcode == "dynamic-update-slice" and shape.space == 0:
            total += 2 * _all(inner[writer.operands[1]].shapes)
        else:
            total += _bytes([shape])
    return total


def _bytes(shapes: Iterable[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == 0)


def _all(shapes: Iterable[Shape]) -> int:
    return sum(shape.bytes for shape in shapes)
