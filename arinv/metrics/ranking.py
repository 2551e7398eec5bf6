"""How well scores rank: the area under the ROC curve."""

import numpy as np

from arinv.errors import UserError
from arinv.types import ArrayLike

AUROC_VARIANT = (
    "auroc: area under the ROC curve of telling anomalous from normal images, by scikit-learn; the share of pairs of "
    "one anomalous and one normal image in which the anomalous one has the higher score, ties counted by half"
)


def auroc(scores: ArrayLike, positives: ArrayLike) -> float:
    """Returns the area under the receiver operating characteristic.

    Args:
      scores: [N], higher for what should be positive.
      positives: bool [N], at least one True and one False.

    Returns:
      In 0 to 1; 0.5 is chance, and what is below it ranks the wrong way round.

    Raises:
      UserError: scores that are not finite or not one per example, or examples of one kind only.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    scores, positives = np.asarray(scores, np.float64), np.asarray(positives)
    if positives.dtype != bool and not np.isin(positives, (0, 1)).all():
        raise UserError("positives must be True or False, or 1 or 0; padding such as -1 has to be left out before.")
    positives = positives.astype(bool)
    if scores.ndim != 1 or scores.shape != positives.shape:
        raise UserError(f"scores {scores.shape} and positives {positives.shape} must be one per example [N].")
    if not np.isfinite(scores).all():
        raise UserError(f"{np.sum(~np.isfinite(scores))} of {len(scores)} scores are not finite: they have no rank.")
    if positives.all() or not positives.any():
        kind = "positive" if positives.any() else "negative"
        raise UserError(f"AUROC needs positive and negative examples; all {len(scores)} are {kind}.")
    return float(roc_auc_score(positives, scores))
