"""One-vs-all anomaly detection: each class in turn is the normal one, with a standard and a robust encoder (Table 8).

    python -m arinv --config=configs/anomaly.py:dataset=cifar10,eps=1.0 --workdir=runs/anomaly \
        '--config.stages.*_evaluation.num_anomalous=1000'
    python -m arinv --config=configs/anomaly.py:dataset=cats_vs_dogs,encoder=alexnet,standard_encoder=runs/a,\
robust_encoder=runs/b --workdir=runs/cats
    python -m arinv --config=configs/anomaly.py:dataset=folder:/my/set,classes=0+1 --workdir=runs/mine

Writes report/table.md and report/report.html: AUROC of each class and their mean for the latent search (total, pixel
and feature term), without a search, for the nearest neighbors, and for all of them under attack.

Arguments: those of configs/classifier.py, for the encoders (but classes), and
  classes                           labels that are the normal class in turn, such as 0-9 or 3+5; empty: all of cifar10
                                    and photos, 0 and 1 of other datasets
  standard_encoder, robust_encoder  workdirs of trained classifiers, which are used instead of new ones, or of the zoo:
                                    standard_encoder=zoo:alexnet_small_standard,robust_encoder=zoo:alexnet_small_l2_1
  encoder_dataset                   another dataset to train the encoders on; those that are trained on dataset itself
                                    learn to distinguish all of its classes, including the anomalous ones
  layer                             the feature to invert; empty: the encoder's
  adgan                             true: ADGAN as well, with a DCGAN for each class: one more column

Stages: standard_encoder, robust_encoder, gans, standard_inverters and robust_inverters (a folder for each class,
class0), standard_evaluation, robust_evaluation, report. Fields that are often set: stages.*_inverters.num_epochs,
.loss.pixel and .loss.feature (stages.*_evaluation.search.pixel_weight and .feature_weight are those of the score);
stages.*.data.num_train and .num_test (of each class, and of all; 0: all), stages.*_evaluation.num_anomalous (test
images that are scored against each class, evenly of the others; 0: all), .attack.eps (0: no attack) and
.attack.num_steps, .search.num_steps and .num_restarts, .knn.k and .knn.pooling (flat or mean), .batch_size. With adgan:
stages.gans.num_epochs, .gan.width and .gan.latent_size; stages.standard_evaluation.adgan.num_seeds (64), .num_steps
(5), .latent_rate, .weight_rate and .chunk_size (images that are searched for together).
"""

from ml_collections import ConfigDict

from configs import arguments, detector, encoders, gan, tasks

_ANOMALY = {
    "dataset": "cifar10",
    "eps": -1.0,
    "standard_encoder": "",
    "robust_encoder": "",
    "encoder_dataset": "",
    "layer": "",
    "adgan": False,
}
_NUM_CLASSES = {"cifar10": 10, "tfds:cifar10": 10, "photos": 10}
_TEXT = (
    "A generator that was trained on one class inverts the features of an encoder. Images that it cannot reconstruct "
    "from the best latent of a search are called anomalous. The nearest neighbors among the same encoder's features of "
    "the training images are the baseline of such a detector."
)


def get_config(arg=None):
    """Returns the stages: encoders, inverters of each class, an evaluation for each encoder, the report."""
    args = encoders.resolve(arguments.parse(arg, **arguments.ENCODER | _ANOMALY))
    trainings, workdirs = tasks.encoder_pair(encoder_arguments(args))
    detections, evaluations = stages(args, workdirs)
    if args.adgan:
        detections = {"gans": gans(args), **detections}
        add_adgan(detections["standard_evaluation"], args)
    report = tasks.comparison(
        evaluations, title=f"Anomaly detection on {args.dataset}, one class against all", text=_TEXT
    )
    report.task, report.num_classes_shown = "overview", 4
    return tasks.experiment({**trainings, **detections, "report": report})


