"""Projections that keep images in [0, 1]: onto an l1 ball, and onto a hyperplane by the shortest move.

Images are [B, H, W, C] in [0, 1]; the vector that is moved is everything but the first axis. Both
problems come down to one number per example, the root of a monotone piecewise linear function. It is
found without sorting: by bisection, or by Newton steps, which end at the root itself where the
function is concave.

Source: Croce & Hein 2021 (l1 ball and box); Croce & Hein 2020 (FAB), section 3.1 (hyperplane and box).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from arinv.errors import unknown
from arinv.ops import norms
from arinv.types import Array, ArrayLike

_MAX_NEWTON_STEPS = 64  # about ten are needed; each one passes at least one kink


def project_l1_ball(delta: ArrayLike, images: ArrayLike, *, eps: ArrayLike | float) -> Array:
    """Returns the nearest perturbation with an l1 norm of at most `eps` that keeps images in [0, 1].

    Args:
      delta: [B, ...], perturbations.
      images: [B, ...] in [0, 1], what they are added to.
      eps: radius, at least 0, in units of `images`; a number or one per example [B]; may be traced.

    Returns:
      float32 [B, ...]; exactly 0 where a value does not move.

    Raises:
      UserError: a negative or non-finite radius (where its value is known), or a shape of `eps` other
        than [] and [B].

    Source: Croce & Hein 2021, proposition 3.1.
    """
    delta, images = jnp.asarray(delta, jnp.float32), jnp.asarray(images, jnp.float32)
    room = jnp.where(delta > 0, 1.0 - images, images)
    eps = norms.per_example(eps, delta.shape, "eps")
    return jnp.sign(delta) * norms.shrink_to_sum(jnp.abs(delta), eps, limit=room)


def move_to_hyperplane(points: ArrayLike, weights: ArrayLike, residuals: ArrayLike, *, norm: str) -> Array:
    """Returns the shortest move that takes each point onto its hyperplane inside [0, 1].

    The hyperplane is where residual + <weights, move> is zero. Where no point of the box lies on it, the
    move goes to the corner of the box that comes nearest to it.

    Args:
      points: [B, ...] in [0, 1].
      weights: [B, ...], normals of the hyperplanes, of any length; a coordinate of weight 0 stays.
      residuals: [B], the values of the linear functions at the points.
      norm: in which the move is shortest: "l1", "l2" or "linf".

    Returns:
      float32 [B, ...].

    Raises:
      UserError: unknown norm.

    Source: Croce & Hein 2020 (FAB), section 3.1, equation 6.
    """
    if norm not in _SHORTEST:
        raise unknown("norm", norm, _SHORTEST)
    points, weights, residuals = (jnp.asarray(a, jnp.float32) for a in (points, weights, residuals))
    shape, batch = points.shape, points.shape[0]
    points, weights = points.reshape(batch, -1), weights.reshape(batch, -1)
    # With a largest weight of 1 nothing below overflows or vanishes, however small the gradient.
    largest = jnp.max(jnp.abs(weights), axis=1)
    scale = jnp.where(largest > 0, largest, 1.0)
    gains, needed = jnp.abs(weights) / scale[:, None], jnp.abs(residuals) / scale
    rising = (weights > 0) != (residuals >= 0)[:, None]
    room = jnp.where(gains > 0, jnp.where(rising, 1.0 - points, points), 0.0)
    feasible = jnp.sum(gains * room, axis=1) > needed
    lengths = jnp.where(feasible[:, None], _SHORTEST[norm](gains, room, needed), room)
    return jnp.where(rising, lengths, -lengths).reshape(shape)


def _spread(gains: Array, room: Array, needed: Array, rates: Array) -> Array:
    """Returns min(level * rates, room) with the level at which sum(gains * that) is what is needed.

    The sum is concave in the level: its tangent lies above it, so that Newton's steps from 0 never pass the
    root, and reach it once all kinks before it are passed.
    """

    def newton(carry):
        i, level, _ = carry
        full = level[:, None] * rates >= room
        reached = jnp.sum(jnp.where(full, gains * room, 0.0), axis=1)
        slope = jnp.sum(jnp.where(full, 0.0, gains * rates), axis=1)
        following = jnp.where(slope > 0, (needed - reached) / jnp.where(slope > 0, slope, 1.0), level)
        return i + 1, jnp.maximum(following, level), jnp.any(following > level)

    def moving(carry):
        return carry[2] & (carry[0] < _MAX_NEWTON_STEPS)

    level = jax.lax.while_loop(moving, newton, (jnp.int32(0), jnp.zeros_like(needed), jnp.bool_(True)))[1]
    return jnp.minimum(level[:, None] * rates, room)


def _fill_largest(gains: Array, room: Array, needed: Array) -> Array:
    """Returns room for the largest gains and nothing for the smallest; what is between shares the rest."""
    worth = gains * room
    order = jnp.argsort(-gains, axis=1)
    total = jnp.cumsum(jnp.take_along_axis(worth, order, axis=1), axis=1)
    enough = total >= jnp.minimum(needed, total[:, -1])[:, None]
    last = jnp.argmax(enough, axis=1)[:, None]  # in this place the sum is reached
    level = jnp.take_along_axis(gains, jnp.take_along_axis(order, last, axis=1), axis=1)
    above, at = gains > level, gains == level
    rest = needed - jnp.sum(jnp.where(above, worth, 0.0), axis=1)
    there = jnp.sum(jnp.where(at, worth, 0.0), axis=1)
    share = jnp.clip(rest / jnp.where(there > 0, there, 1.0), 0.0, 1.0)
    return jnp.where(above, room, jnp.where(at, share[:, None] * room, 0.0))


def _spread_evenly(gains: Array, room: Array, needed: Array) -> Array:
    return _spread(gains, room, needed, (gains > 0).astype(gains.dtype))


def _spread_by_gain(gains: Array, room: Array, needed: Array) -> Array:
    return _spread(gains, room, needed, gains)


_SHORTEST: dict[str, Callable[[Array, Array, Array], Array]] = {
    "l1": _fill_largest,
    "l2": _spread_by_gain,
    "linf": _spread_evenly,
}
