"""One-vs-all anomaly detection: each class in turn is the normal one, with a standard and a robust encoder.

    python -m arinv --config=configs/anomaly.py:dataset=cifar10,eps=1.0,num_test=5000 --workdir=runs/anomaly
    python -m arinv --config=configs/anomaly.py:dataset=cats_vs_dogs,encoder=alexnet,standard=runs/a,robust=runs/b \
        --workdir=runs/cats
    python -m arinv --config=configs/anomaly.py:dataset=folder:/my/set,classes=0+1 --workdir=runs/mine

With `standard` or `robust`, workdirs of classifiers' trainings, those encoders are used and not trained. An encoder
that is trained here learns to tell all classes apart, also those that are then called anomalous; encoder_dataset
names another set to train it on.

Leaves report/table.md and report/report.html: AUROC of each class and their mean for the latent search (total, pixel
and feature term), without a search, for the nearest neighbours, and for all of them under attack.

Arguments: those of configs/classifier.py (for the encoders, but classes), and classes (labels that take their turn as
the normal class, such as 0-9 or 3+5; empty: all of cifar10 and photos, 0 and 1 of other sets), num_train and num_test
(training images of each class, test images of all), num_anomalous (test images that each class is told from, evenly of
the other classes; 0: all), standard, robust, encoder_dataset, layer, pixel_weight and feature_weight (of the
generators' loss and the search; -1: the paper's), inverter_epochs, inverter_batch, inverter_rate, inverter_schedule (of
the generators), search_steps, restarts, neighbors, pooling (flat or mean, of the features for the nearest neighbours),
score_batch, pictures, attack_eps (-1: eps; 0: no attack), attack_norm (empty: norm), score_attack_steps, smoke.
"""

from ml_collections import ConfigDict

from configs import anomaly_tasks, arguments, classifier, defaults, encoders, tasks

_NUM_CLASSES = {"cifar10": 10, "tfds:cifar10": 10, "photos": 10}
_TEXT = (
    "A generator that was trained on one class inverts the features of an encoder. What it cannot make, by the best "
    "latent that a search finds, is called anomalous. The nearest neighbours among the same encoder's features of the "
    "training images are what such a detector has to beat."
)


def get_config(arg=None):
    """Returns the stages: encoders, inverters of each class, an evaluation for each encoder, the report."""
    extra = {
        "standard": "",
        "robust": "",
        "encoder_dataset": "",
        "num_anomalous": 0,
        "attack_eps": -1.0,
        "attack_norm": "",
        "score_attack_steps": 20,
    }
    known = arguments.TRAINING | {"dataset": "cifar10", "eps": -1.0}
    args = arguments.parse(arg, **known, **anomaly_tasks.SEARCH, **extra)
    encoders.resolve(args)
    args.attack_eps = arguments.check_eps(args.eps if args.attack_eps < 0 else args.attack_eps)
    args.attack_norm = args.attack_norm or args.norm
    labels = _labels(args)
    trainings, inverters, evaluations = {}, {}, {}
    for name, eps in (("standard", 0.0), ("robust", args.eps)):
        checkpoint = args[name] or f"stage:{name}_encoder"
        if not args[name]:
            trainings[f"{name}_encoder"] = _encoder(args, name, eps)
        weights = anomaly_tasks.weights(args, name)
        inverters[f"{name}_inverters"] = anomaly_tasks.single_class_inverter(
            args, checkpoint, classes="", weights=weights, title=f"{name} inverter"
        )
        inverters[f"{name}_inverters"].task = "class_inverters"
        inverters[f"{name}_inverters"].classes = labels
        evaluations[f"{name}_evaluation"] = anomaly_tasks.evaluation(
            args,
            {label: f"stage:{name}_inverters/class{label}" for label in labels},
            weights=weights,
            title=f"{name} evaluation",
        )
    entries = {name: f"stage:{name}_evaluation" for name in ("standard", "robust")}
    title = f"Anomaly detection on {args.dataset}, one class against all"
    report = anomaly_tasks.report(entries, title=title, text=_TEXT)
    return tasks.experiment({**trainings, **inverters, **evaluations, "report": report})


def _encoder(args, name: str, eps: float) -> ConfigDict:
    dataset = args.encoder_dataset or args.dataset
    # Numbers of images are those of the detectors.
    everything = ConfigDict({**args.to_dict(), "classes": "", "dataset": dataset, "num_train": 0, "num_test": 0})
    return classifier.from_arguments(everything, title=f"{name} encoder", eps=eps, test_eps=args.eps)


def _labels(args) -> tuple[int, ...]:
    """Returns the classes that take their turn."""
    count = 2 if args.smoke else _NUM_CLASSES.get(args.dataset, 2)
    return defaults.dataset(args.dataset, encoder=args.encoder, classes=args.classes or f"0-{count - 1}").classes
