"""One-vs-all anomaly detection with one encoder: AUROC of each class as the normal one, with and without attacks.

For each class the inverter that was trained on it alone scores the test images of all classes, or all of its own and
some of each other class; with config.gans ADGAN scores them too, by a GAN of the class. The task writes results.json,
scores_LABEL.npz (every score of every image; adgan_LABEL.npz of ADGAN), images_LABEL.npz (which test images those are)
and class_LABEL.png (the most and the least anomalous ones). It resumes after a kill at any moment.

Source: Rojas-Gomez et al. 2022, sections 3.3, 4.4 and A2.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tqdm
from ml_collections import ConfigDict

from arinv import attacks, data, distributed, metrics
from arinv.apps.anomaly import adgan_scores
from arinv.apps.anomaly.heat_map_figures import draw_overview, extremes, map_scales, titled
from arinv.apps.anomaly.scorer import (
    ATTACKED_SCORES,
    SCORES,
    Batching,
    add_references,
    check_scorer,
    compute_scores,
    explain,
    make_scorer,
)
from arinv.data.source import Subset, class_labels
from arinv.errors import UserError
from arinv.experiment import descriptions
from arinv.experiment.cache import ResultCache
from arinv.experiment.fields import attack_options, check_fields
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run, open_source
from arinv.experiment.trained import GAN, INVERTER, Trained
from arinv.experiment.writer import progress_bar, progress_callback


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    check_fields(config)
    attack_options(config.attack)
    check_scorer(config)
    if not config.classes:
        raise UserError("classes is empty; name the labels of the classes to take as the normal one in turn")
    for name in ("normal", "anomalous"):
        if config[f"num_{name}"] < 0:
            raise UserError(f"num_{name}={config[f'num_{name}']} must be 0 (all {name} test images) or more")
    if missing := [label for label in config.classes if f"class{label}" not in config.inverters]:
        raise UserError(f"inverters has no workdir for the classes {missing}")
    adgan_scores.check(config)


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that stages train the networks, and that the data has the images that are needed.

    Raises:
      UserError: a class without a test image or a training image, or with all test images, or stages that train other
        networks or for images of another size.
    """
    config = run.config
    for label in config.classes:
        run.check_planned(config.inverters[f"class{label}"], kind=INVERTER)
        if config.get("gans"):
            run.check_planned(config.gans[f"class{label}"], kind=GAN)
    test = run.open_data("test")
    _check_classes(config, test.info, test.read_labels())
    _TrainImages(run)


def run(run: Run) -> dict[str, Any]:
    """Scores the test images by the inverter of every class and returns the AUROC of each.

    Args:
      run: a run of configs/anomaly.py; config.inverters names the workdir of each class's inverter.

    Raises:
      UserError: no usable checkpoint there, inverters of different encoders, or data without a class.
    """
    config = run.config
    attack = attack_options(config.attack) if config.attack.eps else {}
    if attack and attack["step_size"] is None:  # the results name it
        attack["step_size"] = attacks.default_step_size(attack["eps"], num_steps=attack["num_steps"])
    first = _load(run, config.classes[0])
    test, selection = _read_test(run)
    train = _TrainImages(run)
    run.begin()
    run.warn_overlap(train.info, run.open_data("test").info)
    classes, seconds = {}, []
    with progress_bar(None, config.title, total=sum(map(len, selection.values())), unit="image") as bar:
        for label in config.classes:
            inverter = first if label == config.classes[0] else _load(run, label)
            if inverter.encoder.fingerprint != first.encoder.fingerprint:
                raise UserError(f"the inverters of classes {config.classes[0]} and {label} are of different encoders")
            subset = test.select(selection[label])
            write_arrays(
                run.workdir / f"images_{label}.npz", {"index": subset.indices, "label": subset.labels[subset.indices]}
            )
            scores = _score_class(run, label, inverter, train, subset, attack, bar)
            anomalous = subset.labels[subset.indices] != label
            if config.get("gans"):
                by_gan = adgan_scores.score(run, label, subset.images)
                scores = {**scores, "adgan": by_gan["adgan"]}
                seconds.append(by_gan["seconds"])
            classes[test.names[label]] = {name: metrics.auroc(values, anomalous) for name, values in scores.items()}
    results = _results(config, first, test, attack, classes)
    if seconds:
        results["adgan"] = {**config.adgan.to_dict(), "seconds_per_image": float(np.mean(np.concatenate(seconds)))}
    return run.finish(results)


