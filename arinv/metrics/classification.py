"""Counting correct classifications, without counting padding."""

import jax
import jax.numpy as jnp

from arinv.ops.inputs import as_labels, as_logits
from arinv.types import Array, ArrayLike


def correct(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Returns 1 for each example whose largest logit is that of its label, else 0.

    The caller sums and divides by the number of real examples.

    Args:
      logits: [B, K]. A row with NaN counts as wrong.
      labels: int [B]; rows labelled -1 are padding and give 0.

    Returns:
      float32 [B] of zeros and ones.

    Raises:
      UserError: logits that are not [B, K], or labels that are not one integer per row in -1..K-1 (where known).
    """
    logits = as_logits(logits)
    labels = as_labels(labels, batch_size=logits.shape[0], num_classes=logits.shape[1])
    hits = jax.lax.argmax(logits, 1, jnp.int32) == labels  # never true for -1
    return (hits & ~jnp.any(jnp.isnan(logits), axis=-1)).astype(jnp.float32)
