"""Objectives of attacks: cross-entropy, difference of logits ratio, margin.

Functions of logits [B, K] and class numbers [B] in 0..K-1, computed in float32 also from bfloat16; a value
for each row.

Source: Croce & Hein 2020 (AutoAttack), sections 4 and 5; Andriushchenko et al. 2020 (margin).
"""

import jax
import jax.numpy as jnp
import optax

from arinv.errors import UserError
from arinv.types import Array

_FLOOR = 1e-12  # keeps the ratios finite where the largest logits are equal


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Returns -log softmax(logits)[label].

    Args:
      logits: [B, K].
      labels: int [B].

    Returns:
      float32 [B], at least 0.
    """
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def dlr(logits: Array, labels: Array) -> Array:
    """Returns the difference of logits ratio, which is invariant to shift and scale of the logits.

    That is -(z_label - the largest other z) / (largest z - third largest z): positive where the
    prediction is wrong.

    Args:
      logits: [B, K], K at least 3.
      labels: int [B].

    Returns:
      float32 [B].

    Raises:
      UserError: fewer than 3 classes.

    Source: Croce & Hein 2020 (AutoAttack), equation 6.
    """
    _check_classes(logits, 3, "the DLR loss")
    logits = logits.astype(jnp.float32)
    largest = jax.lax.top_k(logits, 3)[0]
    return -margin(logits, labels) / (largest[:, 0] - largest[:, 2] + _FLOOR)


def targeted_dlr(logits: Array, labels: Array, targets: Array) -> Array:
    """Returns the difference of logits ratio towards a target class.

    That is -(z_label - z_target) / (largest z - mean of third and fourth largest z).

    Args:
      logits: [B, K], K at least 4.
      labels: int [B].
      targets: int [B].

    Returns:
      float32 [B].

    Raises:
      UserError: fewer than 4 classes.

    Source: Croce & Hein 2020 (AutoAttack), equation 7.
    """
    _check_classes(logits, 4, "the targeted DLR loss")
    logits = logits.astype(jnp.float32)
    largest = jax.lax.top_k(logits, 4)[0]
    scale = largest[:, 0] - 0.5 * (largest[:, 2] + largest[:, 3]) + _FLOOR
    return logit_difference(logits, labels, targets) / scale


def logit_difference(logits: Array, labels: Array, targets: Array) -> Array:
    """Returns z_target - z_label.

    Args:
      logits: [B, K].
      labels: int [B].
      targets: int [B].

    Returns:
      float32 [B].
    """
    logits = logits.astype(jnp.float32)
    return _pick(logits, targets) - _pick(logits, labels)


def margin(logits: Array, labels: Array) -> Array:
    """Returns z_label - the largest other z: negative where the prediction is wrong.

    Args:
      logits: [B, K], K at least 2.
      labels: int [B].

    Returns:
      float32 [B].

    Raises:
      UserError: a single class.

    Source: Andriushchenko et al. 2020 (Square Attack), section 3.1.
    """
    _check_classes(logits, 2, "the margin")
    logits = logits.astype(jnp.float32)
    return _pick(logits, labels) - jnp.max(_others(logits, labels), axis=1)


def runner_up(logits: Array, labels: Array) -> Array:
    """Returns the class of the largest logit that is not the label's.

    Args:
      logits: [B, K], K at least 2.
      labels: int [B].

    Returns:
      int32 [B].

    Raises:
      UserError: a single class.
    """
    _check_classes(logits, 2, "a target class")
    return jax.lax.argmax(_others(logits.astype(jnp.float32), labels), 1, jnp.int32)


def misclassified(logits: Array, labels: Array) -> Array:
    """Returns whether the largest logit is not the label's; logits with NaN predict no class.

    Args:
      logits: [B, K].
      labels: int [B].

    Returns:
      bool [B].
    """
    return (jax.lax.argmax(logits, 1, jnp.int32) != labels) | jnp.any(jnp.isnan(logits), axis=1)


def _pick(logits: Array, classes: Array) -> Array:
    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]


def _others(logits: Array, labels: Array) -> Array:
    """Returns the logits [B, K] with minus infinity in the place of the label's."""
    own = jax.lax.broadcasted_iota(labels.dtype, logits.shape, 1) == labels[:, None]
    return jnp.where(own, -jnp.inf, logits)


def _check_classes(logits: Array, least: int, name: str) -> None:
    if logits.shape[1] < least:
        raise UserError(f"{name} needs at least {least} classes; got {logits.shape[1]}")
