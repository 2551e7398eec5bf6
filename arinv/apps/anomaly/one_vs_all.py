"""One-vs-all anomaly detection with one encoder: AUROC of each class as the normal one, searched, nearest and attacked.

For each class the generator that was trained on it alone scores the test images of all classes, or all of its own and
some of each other class. Leaves results.json, scores_LABEL.npz (every score of every image), images_LABEL.npz (which
test images those are) and class_LABEL.png (the most and the least anomalous ones). What is done is kept: killed at any
moment and started again, the task goes on.

Source: Rojas-Gomez et al. 2022, sections 3.3, 4.4 and A2.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.anomaly import overview, scoring
from arinv.data.source import Subset
from arinv.errors import UserError
from arinv.experiment.cache import ResultCache, cache_key, fingerprint
from arinv.experiment.run import Run, attack_options, check_fields, open_source
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_bar, progress_callback, write_arrays, write_png


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    check_fields(config)
    attack_options(config.attack)
    scoring.check(config)
    if not config.classes:
        raise UserError("classes is empty; name the labels of the classes that take their turn as the normal one")
    for name in ("normal", "anomalous"):
        if config[f"num_{name}"] < 0:
            raise UserError(f"num_{name}={config[f'num_{name}']} must be 0 (all {name} test images) or more")
    if missing := [label for label in config.classes if f"class{label}" not in config.inverters]:
        raise UserError(f"inverters has no workdir for the classes {missing}")


def check_inputs(run: Run) -> None:
    """Checks, before anything is trained, that the data has the images that the evaluation needs.

    Raises:
      UserError: a class without a test image or a training image, or with all test images, or inverters of another
        image size.
    """
    config = run.config
    for label in config.classes:
        run.check_planned_size(config.inverters[f"class{label}"])
    test = run.open_data("test")
    _check_classes(config, test.info, test.read_labels())
    _Train(config)


class _Test(NamedTuple):
    """The test images of all classes that are scored by one of the detectors.

    Attributes:
      images: uint8 [n, S, S, 3].
      places: integer [n], ascending, where they are among all N test images.
      labels: integer [N], of all test images.
      names: of the classes.
    """

    images: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def images_at(self, places: np.ndarray) -> np.ndarray:
        """Returns some of them, by their places among all test images."""
        return self.images[np.searchsorted(self.places, places)]


def run(run: Run) -> dict[str, Any]:
    """Scores the test images by the detector of every class and returns the AUROC of each.

    Args:
      run: of configs/anomaly.py; config.inverters names the workdir of each class's inverter.

    Raises:
      UserError: no usable checkpoint there, inverters of different encoders, or data without a class.
    """
    config, workdir = run.config, run.workdir
    attack = _attack(attack_options(config.attack))
    how = scoring.Setting(run.key, run.mesh, config.batch_size, attack)
    first = _load(run, config.classes[0])
    test, chosen = _read_test(config)
    train = _Train(config)
    run.begin()
    bar = progress_bar(None, config.title, total=sum(map(len, chosen.values())), unit="image")
    encoder_weights, classes = fingerprint(first.encoder.variables), {}
    for label in config.classes:
        trained = first if label == config.classes[0] else _load(run, label)
        if fingerprint(trained.encoder.variables) != encoder_weights:
            raise UserError(f"the inverters of classes {config.classes[0]} and {label} are of different encoders")
        places = chosen[label]
        scored = _Test(test.images_at(places), places, test.labels[places], test.names)
        write_arrays(workdir / f"images_{label}.npz", {"index": places, "label": scored.labels})
        arrays = _score_class(config, label, trained, train, scored, how, workdir, bar)
        anomalous = scored.labels != label
        classes[test.names[label]] = {name: metrics.auroc(values, anomalous) for name, values in arrays.items()}
    bar.close()
    results = _results(config, first, test, attack, classes)
    return run.finish(results)


def choose_images(labels: np.ndarray, normal: int, num_anomalous: int, num_normal: int = 0) -> np.ndarray:
    """Returns the places of the test images that one class's detector scores, ascending.

    AUROC does not depend on the share of anomalous images, and its variance is about a / normal + b / anomalous: of
    nine anomalous images for each normal one, as in CIFAR-10, eight add less to its precision than the first.

    Args:
      labels: integer [N], of all test images.
      normal: label of the normal class.
      num_anomalous: how many of the others, evenly from each class; 0, or more than there are: all.
      num_normal: how many of the normal class, the first ones; 0, or more than there are: all.

    Returns:
      integer [n].
    """
    anomalous = np.flatnonzero(labels != normal)
    if 0 < num_anomalous < len(anomalous):
        by_class = anomalous[np.argsort(labels[anomalous], kind="stable")]
        anomalous = by_class[np.arange(num_anomalous) * len(by_class) // num_anomalous]
    return np.sort(np.concatenate([np.flatnonzero(labels == normal)[: num_normal or None], anomalous]))


def _attack(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options with the length of a step; nothing where there is no attack."""
    if not options["eps"]:
        return {}
    return {**options, "step_size": options["step_size"] or 2.5 * options["eps"] / options["num_steps"]}


