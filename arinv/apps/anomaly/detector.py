"""Makes a detector of a single-class inverter: thresholds by held-out normal images, features to compare with.

Leaves detector.json (what the detector consists of, and for each kind of score the normal scores with the thresholds
that follow from them), references.npz (features of the normal training images), scores.npz and overview.png.
"""

import pathlib
import zlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics, paths
from arinv.apps.anomaly import Calibration, overview, scoring
from arinv.errors import UserError, unknown
from arinv.experiment import trained as networks
from arinv.experiment import workdirs
from arinv.experiment.cache import fingerprint
from arinv.experiment.run import Run, check_fields, open_source, report_left_out
from arinv.experiment.writer import progress_bar, progress_callback, read_arrays, write_arrays, write_json, write_png

FILE = "detector.json"
_REFERENCES = "references.npz"


class Detector(NamedTuple):
    """A detector as it was saved.

    Attributes:
      scored: its compiled functions.
      variables: of its networks, with references, placed on the devices.
      calibrations: name of a score -> its normal scores and thresholds.
      description: the content of detector.json.
    """

    scored: scoring.Scorer
    variables: dict[str, Any]
    calibrations: dict[str, Calibration]
    description: dict[str, Any]


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    check_fields(config)
    scoring.check(config)
    if not config.inverter:
        raise UserError("inverter is empty; name the workdir of an inverter's training")
    if config.data.train_split == config.data.test_split:
        raise UserError(
            f"data.train_split and data.test_split are both {config.data.test_split!r}; thresholds need normal images "
            "that the detector was not trained on"
        )
    if config.anomalous and not paths.canonical(config.anomalous, name="anomalous").is_dir():
        raise UserError(f"anomalous={config.anomalous} is no folder; name one of anomalous images, or leave it empty")
    check_decision(config.decision)
    if config.decision.policy == "best_f1" and not config.anomalous:
        raise UserError("policy=best_f1 needs anomalous validation images: name a folder of them with anomalous=")


def check_decision(decision: ConfigDict) -> None:
    """Checks by which score and which threshold a detector decides.

    Raises:
      UserError: an unknown score, or a quantile out of range.
    """
    if decision.score not in scoring.SCORES:
        raise unknown("score", decision.score, scoring.SCORES)
    Calibration((0.0,), (0.0, 1.0)).threshold(policy=decision.policy, quantile=decision.quantile)


def run(run: Run) -> dict[str, Any]:
    """Measures the detector on held-out images, saves it, and returns the results.

    Args:
      run: of configs/detector.py; config.inverter names the inverter's workdir.

    Raises:
      UserError: no usable checkpoint there, or no images.
    """
    config, workdir = run.config, run.workdir
    how = scoring.Setting(run.key, run.mesh, config.batch_size)
    source = run.resolve(config.inverter)
    trained = run.load(config.inverter, kind="inverter", image_size=config.data.image_size)
    scored, variables = scoring.make_scorer(trained, config)
    train, (images, anomalous) = run.open_data("train"), _read_validation(config)
    references = data.load_arrays(train, progress=progress_callback("reading normal images"))["image"]
    run.begin()
    variables = scoring.add_references(scored, variables, references, how, capacity=len(references))
    weights = [fingerprint(trained.encoder.variables), fingerprint(trained.variables)]
    contents = [str(zlib.crc32(array)) for array in (images, anomalous, references)]
    store = run.cache("", *weights, str(len(images)), *contents).rows("scores")
    with progress_bar(None, config.title, total=len(images), unit="image") as bar:
        scores = scoring.score_images(
            scored,
            variables,
            lambda rows: images[rows.start : rows.stop],
            len(images),
            how,
            store=store,
            keep=True,
            show=bar.update,
        )
    made = scores.pop(scoring.RECONSTRUCTION, None)
    calibrations = {name: Calibration.measure(values, anomalous) for name, values in scores.items()}
    scales = _explain(config, workdir, scored, variables, images, made, anomalous, scores, how)
    write_arrays(workdir / _REFERENCES, {"references": np.asarray(variables["references"])})
    description = _describe(config, workdir, source, trained, weights, calibrations, scales)
    write_json(workdir / FILE, description)
    results = _results(config, scores, anomalous, calibrations, len(references))
    return run.finish(results)


