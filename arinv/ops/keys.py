"""Checks of PRNG keys, and keys for the rows of a batch."""

import os
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.types import Array, ArrayLike


def typed_key(key: Array) -> Array:
    """Returns keys as typed keys, those of `jax.random.key`.

    Args:
      key: one or more keys, from `jax.random.key` or `jax.random.PRNGKey`.

    Returns:
      The same keys.

    Raises:
      UserError: not a key.
    """
    if not isinstance(key, int | float | np.ndarray | jax.Array):
        raise UserError(f"key must be a PRNG key such as jax.random.key(0); got {key!r}")
    dtype, shape = jnp.result_type(key), jnp.shape(key)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype != jnp.uint32 or shape[-1:] != jax.random.key_data(jax.random.key(0)).shape:
        raise UserError(f"key must be a PRNG key such as jax.random.key(0); got {dtype} of shape {shape}")
    return jax.random.wrap_key_data(key)


def single_key(key: Array) -> Array:
    """Returns one key as a typed key, that of `jax.random.key`.

    Args:
      key: one key, from `jax.random.key` or `jax.random.PRNGKey`.

    Returns:
      The same key.

    Raises:
      UserError: not a key, or several.
    """
    key = typed_key(key)
    if key.shape:
        raise UserError(f"key must be one PRNG key; got keys of shape {key.shape}")
    return key


def row_keys(key: Array, *, batch_size: int) -> Array:
    """Returns a key for each row.

    Args:
      key: one key, folded with each row's position in the batch; or one key per row [B], returned unchanged.
      batch_size: number of rows.

    Returns:
      Keys [B].

    Raises:
      UserError: another number of keys, or not a key.
    """
    key = typed_key(key)
    if key.shape == (batch_size,):
        return key
    if key.shape:
        raise UserError(f"key must be one key, or one per image ({batch_size},); got shape {key.shape}")
    return fold_in(key, jnp.arange(batch_size))


def name_key(seed: int, name: str) -> Array:
    """Returns a key that depends on an image's name and not on its place among others.

    Args:
      seed: 0 or more.
      name: any text, also one that is no valid Unicode, as file names may be.

    Returns:
      One key.
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(os.fsencode(name)))


def fold_in(keys: Array, data: ArrayLike) -> Array:
    """Returns `jax.random.fold_in` of one or many keys with one or many numbers.

    Args:
      keys: [] or [B].
      data: integer, [] or [B]; one of both is [B].

    Returns:
      Keys [B].
    """
    axes = tuple(0 if jnp.ndim(value) else None for value in (keys, data))
    return jax.vmap(jax.random.fold_in, in_axes=axes)(keys, data)
