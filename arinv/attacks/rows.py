"""Rows of batches under attack: checks, keys, noise, restarts and selection.

An attack treats each row by itself. With a key for each row its result depends neither on the other rows of the batch
nor on their number.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arinv.ops import norms
from arinv.ops.inputs import (
    as_images,
    as_labels,
    as_radius,
    check_count,
    checked_logits_fn,
)
from arinv.types import Array, ArrayLike, LogitsFn


class Rows(NamedTuple):
    """The checked inputs of an attack.

    Attributes:
      images: float32 [B, H, W, C] in [0, 1], constants.
      labels: int32 [B]; 0 in rows of padding.
      targets: int32 [B], 0 in rows of padding; or None.
      real: bool [B], False in rows of padding.
      eps: float32 [] or [B].
      logits_fn: images -> float32 logits [B, K], checked when it is traced.
    """

    images: Array
    labels: Array
    targets: Array | None
    real: Array
    eps: Array
    logits_fn: LogitsFn


def prepare(
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: ArrayLike | float,
    norm: str,
    targets: ArrayLike | None = None,
    any_radius: bool = False,
) -> Rows:
    """Returns the inputs of an attack after checking them.

    Args:
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], K at least 2.
      images: floating point [B, H, W, C] in [0, 1].
      labels: int [B]; rows labeled -1 are padding.
      eps: radius in units of `images`, a number or one per example [B].
      norm: "l1", "l2" or "linf".
      targets: int [B], classes to approach; -1 is padding too.
      any_radius: whether to suppress the warning about a radius that reaches every image.

    Returns:
      The batch.

    Raises:
      UserError: images outside [0, 1], classes that are not one integer per image or not among the model's, an unknown
        norm, a negative radius, or a model that does not return logits [B, K] (values: where they are concrete).
    """
    norms.check_norm(norm)
    images = as_images(images)
    count = images.shape[0]
    eps = as_radius(eps, batch_size=count, norm=None if any_radius else norm)
    # No two images are further apart than this, in any norm; much larger radii would overflow.
    eps = jnp.minimum(eps, 10.0 * math.prod(images.shape[1:]))
    logits_fn = checked_logits_fn(logits_fn, batch_size=count, labels=labels, targets=targets)
    labels = as_labels(labels, batch_size=count)
    real = labels >= 0
    if targets is not None:
        targets = as_labels(targets, batch_size=count, name="targets")
        real &= targets >= 0
        targets = jnp.where(real, targets, 0)
    # float32 rounding may have left images slightly outside of the range.
    images = jnp.clip(jax.lax.stop_gradient(images), 0.0, 1.0)
    return Rows(images, jnp.where(real, labels, 0), targets, real, eps, logits_fn)


def unit_noise(keys: Array, shape: tuple[int, ...], *, norm: str) -> Array:
    """Returns random perturbations on the surface of the unit ball.

    Args:
      keys: PRNG keys [B].
      shape: (H, W, C), shape of an image.
      norm: "l1", "l2" or "linf".

    Returns:
      float32 [B, H, W, C].
    """

    def draw(key):
        return norms.random_perturbation(key, (1, *shape), eps=1.0, norm=norm)[0]

    noise = jax.vmap(draw)(keys)
    return noise / column(norms.norm(noise, norm))


def column(values: Array) -> Array:
    """Returns values [B] as [B, 1, 1, 1], which broadcast with images.

    Args:
      values: [B].

    Returns:
      [B, 1, 1, 1].
    """
    return values[:, None, None, None]


def first_success(attack: Callable[[Array], tuple[Any, Array]], like: Any, *, num_restarts: int) -> Any:
    """Returns, for each row, the first restart of an attack that succeeds, or else the first of all.

    Restarts end once all rows have succeeded.

    Args:
      attack: number of the restart, int32 [] -> (arrays [B, ...] such as images, success bool [B]).
      like: arrays [B, ...] of the shapes and dtypes of the result.
      num_restarts: largest number of restarts, at least 1; the success of a single one is not used.

    Returns:
      Arrays like those of `like`.

    Raises:
      UserError: fewer than 1 restart.
    """
    check_count(num_restarts, "num_restarts")
    if num_restarts == 1:
        return attack(jnp.int32(0))[0]

    def unfinished(carry):
        i, _, done = carry
        return (i < num_restarts) & ~jnp.all(done)

    def restart(carry):
        i, best, done = carry
        candidate, success = attack(i)
        chosen = (success & ~done) | (i == 0)
        return i + 1, jax.tree.map(functools.partial(select, chosen), candidate, best), done | success

    batch = jax.tree.leaves(like)[0].shape[:1]
    start = jnp.int32(0), jax.tree.map(jnp.zeros_like, like), jnp.zeros(batch, bool)
    return jax.lax.while_loop(unfinished, restart, start)[1]


def select(mask: Array, x: Array, y: Array) -> Array:
    """Returns the rows of one array where a mask holds, and those of another elsewhere.

    Args:
      mask: bool [B].
      x: [B, ...], rows returned where the mask is True.
      y: [B, ...], rows returned elsewhere; of the shape of `x`.

    Returns:
      [B, ...].
    """
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, y)
