"""How much of the devices' arithmetic a training uses: the model's own FLOPs over what the devices could do (MFU)."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from vidjax.training.task import Task
from vidjax.typing import PyTree

PEAK_FLOPS = {
    # cloud.google.com/tpu/docs, a page for each; of tpu7x a device is half a chip.
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    # NVIDIA's data sheets, without sparsity.
    "NVIDIA L4": 121e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
"""bfloat16 matrix products of one device, in FLOPs per second."""


class Work(NamedTuple):
    """What a step does: tokens of the batch (0: the task has none), and FLOPs, where they are measured."""

    tokens: int = 0
    flops: float = 0.0


def peak_flops(kind: str) -> float | None:
    """What a device of this `jax.Device.device_kind` can do in a second, or None where that is not known."""
    known = [name for name in PEAK_FLOPS if kind == name]
    if kind.startswith("NVIDIA"):  # followed by its form and memory
        known += [name for name in PEAK_FLOPS if kind.startswith((f"{name} ", f"{name}-"))]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def work_of(task: Task, params: PyTree, flops: bool) -> Callable[[dict[str, Any]], Work]:
    """``batch -> Work`` of a step; counted once for each shape, and FLOPs only if asked for: that traces the loss."""

    @functools.cache
    def of(shapes: tuple[tuple[str, tuple[int, ...], Any], ...]) -> Work:
        batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in shapes}
        tokens = task.tokens(batch) if task.tokens is not None else 0
        return Work(tokens, training_flops(task.loss, params, dict(task.frozen), batch) if flops else 0.0)

    return lambda batch: of(tuple((name, x.shape, x.dtype) for name, x in batch.items()))


def training_flops(loss: Callable, params: PyTree, frozen: PyTree, batch: PyTree) -> float:
    """FLOPs of the matrix products and convolutions of a gradient of ``loss({**params, **frozen}, batch, key)``.

    Of the model as it is written: two for each multiplication of the forward pass, and as many again for each factor
    of a product that the trained ``params`` reach. What is computed again in the backward pass, to save memory, and
    what a split over devices repeats do not count (Chowdhery et al., 2204.02311, appendix B). Arguments may be
    ``jax.ShapeDtypeStruct``; nothing runs.
    """
    abstract = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)  # noqa: E731
    key = jax.eval_shape(lambda: jax.random.key(0))

    def total(params: PyTree, frozen: PyTree, batch: PyTree, key: Any) -> Any:
        return loss({**params, **frozen}, batch, key)[0]

    arguments = abstract(params), abstract(frozen), abstract(batch), key
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        jaxpr = jax.make_jaxpr(total)(*arguments).jaxpr
    trained = len(jax.tree.leaves(params))
    return _count(jaxpr, [i < trained for i in range(len(jaxpr.invars))])[0]


def _count(jaxpr: Jaxpr, reached: Sequence[bool]) -> tuple[float, list[bool]]:
    """FLOPs where the inputs that are ``reached`` depend on trained parameters, and which outputs do."""
    known = dict(zip(jaxpr.invars, reached, strict=True))
    of = lambda atom: not isinstance(atom, Literal) and known.get(atom, False)  # noqa: E731
    flops = 0.0
    for equation in jaxpr.eqns:
        own, out = _of(equation, [of(atom) for atom in equation.invars])
        flops += own
        known.update(zip(equation.outvars, out, strict=True))
    return flops, [of(atom) for atom in jaxpr.outvars]


def _of(equation: JaxprEqn, reached: list[bool]) -> tuple[float, list[bool]]:
    name, parameters, outputs = equation.primitive.name, equation.params, len(equation.outvars)
    if name == "stop_gradient":
        return 0.0, [False]
    if name in ("dot_general", "conv_general_dilated"):
        left, right = (invar.aval.shape for invar in equation.invars)
        if name == "dot_general":
            terms = math.prod(left[axis] for axis in parameters["dimension_numbers"][0][0])
        else:
            terms = math.prod(right) // right[parameters["dimension_numbers"].rhs_spec[0]]
        return 2.0 * equation.outvars[0].aval.size * terms * (1 + sum(reached)), [any(reached)]
    if name == "scan":
        consts, carry = parameters["num_consts"], parameters["num_carry"]
        while True:  # until what goes round is settled
            flops, out = _count(parameters["jaxpr"].jaxpr, reached)
            settled = [a or b for a, b in zip(reached[consts : consts + carry], out[:carry], strict=True)]
            if settled == reached[consts : consts + carry]:
                return parameters["length"] * flops, out
            reached = [*reached[:consts], *settled, *reached[consts + carry :]]
    if name == "cond":  # where the device decides, the last choice is any device's
        return _count(parameters["branches"][-1].jaxpr, reached[1:])
    if name == "while":  # of random numbers; every loop of the models is a scan
        return 0.0, [any(reached)] * outputs
    inner = [p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in parameters.values() if _is_jaxpr(p)]
    if len(inner) == 1 and len(inner[0].invars) == len(reached) and len(inner[0].outvars) == outputs:
        return _count(inner[0], reached)
    return sum(_count(p, [any(reached)] * len(p.invars))[0] for p in inner), [any(reached)] * outputs


def _is_jaxpr(parameter: Any) -> bool:
    return isinstance(parameter, Jaxpr | ClosedJaxpr)
