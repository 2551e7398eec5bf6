"""Truth table of an attribute in images that two methods restored, and rules that decide on an attribute.

An attribute may be anything that a function of images decides: a classifier's class, or a rule on a statistic of a
region, such as its brightness.

Source: Generative Encoder, sections 3.1 and 5.5, Table 4.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from arinv.errors import UserError, unknown
from arinv.ops.inputs import as_images, check_callable, check_number, on_host
from arinv.types import ArrayLike


class TruthTable(NamedTuple):
    """How many images show an attribute, restored by a first and by a second method.

    Attributes:
      neither: by none of the two.
      second: by the second alone.
      first: by the first alone.
      both: by both.
      invalid: images that are not decided.
    """

    neither: int
    second: int
    first: int
    both: int
    invalid: int

    @property
    def valid(self) -> int:
        """Images that are decided."""
        return self.neither + self.second + self.first + self.both

    @property
    def count(self) -> int:
        """All images, valid and invalid."""
        return self.valid + self.invalid

    @property
    def recovered(self) -> float:
        """Share of the images without the attribute by the second method that have it by the first; NaN for none."""
        lost = self.first + self.neither
        return self.first / lost if lost else float("nan")


def compare_attribute(
    first: ArrayLike,
    second: ArrayLike,
    attribute_fn: Callable[[np.ndarray], ArrayLike],
    *,
    valid: ArrayLike | None = None,
) -> TruthTable:
    """Returns the counts of an attribute in images that two methods restored.

    Args:
      first: [N, H, W, C] in [0, 1], the images restored by the first method.
      second: the same images restored by the second.
      attribute_fn: images [N, H, W, C] -> bool [N], whether each shows the attribute.
      valid: bool [N], the images that are decided; None for all.

    Returns:
      A `TruthTable`.

    Raises:
      UserError: other shapes, or images outside [0, 1].
    """
    name = "restored images"
    first, second = (on_host(as_images(images, name), name) for images in (first, second))
    if first.shape != second.shape:
        raise UserError(f"both methods need the same images [N, H, W, C]; got {first.shape} and {second.shape}")
    check_callable(attribute_fn, "attribute_fn")
    flags = [np.asarray(attribute_fn(images)) for images in (first, second)]
    is_valid = np.ones(len(first), bool) if valid is None else np.asarray(valid)
    for name, values in (("attribute_fn", flags[0]), ("attribute_fn", flags[1]), ("valid", is_valid)):
        if values.shape != (len(first),) or values.dtype != bool:
            raise UserError(f"{name} must give bool [{len(first)}]; got {values.dtype} {values.shape}")
    a, b = flags
    cells = (~a & ~b, ~a & b, a & ~b, a & b)
    return TruthTable(*(int((cell & is_valid).sum()) for cell in cells), int((~is_valid).sum()))


def _brightness(windows: np.ndarray) -> np.ndarray:
    return windows.mean(axis=(1, 2, 3))


def _contrast(windows: np.ndarray) -> np.ndarray:
    return windows.std(axis=(1, 2, 3))


def _edges(windows: np.ndarray) -> np.ndarray:
    grey = windows.mean(axis=3)
    return np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))


# Name -> function of windows [N, h, w, C] in [0, 1] to numbers [N].
STATISTICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "brightness": _brightness,  # the mean
    "contrast": _contrast,  # the standard deviation
    "edges": _edges,  # mean absolute differences of neighboring pixels, down and across
}


def make_rule(
    *, statistic: str, threshold: float, region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a rule, images [N, H, W, C] in [0, 1] -> bool [N]: whether a statistic is above a threshold.

    Args:
      statistic: a key of STATISTICS.
      threshold: in units of the statistic.
      region: top, left, bottom and right of the region that is measured, as shares of the sides.

    Returns:
      A function for `compare_attribute`.

    Raises:
      UserError: an unknown statistic, a threshold that is not finite, or a region that is empty or leaves the image;
        when called, images outside [0, 1].
    """
    check_number(threshold, "threshold")
    if statistic not in STATISTICS:
        raise unknown("statistic", statistic, STATISTICS)
    numbers = [check_number(value, "region") for value in region]
    if len(numbers) != 4 or not (0 <= numbers[0] < numbers[2] <= 1 and 0 <= numbers[1] < numbers[3] <= 1):
        raise UserError(f"region={tuple(region)} must be top, left, bottom and right, shares of the sides from 0 to 1")
    top, left, bottom, right = numbers

    def rule(images: np.ndarray) -> np.ndarray:
        images = on_host(as_images(images), "images")
        height, width = images.shape[1:3]
        if min(height, width) < 2:
            raise UserError(f"a region needs images of 2 x 2 px or more; got {height} x {width}")
        return STATISTICS[statistic](images[:, _pixels(top, bottom, height), _pixels(left, right, width)]) > threshold

    return rule


def _pixels(first: float, last: float, side: int) -> slice:
    """Returns the pixels between two shares of a side, two or more."""
    start = min(int(first * side), side - 2)
    return slice(start, max(start + 2, round(last * side)))
