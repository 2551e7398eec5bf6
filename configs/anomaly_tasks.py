"""The tasks of anomaly detection as configs: one-vs-all evaluations and their report, detectors, scoring.

Sources: Rojas-Gomez et al. 2022, sections 3.3 and A2.
"""

from ml_collections import ConfigDict

from configs import defaults, inverter, tasks

# The paper's weights of the pixel and the feature term, for the training of a single-class generator and the search.
_WEIGHTS = {"standard": (2e-3, 1e-2), "robust": (2e-6, 1e-2)}

# Arguments of every config that trains single-class generators.
SEARCH = {
    "layer": "",
    "pixel_weight": -1.0,
    "feature_weight": -1.0,
    "inverter_epochs": 0.0,
    "inverter_batch": 0,
    "inverter_rate": 0.0,
    "inverter_schedule": "",
    "search_steps": 100,
    "restarts": 1,
    "neighbors": 2,
    "pooling": "flat",
    "score_batch": 64,
    "pictures": 16,
}


def weights(args, name: str) -> tuple[float, float]:
    """Returns the weights of the pixel and the feature term for the "standard" or the "robust" encoder.

    Args:
      args: parsed arguments with pixel_weight and feature_weight; below 0: the paper's.
      name: of the encoder.
    """
    given = (args.pixel_weight, args.feature_weight)
    return tuple(paper if value < 0 else value for value, paper in zip(given, _WEIGHTS[name], strict=True))


def single_class_inverter(args, checkpoint: str, *, classes: str, weights: tuple[float, float], title: str):
    """Returns the task that trains a generator on normal images alone, without augmentation.

    Args:
      args: parsed arguments.
      checkpoint: workdir of the encoder, or "stage:NAME".
      classes: the labels that are normal; empty for all images of the data set.
      weights: of the pixel and the feature term.
      title: shown beside progress.
    """
    normal = ConfigDict({**args.to_dict(), "classes": classes, "extra": ""})
    config = inverter.inverter_stage(normal, checkpoint, title=title, loss="feature")
    config.loss.pixel, config.loss.feature = weights
    return config


def _scoring(args, weights: tuple[float, float]) -> dict:
    pixel_weight, feature_weight = weights
    return {
        "search": {
            "num_steps": 2 if args.smoke else args.search_steps,
            "learning_rate": 0.1,
            "end_learning_rate": 0.001,
            "end_inclusive": True,
            "momentum": 0.9,
            "num_restarts": args.restarts,
            "pixel_weight": pixel_weight,
            "feature_weight": feature_weight,
        },
        "knn": {"k": args.neighbors, "normalize": True, "pooling": args.pooling, "block_size": 1024},
    }


def evaluation(args, inverters: dict[int, str], *, weights: tuple[float, float], title: str) -> ConfigDict:
    """Returns the task that evaluates one encoder one-vs-all.

    Args:
      args: parsed arguments, with num_anomalous.
      inverters: label of the normal class -> workdir of its inverter, or "stage:NAME".
      weights: of the pixel and the feature term of the score.
      title: shown beside progress.
    """
    config = defaults.common(seed=args.seed, title=title, dtype=args.dtype)
    config.task = "anomaly"
    config.data = defaults.dataset_of(ConfigDict({**args.to_dict(), "classes": "", "extra": ""}))
    config.classes, config.num_anomalous = tuple(inverters), args.num_anomalous
    config.num_normal = 0  # test images of the normal class; 0: all
    config.inverters = {f"class{label}": workdir for label, workdir in inverters.items()}
    config.update(_scoring(args, weights))
    config.attack = defaults.attack(
        args.attack_eps, norm=args.attack_norm, num_steps=args.score_attack_steps, random_start=True
    )
    config = _finish(config, args)
    if args.smoke:  # some of each kind, wherever they are in the test set
        config.data.num_test, config.num_normal = 0, 2
        config.num_anomalous = args.num_anomalous or 6
    return config


def report(entries: dict[str, str], *, title: str, text: str) -> ConfigDict:
    """Returns the task that puts one-vs-all evaluations side by side.

    Args:
      entries: name -> workdir of an evaluation, or "stage:NAME".
      title: heading of the page.
      text: a paragraph below it.
    """
    config = tasks.report(entries, title=title, text=text)
    config.task, config.num_classes_shown = "anomaly_report", 4
    return config


def detector(args, inverter_workdir: str, *, weights: tuple[float, float], title: str = "detector") -> ConfigDict:
    """Returns the task that makes a detector of an inverter.

    Args:
      args: parsed arguments, with anomalous, score, policy and quantile.
      inverter_workdir: the inverter's, or "stage:NAME".
      weights: of the pixel and the feature term of the score.
      title: shown beside progress.
    """
    config = defaults.common(seed=args.seed, title=title, dtype=args.dtype)
    config.task = "detector"
    config.inverter = inverter_workdir
    config.data = defaults.dataset_of(ConfigDict({**args.to_dict(), "extra": ""}))
    config.anomalous = args.anomalous
    config.update(_scoring(args, weights))
    config.decision = {"score": args.score, "policy": args.policy, "quantile": args.quantile}
    return _finish(config, args)


def score(args, *, title: str = "score") -> ConfigDict:
    """Returns the task that scores a user's own pictures.

    Args:
      args: parsed arguments of configs/score.py.
      title: shown beside progress.
    """
    config = defaults.common(seed=0, title=title, dtype=args.dtype)  # the detector's seed decides
    config.task = "score"
    config.detector, config.images, config.on_bad_image = args.detector, args.images, args.on_bad_image
    config.data = {"name": args.images}
    config.decision = {"score": args.score, "policy": args.policy, "quantile": args.quantile}
    config.batch_size = args.score_batch
    config.log.num_pictures = args.pictures
    return config


def _finish(config: ConfigDict, args) -> ConfigDict:
    config.batch_size = args.score_batch
    config.log.num_pictures = args.pictures
    return tasks.shorten(config) if args.smoke else config