class _TestImages(NamedTuple):
    """The test images that are scored.

    Attributes:
      images: uint8 [n, S, S, 3].
      indices: integer [n], ascending, of the images among all N test images.
      labels: integer [N], of all test images.
      names: names of the classes.
    """

    images: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def counts(self, config: ConfigDict) -> dict[str, int | None]:
        """Returns how many images of the normal class and of the others are scored at most; None for all of them."""
        sizes = np.array([np.sum(self.labels == label) for label in config.classes])
        available = {"num_normal": sizes.max(), "num_anomalous": (len(self.labels) - sizes).max()}
        return {name: config[name] if 0 < config[name] < most else None for name, most in available.items()}

    def select(self, indices: np.ndarray) -> "_TestImages":
        """Returns some of them, by their indices among all test images."""
        return self._replace(images=self.images[np.searchsorted(self.indices, indices)], indices=indices)


class _TrainImages:
    """The training images of each class: those that its inverter was trained on.

    Attributes:
      largest: number of images of the largest class.
      info: facts of the first class's images.
    """

    def __init__(self, run: Run):
        config = run.config
        if config.data.num_train:  # the selection depends on the kind of dataset
            self._sources = {label: _open_class(config, label) for label in config.classes}
        else:
            source = run.open_data("train")
            labels = source.read_labels()
            if missing := [label for label in config.classes if not (labels == label).any()]:
                raise UserError(f"{config.data.name} has no training image of the classes {missing}")
            self._sources = {label: Subset(source, np.flatnonzero(labels == label)) for label in config.classes}
        self.largest = max(map(len, self._sources.values()))
        self.info = next(iter(self._sources.values())).info

    def images(self, label: int) -> np.ndarray:
        """Returns the images of one class, uint8 [N, S, S, 3]."""
        return data.load_arrays(self._sources[label])["image"]


def _open_class(config: ConfigDict, label: int) -> data.Source:
    return open_source(ConfigDict({"data": {**config.data.to_dict(), "classes": (label,)}}), "train")


def _load(run: Run, label: int) -> Trained:
    config = run.config
    return run.load(config.inverters[f"class{label}"], kind=INVERTER, image_size=config.data.image_size)


def _read_test(run: Run) -> tuple[_TestImages, dict[int, np.ndarray]]:
    """Returns the test images that are scored, and for each class the indices of those that its inverter scores."""
    config, source = run.config, run.open_data("test")
    labels = source.read_labels()
    _check_classes(config, source.info, labels)
    selection = {
        label: select_images(labels, label, config.num_anomalous, config.num_normal) for label in config.classes
    }
    indices = np.unique(np.concatenate(list(selection.values())))
    progress = progress_callback(f"reading {source.info.name}")
    images = data.load_arrays(Subset(source, indices), progress=progress)["image"]
    return _TestImages(images, indices, labels, source.info.class_names), selection


