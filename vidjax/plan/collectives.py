"""Bytes that devices send to each other in the collectives of a compiled program."""

from vidjax.plan.hlo import Computation, Instruction, read_groups

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def sent_bytes(opcode: str, here: Computation, ins: Instruction, num_devices: int, slices: int) -> tuple[float, float]:
    """Bytes that a device sends in a collective, and those of them that leave its slice."""

    def slice_of(device: int) -> int:
        return device * slices // num_devices

    size = sum(shape.bytes for o in ins.operands for shape in here[o].shapes)
    groups = read_groups(ins.rest, num_devices)
    if opcode == "collective-permute":
        moves = [(a, b) for a, b in groups if a != b]
        if not moves:
            return 0.0, 0.0
        leaving = sum(slice_of(a) != slice_of(b) for a, b in moves)
        return float(size), size * leaving / len(moves)
    n = len(groups[0])
    s = len({slice_of(i) for i in groups[0]})
    shares = {
        # All of it, and what goes to other slices where each slice first does its own part.
        "all-gather": (n - 1, s - 1),
        "all-reduce": (2 * (n - 1) / n, 2 * (s - 1) / n),
        "reduce-scatter": ((n - 1) / n, (s - 1) / n),
        "all-to-all": ((n - 1) / n, (s - 1) / s),
    }
    everywhere, across = shares[opcode]
    return size * everywhere, size * across
