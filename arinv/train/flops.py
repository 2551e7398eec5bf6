"""Floating-point operations of a function, counted from its jaxpr.

Only convolutions and matrix products count, as two operations for each multiplication with its addition. Dead code does
not count; every iteration of a loop does, and of alternatives (`lax.cond`) the cheapest. Padding is included, the
convention of PyTorch's counter and of MFU. XLA's cost analysis differs in three ways: it excludes padding, counts the
body of a loop once, and includes element-wise operations.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from arinv.ops import conv


class Operation(NamedTuple):
    """A convolution or a matrix product.

    Attributes:
      flops: FLOPs of one execution, padding included.
      size: bytes of its two inputs and its output.
      rounds: number of executions.
    """

    flops: int
    size: int
    rounds: int = 1


def count_flops(function: Callable, *arguments: Any) -> int:
    """Returns the operations of one call, with convolutions in their plain form (see `ops.conv`).

    Args:
      function: a function of jnp operations; loops have a static number of iterations.
      *arguments: arrays or their shapes.
    """
    with conv.plain_forms():
        return total(operations(jax.make_jaxpr(function)(*arguments)))


def total(operations: Iterable[Operation]) -> int:
    """Returns the floating-point operations of all rounds, padding included."""
    return sum(operation.flops * operation.rounds for operation in operations)


def operations(jaxpr: Any) -> list[Operation]:
    """Returns the convolutions and matrix products of a traced function.

    Args:
      jaxpr: as jax.make_jaxpr returns it, or of a jitted function's `trace(...)`.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return _walk(jaxpr, [True] * len(jaxpr.outvars))


def _walk(jaxpr: Any, used: Sequence[bool]) -> list[Operation]:
    live = {id(v) for v, is_used in zip(jaxpr.outvars, used, strict=True) if is_used}
    result = []
    for equation in reversed(jaxpr.eqns):
        outputs = [id(v) in live for v in equation.outvars]
        if any(outputs):
            result += _of_equation(equation, outputs)
            live.update(map(id, equation.invars))
    return result


def _of_equation(equation: Any, outputs: Sequence[bool]) -> list[Operation]:
    name, parameters = equation.primitive.name, equation.params
    arrays = [v.aval for v in (*equation.invars, *equation.outvars)]
    if name == "conv_general_dilated":
        return [Operation(_convolution(*(a.shape for a in arrays), parameters), _bytes(arrays))]
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        flops = 2 * math.prod(arrays[2].shape) * math.prod(arrays[0].shape[axis] for axis in contracted)
        return [Operation(flops, _bytes(arrays))]
    parts = []
    for value in parameters.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                has_same_outputs = len(inner.outvars) == len(outputs) and name != "scan"
                parts.append(_walk(inner, outputs if has_same_outputs else [True] * len(inner.outvars)))
    if name == "cond":
        return min(parts, key=total)  # the others are exceptions: the watch's attack runs once an epoch
    rounds = parameters.get("length", 1) if name == "scan" else 1
    return [operation._replace(rounds=operation.rounds * rounds) for part in parts for operation in part]


def _bytes(arrays: Sequence[Any]) -> int:
    return sum(a.size * a.dtype.itemsize for a in arrays)


def _convolution(lhs, rhs, out, parameters) -> int:
    """Returns the operations of a convolution of these shapes, padding included."""
    numbers = parameters["dimension_numbers"]
    flops = 2 * math.prod(out[axis] for axis in numbers.out_spec[:2]) * rhs[numbers.rhs_spec[1]]
    for axes in zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True):
        extents = [shape[axis] for shape, axis in zip((lhs, rhs, out), axes, strict=True)]
        # Along an axis, a convolution, its two gradients and its transpose pair every output with every entry of the
        # kernel. Whichever operands these are, they have the two smaller extents of the three.
        flops *= math.prod(sorted(extents)[:2])
    return flops