def select_images(labels: np.ndarray, normal: int, num_anomalous: int, num_normal: int = 0) -> np.ndarray:
    """Returns the indices of the test images that one class's inverter scores, ascending.

    AUROC does not depend on the share of anomalous images, and its variance is about a / normal + b / anomalous. With
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


def _check_classes(config: ConfigDict, info: data.SourceInfo, labels: np.ndarray) -> None:
    """Checks that every class of the config has normal and anomalous test images.

    Raises:
      UserError: a class without normal or without anomalous test images.
    """
    if info.num_classes < 2:
        raise UserError(
            f"{info.name} has one class, and AUROC needs anomalous images of others; name a dataset of several, "
            "or train a detector (configs/detector.py)"
        )
    class_labels(config.classes, info)  # raises
    for label in config.classes:
        count = int(np.sum(labels == label))
        if count in (0, len(labels)):
            raise UserError(
                f"{count} of the {len(labels)} test images of {info.name} are of class {label}; "
                "AUROC needs normal and anomalous ones: raise data.num_test"
            )


def _score_class(
    run: Run,
    label: int,
    inverter: Trained,
    train: _TrainImages,
    test: _TestImages,
    attack: Mapping[str, Any],
    bar: tqdm.tqdm,
) -> dict[str, np.ndarray]:
    """Returns the scores [N] of the test images with one class as the normal one, and writes their overview."""
    references, labels = train.images(label), test.labels[test.indices]
    is_anomalous = labels != label
    key = (inverter.fingerprint, is_anomalous, test.images, references)  # attacks depend on it
    cache, pictures = run.cache("", *key).rows(f"scores_{label}"), run.cache("parts", *key)
    path = run.workdir / f"class_{label}.png"
    is_complete = cache.count == len(labels) and _is_drawn(run, path, cache.arrays()["total"], pictures)
    if distributed.broadcast(is_complete):  # so that all processes draw, or none does
        bar.update(cache.count)
        return cache.arrays()
    batching = Batching(run.mesh, run.config.batch_size)
    scorer, variables = make_scorer(inverter, run.config)
    variables = add_references(scorer, variables, references, batching, capacity=train.largest)
    scores = compute_scores(
        run.key,
        scorer,
        variables,
        test.images.__getitem__,
        len(labels),
        batching,
        cache=cache,
        attack=attack,
        anomalous=is_anomalous,
        progress=bar.update,
    )
    rows = extremes(scores["total"], run.config.log.num_images)
    explanation = explain(run.key, scorer, variables, test.images[rows], batching)
    pictures.remove(path.stem)  # first, so that what is saved never describes another picture
    texts = [f"{test.names[labels[i]]}\n{scores['total'][i]:.4g}" for i in rows]
    figure = draw_overview(explanation, texts, scales=map_scales(explanation))
    write_png(path, titled(figure, f"normal: {test.names[label]}"))
    pictures.save(path.stem, {"rows": rows})
    return scores


def _is_drawn(run: Run, path: pathlib.Path, scores: np.ndarray, pictures: ResultCache) -> bool:
    """Returns whether a picture shows what it is to show: not of an earlier inverter or of another log.num_images."""
    drawn = pictures.load(path.stem)
    rows = extremes(scores, run.config.log.num_images)
    return path.exists() and drawn is not None and np.array_equal(drawn["rows"], rows)


def _results(
    config: ConfigDict, inverter: Trained, test: _TestImages, attack: Mapping[str, Any], classes: Mapping[str, Mapping]
) -> dict[str, Any]:
    """Returns the AUROC of each class and their means, with everything that they depend on."""
    scores = list(next(iter(classes.values())))
    variants = {**SCORES, **ATTACKED_SCORES, "adgan": adgan_scores.VARIANT}
    encoder = inverter.encoder.description
    return {
        "classes": classes,
        "mean": {name: float(np.mean([aurocs[name] for aurocs in classes.values()])) for name in scores},
        "attack": attack or None,
        "search": config.search.to_dict(),
        "knn": config.knn.to_dict(),
        "layer": inverter.layer,
        "encoder": dict(encoder),
        "encoder_weights": inverter.encoder.fingerprint,
        "training_classes": descriptions.shared_classes(encoder, test.names),
        "num_images": len(test.indices),
        **test.counts(config),
        "variants": {"auroc": metrics.AUROC_VARIANT} | {name: variants[name] for name in scores},
    }
