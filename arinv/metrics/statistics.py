"""Mean, standard deviation and confidence over a test set, as results tables report them."""

import numpy as np

from arinv.errors import UserError
from arinv.types import ArrayLike


def summary(values: ArrayLike, mask: ArrayLike | None = None) -> dict[str, float | int]:
    """Returns the mean, the population standard deviation and the count of per-example values.

    Computed on the host in float64. NaN among the counted values stays NaN, so that it is seen.

    Args:
      values: [N].
      mask: [N], 1 for an example that counts and 0 for padding; None counts all.

    Returns:
      {"mean": float, "std": float, "count": int}; mean and std are NaN where nothing counts.

    Raises:
      UserError: values that are not [N], or a mask of another shape.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise UserError(f"values must be one per example [N], got the shape {values.shape}.")
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != values.shape:
            raise UserError(f"mask {mask.shape} must have the shape of the values {values.shape}.")
        values = values[mask > 0]
    if not values.size:
        return {"mean": float("nan"), "std": float("nan"), "count": 0}
    return {"mean": float(values.mean()), "std": float(values.std()), "count": int(values.size)}


def binomial_interval(count: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact (Clopper-Pearson) confidence interval of a rate, such as an accuracy.

    Args:
      count: examples for which it holds, such as those classified rightly.
      total: examples looked at, at least 1.
      confidence: between 0 and 1.

    Returns:
      The lower and the upper bound of the rate, in 0 to 1.

    Raises:
      UserError: a count outside 0 to total, or a confidence outside 0 to 1.

    Source: Clopper & Pearson 1934.
    """
    if not 0 <= count <= total or total < 1:
        raise UserError(f"a rate needs a count from 0 to a total of at least 1, got {count} of {total}.")
    if not 0 < confidence < 1:
        raise UserError(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is 95 %.")
    from scipy import special  # a tenth of the time that `import arinv.metrics` takes

    tail = 0.5 * (1.0 - confidence)
    lower = special.betaincinv(count, total - count + 1, tail) if count else 0.0
    upper = special.betaincinv(count + 1, total - count, 1.0 - tail) if count < total else 1.0
    return float(lower), float(upper)
