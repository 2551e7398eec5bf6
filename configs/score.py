"""Scores a user's own pictures by a detector that configs/detector.py made.

    python -m arinv --config=configs/score.py:detector=runs/detector,images=/my/new --workdir=runs/scores

Leaves scores.csv (file; the scores total, pixel, feature, amortized and knn; calibrated: the share of held-out normal
images with a lower score; decision) and overview.png, the most and the least anomalous pictures with reconstructions
and heat maps. Pictures that cannot be read are told, a line each, and left out; on_bad_image=error stops at them.

Arguments: detector (workdir), images (an image or a folder), score (by which to decide: total, pixel, feature,
amortized, knn), policy (quantile or best_f1), quantile (share of normal images that passes), each empty or 0 for the
detector's own; on_bad_image, score_batch, pictures (in the overview), dtype, smoke (in batches of 8).
"""

from configs import anomaly_tasks, arguments


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(
        arg,
        detector="",
        images="",
        score="",
        policy="",
        quantile=0.0,
        on_bad_image="skip",
        score_batch=64,
        pictures=32,
        dtype="float32",
        smoke=False,
    )
    if args.smoke:
        args.score_batch = 8
    return anomaly_tasks.score(args)
