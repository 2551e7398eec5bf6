"""Sums for each channel over all positions, and the biases and batch normalization that use them.

On a CPU XLA takes two to eight times as long to sum columns as to multiply them by ones (features of 3 to 13 MB). The
form is chosen as in `arinv.ops.conv`. Layout: [..., C]; any value range.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from arinv.ops.conv import use_rewrites
from arinv.types import Array


def flatten_rows(x: Array) -> Array:
    """Returns each row flattened to one axis; unlike `reshape(B, -1)`, also where there are no rows.

    Args:
      x: [B, ...].

    Returns:
      [B, N].
    """
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def channel_sums(x: Array) -> Array:
    """Returns the sums over all axes but the last.

    Args:
      x: [..., C].

    Returns:
      [C], of the dtype of `x`.
    """
    if not use_rewrites():
        return jnp.sum(x, tuple(range(x.ndim - 1)))
    rows = x.reshape(-1, x.shape[-1])
    return jnp.ones(rows.shape[0], x.dtype) @ rows


@jax.custom_vjp
def add_bias(x: Array, bias: Array) -> Array:
    """Returns the sum of features and a bias for each channel.

    Args:
      x: [..., C].
      bias: [C], of the dtype of `x`.

    Returns:
      [..., C].
    """
    return x + _broadcast(bias, x)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), lambda _, gradient: (gradient, channel_sums(gradient)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Returns features normalized by their mean and variance, scaled and shifted, and those two.

    No gradient flows through the returned mean and variance. The variance is the mean of squares minus the square of
    the mean.

    Args:
      x: [..., C], of any float dtype; computed in float32 at least.
      scale: float32 [C].
      bias: float32 [C].
      epsilon: added to the variance.

    Returns:
      float32 [..., C], float32 [C], float32 [C].

    Source: Ioffe & Szegedy 2015, algorithm 1, and the gradients of its section 3.
    """
    return _normalize(x, scale, bias, epsilon)[0]


def _normalize(x, scale, bias, epsilon):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    count = math.prod(x.shape[:-1])
    mean = channel_sums(wide) / count
    variance = jnp.maximum(channel_sums(jnp.square(wide)) / count - jnp.square(mean), 0)
    inverse = lax.rsqrt(variance + epsilon)
    y = (wide - _broadcast(mean, x)) * _broadcast(inverse * scale, x) + _broadcast(bias, x)
    return (y, mean, variance), (x, scale, mean, inverse)


def _normalize_bwd(epsilon, saved, gradients):
    x, scale, mean, inverse = saved
    dy = gradients[0]
    normalized = (x.astype(dy.dtype) - _broadcast(mean, x)) * _broadcast(inverse, x)
    dbias, dscale = channel_sums(dy), channel_sums(dy * normalized)
    count = math.prod(x.shape[:-1])
    dx = dy - _broadcast(dbias / count, x) - normalized * _broadcast(dscale / count, x)
    return (dx * _broadcast(inverse * scale, x)).astype(x.dtype), dscale, dbias


normalize_batch.defvjp(_normalize, _normalize_bwd)


def _broadcast(values, x):
    return values.reshape((1,) * (x.ndim - 1) + values.shape)
