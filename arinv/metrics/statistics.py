"""Mean and standard deviation over a test set, as results tables report them."""

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
