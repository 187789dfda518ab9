"""The model's own arithmetic: matrix FLOPs of a function as it is written, whatever the compiler makes of it."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def matrix_flops(function: Callable, *arguments: Any) -> float:
    """FLOPs of the matrix products and convolutions of ``function``, two for each multiplication; nothing runs.

    Arguments may be ``jax.ShapeDtypeStruct``. To be called without a mesh: what a split over devices repeats is not
    the model's. Where the device decides, the last choice, which is any device's, counts. Elementwise work is left
    out: another unit of the chip does it.
    """
    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    return _count(jax.make_jaxpr(function)(*plain).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    return sum(_of(equation) for equation in jaxpr.eqns)


def _of(equation: JaxprEqn) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval.shape, parameters["dimension_numbers"].rhs_spec
        return 2.0 * equation.outvars[0].aval.size * math.prod(kernel) / kernel[spec[0]]
    if name == "scan":
        return parameters["length"] * _count(parameters["jaxpr"].jaxpr)
    if name == "cond":
        return _count(parameters["branches"][-1].jaxpr)
    if name == "while":
        return 0.0  # of random numbers; every loop of the models is a scan
    inner = [p for p in parameters.values() if isinstance(p, Jaxpr | ClosedJaxpr)]
    return sum(_count(p.jaxpr if isinstance(p, ClosedJaxpr) else p) for p in inner)
