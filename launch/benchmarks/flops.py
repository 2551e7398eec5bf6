"""Floating-point operations of a function, counted from what it computes rather than measured.

Convolutions and matrix products only, two operations for each multiplication with its addition, padding
included, dead code left out: the convention of PyTorch's own counter, so that the two can be compared.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from arinv.ops import conv


def count_flops(function: Callable, *arguments: Any) -> int:
    """Returns the operations of one call.

    Args:
      function: made of jnp operations; loops have a static number of rounds.
      *arguments: arrays or their shapes.
    """
    # The plain forms say what is needed, the rewritten ones what is fast. JAX keeps the traced bodies of loops:
    # those of one form must not be found again where the other is meant.
    jax.clear_caches()
    conv.set_rewrites(False)
    try:
        jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    finally:
        conv.set_rewrites(None)
        jax.clear_caches()
    return _count(jaxpr, [True] * len(jaxpr.outvars))


def _count(jaxpr: Any, used: Sequence[bool]) -> int:
    live = {id(v) for v, wanted in zip(jaxpr.outvars, used, strict=True) if wanted}
    total = 0
    for equation in reversed(jaxpr.eqns):
        outputs = [id(v) in live for v in equation.outvars]
        if any(outputs):
            total += _count_equation(equation, outputs)
            live.update(map(id, equation.invars))
    return total


def _count_equation(equation: Any, outputs: Sequence[bool]) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return _convolution(*(v.aval.shape for v in (*equation.invars, *equation.outvars)), parameters)
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        lhs, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return 2 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)
    counts = []
    for value in parameters.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                same = len(inner.outvars) == len(outputs) and name != "scan"
                counts.append(_count(inner, outputs if same else [True] * len(inner.outvars)))
    if name == "cond":
        return max(counts)
    return parameters.get("length", 1) * sum(counts) if name == "scan" else sum(counts)


def _convolution(lhs, rhs, out, parameters) -> int:
    numbers = parameters["dimension_numbers"]
    total = 2 * math.prod(out[axis] for axis in numbers.out_spec[:2]) * rhs[numbers.rhs_spec[1]]
    for sizes in zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True):
        # Along an axis a convolution, its two gradients and its transpose pair each of its outputs with each
        # entry of its kernel. Wherever these stand in the three, they are the two smaller ones.
        extents = sorted(shape[axis] for shape, axis in zip((lhs, rhs, out), sizes, strict=True))
        total *= extents[0] * extents[1]
    return total
