"""The arithmetic of a model as it is written: FLOPs of its matrix products, whatever the compiler makes of them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from vidjax.typing import PyTree


def matrix_flops(function: Callable, *arguments: Any) -> float:
    """FLOPs of the matrix products and convolutions of ``function``, two for each multiplication; nothing runs.

    Arguments may be ``jax.ShapeDtypeStruct``. To be called without a mesh: what a split over devices repeats is not
    the model's. Where the device decides, the last choice, which is any device's, counts. Elementwise work is left
    out: another unit of the chip does it.
    """
    jaxpr = jax.make_jaxpr(function)(*_shapes(arguments)).jaxpr
    return _count(jaxpr, [False] * len(jaxpr.invars))[0]


def training_flops(loss: Callable, params: PyTree, frozen: PyTree, batch: PyTree) -> float:
    """FLOPs of the matrix products and convolutions of a gradient of ``loss({**params, **frozen}, batch, key)``.

    Those of ``matrix_flops`` forward, and as many again for each factor of a product that the trained ``params``
    reach. What is computed again in the backward pass, to save memory, and what a split over devices repeats do not
    count (Chowdhery et al., 2204.02311, appendix B). Arguments may be ``jax.ShapeDtypeStruct``; nothing runs.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))

    def total(params: PyTree, frozen: PyTree, batch: PyTree, key: Any) -> Any:
        return loss({**params, **frozen}, batch, key)[0]

    arguments = *_shapes((params, frozen, batch)), key
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        jaxpr = jax.make_jaxpr(total)(*arguments).jaxpr
    trained = len(jax.tree.leaves(params))
    return _count(jaxpr, [i < trained for i in range(len(jaxpr.invars))])[0]


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


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
