"""Detectors: an inverter of one class with thresholds from held-out normal images, and features to compare with.

The task writes detector.json (inverter, settings and, for each score, the normal scores and thresholds),
references.npz (features of the normal training images), scores.npz and overview.png.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics, paths
from arinv.apps.anomaly import Calibration
from arinv.apps.anomaly.heat_map_figures import draw_overview, extremes, map_scales
from arinv.apps.anomaly.scorer import (
    RECONSTRUCTION,
    SCORES,
    Batching,
    Explanation,
    Scorer,
    add_references,
    check_scorer,
    compute_scores,
    explain,
    make_scorer,
    with_references,
)
from arinv.data.image_files import list_images
from arinv.errors import UserError, unknown
from arinv.experiment import loading, workdirs
from arinv.experiment.fields import check_fields
from arinv.experiment.output_files import read_arrays, write_arrays, write_json, write_png
from arinv.experiment.run import Run, open_dataset
from arinv.experiment.trained import INVERTER, Trained
from arinv.experiment.writer import progress_bar, progress_callback

FILE = "detector.json"
_REFERENCES = "references.npz"
_NUM_SCALED = 64  # normal images whose heat maps give the scales, whatever the size of a batch
_FIELDS = (
    "inverter_workdir",
    "weights",
    "image_size",
    "resize",
    "data",
    "seed",
    "search",
    "knn",
    "decision",
    "calibrations",
    "map_scales",
)


class Detector(NamedTuple):
    """A detector that was loaded.

    Attributes:
      scorer: its compiled functions.
      variables: variables of the scorer, with references, placed on the devices.
      calibrations: name of a score -> its normal scores and thresholds.
      description: the content of detector.json.
    """

    scorer: Scorer
    variables: dict[str, Any]
    calibrations: dict[str, Calibration]
    description: dict[str, Any]


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    check_fields(config)
    check_scorer(config)
    if not config.inverter:
        raise UserError("inverter is empty; name the workdir of an inverter's training")
    if config.data.train_split == config.data.test_split:
        raise UserError(
            f"data.train_split and data.test_split are both {config.data.test_split!r}; thresholds need normal images "
            "that the detector was not trained on"
        )
    if config.anomalous:
        folder = paths.canonical(config.anomalous, name="anomalous")
        if not folder.is_dir():
            raise UserError(
                f"anomalous={config.anomalous} is not a folder; name one of anomalous images, or leave it empty"
            )
        list_images(folder)  # raises where it holds none
    check_decision(config.decision)
    if config.decision.policy == "best_f1" and not config.anomalous:
        raise UserError("policy=best_f1 needs anomalous validation images: name a folder of them with anomalous=")


def check_decision(decision: ConfigDict) -> None:
    """Checks the score and the threshold that a detector decides by.

    Raises:
      UserError: an unknown score or policy, or a quantile out of range.
    """
    if decision.score not in SCORES:
        raise unknown("score", decision.score, SCORES)
    Calibration((0.0,), (0.0, 1.0)).threshold(policy=decision.policy, quantile=decision.quantile)


def check_inputs(run: Run) -> None:
    """Checks that the inverter exists or is a stage, and that the held-out images are no training images.

    Raises:
      UserError: no inverter, an image that is among them, or images that cannot be read, also anomalous ones.
    """
    train, held_out = run.open_data("train"), run.open_data("test")
    if data.share_images(train.info, held_out.info):
        raise UserError(
            f"data.train_split={train.info.split!r} and data.test_split={held_out.info.split!r} have images in common; "
            "thresholds need normal images that the detector was not trained on"
        )
    if run.config.anomalous:
        _open_anomalous(run.config)
    run.check_network(run.config.inverter, kind=INVERTER, image_size=run.config.data.image_size)


def run(run: Run) -> dict[str, Any]:
    """Measures the detector on held-out images, saves it, and returns the results.

    Args:
      run: a run of configs/detector.py; config.inverter names the inverter's workdir.

    Raises:
      UserError: no usable checkpoint there, or no images.
    """
    config, workdir = run.config, run.workdir
    batching = Batching(run.mesh, config.batch_size)
    inverter = run.load(config.inverter, kind=INVERTER, image_size=config.data.image_size)
    scorer, variables = make_scorer(inverter, config)
    train, (images, anomalous) = run.open_data("train"), _read_validation(run)
    references = data.load_arrays(train, progress=progress_callback("reading normal images"))["image"]
    run.begin()
    variables = add_references(scorer, variables, references, batching, capacity=len(references))
    cache = run.cache("", inverter.fingerprint, str(len(images)), images, anomalous, references).rows("scores")
    with progress_bar(None, config.title, total=len(images), unit="image") as bar:
        scores = compute_scores(
            run.key,
            scorer,
            variables,
            images.__getitem__,
            len(images),
            batching,
            cache=cache,
            keep=True,
            progress=bar.update,
        )
    reconstructions = scores.pop(RECONSTRUCTION, None)
    calibrations = {name: Calibration.measure(values, anomalous) for name, values in scores.items()}

    def explain_rows(rows: np.ndarray) -> Explanation:
        shown = None if reconstructions is None else reconstructions[rows]
        return explain(run.key, scorer, variables, images[rows], batching, reconstructions_u8=shown)

    scales = _write_overview(run, explain_rows, scores[config.decision.score], anomalous)
    write_arrays(workdir / _REFERENCES, {"references": np.asarray(variables["references"])})
    write_json(workdir / FILE, _describe(run, inverter, calibrations, scales))
    return run.finish(_results(config, scores, anomalous, calibrations, len(references)))


def _open_anomalous(config: ConfigDict) -> data.Source:
    return open_dataset(config, f"folder:{config.anomalous}", "all")


def _read_validation(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Returns the held-out normal images followed by the anomalous ones, if any, and bool [N] for the latter."""
    config = run.config
    held_out = data.load_arrays(run.open_data("test"))["image"]
    anomalous = held_out[:0]
    if config.anomalous:
        anomalous = data.load_arrays(_open_anomalous(config))["image"]
    return np.concatenate([held_out, anomalous]), np.arange(len(held_out) + len(anomalous)) >= len(held_out)


