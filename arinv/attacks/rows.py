"""The rows of a batch under attack: their labels, keys and noise, and the choice between versions of them.

An attack treats each row by itself. With a key for each row its result depends neither on which rows share
the batch nor on how many there are.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.images import check_images
from arinv.types import Array, ArrayLike


class Rows(NamedTuple):
    """A batch made ready for an attack.

    Attributes:
      images: float32 [B, H, W, C] in [0, 1], constants.
      labels: int [B]; 0 in rows of padding.
      targets: int [B], likewise, or None.
      real: bool [B], False in rows of padding.
    """

    images: Array
    labels: Array
    targets: Array | None
    real: Array


def prepare(images: ArrayLike, labels: ArrayLike, *, targets: ArrayLike | None = None) -> Rows:
    """Returns a batch made ready for an attack.

    Args:
      images: float32 [B, H, W, C] in [0, 1].
      labels: int [B]; rows labelled -1 are padding.
      targets: int [B], classes to approach; -1 is padding too.

    Returns:
      The batch.

    Raises:
      UserError: images outside [0, 1], or classes that are not one integer per image.
    """
    check_images(images)
    images = jax.lax.stop_gradient(jnp.asarray(images, jnp.float32))
    labels = check_classes(labels, name="labels", batch_size=images.shape[0])
    real = labels >= 0
    if targets is not None:
        targets = check_classes(targets, name="targets", batch_size=images.shape[0])
        real &= targets >= 0
        targets = jnp.where(real, targets, 0)
    return Rows(images, jnp.where(real, labels, 0), targets, real)


def check_classes(classes: ArrayLike, *, name: str, batch_size: int) -> Array:
    """Returns class numbers as an array, having checked that there is one per image.

    Args:
      classes: what a caller handed in.
      name: what the error calls it.
      batch_size: number of images.

    Returns:
      Integer [B].

    Raises:
      UserError: another shape, or not integers.
    """
    classes = jnp.asarray(classes)
    if classes.shape != (batch_size,) or not jnp.issubdtype(classes.dtype, jnp.integer):
        raise UserError(
            f"{name} must be integers, one per image ({batch_size},), got {classes.dtype} of shape {classes.shape}."
        )
    return classes


def typed_key(key: Array) -> Array:
    """Returns keys as those of `jax.random.key`, also where they are made by `jax.random.PRNGKey`.

    Args:
      key: one or more, of either kind.

    Returns:
      The same keys.

    Raises:
      UserError: no key.
    """
    dtype, shape = jnp.result_type(key), jnp.shape(key)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype != jnp.uint32 or shape[-1:] != jax.random.key_data(jax.random.key(0)).shape:
        raise UserError(f"key must be a PRNG key such as jax.random.key(0), got {dtype} of shape {shape}.")
    return jax.random.wrap_key_data(key)


def row_keys(key: Array, *, batch_size: int) -> Array:
    """Returns a key for each row.

    Args:
      key: one key, from which those of the rows follow by their places in the batch, or one per row [B],
        which come back as they are.
      batch_size: number of rows.

    Returns:
      Keys [B].

    Raises:
      UserError: another number of keys, or none.
    """
    key = typed_key(key)
    if key.shape == (batch_size,):
        return key
    if key.shape:
        raise UserError(f"key must be one key, or one per image ({batch_size},), got the shape {key.shape}.")
    return fold_in(key, jnp.arange(batch_size))


def fold_in(keys: Array, data: ArrayLike) -> Array:
    """Returns `jax.random.fold_in` of one or many keys with one or many numbers.

    Args:
      keys: [] or [B].
      data: integer, [] or [B].

    Returns:
      Keys [B].
    """
    axes = tuple(0 if jnp.ndim(value) else None for value in (keys, data))
    return jax.vmap(jax.random.fold_in, in_axes=axes)(keys, data)


def noise_of_length_one(keys: Array, shape: tuple[int, ...], *, norm: str) -> Array:
    """Returns random perturbations on the surface of the unit ball.

    Args:
      keys: [B].
      shape: (H, W, C).
      norm: "l1", "l2" or "linf".

    Returns:
      float32 [B, H, W, C].
    """

    def draw(key):
        return norms.random_perturbation(key, (1, *shape), eps=1.0, norm=norm)[0]

    noise = jax.vmap(draw)(keys)
    return noise / column(norms.norm(noise, norm))


def column(values: Array) -> Array:
    """Returns values [B] as [B, 1, 1, 1], to go with images.

    Args:
      values: [B].

    Returns:
      [B, 1, 1, 1].
    """
    return values[:, None, None, None]


def first_success(
    keys: Array, images: Array, attack: Callable[[Array, Array], tuple[Array, Array]], *, num_restarts: int
) -> Array:
    """Returns, for each row, the first restart of an attack that succeeds, or else the first of all.

    It ends once all rows have succeeded.

    Args:
      keys: [B].
      images: [B, H, W, C].
      attack: (keys [B], number of the restart) -> (images [B, H, W, C], success [B]).
      num_restarts: at least 1.

    Returns:
      [B, H, W, C].

    Raises:
      UserError: no restart.
    """
    if num_restarts < 1:
        raise UserError(f"num_restarts must be at least 1 (a single start), got {num_restarts}.")
    if num_restarts == 1:
        return attack(fold_in(keys, 0), jnp.int32(0))[0]

    def unfinished(carry):
        i, _, done = carry
        return (i < num_restarts) & ~jnp.all(done)

    def restart(carry):
        i, x, done = carry
        candidate, success = attack(fold_in(keys, i), i)
        return i + 1, select((success & ~done) | (i == 0), candidate, x), done | success

    nothing = jnp.int32(0), jnp.zeros_like(images), jnp.zeros(images.shape[:1], bool)
    return jax.lax.while_loop(unfinished, restart, nothing)[1]


def select(mask: Array, x: Array, y: Array) -> Array:
    """Returns the rows of one array where a mask holds, and those of another elsewhere.

    Args:
      mask: bool [B].
      x: [B, ...].
      y: of the shape of `x`.

    Returns:
      [B, ...].
    """
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, y)


def checked_labels(labels: ArrayLike, *, count: int) -> np.ndarray:
    """Returns labels after a check.

    Args:
      labels: int [count]; -1 is padding.
      count: number of images.

    Returns:
      int32 [count].

    Raises:
      UserError: other labels, or nothing but padding.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels must be integers, one per image ({count},), got {labels.dtype} of shape {labels.shape}."
        )
    if not np.any(labels >= 0):
        raise UserError(f"no image to attack: all {count} labels are -1 (padding).")
    return labels.astype(np.int32)
