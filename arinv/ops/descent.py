"""Gradient descent on the inputs of a function, its weights or both: the loop shared by all searches for latents."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from arinv.ops import loops


def descend(
    loss_fn: Callable[[Any], tuple[jax.Array, Any]],
    start: Any,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    repair: Callable[[Any], Any] = lambda gradient: gradient,
    finished: Callable[[Any], jax.Array] | None = None,
) -> tuple[Any, Any]:
    """Returns variables after steps down the gradient of a loss.

    Args:
      loss_fn: variables -> (loss, a scalar; a tree of arrays).
      start: a tree of float32 arrays.
      optimizer: computes the steps; for several rates see `optax.partition`.
      num_steps: updates, 0 or more.
      repair: applied to each gradient before the optimizer.
      finished: (what `loss_fn` returns beside the loss) -> bool [B], rows of the variables [B, ...] that are no longer
        updated; None to update all rows to the end.

    Returns:
      The variables after the last update, and what `loss_fn` returned before each update, stacked [num_steps, ...].
    """

    def step(carry, _):
        variables, state, active = carry
        gradient, values = jax.grad(loss_fn, has_aux=True)(variables)
        updates, state = optimizer.update(repair(gradient), state, variables)
        if finished is not None:
            active = active & ~finished(values)
            updates = jax.tree.map(lambda x: x * active.reshape(-1, *[1] * (x.ndim - 1)), updates)
        return (optax.apply_updates(variables, updates), state, active), values

    active = jnp.ones(jax.tree.leaves(start)[0].shape[:1], bool) if finished is not None else None
    (variables, _, _), history = loops.scan(step, (start, optimizer.init(start), active), jnp.arange(num_steps))
    return variables, history