def _write_overview(
    run: Run, explain_rows: Callable[[np.ndarray], Explanation], scores: np.ndarray, anomalous: np.ndarray
) -> tuple[float, float]:
    """Writes the overview of the validation images; returns the scales of the normal ones' heat maps."""
    rows = extremes(scores, run.config.log.num_images)
    scales = map_scales(explain_rows(np.flatnonzero(~anomalous)[:_NUM_SCALED]))
    texts = [f"{'anomalous' if anomalous[i] else 'normal'}\n{scores[i]:.4g}" for i in rows]
    write_png(run.workdir / "overview.png", draw_overview(explain_rows(rows), texts, scales=scales))
    return scales


def _describe(
    run: Run, inverter: Trained, calibrations: dict[str, Calibration], scales: tuple[float, float]
) -> dict[str, Any]:
    config = run.config
    return {
        "inverter_workdir": workdirs.relative(run.resolve(config.inverter), run.workdir),
        "weights": inverter.fingerprint,
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "data": config.data.name,
        "seed": config.seed,
        "search": config.search.to_dict(),
        "knn": config.knn.to_dict(),
        "decision": config.decision.to_dict(),
        "calibrations": {name: calibration.to_json() for name, calibration in calibrations.items()},
        "map_scales": list(scales),
        "encoder": dict(inverter.encoder.description),
    }


def _results(config, scores, anomalous, calibrations, num_references: int) -> dict[str, Any]:
    quantile = config.decision.quantile
    results = {
        "num_train": num_references,
        "num_normal": int(np.sum(~anomalous)),
        "num_anomalous": int(np.sum(anomalous)),
        "decision": config.decision.to_dict(),
        "quantile_thresholds": {name: c.threshold(quantile=quantile) for name, c in calibrations.items()},
        "variants": {**SCORES, "auroc": metrics.AUROC_VARIANT},
    }
    if anomalous.any():
        results["auroc"] = {name: metrics.auroc(values, anomalous) for name, values in scores.items()}
        results["best_f1"] = {name: c.to_json()["best_f1"] for name, c in calibrations.items()}
    return results


def load(workdir: pathlib.Path, mesh: jax.sharding.Mesh, *, dtype: Any) -> Detector:
    """Returns a saved detector.

    Args:
      workdir: directory of the detector, see `find`.
      mesh: the devices that the weights are placed on.
      dtype: dtype of the computation.

    Raises:
      UserError: a damaged file, or an inverter of other weights than the detector's.
    """
    description = workdirs.read_json(workdir / FILE, needed=_FIELDS)
    place = workdirs.follow(description["inverter_workdir"], workdir, what="inverter")
    inverter = loading.load(place, dtype=dtype, kind=INVERTER)
    if inverter.fingerprint != description["weights"]:
        raise UserError(
            f"the inverter of {workdir} has other weights than when its thresholds were measured; run "
            "configs/detector.py again in another directory"
        )
    settings = ConfigDict({name: description[name] for name in ("search", "knn")})
    scorer, variables = make_scorer(inverter, settings)
    rows = read_arrays(workdir / _REFERENCES)["references"]
    variables = with_references(scorer, variables, rows, mesh, capacity=len(rows))
    calibrations = {name: Calibration.from_json(value) for name, value in description["calibrations"].items()}
    return Detector(scorer, variables, calibrations, description)


def find(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the directory of a detector: a workdir of this task, or the stage `detector` of an experiment.

    Raises:
      UserError: no detector in either.
    """
    for place in (workdir, workdir / "detector"):
        if (place / FILE).exists():
            return place
    raise UserError(f"no detector in {workdir}: expected the workdir of a finished configs/detector.py")
