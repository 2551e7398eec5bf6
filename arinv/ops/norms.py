"""Norm balls around images: length, projection, steepest ascent and random points, for l1, l2 and linf.

Everything is per example: the first axis is the batch, all the others together are the vector that
is measured, so an "l2" radius for an image runs over height, width and channels. Units are those of
the arrays (1 is white).

Source: Madry et al. 2018, section 2.1; Duchi et al. 2008 (projection onto the l1 ball).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError, unknown
from arinv.types import Array, ArrayLike

_DIRECTION_FLOOR = 1e-10  # makes the direction of a zero gradient zero
_CLOSE = 1e-6  # to a sum, from below: it must not exceed it by rounding
_MAX_STEPS = 48  # enough for halving an interval to the resolution of float32; about six are needed


class _Norm(NamedTuple):
    length: Callable[[Array], Array]  # [B, ...] -> [B]
    project: Callable[[Array, Array], Array]  # delta, eps (broadcasts against delta)
    steepest_ascent: Callable[[Array], Array] | None
    random_direction: Callable[[Array, tuple[int, ...]], Array]  # key, shape -> unit ball


def norm(x: ArrayLike, ord: str) -> Array:
    """Returns the length of each example.

    The gradient at zero is zero, not NaN.

    Args:
      x: [B, ...].
      ord: "l1", "l2" or "linf".

    Returns:
      [B], in the dtype of `x`.

    Raises:
      UserError: unknown norm.
    """
    return _lookup(ord).length(jnp.asarray(x))


def project(delta: ArrayLike, *, eps: ArrayLike | float, norm: str) -> Array:
    """Returns the nearest point of the ball of radius `eps` around zero, for each example.

    Examples inside the ball come back unchanged to the bit.

    Args:
      delta: [B, ...].
      eps: radius, at least 0, in units of `delta`; a number or one per example [B]; may be traced.
      norm: "l1", "l2" or "linf".

    Returns:
      [B, ...].

    Raises:
      UserError: unknown norm, a negative or non-finite radius (where its value is known), or a
        shape of `eps` other than [] and [B].

    Source: Madry et al. 2018, section 2.1.
    """
    delta = jnp.asarray(delta)
    return _lookup(norm).project(delta, per_example(check_radius(eps), delta.shape))


def shrink_to_sum(magnitudes: Array, total: Array, *, limit: ArrayLike | float = np.inf) -> Array:
    """Returns min(max(magnitudes - level, 0), limit) with the least level at which it sums to `total`.

    This is what projections onto an l1 ball are made of. Where the sum is not above `total` anyway, the
    level is 0.

    Args:
      magnitudes: [B, ...], at least 0.
      total: at least 0, [] or [B, 1, ...].
      limit: at least 0, [] or [B, ...].

    Returns:
      [B, ...]; the sums over all but the first axis are at most `total`, and below it by 2e-6 of it at most.

    Source: Duchi et al. 2008, section 3; by Newton's steps within a shrinking interval instead of sorting.
    """

    def clipped(level):
        return jnp.minimum(jnp.maximum(magnitudes - level, 0.0), limit)

    def summed(values):
        return jnp.sum(values.astype(jnp.float32), axis=_rest(magnitudes), keepdims=True)

    def unfinished(carry):
        return (carry[0] < _MAX_STEPS) & ~jnp.all(carry[-1])

    def narrow(carry):
        i, level, low, high, _ = carry
        reached = summed(clipped(level))
        falling = summed((magnitudes > level) & (magnitudes - level < limit))
        fits = reached <= total
        low, high = jnp.where(fits, low, level), jnp.where(fits, level, high)
        done = fits & ((reached >= total * (1.0 - 2.0 * _CLOSE)) | (level == 0))
        newton = level + (reached - total * (1.0 - _CLOSE)) / jnp.maximum(falling, 1.0)
        within = (falling > 0) & (newton > low) & (newton <= high)
        following = jnp.where(within, newton, 0.5 * (low + high))
        return i + 1, jnp.where(done, level, following), low, high, done

    high = jnp.max(magnitudes, axis=_rest(magnitudes), keepdims=True)
    zero = jnp.zeros_like(high)
    _, level, _, high, done = jax.lax.while_loop(unfinished, narrow, (0, zero, zero, high, zero > 0))
    return clipped(jnp.where(done, level, high))


def steepest_ascent(gradient: ArrayLike, *, norm: str) -> Array:
    """Returns the step of length one along which a linear function rises fastest, per example.

    This is sign(g) for "linf" and g / (||g|| + 1e-10) for "l2". Where the gradient is zero, so is
    the direction.

    Args:
      gradient: [B, ...].
      norm: "l2" or "linf".

    Returns:
      [B, ...].

    Raises:
      UserError: unknown norm, or "l1": there the step would go along a single value, which stands
        still for good once that value meets the end of its range.
    """
    direction = _lookup(norm).steepest_ascent
    if direction is None:
        raise UserError(f'steepest ascent is for l2 and linf, got "{norm}"; use APGD (arinv.attacks.apgd) for it.')
    return direction(jnp.asarray(gradient))


def random_perturbation(key: Array, shape: tuple[int, ...], *, eps: ArrayLike | float, norm: str) -> Array:
    """Returns random starting points of an attack.

    They are uniform on the sphere of radius `eps` for "l2" (a normalised Gaussian) and "l1" (a normalised
    Laplacian), and in the cube for "linf". The numbers depend on `key` and the global shape only, not on
    how many devices hold them.

    Args:
      key: PRNG key.
      shape: (B, ...).
      eps: radius, at least 0; a number or one per example [B]; may be traced.
      norm: "l1", "l2" or "linf".

    Returns:
      float32 of the given shape.

    Raises:
      UserError: as `project`.
    """
    radius = per_example(check_radius(eps), shape)
    return _lookup(norm).random_direction(key, tuple(shape)) * radius


def check_norm(name: str) -> None:
    """Raises unless there is a norm of this name.

    Args:
      name: such as "l2".

    Raises:
      UserError: unknown norm; the message lists the known ones.
    """
    _lookup(name)


def check_radius(eps: ArrayLike | float, name: str = "eps") -> ArrayLike | float:
    """Returns a radius, having checked that it is finite and at least 0 where its value is known.

    Args:
      eps: a number or an array; a traced one passes unchecked.
      name: what the error calls it.

    Returns:
      `eps` itself.

    Raises:
      UserError: a negative or non-finite value.
    """
    if isinstance(eps, jax.core.Tracer):
        return eps
    values = np.asarray(eps, np.float64)
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise UserError(
            f"{name} must be finite and at least 0, got {eps}; give it in units of the images, such as 8/255."
        )
    return eps


def per_example(value: ArrayLike | float, shape: tuple[int, ...]) -> Array:
    """Returns a number, or one per example, as float32 that broadcasts against arrays of `shape`.

    Args:
      value: [] or [B].
      shape: (B, ...).

    Returns:
      float32 [] or [B, 1, ...].

    Raises:
      UserError: any other shape of `value`.
    """
    value = jnp.asarray(value, jnp.float32)
    if value.shape not in ((), tuple(shape[:1])):
        raise UserError(
            f"a radius or step size must be a number or one per example ({shape[0]},), got the shape {value.shape}."
        )
    return value.reshape(value.shape[:1] + (1,) * (len(shape) - 1)) if value.ndim else value


def _lookup(name: str) -> _Norm:
    if name not in _NORMS:
        raise unknown("norm", name, _NORMS)
    return _NORMS[name]


def _rest(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _expand(lengths: Array, x: Array) -> Array:
    return lengths.reshape(lengths.shape + (1,) * (x.ndim - 1))


def _l2_length(x: Array) -> Array:
    squared = jnp.sum(jnp.square(x), axis=_rest(x))
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def _l2_project(delta: Array, eps: Array) -> Array:
    lengths = _expand(_l2_length(delta), delta)
    outside = lengths > eps
    return jnp.where(outside, delta * (eps / jnp.where(outside, lengths, 1.0)), delta)


def _l2_direction(x: Array) -> Array:
    return x / (_expand(_l2_length(x), x) + _DIRECTION_FLOOR)


def _l1_length(x: Array) -> Array:
    return jnp.sum(jnp.abs(x), axis=_rest(x))


def _l1_direction(key: Array, shape: tuple[int, ...]) -> Array:
    noise = jax.random.laplace(key, shape)
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
        random_direction=lambda key, shape: _l2_direction(jax.random.normal(key, shape)),
    ),
    "linf": _Norm(
        length=lambda x: jnp.max(jnp.abs(x), axis=_rest(x)),
        project=lambda delta, eps: jnp.clip(delta, -eps, eps),
        steepest_ascent=jnp.sign,
        random_direction=lambda key, shape: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0),
    ),
}
