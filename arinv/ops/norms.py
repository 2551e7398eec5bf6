"""Norm balls around images for l1, l2 and linf: lengths, projections, steepest ascent and random points.

Everything is per example: the first axis is the batch, all others together are the vector, so an "l2" radius of an
image is over height, width and channels. Units are those of the arrays (1 is white). `project_l1_ball` and
`move_to_hyperplane` also keep images in [0, 1].

Source: Madry et al. 2018, section 2.1; Duchi et al. 2008 (projection onto the l1 ball).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError, unknown
from arinv.ops.channels import flatten_rows
from arinv.ops.inputs import as_radius
from arinv.types import Array, ArrayLike

_CLOSE = 1e-6  # relative distance to a sum, from below: rounding must not exceed it
_MAX_STEPS = 48  # enough to bisect an interval to the resolution of float32; about six are needed
_MAX_NEWTON_STEPS = 64  # about ten are needed; each one passes at least one kink


class _Norm(NamedTuple):
    length: Callable[[Array], Array]  # [B, ...] -> [B]
    project: Callable[[Array, Array], Array]  # delta, eps (broadcasts against delta)
    steepest_ascent: Callable[[Array], Array] | None
    random_direction: Callable[[Array, tuple[int, ...]], Array]  # key, shape -> unit ball


def norm(x: ArrayLike, ord: str) -> Array:
    """Returns the length of each example.

    Values are divided by the largest one before they are squared, so that squares do not overflow or underflow. The
    length of an example with NaN is NaN. The gradient at zero is zero, not NaN.

    Args:
      x: [B, ...].
      ord: "l1", "l2" or "linf".

    Returns:
      float32 [B].

    Raises:
      UserError: unknown norm.
    """
    return _lookup(ord).length(jnp.asarray(x, jnp.float32))


def project(delta: ArrayLike, *, eps: ArrayLike | float, norm: str) -> Array:
    """Returns the nearest point of the ball of radius `eps` around zero, for each example.

    Examples inside the ball are returned unchanged.

    Args:
      delta: [B, ...].
      eps: radius, at least 0, in units of `delta`; a number or one per example [B]; may be traced.
      norm: "l1", "l2" or "linf".

    Returns:
      float32 [B, ...].

    Raises:
      UserError: unknown norm, a negative or non-finite radius (if concrete), or a shape of `eps` other than [] and
        [B].

    Source: Madry et al. 2018, section 2.1.
    """
    delta = jnp.asarray(delta, jnp.float32)
    return _lookup(norm).project(delta, per_example(eps, delta.shape, "eps"))


def shrink_to_sum(magnitudes: Array, total: Array, *, limit: ArrayLike | float = np.inf) -> Array:
    """Returns min(max(magnitudes - level, 0), limit) with the smallest level at which it sums to `total`.

    This is the core of projections onto an l1 ball. Where the sum at level 0 is at most `total`, the level is 0.

    Args:
      magnitudes: [B, ...], at least 0.
      total: largest sum, at least 0, [] or [B, 1, ...].
      limit: largest value, at least 0, [] or [B, ...].

    Returns:
      [B, ...]; the sums over all but the first axis are at most `total`, and at least (1 - 2e-6) `total`.

    Source: Duchi et al. 2008, section 3; with Newton's method in a shrinking interval instead of sorting.
    """

    def clipped(level):
        return jnp.minimum(jnp.maximum(magnitudes - level, 0.0), limit)

    def summed(values):
        return jnp.sum(values, axis=_rest(magnitudes), keepdims=True, dtype=jnp.float32)

    def unfinished(carry):
        return (carry[0] < _MAX_STEPS) & ~jnp.all(carry[-1])

    def narrow(carry):
        i, level, low, high, _ = carry
        total_at_level = summed(clipped(level))
        slope = summed((magnitudes > level) & (magnitudes - level < limit))
        fits = total_at_level <= total
        low, high = jnp.where(fits, low, level), jnp.where(fits, level, high)
        done = fits & ((total_at_level >= total * (1.0 - 2.0 * _CLOSE)) | (level == 0))
        newton = level + (total_at_level - total * (1.0 - _CLOSE)) / jnp.maximum(slope, 1.0)
        within = (slope > 0) & (newton > low) & (newton <= high)
        next_level = jnp.where(within, newton, 0.5 * (low + high))
        return i + 1, jnp.where(done, level, next_level), low, high, done

    high = jnp.max(magnitudes, axis=_rest(magnitudes), keepdims=True)
    zero = jnp.zeros_like(high)
    _, level, _, high, done = jax.lax.while_loop(unfinished, narrow, (jnp.int32(0), zero, zero, high, zero > 0))
    return clipped(jnp.where(done, level, high))


def steepest_ascent(gradient: ArrayLike, *, norm: str) -> Array:
    """Returns the step of length one along which a linear function increases most, per example.

    This is sign(g) for "linf" and g / ||g|| for "l2", for any length of g. The direction of a zero gradient is zero; a
    gradient that is not finite is replaced by `finite_gradient` first.

    Args:
      gradient: [B, ...].
      norm: "l2" or "linf".

    Returns:
      float32 [B, ...].

    Raises:
      UserError: unknown norm, or "l1", whose steepest step changes a single value and stops for good at
        the end of its range.
    """
    direction = _lookup(norm).steepest_ascent
    if direction is None:
        raise UserError(f'steepest ascent is for l2 and linf; got "{norm}": use APGD (arinv.attacks.apgd) for it')
    return direction(finite_gradient(gradient))


def random_perturbation(key: Array, shape: tuple[int, ...], *, eps: ArrayLike | float, norm: str) -> Array:
    """Returns random initial perturbations of an attack.

    They are uniform on the sphere of radius `eps` for "l2" (a normalized Gaussian) and "l1" (a normalized Laplacian),
    and in the cube for "linf". They depend on `key` and the global shape only, not on the number of devices.

    Args:
      key: PRNG key.
      shape: shape (B, ...) of the result.
      eps: radius, at least 0; a number or one per example [B]; may be traced.
      norm: "l1", "l2" or "linf".

    Returns:
      float32 of the given shape.

    Raises:
      UserError: as `project`.
    """
    radius = per_example(eps, shape, "eps")
    return _lookup(norm).random_direction(key, tuple(shape)) * radius


def check_norm(name: str) -> None:
    """Checks the name of a norm.

    Args:
      name: name of a norm, such as "l2".

    Raises:
      UserError: unknown norm.
    """
    _lookup(name)


def finite_gradient(gradient: ArrayLike) -> Array:
    """Returns a gradient without NaN or infinity, so that an attack can still use its finite values.

    Infinity becomes the largest finite magnitude of the example, with its sign, or 1 where that is 0; NaN becomes 0. In
    an example without finite values other than 0, NaN becomes +1 or -1 in a fixed pattern, which moves an attack away
    from a point without a gradient. Finite gradients are unchanged.

    Args:
      gradient: [B, ...].

    Returns:
      float32 [B, ...].
    """
    gradient = jnp.asarray(gradient, jnp.float32)
    magnitudes = jnp.where(jnp.isfinite(gradient), jnp.abs(gradient), 0.0)
    largest = _expand(_largest(magnitudes), gradient)
    is_empty = largest == 0
    filled = jnp.where(jnp.isnan(gradient), jnp.where(is_empty, _pattern(gradient), 0.0), gradient)
    limit = jnp.where(is_empty, jnp.ones_like(largest), largest)
    return jnp.where(jnp.isinf(filled), jnp.sign(filled) * limit, filled)


def per_example(value: ArrayLike | float, shape: tuple[int, ...], name: str = "a radius or step size") -> Array:
    """Checks a number, or one per example, and returns it as float32 that broadcasts against arrays of `shape`.

    Args:
      value: [] or [B], at least 0; may be traced.
      shape: shape (B, ...) of the arrays.
      name: its name in errors.

    Returns:
      float32 [] or [B, 1, ...].

    Raises:
      UserError: another shape of `value`, or (if concrete) a negative or non-finite one.
    """
    value = as_radius(value, batch_size=shape[0], name=name)
    return value.reshape(value.shape + (1,) * (len(shape) - 1)) if value.ndim else value


def project_l1_ball(delta: ArrayLike, images: ArrayLike, *, eps: ArrayLike | float) -> Array:
    """Returns the nearest perturbation with an l1 norm of at most `eps` that keeps images in [0, 1].

    Args:
      delta: [B, ...], perturbations.
      images: [B, ...] in [0, 1], to which they are added.
      eps: radius, at least 0, in units of `images`; a number or one per example [B]; may be traced.

    Returns:
      float32 [B, ...]; exactly 0 for values that do not change.

    Raises:
      UserError: a negative or non-finite radius (if concrete), or a shape of `eps` other than [] and [B].

    Source: Croce & Hein 2021, proposition 3.1.
    """
    delta, images = jnp.asarray(delta, jnp.float32), jnp.asarray(images, jnp.float32)
    room = jnp.where(delta > 0, 1.0 - images, images)
    eps = per_example(eps, delta.shape, "eps")
    return jnp.sign(delta) * shrink_to_sum(jnp.abs(delta), eps, limit=room)


def move_to_hyperplane(points: ArrayLike, weights: ArrayLike, residuals: ArrayLike, *, norm: str) -> Array:
    """Returns the shortest move of each point to its hyperplane within [0, 1].

    On the hyperplane, residual + <weights, move> is zero. Where it does not meet the box, the move ends in
    the corner of the box nearest to it.

    Args:
      points: [B, ...] in [0, 1].
      weights: [B, ...], normals of the hyperplanes, of any length; a coordinate of weight 0 does not move.
      residuals: [B], the values of the linear functions at the points.
      norm: the norm that the move minimizes: "l1", "l2" or "linf".

    Returns:
      float32 [B, ...].

    Raises:
      UserError: unknown norm.

    Source: Croce & Hein 2020 (FAB), section 3.1, equation 6.
    """
    if norm not in _SHORTEST:
        raise unknown("norm", norm, _SHORTEST)
    points, weights, residuals = (jnp.asarray(a, jnp.float32) for a in (points, weights, residuals))
    shape = points.shape
    points, weights = flatten_rows(points), flatten_rows(weights)
    # Scaled to a largest weight of 1, so that small gradients neither overflow nor underflow below.
    largest = jnp.max(jnp.abs(weights), axis=1)
    scale = jnp.where(largest > 0, largest, 1.0)
    gains, needed = jnp.abs(weights) / scale[:, None], jnp.abs(residuals) / scale
    rising = (weights > 0) != (residuals >= 0)[:, None]
    room = jnp.where(gains > 0, jnp.where(rising, 1.0 - points, points), 0.0)
    feasible = jnp.sum(gains * room, axis=1) > needed
    lengths = jnp.where(feasible[:, None], _SHORTEST[norm](gains, room, needed), room)
    return jnp.where(rising, lengths, -lengths).reshape(shape)


def _lookup(name: str) -> _Norm:
    if name not in _NORMS:
        raise unknown("norm", name, _NORMS)
    return _NORMS[name]


def _rest(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _expand(lengths: Array, x: Array) -> Array:
    return lengths.reshape(lengths.shape + (1,) * (x.ndim - 1))


def _largest(magnitudes: Array) -> Array:
    return jnp.max(magnitudes, axis=_rest(magnitudes), initial=0.0)


def _pattern(x: Array) -> Array:
    """Returns +1 and -1 [1, ...] in an irregular pattern of the shape of an example of `x`."""
    waves = np.sin(np.arange(1.0, math.prod(x.shape[1:]) + 1.0) ** 2)
    return jnp.asarray(np.where(waves < 0, -1.0, 1.0).reshape(1, *x.shape[1:]), x.dtype)


def _scaled(x: Array) -> tuple[Array, Array]:
    """Returns x divided by a power of two near its largest value, and that power [B, 1, ...].

    It is 1 where the largest value is 0 or not finite. The division is exact: lengths that would neither overflow nor
    underflow without it are the same bit for bit.
    """
    info = jnp.finfo(x.dtype)
    largest = _expand(jax.lax.stop_gradient(_largest(jnp.abs(x))), x)
    rounded = jnp.minimum(jax.lax.reduce_precision(largest, info.nexp, 0), 2.0 ** (info.maxexp - 2))
    scale = jnp.where(jnp.isfinite(largest) & (largest >= float(info.tiny)), rounded, 1.0)
    return x / scale, scale


def _l2_length(x: Array) -> Array:
    scaled, scale = _scaled(x)
    squared = jnp.sum(jnp.square(scaled), axis=_rest(x))
    is_zero = squared == 0  # False for NaN
    return jnp.where(is_zero, 0.0, scale.reshape(-1) * jnp.sqrt(jnp.where(is_zero, 1.0, squared)))


def _l2_project(delta: Array, eps: Array) -> Array:
    scaled, scale = _scaled(delta)
    lengths = _expand(_l2_length(scaled), delta)
    outside = lengths > eps / scale
    return jnp.where(outside, scaled * (eps / jnp.where(outside, lengths, 1.0)), delta)


def _l2_direction(x: Array) -> Array:
    scaled, _ = _scaled(x)
    lengths = _expand(_l2_length(scaled), x)
    return scaled / jnp.where(lengths > 0, lengths, 1.0)


def _l1_length(x: Array) -> Array:
    return jnp.sum(jnp.abs(x), axis=_rest(x))


def _l1_direction(key: Array, shape: tuple[int, ...]) -> Array:
    noise = jax.random.laplace(key, shape, jnp.float32)
    return noise / _expand(_l1_length(noise), noise)


_NORMS = {
    "l1": _Norm(
        length=_l1_length,
        project=lambda delta, eps: jnp.sign(delta) * shrink_to_sum(jnp.abs(delta), eps),
        steepest_ascent=None,
        random_direction=_l1_direction,
    ),
    "l2": _Norm(
        length=_l2_length,
        project=_l2_project,
        steepest_ascent=_l2_direction,
        random_direction=lambda key, shape: _l2_direction(jax.random.normal(key, shape, jnp.float32)),
    ),
    "linf": _Norm(
        length=lambda x: _largest(jnp.abs(x)),
        project=lambda delta, eps: jnp.clip(delta, -eps, eps),
        steepest_ascent=jnp.sign,
        random_direction=lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0),
    ),
}


def _spread(gains: Array, room: Array, needed: Array, rates: Array) -> Array:
    """Returns min(level * rates, room) with the level at which sum(gains * min(level * rates, room)) equals `needed`.

    The sum is concave in the level: its tangent lies above it, so that Newton's steps from 0 do not pass the
    root, and reach it after all kinks before it.
    """

    def newton(carry):
        i, level, _ = carry
        full = level[:, None] * rates >= room
        reached = jnp.sum(jnp.where(full, gains * room, 0.0), axis=1)
        slope = jnp.sum(jnp.where(full, 0.0, gains * rates), axis=1)
        next_level = jnp.where(slope > 0, (needed - reached) / jnp.where(slope > 0, slope, 1.0), level)
        return i + 1, jnp.maximum(next_level, level), jnp.any(next_level > level)

    def moving(carry):
        return carry[2] & (carry[0] < _MAX_NEWTON_STEPS)

    level = jax.lax.while_loop(moving, newton, (jnp.int32(0), jnp.zeros_like(needed), jnp.bool_(True)))[1]
    return jnp.minimum(level[:, None] * rates, room)


def _fill_largest(gains: Array, room: Array, needed: Array) -> Array:
    """Returns `room` for the largest gains, 0 for the smallest, and a share of `room` for the gain in between."""
    worth = gains * room
    order = jnp.argsort(-gains, axis=1)
    total = jnp.cumsum(jnp.take_along_axis(worth, order, axis=1), axis=1)
    enough = total >= jnp.minimum(needed, total[:, -1])[:, None]
    last = jnp.argmax(enough, axis=1)[:, None]  # the position at which the sum is reached
    level = jnp.take_along_axis(gains, jnp.take_along_axis(order, last, axis=1), axis=1)
    above, at = gains > level, gains == level
    rest = needed - jnp.sum(jnp.where(above, worth, 0.0), axis=1)
    worth_at = jnp.sum(jnp.where(at, worth, 0.0), axis=1)
    share = jnp.clip(rest / jnp.where(worth_at > 0, worth_at, 1.0), 0.0, 1.0)
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
