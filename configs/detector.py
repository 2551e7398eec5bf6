"""Trains an anomaly detector on normal images alone, with thresholds from normal images that were held out.

    python -m arinv --config=configs/detector.py:dataset=folder:/my/normal,encoder_checkpoint=zoo:alexnet_small_l2_1 \
        --workdir=runs/detector
    python -m arinv --config=configs/score.py:detector=runs/detector/detector,images=/my/new --workdir=runs/scores

Arguments: those of configs/classifier.py, and
  dataset             normal images only: a folder, of which a fifth is held out (or its train and test folders), or
                      some classes of a dataset (dataset=cifar10,classes=3)
  encoder_checkpoint  workdir of a trained classifier, or zoo:NAME (`arinv zoo` lists them); empty: one is trained on
                      encoder_dataset, which needs classes
  encoder_dataset     photos, cifar10, ...
  anomalous           a folder of known anomalies, for the threshold best_f1 and an AUROC; nothing is trained on them
  layer               the feature to invert; empty: the encoder's

Stages: encoder, inverter, detector. Fields that are often set: stages.inverter.num_epochs, .loss.pixel and
.loss.feature (2e-3 and 1e-2, of the loss and of the search; the paper's pixel weight for robust encoders, 2e-6, leaves
reconstructions that are patterns); stages.detector.decision.score (total, pixel, feature, amortized, knn), .policy
(quantile or best_f1) and .quantile (share of normal images that passes), the defaults of configs/score.py;
stages.detector.search.num_steps and .num_restarts, .knn.k and .knn.pooling (flat or mean), .batch_size.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict, FieldReference

from configs import arguments, encoders, tasks

# The paper's weights of the pixel and the feature term, in the training of a single-class generator and in the search.
# Rojas-Gomez et al. 2022, sections 3.3 and A2.
WEIGHTS = {"standard": (2e-3, 1e-2), "robust": (2e-6, 1e-2)}
_DETECTOR = {
    "eps": -1.0,
    "encoder_checkpoint": "",
    "encoder_dataset": "photos",
    "anomalous": "",
    "layer": "",
}


def get_config(arg=None):
    """Returns the stages encoder (unless there is a checkpoint), inverter, detector."""
    args = encoders.resolve(arguments.parse(arg, **arguments.ENCODER | _DETECTOR))
    stages = {}
    if not args.encoder_checkpoint:
        stages["encoder"] = tasks.classifier(encoder_arguments(args), title="encoder")
    stages["inverter"] = single_class_inverter(
        args, args.encoder_checkpoint or "stage:encoder", classes=args.classes, weights=WEIGHTS["standard"]
    )
    config = tasks.common(args, "detector")
    config.task = "detector"
    config.inverter = "stage:inverter"
    config.data = tasks.data(ConfigDict({**args.to_dict(), "extra": ""}))
    config.anomalous = args.anomalous
    # The weights of the search follow those of the generator's loss.
    weights = [stages["inverter"].loss.get_ref(name).identity() for name in ("pixel", "feature")]
    add_scoring(config, args, weights=weights)
    config.decision = {"score": "total", "policy": "quantile", "quantile": 0.95}
    stages["detector"] = config
    return tasks.experiment(stages)


def encoder_arguments(args: ConfigDict) -> ConfigDict:
    """Returns the arguments of the encoder: all classes of encoder_dataset."""
    return ConfigDict({**args.to_dict(), "classes": "", "dataset": args.encoder_dataset or args.dataset})


def single_class_inverter(
    args: ConfigDict, checkpoint: str, *, classes: str, weights: tuple[float, float], title: str = "inverter"
) -> ConfigDict:
    """Returns the task that trains a generator on normal images alone, without augmentation.

    Args:
      args: parsed arguments.
      checkpoint: workdir of the encoder, or "stage:NAME".
      classes: the labels that are normal; empty for all images of the dataset.
      weights: weights of the pixel and the feature term.
      title: shown beside the progress bar.
    """
    normal = ConfigDict({**args.to_dict(), "classes": classes, "extra": ""})
    config = tasks.inverter(normal, checkpoint, title=title, loss_name="feature")
    config.loss.pixel, config.loss.feature = weights
    return config


def add_scoring(config: ConfigDict, args: ConfigDict, *, weights: Sequence[float | FieldReference]) -> None:
    """Adds the fields of the latent search and of the nearest neighbors to a config.

    Args:
      config: config of a task that scores images; changed in place.
      args: parsed arguments; smoke is read.
      weights: weights of the pixel and the feature term of the score.
    """
    config.search = {
        "num_steps": 2 if args.smoke else 100,
        "learning_rate": 0.1,
        "end_learning_rate": 0.001,
        "end_inclusive": True,
        "momentum": 0.9,
        "num_restarts": 1,
        "pixel_weight": weights[0],
        "feature_weight": weights[1],
    }
    config.knn = {"k": 2, "normalize": True, "pooling": "flat", "block_size": 1024}
    config.batch_size = 64
    config.log.num_images = 16
    if args.smoke:
        tasks.shorten(config)
