"""Accuracy of classifiers and detectors, and statistics of per-example values."""

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops.inputs import as_flags, as_labels, as_logits, as_numbers, check_number
from arinv.types import Array, ArrayLike

AUROC_VARIANT = (
    "auroc: area under the ROC curve of separating anomalous from normal images, by scikit-learn; the share of pairs "
    "of one anomalous and one normal image in which the anomalous one has the higher score, ties counted by half"
)


def correct(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Returns 1 for each example whose largest logit is that of its label, else 0.

    The accuracy is the sum divided by the number of examples that are no padding.

    Args:
      logits: [B, K]. A row with NaN counts as wrong.
      labels: int [B]; rows labeled -1 are padding and give 0.

    Returns:
      float32 [B] of zeros and ones.

    Raises:
      UserError: logits that are not [B, K], or labels that are not one integer per row in -1..K-1 (if concrete).
    """
    logits = as_logits(logits)
    labels = as_labels(labels, batch_size=logits.shape[0], num_classes=logits.shape[1])
    hits = jax.lax.argmax(logits, 1, jnp.int32) == labels  # never true for -1
    return (hits & ~jnp.any(jnp.isnan(logits), axis=-1)).astype(jnp.float32)


def auroc(scores: ArrayLike, positives: ArrayLike) -> float:
    """Returns the area under the receiver operating characteristic.

    Args:
      scores: [N], higher for positive examples.
      positives: bool [N], at least one True and one False.

    Returns:
      A number in 0 to 1; 0.5 is chance, and below it the ranking is reversed.

    Raises:
      UserError: scores that are not finite numbers or not one per example, positives that are neither true nor false,
        or no positive or no negative example.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    scores, positives = as_numbers(scores, "scores"), as_flags(positives, "positives")
    if scores.ndim != 1 or scores.shape != positives.shape:
        raise UserError(f"scores {scores.shape} and positives {positives.shape} must be one per example [N]")
    if not np.isfinite(scores).all():
        raise UserError(f"{np.sum(~np.isfinite(scores))} of {len(scores)} scores are not finite and cannot be ranked")
    if positives.all() or not positives.any():
        kind = "positive" if positives.any() else "negative"
        raise UserError(f"AUROC needs positive and negative examples; all {len(scores)} are {kind}")
    return float(roc_auc_score(positives, scores))


def summary(values: ArrayLike, mask: ArrayLike | None = None) -> dict[str, float | int]:
    """Returns the mean, the population standard deviation and the count of per-example values.

    Computed on the host in float64. The result is NaN if one of the counted values is.

    Args:
      values: [N].
      mask: [N], 1 for an example that counts and 0 for padding; None counts all.

    Returns:
      {"mean": float, "std": float, "count": int}; mean and std are NaN where the count is 0.

    Raises:
      UserError: values that are not numbers [N], or a mask of another shape or with other values.
    """
    values = as_numbers(values, "values")
    if values.ndim != 1:
        raise UserError(f"values must be one per example [N]; got shape {values.shape}")
    if mask is not None:
        mask = as_flags(mask, "mask")
        if mask.shape != values.shape:
            raise UserError(f"mask {mask.shape} must have the shape of the values {values.shape}")
        values = values[mask]
    if not values.size:
        return {"mean": float("nan"), "std": float("nan"), "count": 0}
    return {"mean": float(values.mean()), "std": float(values.std()), "count": int(values.size)}


def binomial_interval(count: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact (Clopper-Pearson) confidence interval of a rate, such as an accuracy.

    Args:
      count: number of successes, such as correctly classified examples.
      total: number of examples, at least 1.
      confidence: confidence level, between 0 and 1.

    Returns:
      The lower and the upper bound of the rate, in 0 to 1.

    Raises:
      UserError: numbers that are not whole, a count outside 0 to total, or a confidence outside 0 to 1.

    Source: Clopper & Pearson 1934.
    """
    for name, value in (("count", count), ("total", total)):
        if check_number(value, name) != round(value):
            raise UserError(f"{name} must be a whole number; got {value}: multiply a rate by the number of examples")
    if not 0 <= count <= total or total < 1:
        raise UserError(f"a rate needs a count from 0 to a total of at least 1; got {count} of {total}")
    if not 0 < check_number(confidence, "confidence") < 1:
        raise UserError(f"confidence must lie between 0 and 1; got {confidence}: 95 % is 0.95")
    from scipy import special  # slow to import

    tail = 0.5 * (1.0 - confidence)
    lower = special.betaincinv(count, total - count + 1, tail) if count else 0.0
    upper = special.betaincinv(count + 1, total - count, 1.0 - tail) if count < total else 1.0
    return float(lower), float(upper)
