"""The classification loss: cross-entropy per example, in float32, blind to padding."""

import jax.numpy as jnp
import optax

from arinv.types import Array, ArrayLike


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Returns -log softmax(logits)[label] for each example.

    Args:
      logits: [B, K], any real number; computed in float32 also from bfloat16.
      labels: int [B] in 0..K-1; rows labelled -1 are padding, with zero loss and zero gradient. A
        label of K or more gives NaN rather than a wrong number.

    Returns:
      float32 [B], at least 0.
    """
    labels = jnp.asarray(labels)
    real = labels >= 0
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
        jnp.asarray(logits).astype(jnp.float32), jnp.where(real, labels, 0)
    )
    return jnp.where(real, losses, 0.0)
