"""The classification loss: cross-entropy per example, in float32, blind to padding."""

import jax.numpy as jnp
import optax

from arinv.ops.inputs import as_labels, as_logits
from arinv.types import Array, ArrayLike


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Returns -log softmax(logits)[label] for each example.

    Args:
      logits: [B, K], any real number; computed in float32 also from bfloat16.
      labels: int [B] in 0..K-1; rows labelled -1 are padding, with zero loss and zero gradient. A label of K or more
        gives NaN where it is traced.

    Returns:
      float32 [B], at least 0.

    Raises:
      UserError: logits that are not [B, K], or labels that are not one integer per row in -1..K-1 (where known).
    """
    logits = as_logits(logits)
    labels = as_labels(labels, batch_size=logits.shape[0], num_classes=logits.shape[1])
    real = labels >= 0
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.where(real, labels, 0))
    return jnp.where(real, losses, 0.0)
