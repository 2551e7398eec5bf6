"""Losses of classifiers: cross-entropy, TRADES, GAIRAT, GAIR-RST and the margin, per example in float32.

Logits are [B, K] of any float dtype. Rows labeled -1 are padding.
"""

import jax
import jax.numpy as jnp
import optax

from arinv.errors import UserError, unknown
from arinv.ops.inputs import as_array, as_flags, as_labels, as_logits, as_vector, check_count, check_number, is_concrete
from arinv.types import Array, ArrayLike

WEIGHTINGS = ("tanh", "sigmoid", "discrete")


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Returns -log softmax(logits)[label] for each example.

    Args:
      logits: [B, K].
      labels: int [B] in 0..K-1; rows labeled -1 are padding, with zero loss and zero gradient. A traced label of K or
        more gives NaN. A model that gives NaN for a padding image may still have NaN gradients in its weights.

    Returns:
      float32 [B], at least 0.

    Raises:
      UserError: logits that are not [B, K], or labels that are not one integer per row in -1..K-1 (if concrete).
    """
    logits = as_logits(logits)
    labels = as_labels(labels, batch_size=logits.shape[0], num_classes=logits.shape[1])
    real = labels >= 0
    logits = jnp.where(real[:, None], logits, 0.0)  # before the softmax, whose gradient at NaN is NaN
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.where(real, labels, 0))
    return jnp.where(real, losses, 0.0)


def _real_rows(labels: ArrayLike, *logits: ArrayLike) -> list[Array]:
    """Returns logits [B, K] with zeros in rows of padding, between which there is no divergence.

    Raises:
      UserError: logits of different shapes, or labels that are not one integer per row.
    """
    all_logits = [as_logits(rows) for rows in logits]
    if len({rows.shape for rows in all_logits}) > 1:
        listed = " and ".join(str(rows.shape) for rows in all_logits)
        raise UserError(f"logits of the images and of their adversarial versions must have one shape; got {listed}")
    real = as_labels(labels, batch_size=all_logits[0].shape[0]) >= 0
    return [jnp.where(real[:, None], rows, 0.0) for rows in all_logits]


def kl_divergence(logits: ArrayLike, other_logits: ArrayLike) -> Array:
    """Returns KL(softmax(logits) || softmax(other_logits)) for each example; gradients flow into both.

    Args:
      logits: [B, K], logits of the distribution over which the expectation is taken.
      other_logits: [B, K], logits of the other distribution.

    Returns:
      float32 [B], at least 0 up to rounding.

    Raises:
      UserError: logits that are not [B, K], or not of one shape.
    """
    logits, other_logits = as_logits(logits), as_logits(other_logits)
    if logits.shape != other_logits.shape:
        raise UserError(f"logits {logits.shape} and other logits {other_logits.shape} must have the same shape [B, K]")
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other_logits)
    excluded = jnp.isneginf(log_p)  # classes of probability 0, which add nothing
    differences = jnp.where(excluded, 0.0, log_p) - jnp.where(excluded, 0.0, log_q)
    return jnp.sum(jnp.exp(log_p) * differences, axis=-1)


def trades_loss(logits: ArrayLike, adversarial_logits: ArrayLike, labels: ArrayLike, *, beta: float) -> Array:
    """Returns cross-entropy of the images plus beta times the divergence to their adversarial versions.

    Args:
      logits: [B, K] of the clean images.
      adversarial_logits: [B, K] of their adversarial versions.
      labels: int [B]; rows labeled -1 are padding, with zero loss.
      beta: weight of robustness against accuracy, 6 in the paper.

    Returns:
      float32 [B].

    Raises:
      UserError: as `kl_divergence` and `cross_entropy`, or beta that is not a number of 0 or more.

    Source: Zhang et al. 2019, eq. 5.
    """
    beta = check_number(beta, "beta", minimum=0.0)
    divergence = kl_divergence(*_real_rows(labels, logits, adversarial_logits))
    return cross_entropy(logits, labels) + beta * divergence


def gair_rst_loss(
    logits: ArrayLike,
    adversarial_logits: ArrayLike,
    margin_logits: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike,
    *,
    beta: float,
) -> Array:
    """Returns TRADES with a weighted divergence to two adversarial versions.

    Args:
      logits: [B, K] of the clean images.
      adversarial_logits: [B, K] after the attack on the divergence, weighted by w.
      margin_logits: [B, K] after the attack on the margin, weighted by 1 - w.
      labels: int [B]; rows labeled -1 are padding, with zero loss.
      weights: float32 [B] in [0, 1], w, from `divergence_share`.
      beta: weight of robustness against accuracy, 6 in the code.

    Returns:
      float32 [B].

    Raises:
      UserError: as `kl_divergence` and `cross_entropy`, weights that are not [B], or beta that is not a number of 0 or
        more.

    Source: the released code of Zhang et al. 2021, GAIR-RST.
    """
    beta = check_number(beta, "beta", minimum=0.0)
    clean, adversarial, margin = _real_rows(labels, logits, adversarial_logits, margin_logits)
    adversarial_divergence, margin_divergence = kl_divergence(clean, adversarial), kl_divergence(clean, margin)
    weights = as_vector(weights, adversarial_divergence.shape[0], "weights")
    divergence = weights * adversarial_divergence + (1 - weights) * margin_divergence
    return cross_entropy(logits, labels) + beta * divergence


def margin_loss(logits: ArrayLike, labels: ArrayLike, *, confidence: float = 50.0) -> Array:
    """Returns -max(logit of the label - highest other logit + confidence, 0), which an attack maximizes.

    Args:
      logits: [B, K].
      labels: int [B], 0..K-1; rows labeled -1 are padding, with zero loss.
      confidence: margin beyond the boundary, in logits, up to which the loss increases.

    Returns:
      float32 [B], at most 0.

    Raises:
      UserError: logits that are not [B, K] with K of 2 or more, labels that are not one integer per row in 0..K-1 (if
        concrete), or a confidence that is not a finite number.

    Source: Carlini & Wagner 2017, eq. 8, as in the released code of Zhang et al. 2021.
    """
    check_number(confidence, "confidence")
    logits = as_logits(logits, minimum=2)
    labels = as_labels(labels, batch_size=logits.shape[0], num_classes=logits.shape[1])
    real = labels >= 0
    logits = jnp.where(real[:, None], logits, 0.0)
    is_label = jax.nn.one_hot(jnp.where(real, labels, 0), logits.shape[-1], dtype=bool)
    own = jnp.max(jnp.where(is_label, logits, -jnp.inf), axis=-1)
    other = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return jnp.where(real, -jnp.maximum(own - other + confidence, 0.0), 0.0)


def geometry_weights(kappa: ArrayLike, mask: ArrayLike, *, num_steps: int, kind: str, offset: float) -> Array:
    """Returns weights that are larger for examples near the decision boundary, with mean 1 over the batch.

    Args:
      kappa: [B], number of attack steps from a correctly classified point, 0..num_steps.
      mask: [B], 1 for an example and 0 for padding.
      num_steps: K, number of attack steps.
      kind: "tanh", (1 + tanh(offset + 5 (1 - 2 kappa / K))) / 2; "sigmoid" of the same argument; or "discrete",
        (K + 1 - kappa) / (K + 1).
      offset: lambda of the paper, -1 there.

    Returns:
      float32 [B], 0 for padding.

    Raises:
      UserError: another kind, fewer than 1 step, kappa and mask that are not [B], (if concrete) kappa outside 0 to K or
        a mask other than 0 and 1, or an offset that is not finite.

    Source: Zhang et al. 2021, section 3, normalized as in the released code.
    """
    if kind not in WEIGHTINGS:
        raise unknown("weighting", kind, WEIGHTINGS)
    check_count(num_steps, "num_steps")
    check_number(offset, "offset")
    kappa = _as_kappa(kappa, num_steps)
    mask = as_vector(mask, kappa.shape[0], "mask")
    if is_concrete(mask):
        as_flags(mask, "mask")
    argument = offset + 5 * (1 - 2 * kappa / num_steps)
    if kind == "discrete":
        logs = jnp.log(num_steps + 1 - kappa)
    else:  # (1 + tanh a) / 2 is sigmoid(2 a)
        logs = jax.nn.log_sigmoid(2 * argument if kind == "tanh" else argument)
    logs = jnp.where(mask > 0, logs, -jnp.inf)
    largest = jnp.max(logs, initial=-jnp.inf)
    weights = jnp.exp(logs - jnp.where(jnp.isfinite(largest), largest, 0.0))  # none underflows to a sum of 0
    return weights * jnp.sum(mask) / jnp.maximum(jnp.sum(weights), 1.0)


def divergence_share(kappa: ArrayLike, *, num_steps: int, offset: float) -> Array:
    """Returns (1 + tanh(offset + K / 2 - kappa)) / 2, GAIR-RST's weight of the attack on the divergence.

    Args:
      kappa: [B], number of attack steps from a correctly classified point, 0..num_steps.
      num_steps: K, number of attack steps.
      offset: lambda, 3 in the code.

    Returns:
      float32 [B] in [0, 1], not normalized.

    Raises:
      UserError: fewer than 1 step, kappa that is not [B] or (if concrete) not in 0 to K, or an offset that is not a
        finite number.

    Source: the released code of Zhang et al. 2021, GAIR-RST.
    """
    check_count(num_steps, "num_steps")
    check_number(offset, "offset")
    return (1 + jnp.tanh(offset + num_steps / 2 - _as_kappa(kappa, num_steps))) / 2


def _as_kappa(kappa: ArrayLike, num_steps: int) -> Array:
    """Returns numbers of attack steps as float32 [B].

    Raises:
      UserError: another shape, or (if concrete) numbers outside 0 to num_steps.
    """
    kappa = as_array(kappa, "kappa")
    kappa = as_vector(kappa, kappa.shape[0] if kappa.ndim else 0, "kappa")
    if is_concrete(kappa) and not ((kappa >= 0) & (kappa <= num_steps)).all():
        raise UserError(f"kappa must be numbers of steps from 0 to num_steps={num_steps}")
    return kappa
