"""Loops with loop-invariant code moved in front of them.

A loop over a network's inputs rearranges and normalizes the same weights in every step: XLA does not hoist that out of
loops on a CPU; on other platforms it does where results are no larger than their inputs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from arinv.types import Array, ArrayLike


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any) -> tuple[Any, Any]:
    """Returns `jax.lax.scan` of the arguments, with loop-invariant values computed once before it.

    Args:
      step: (carry, x) -> (carry, y); values that it closes over are constant.
      carry: the initial carry.
      xs: as in lax.

    Returns:
      The last carry, and all ys.
    """
    x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    return jax.lax.scan(_hoist(step, carry, x), carry, xs)


def fori_loop(lower: int, upper: ArrayLike | int, step: Callable[[Array, Any], Any], carry: Any) -> Any:
    """Returns `jax.lax.fori_loop` of the arguments, with loop-invariant values computed once before it.

    Args:
      lower: the first index.
      upper: the index after the last; may be traced.
      step: (index, carry) -> carry; values that it closes over are constant.
      carry: the initial carry.

    Returns:
      The last carry.
    """
    body = _hoist(step, jax.ShapeDtypeStruct((), jnp.int32), carry)
    # Indices are 64 bits wide where jax_enable_x64 is set.
    return jax.lax.fori_loop(lower, upper, lambda i, carry: body(jnp.asarray(i, jnp.int32), carry), carry)


def _hoist(step: Callable, *inputs: Any) -> Callable:
    """Computes everything that does not depend on the inputs, and returns a function of the inputs for the rest."""
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(*inputs)
    jaxpr = closed.jaxpr
    before, inside = _split(jaxpr)
    # Values from before the loop that it reads and does not compute itself.
    available = [*jaxpr.constvars, *_results(before)]
    read = {*_variables(jaxpr.outvars), *(var for equation in inside for var in _variables(equation.invars))}
    kept = [var for var in available if var in read.difference(_results(inside))]
    constants = _function(jaxpr, jaxpr.constvars, before, kept)(*closed.consts)
    body = _function(jaxpr, [*kept, *jaxpr.invars], inside, jaxpr.outvars)

    def rest(*inputs):
        return jax.tree.unflatten(jax.tree.structure(shapes), body(*constants, *jax.tree.leaves(inputs)))

    return rest


def _split(jaxpr):
    """Returns the equations that do not depend on the inputs, and those that stay in the loop."""
    invariant, literal, before, inside = set(jaxpr.constvars), set(), [], []
    for equation in jaxpr.eqns:
        variables = set(_variables(equation.invars))
        if equation.effects or not variables <= invariant:
            inside.append(equation)
            continue
        before.append(equation)
        invariant.update(equation.outvars)
        # Values of literals alone, such as zeros, are cheaper to compute again than to carry into the loop.
        if variables <= literal:
            inside.append(equation)
            literal.update(equation.outvars)
    return before, inside


def _variables(atoms):
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _results(equations):
    return [var for equation in equations for var in equation.outvars]


def _function(jaxpr, inputs, equations, outputs):
    """Returns a part of a jaxpr as a function of its inputs."""
    names = jaxpr.debug_info.with_unknown_names()
    part = jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=equations, debug_info=names)
    return jaxpr_as_fun(ClosedJaxpr(part, []))
