"""How APGD moves and adapts its step: with momentum for l2 and linf, along few coordinates for l1.

A rule holds no state: what it knows of each row travels through the loop. `review` is called after each
evaluation, number 0 at the start, and says in which rows to go back to the best point; then `step` moves.

Source: Croce & Hein 2020 (AutoAttack), algorithm 1; Croce & Hein 2021 (l1), section 4; constants and order
as in the authors' code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from arinv.attacks.rows import column
from arinv.ops import norms
from arinv.ops.box_projections import project_l1_ball
from arinv.types import Array, ArrayLike


class Rule(NamedTuple):
    """How to move.

    Attributes:
      begin: first images -> what the rule knows.
      review: (number of steps taken, what it knows, losses [B] here, best losses [B] so far, best images)
        -> (what it knows, rows [B] to set back to the best).
      step: (number of steps taken, what it knows, images, images one step ago, gradient) -> images.
    """

    begin: Callable[[Array], Any]
    review: Callable[[Array, Any, Array, Array, Array], tuple[Any, Array]]
    step: Callable[[Array, Any, Array, Array, Array], Array]


class _Momentum(NamedTuple):
    step_size: Array  # [B]
    rises: Array  # steps since the last review that raised the loss [B]
    last_loss: Array  # [B]
    halved: Array  # whether the last review halved the step [B]
    best_loss: Array  # at the last review [B]


class _Sparse(NamedTuple):
    step_size: Array  # [B]
    fraction: Array  # of the values that a step changes [B]
    nonzero: Array  # values that the best perturbation changes, at the last review [B]


def checkpoints(*, num_steps: int) -> tuple[int, ...]:
    """Returns after how many steps APGD reviews its step size.

    Args:
      num_steps: number of steps in all.

    Returns:
      Increasing numbers of steps: the first gap is 22 % of all, and each following one 3 % shorter down to 6 %.

    Source: Croce & Hein 2020 (AutoAttack), section 3.1, each gap rounded down.
    """
    gap, shortening, shortest = (max(int(part * num_steps), 1) for part in (0.22, 0.03, 0.06))
    found, at = [], gap
    while at <= num_steps:
        found.append(at)
        gap = max(gap - shortening, shortest)
        at += gap
    return tuple(found)


def momentum_rule(images: Array, *, eps: ArrayLike | float, norm: str, num_steps: int) -> Rule:
    """Returns the rule for l2 and linf: steepest ascent with momentum, the step halved where it does not help.

    Args:
      images: float32 [B, H, W, C] in [0, 1], centres of the balls.
      eps: radius, [] or [B]; the first step is twice as long.
      norm: "l2" or "linf".
      num_steps: number of steps in all.

    Returns:
      The rule.

    Source: Croce & Hein 2020 (AutoAttack), algorithm 1 and conditions 1 and 2 of section 3.1.
    """
    gaps = np.zeros(num_steps + 1, np.float32)  # 0 where there is no review
    places = checkpoints(num_steps=num_steps)
    gaps[list(places)] = np.diff((0, *places))

    def inside(x):
        return jnp.clip(images + norms.project(x - images, eps=eps, norm=norm), 0.0, 1.0)

    def begin(x):
        zeros = jnp.zeros(x.shape[:1], jnp.float32)
        return _Momentum(zeros + 2.0 * eps, zeros, zeros, zeros == 0, zeros)

    def review(i, known, losses, best_losses, best_images):
        gap, first = jnp.asarray(gaps)[i], i == 0
        # The first step is held against a loss of 0, not that of the start: so does the authors' code.
        rises = known.rises + jnp.where(first, 0.0, (losses > known.last_loss).astype(jnp.float32))
        last_loss = jnp.where(first, 0.0, losses)
        stuck = ~known.halved & (known.best_loss >= best_losses)
        halve = (gap > 0) & ((rises <= 0.75 * gap) | stuck)
        known = _Momentum(
            step_size=jnp.where(halve, 0.5 * known.step_size, known.step_size),
            rises=jnp.where(gap > 0, 0.0, rises),
            last_loss=last_loss,
            halved=jnp.where(gap > 0, halve, known.halved),
            best_loss=jnp.where((gap > 0) | first, best_losses, known.best_loss),
        )
        return known, halve

    def step(i, known, x, previous, gradient):
        direction = norms.steepest_ascent(gradient, norm=norm)
        moved = inside(x + column(known.step_size) * direction)
        weight = jnp.where(i > 0, 0.75, 1.0)
        return inside(x + weight * (moved - x) + (1.0 - weight) * (x - previous))

    return Rule(begin, review, step)


def sparse_rule(images: Array, *, eps: ArrayLike | float, period: ArrayLike | int, warm: bool) -> Rule:
    """Returns the rule for l1: equal steps along the coordinates of the largest gradient.

    How many coordinates follows from how many the best perturbation changes.

    Args:
      images: float32 [B, H, W, C] in [0, 1], centres of the balls.
      eps: radius, [] or [B]; the step is this long at most and a tenth at least.
      period: number of steps between two reviews; may be traced.
      warm: the first images are the result of an earlier run, of which the number of coordinates is taken.

    Returns:
      The rule.

    Source: Croce & Hein 2021, section 4.1 and algorithm 1.
    """
    size = float(np.prod(images.shape[1:]))

    def changed(x):
        return jnp.sum(x != images, axis=(1, 2, 3)).astype(jnp.float32)

    def begin(x):
        zeros = jnp.zeros(x.shape[:1], jnp.float32)
        nonzero = changed(x) if warm else zeros + size
        return _Sparse(zeros + eps, nonzero / (1.5 * size) if warm else zeros + 0.2, nonzero)

    def review(i, known, losses, best_losses, best_images):
        due, nonzero = (i > 0) & (i % period == 0), changed(best_images)
        sparser = nonzero < 0.95 * known.nonzero
        step_size = jnp.clip(jnp.where(sparser, eps, known.step_size / 1.5), 0.1 * eps, eps)
        fresh = _Sparse(step_size, nonzero / (1.5 * size), nonzero)
        return _Sparse(*(jnp.where(due, new, old) for new, old in zip(fresh, known, strict=True))), due & sparser

    def step(i, known, x, previous, gradient):
        direction = _sparse_direction(gradient, known.fraction)
        delta = x + column(known.step_size) * direction - images
        return jnp.clip(images + project_l1_ball(delta, images, eps=eps), 0.0, 1.0)

    return Rule(begin, review, step)


def _sparse_direction(gradient: Array, fraction: Array) -> Array:
    """Returns the signs of the largest values, a fraction [B] of all, scaled to an l1 norm of 1."""
    sizes = jnp.abs(gradient.reshape(gradient.shape[0], -1))
    count = sizes.shape[1]
    place = jnp.clip((1.0 - fraction) * count, 0, count - 1).astype(jnp.int32)
    least = jnp.take_along_axis(jnp.sort(sizes, axis=1), place[:, None], axis=1)[:, 0]
    signs = jnp.where(jnp.abs(gradient) >= column(least), jnp.sign(gradient), 0.0)
    return signs / column(jnp.maximum(norms.norm(signs, "l1"), 1.0))