def gans(args: ConfigDict) -> ConfigDict:
    """Returns the task that trains a DCGAN on each class (Radford et al. 2016, section 4).

    Args:
      args: resolved arguments.
    """
    own = {"networks": "dcgan", "latent_size": 0, "options": "", "metric_encoder": "", "classes": "", "extra": ""}
    image_size = args.image_size or encoders.image_size(args.encoder)
    config = gan.task(ConfigDict({**args.to_dict(), **own}), "GAN", image_size)
    config.task, config.single, config.classes = "class_inverters", "gan", _labels(args)
    config.augmentation = ConfigDict()
    if not args.smoke:
        config.num_steps, config.num_epochs = 0, 100.0
    return config


def add_adgan(config: ConfigDict, args: ConfigDict) -> None:
    """Adds ADGAN to an evaluation, by the networks of the stage gans.

    Args:
      config: config of an evaluation; changed in place.
      args: resolved arguments.
    """
    config.gans = {f"class{label}": f"stage:gans/class{label}" for label in config.classes}
    config.adgan = {"num_seeds": 64, "num_steps": 5, "latent_rate": 0.25, "weight_rate": 5e-5, "chunk_size": 1}
    if args.smoke:
        config.adgan.num_seeds, config.adgan.num_steps = 3, 2


def _labels(args: ConfigDict) -> tuple[int, ...]:
    """Returns the labels that are the normal class in turn."""
    count = 2 if args.smoke else _NUM_CLASSES.get(args.dataset, 2)
    return tasks.labels(args.classes or f"0-{count - 1}")


def encoder_arguments(args: ConfigDict) -> ConfigDict:
    """Returns the arguments of both encoders."""
    return ConfigDict({**args.to_dict(), **detector.encoder_arguments(args).to_dict()})


def stages(
    args: ConfigDict, workdirs: dict[str, str], *, prefix: str = ""
) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """Returns the stages that detect anomalies by each encoder, and where the evaluations are.

    Args:
      args: resolved arguments.
      workdirs: "standard" or "robust" -> workdir of the encoder, or "stage:NAME".
      prefix: prefix of the names of the stages.

    Returns:
      Stage name -> config, and "standard" or "robust" -> "stage:NAME".
    """
    arguments.check_eps(args.eps)
    labels = _labels(args)
    inverters, evaluations = {}, {}
    for name, workdir in workdirs.items():
        config = detector.single_class_inverter(
            args, workdir, classes="", weights=detector.WEIGHTS[name], title=f"{name} inverter"
        )
        config.task, config.single, config.classes = "class_inverters", "inverter", labels
        inverters[f"{prefix}{name}_inverters"] = config
        evaluations[f"{prefix}{name}_evaluation"] = one_vs_all(
            args,
            {label: f"stage:{prefix}{name}_inverters/class{label}" for label in labels},
            weights=detector.WEIGHTS[name],
            title=f"{name} evaluation",
        )
    return {**inverters, **evaluations}, {name: f"stage:{prefix}{name}_evaluation" for name in workdirs}


def one_vs_all(args: ConfigDict, inverters: dict[int, str], *, weights: tuple[float, float], title: str) -> ConfigDict:
    """Returns the task that evaluates one encoder one-vs-all.

    Args:
      args: resolved arguments.
      inverters: label of the normal class -> workdir of its inverter, or "stage:NAME".
      weights: weights of the pixel and the feature term of the score.
      title: shown beside the progress bar.
    """
    config = tasks.common(args, title)
    config.task = "one_vs_all"
    config.data = tasks.data(ConfigDict({**args.to_dict(), "classes": "", "extra": ""}))
    config.classes, config.num_anomalous = tuple(inverters), 0
    config.num_normal = 0  # test images of the normal class; 0: all
    config.inverters = {f"class{label}": workdir for label, workdir in inverters.items()}
    config.attack = tasks.pgd(args.eps, norm=args.norm)
    detector.add_scoring(config, args, weights=weights)
    if args.smoke:  # some of each kind, wherever they are in the test set
        config.data.num_test, config.num_normal, config.num_anomalous = 0, 2, 6
    return config
