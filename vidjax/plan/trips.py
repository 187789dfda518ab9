"""How often a loop of a compiled program runs, read from the loop itself where the compiler does not say it."""

import math
import re

from vidjax.plan.hlo import Computation, Instruction, number, parameters, root, source


def trips(computations: dict[str, Computation], here: Computation, loop: Instruction) -> int | None:
    """How often a counted loop runs; None where it is not one."""
    known = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    condition = computations[loop.called("condition")[0]]
    body = computations[loop.called("body")[0]]
    test = root(condition)
    if test.opcode == "fusion":
        inner = computations[test.called("calls")[0]]
        given = {name: condition[o] for name, o in zip(parameters(inner), test.operands, strict=True)}
        test = root(inner)
        sides = [given.get(o, inner[o]) for o in test.operands]
    else:
        sides = [condition[o] for o in test.operands]
    if test.opcode != "compare" or test.attribute("direction") not in ("LT", "LE", "GT", "GE", "NE"):
        return None
    start_of = here[loop.operands[0]]

    def value(ins: Instruction) -> tuple[int | None, int | None]:
        """(value before the loop, place in the loop's state)."""
        ins = source(condition, ins)
        if ins.opcode == "constant":
            return number(ins), None
        if ins.opcode == "get-tuple-element":
            place = int(ins.attribute("index"))
            start = source(here, here[start_of.operands[place]]) if start_of.opcode == "tuple" else None
            return (number(start) if start is not None and start.opcode == "constant" else None), place
        return None, None

    (a, place_a), (b, place_b) = map(value, sides)
    result = root(body)
    steps = [_step(computations, body, result, place) for place in (place_a, place_b)]
    if a is None or b is None or None in steps:
        return None
    speed, gap = steps[0] - steps[1], b - a
    if speed == 0:
        return None
    inclusive = test.attribute("direction") in ("LE", "GE")
    return max(0, math.floor(gap / speed) + 1 if inclusive else math.ceil(gap / speed))


def _step(
    computations: dict[str, Computation], body: Computation, result: Instruction, place: int | None
) -> int | None:
    """By how much a number of the loop's state changes in a run."""
    if place is None:
        return 0
    if result.opcode != "tuple":
        return None
    after = source(body, body[result.operands[place]])
    if after.opcode == "get-tuple-element":
        return 0 if int(after.attribute("index")) == place else None
    inside = body
    given: Computation = {}
    if after.opcode == "fusion":
        inside = computations[after.called("calls")[0]]
        given = {p: body[o] for p, o in zip(parameters(inside), after.operands, strict=True)}
        after = root(inside)
    if after.opcode not in ("add", "subtract"):
        return None
    parts = []
    for name in after.operands:
        part = source(inside, inside[name])
        parts.append(source(body, given[part.name]) if part.name in given else part)
    constants = [number(p) for p in parts if p.opcode == "constant"]
    if len(constants) != 1 or constants[0] is None:
        return None
    return constants[0] if after.opcode == "add" else -constants[0]
