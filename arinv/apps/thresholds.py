"""From scores to decisions: thresholds, and scores on a scale that means something. NumPy, on the host.

A score is any number that is higher for what is less normal. The thresholds and the scale come from scores of normal
images that the detector was not trained on; an image is called anomalous where its score is above the threshold.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from arinv.errors import UserError, unknown
from arinv.types import ArrayLike

POLICIES = ("quantile", "best_f1")


def quantile_threshold(normal_scores: ArrayLike, *, quantile: float = 0.95) -> float:
    """Returns the lowest of the scores that at least the given share of them does not exceed.

    Args:
      normal_scores: [N], of normal images.
      quantile: share of normal images that are to pass, above 0 and at most 1.

    Returns:
      A score; calling only what is above it anomalous passes that share of the normal images, or a little more.

    Raises:
      UserError: no score, one that is not finite, or a quantile out of range.
    """
    scores = _check(normal_scores)
    if not 0 < quantile <= 1:
        raise UserError(f"quantile must be above 0 and at most 1, got {quantile}; 0.95 passes 95 % of normal images.")
    return float(np.quantile(scores, quantile, method="inverted_cdf"))


def best_f1_threshold(scores: ArrayLike, anomalous: ArrayLike) -> tuple[float, float]:
    """Returns the threshold with the best F1 of finding the anomalous images, and that F1.

    Args:
      scores: [N], of validation images.
      anomalous: bool [N], at least one of each kind.

    Returns:
      (threshold, F1): midway between two scores that occur, or just below the lowest where calling everything
      anomalous is best. Of equally good ones the highest, which raises the fewest false alarms.

    Raises:
      UserError: scores that are not finite, or only one kind.
    """
    scores, anomalous = _check(scores), np.asarray(anomalous, bool)
    if anomalous.shape != scores.shape or anomalous.all() or not anomalous.any():
        raise UserError("best_f1 needs one truth for each score, with normal and anomalous images among them.")
    levels = np.unique(scores)
    thresholds = np.concatenate([[np.nextafter(levels[0], -np.inf)], (levels[:-1] + levels[1:]) / 2])
    # Predicted anomalous is what lies above a threshold: from the lowest level on, from the second, ...
    order = np.sort(scores)
    found = np.sort(scores[anomalous])
    predicted = len(scores) - np.searchsorted(order, levels, side="left")
    hits = len(found) - np.searchsorted(found, levels, side="left")
    f1 = 2 * hits / (predicted + len(found))
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(thresholds[best]), float(f1[best])


def calibrate(scores: ArrayLike, normal_scores: ArrayLike) -> np.ndarray:
    """Returns the share of the normal scores that lie below each score, those that equal it counted by half.

    Args:
      scores: [N].
      normal_scores: [M], of normal images that the detector was not trained on.

    Returns:
      float64 [N] in 0 to 1: 0.99 is a score that one normal image in a hundred exceeds.

    Raises:
      UserError: no normal score, or one that is not finite.
    """
    normal = np.sort(_check(normal_scores))
    scores = np.asarray(scores, np.float64)
    below, up_to = (np.searchsorted(normal, scores, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(normal))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What has to be known of one kind of score to decide by it; saved as JSON.

    Attributes:
      normal_scores: of normal images that the detector was not trained on, sorted.
      best_f1: (threshold, F1) on validation images, or None where no anomalous ones were given.
    """

    normal_scores: tuple[float, ...]
    best_f1: tuple[float, float] | None = None

    @classmethod
    def measure(cls, scores: ArrayLike, anomalous: ArrayLike) -> "Calibration":
        """Returns the calibration by scores [N] of validation images, of which bool [N] are anomalous."""
        scores, anomalous = np.asarray(scores, np.float64), np.asarray(anomalous, bool)
        best = best_f1_threshold(scores, anomalous) if anomalous.any() else None
        return cls(tuple(np.sort(_check(scores[~anomalous])).tolist()), best)

    def threshold(self, *, policy: str = "quantile", quantile: float = 0.95) -> float:
        """Returns the threshold of a policy: "quantile" of the normal scores, or "best_f1".

        Raises:
          UserError: unknown policy, or best_f1 where there were no anomalous validation images.
        """
        if policy not in POLICIES:
            raise unknown("threshold policy", policy, POLICIES)
        if policy == "quantile":
            return quantile_threshold(self.normal_scores, quantile=quantile)
        if self.best_f1 is None:
            raise UserError(
                "policy=best_f1 needs anomalous validation images, which this detector was made without; "
                "take policy=quantile, or make it anew with anomalous=FOLDER"
            )
        return self.best_f1[0]

    def calibrated(self, scores: ArrayLike) -> np.ndarray:
        """Returns scores [N] as shares of the normal scores below them, see `calibrate`."""
        return calibrate(scores, self.normal_scores)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        best = self.best_f1 and {"threshold": self.best_f1[0], "f1": self.best_f1[1]}
        return {"normal_scores": list(self.normal_scores), "best_f1": best}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Calibration":
        """Returns what `to_json` gave."""
        best = value["best_f1"] and (value["best_f1"]["threshold"], value["best_f1"]["f1"])
        return cls(tuple(value["normal_scores"]), best)


def _check(scores: ArrayLike) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise UserError(f"a threshold needs finite scores [N] of at least one image, got the shape {scores.shape}.")
    return scores