def _load(run: Run, label: int) -> Trained:
    config = run.config
    return run.load(config.inverters[f"class{label}"], kind="inverter", image_size=config.data.image_size)


def _read_test(config: ConfigDict) -> tuple[_Test, dict[int, np.ndarray]]:
    """Returns the test images that are scored, and for each class the places of those that its detector scores."""
    source = open_source(config, "test")
    labels = source.read_labels()
    _check_classes(config, source.info, labels)
    chosen = {label: choose_images(labels, label, config.num_anomalous, config.num_normal) for label in config.classes}
    places = np.unique(np.concatenate(list(chosen.values())))
    progress = progress_callback(f"reading {source.info.name}")
    images = data.load_arrays(Subset(source, places), progress=progress)["image"]
    return _Test(images, places, labels, source.info.class_names), chosen


def _check_classes(config: ConfigDict, info: data.SourceInfo, labels: np.ndarray) -> None:
    """Checks that every class that takes its turn has normal and anomalous test images.

    Raises:
      UserError: one has not.
    """
    for label in config.classes:
        if not 0 <= label < info.num_classes:
            raise UserError(f"classes: label {label} is not in {info.name}; it has 0 to {info.num_classes - 1}")
        count = int(np.sum(labels == label))
        if count in (0, len(labels)):
            raise UserError(
                f"{count} of the {len(labels)} test images of {info.name} are of class {label}; "
                "AUROC needs normal and anomalous ones: raise data.num_test"
            )


class _Train:
    """The training images by class: those that the class's inverter was trained on."""

    def __init__(self, config: ConfigDict):
        if config.data.num_train:  # which images are taken of how many depends on the kind of data set
            self._sources = {label: _open_class(config, label) for label in config.classes}
        else:
            everything = open_source(config, "train")
            labels = everything.read_labels()
            if missing := [label for label in config.classes if not (labels == label).any()]:
                raise UserError(f"{config.data.name} has no training image of the classes {missing}")
            self._sources = {label: Subset(everything, np.flatnonzero(labels == label)) for label in config.classes}
        self.largest = max(map(len, self._sources.values()))

    def images(self, label: int) -> np.ndarray:
        """Returns those of one class, uint8 [N, S, S, 3]."""
        return data.load_arrays(self._sources[label])["image"]


def _open_class(config: ConfigDict, label: int) -> data.Source:
    return open_source(ConfigDict({"data": {**config.data.to_dict(), "classes": (label,)}}), "train")


def _score_class(config, label, trained, train, test, how, workdir, bar) -> dict[str, np.ndarray]:
    """Returns the scores [N] of the test images with one class as the normal one, and leaves a picture of them."""
    weights = f"{fingerprint(trained.encoder.variables)} {fingerprint(trained.variables)}"
    references = train.images(label)
    contents = [str(zlib.crc32(array)) for array in (test.images, references)]
    store = ResultCache(workdir, cache_key(weights, str(len(test.labels)), *contents)).rows(f"scores_{label}")
    picture = workdir / f"class_{label}.png"
    if store.count == len(test.labels) and picture.exists():
        bar.update(store.count)
        return store.arrays()
    scored, variables = scoring.make_scorer(trained, config)
    variables = scoring.add_references(scored, variables, references, how, capacity=train.largest)
    arrays = scoring.score_images(
        scored,
        variables,
        lambda rows: test.images[rows.start : rows.stop],
        len(test.labels),
        how,
        store=store,
        anomalous=test.labels != label,
        show=bar.update,
    )
    shown = overview.extremes(arrays["total"], config.log.num_pictures)
    explanation = scoring.explain(scored, variables, test.images[shown], how)
    texts = [f"{test.names[test.labels[i]]}\n{arrays['total'][i]:.4g}" for i in shown]
    scales = overview.map_scales(explanation)
    shown = overview.overview(explanation, texts, scales=scales)
    write_png(picture, overview.titled(shown, f"normal: {test.names[label]}"))
    return arrays


def _results(config, first: Trained, test: _Test, attack: dict, classes: dict) -> dict[str, Any]:
    """Returns the AUROC of each class, their means, and what a reader has to know of them."""
    scores = list(next(iter(classes.values())))
    variants = {**scoring.SCORES, **scoring.ATTACKED_SCORES}
    encoder = first.encoder.description
    return {
        "classes": classes,
        "mean": {name: float(np.mean([aurocs[name] for aurocs in classes.values()])) for name in scores},
        "attack": attack or None,
        "search": config.search.to_dict(),
        "knn": config.knn.to_dict(),
        "layer": first.description["layer"],
        "encoder": dict(encoder),
        "encoder_weights": fingerprint(first.encoder.variables),
        "encoder_knew": sorted(set(test.names) & set(encoder["class_names"])),
        "num_examples": len(test.labels),
        "num_normal": config.num_normal or None,
        "num_anomalous": config.num_anomalous or None,
        "variants": {"auroc": metrics.AUROC_VARIANT} | {name: variants[name] for name in scores},
    }
