"""Scores images of your own by a detector that configs/detector.py has trained.

    python -m arinv --config=configs/score.py:detector=runs/detector/detector,images=/my/new --workdir=runs/scores

Writes scores.csv (file; the scores total, pixel, feature, amortized and knn; calibrated: the share of held-out normal
images with a lower score; decision) and overview.png, the most and the least anomalous images with reconstructions and
heat maps.

Arguments:
  detector      workdir of the detector: the stage detector of configs/detector.py
  images        an image file, a folder, or photos (or photos:NAME+NAME): the photographs in scikit-image
  on_bad_image  skip, or error
  dtype         float32 or bfloat16
  smoke         batches of 8

Fields that are often set: decision.score (total, pixel, feature, amortized, knn), decision.policy (quantile or best_f1)
and decision.quantile (share of normal images that passes), each empty or 0 for the detector's own; batch_size,
log.num_images (in the overview).
"""

from configs import arguments, tasks


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(arg, detector="", images="", on_bad_image="skip", dtype="float32", smoke=False)
    config = tasks.common(args, "score")  # random numbers are those of the detector's seed
    config.task = "score"
    config.detector = args.detector
    config.data = {"name": args.images, "on_bad_image": args.on_bad_image}
    config.decision = {"score": "", "policy": "", "quantile": 0.0}
    config.batch_size = 8 if args.smoke else 64
    config.log.num_images = 32
    return config