def _read_validation(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Returns held-out normal images, then the anomalous ones where such are given, and which are."""
    held_out = data.load_arrays(open_source(config, "test"))["image"]
    anomalous = held_out[:0]
    if config.anomalous:
        fields = config.data
        source = data.open_source(
            f"folder:{config.anomalous}",
            split="all",
            image_size=fields.image_size,
            resize=fields.resize,
            on_bad_image=fields.on_bad_image,
        )
        report_left_out(f"folder:{config.anomalous}", source.num_skipped, source.info.left_out)
        anomalous = data.load_arrays(source)["image"]
    return np.concatenate([held_out, anomalous]), np.arange(len(held_out) + len(anomalous)) >= len(held_out)


def _explain(config, workdir, scored, variables, images, made, anomalous, scores, how) -> tuple[float, float]:
    """Leaves a picture of the validation images; returns the usual values of the normal ones' heat maps."""

    def explain(rows):
        given = None if made is None else made[rows]
        return scoring.explain(scored, variables, images[rows], how, reconstructions_u8=given)

    decisive = scores[config.decision.score]
    shown = overview.extremes(decisive, config.log.num_pictures)
    scales = overview.map_scales(explain(np.flatnonzero(~anomalous)[: how.batch_size]))
    texts = [f"{'anomalous' if anomalous[i] else 'normal'}\n{decisive[i]:.4g}" for i in shown]
    write_png(workdir / "overview.png", overview.overview(explain(shown), texts, scales=scales))
    return scales


def _describe(config, workdir, source, trained, weights, calibrations, scales) -> dict[str, Any]:
    return {
        "inverter_workdir": workdirs.relative(source, workdir),
        "weights": weights,
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "data": config.data.name,
        "seed": config.seed,
        "search": config.search.to_dict(),
        "knn": config.knn.to_dict(),
        "decision": config.decision.to_dict(),
        "calibrations": {name: calibration.to_json() for name, calibration in calibrations.items()},
        "map_scales": list(scales),
        "encoder": dict(trained.encoder.description),
    }


def _results(config, scores, anomalous, calibrations, num_references: int) -> dict[str, Any]:
    quantile = config.decision.quantile
    results = {
        "num_train": num_references,
        "num_normal": int(np.sum(~anomalous)),
        "num_anomalous": int(np.sum(anomalous)),
        "decision": config.decision.to_dict(),
        "quantile_thresholds": {name: c.threshold(quantile=quantile) for name, c in calibrations.items()},
        "variants": {**scoring.SCORES, "auroc": metrics.AUROC_VARIANT},
    }
    if anomalous.any():
        results["auroc"] = {name: metrics.auroc(values, anomalous) for name, values in scores.items()}
        results["best_f1"] = {name: c.to_json()["best_f1"] for name, c in calibrations.items()}
    return results


def load(place: pathlib.Path, how: scoring.Setting, *, dtype: Any) -> Detector:
    """Returns a detector.

    Args:
      place: its directory, see `find`.
      how: whose mesh the weights go to.
      dtype: of the computation.

    Raises:
      UserError: the inverter is not the one that it was made of.
    """
    description = workdirs.read_json(place / FILE)
    trained = networks.load(
        workdirs.follow(description["inverter_workdir"], place, what="inverter"), dtype=dtype, kind="inverter"
    )
    if [fingerprint(trained.encoder.variables), fingerprint(trained.variables)] != description["weights"]:
        raise UserError(
            f"the inverter of {place} was trained on since its thresholds were taken; make the detector anew"
        )
    settings = ConfigDict({name: description[name] for name in ("search", "knn")})
    scored, variables = scoring.make_scorer(trained, settings)
    rows = read_arrays(place / _REFERENCES)["references"]
    variables = scoring.with_references(scored, variables, rows, how, capacity=len(rows))
    calibrations = {name: Calibration.from_json(value) for name, value in description["calibrations"].items()}
    return Detector(scored, variables, calibrations, description)


def find(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the directory of the detector: a workdir of this task, or the folder `detector` of one of the stages.

    Raises:
      UserError: it holds none.
    """
    for place in (workdir, workdir / "detector"):
        if (place / FILE).exists():
            return place
    raise UserError(f"no detector in {workdir}: expected the workdir of a finished configs/detector.py")
