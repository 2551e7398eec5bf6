"""Trains a detector of anomalies on normal images alone, with thresholds by normal images that were held out.

    python -m arinv --config=configs/detector.py:dataset=folder:/my/normal,checkpoint=runs/x --workdir=runs/detector
    python -m arinv --config=configs/score.py:detector=runs/detector,images=/my/new --workdir=runs/scores

`dataset` holds normal images only: a folder of them, of which a fifth is held out (or its train and test folders), or
chosen classes of a set (dataset=cifar10,classes=3). With `checkpoint`, the workdir of a classifier's training, that
encoder is used; without, one is trained on `encoder_dataset`, which needs classes. `anomalous` names a folder of known
anomalies; they are trained on by nothing, and give the threshold best_f1 and an AUROC.

Arguments: those of configs/classifier.py (eps, epochs and batch are the encoder's), and checkpoint, encoder_dataset
(photos), anomalous, score (total, pixel, feature, amortized, knn), policy (quantile or best_f1) and quantile (share of
normal images that is to pass) by which it decides unless told otherwise when it scores, pixel_weight and
feature_weight (of the loss and the search; -1: those of the paper's standard encoders for every encoder; its pixel
weight for robust ones is a thousandth of that, and leaves reconstructions that are patterns), layer, inverter_epochs,
inverter_batch, inverter_rate, inverter_schedule, search_steps, restarts, neighbors, pooling, score_batch, pictures,
smoke.
"""

from ml_collections import ConfigDict

from configs import anomaly_tasks, arguments, classifier, encoders, tasks


def get_config(arg=None):
    """Returns the stages encoder (unless there is a checkpoint), inverter, detector."""
    extra = {
        "checkpoint": "",
        "encoder_dataset": "photos",
        "anomalous": "",
        "score": "total",
        "policy": "quantile",
        "quantile": 0.95,
    }
    args = arguments.parse(arg, **arguments.TRAINING | {"eps": -1.0}, **anomaly_tasks.SEARCH, **extra)
    encoders.resolve(args)
    weights = anomaly_tasks.weights(args, "standard")
    stages = {}
    if not args.checkpoint:
        encoder = ConfigDict({**args.to_dict(), "classes": "", "dataset": args.encoder_dataset})
        encoder.num_train = encoder.num_test = 0
        stages["encoder"] = classifier.from_arguments(encoder, title="encoder")
    stages["inverter"] = anomaly_tasks.single_class_inverter(
        args, args.checkpoint or "stage:encoder", classes=args.classes, weights=weights, title="inverter"
    )
    stages["detector"] = anomaly_tasks.detector(args, "stage:inverter", weights=weights)
    return tasks.experiment(stages)
