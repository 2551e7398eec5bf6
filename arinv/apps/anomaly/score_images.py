"""Scores of user-supplied images by a detector: scores.csv, and an overview with the most anomalous images first.

The score of an image depends on its content only, whatever else is in the folder.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data
from arinv.apps.anomaly import detector
from arinv.apps.anomaly.heat_map_figures import draw_overview, extremes
from arinv.apps.anomaly.scorer import RECONSTRUCTION, SCORES, Batching, compute_scores, explain
from arinv.apps.anomaly.scores import QUANTILE
from arinv.errors import UserError
from arinv.experiment.fields import check_fields, check_images
from arinv.experiment.output_files import write_csv, write_png
from arinv.experiment.run import Run
from arinv.experiment.writer import progress_bar
from arinv.ops.inputs import check_count

_STATE = "state"  # part of the cache


def check(config: ConfigDict) -> None:
    """Checks everything that needs no images and no checkpoint.

    Raises:
      UserError: an empty field, an unknown name or a number out of range.
    """
    check_fields(config)
    check_images(config)
    if not config.detector:
        raise UserError("detector is empty; name the workdir of a detector")
    decision = {name: value for name, value in config.decision.items() if value}
    detector.check_decision(ConfigDict({"score": "total", "policy": QUANTILE, "quantile": 0.95} | decision))
    check_count(config.log.num_images, "log.num_images")  # the overview is always drawn


def run(run: Run) -> dict[str, Any]:
    """Scores the images of config.data.name, writes the table and the overview, and returns the results.

    Args:
      run: a run of configs/score.py; config.detector names the detector's workdir.

    Raises:
      UserError: no detector there, no image or one that cannot be read, a threshold that the detector does not have,
        or a workdir among the images.
    """
    config, workdir = run.config, run.workdir
    place = detector.find(run.resolve(config.detector))
    images = run.open_images()
    scorer, variables, calibrations, description = detector.load(place, run.mesh, dtype=run.dtype)
    key = jax.random.key(description["seed"])
    batching = Batching(run.mesh, config.batch_size).at_most(len(images))
    decision = _decision(config, description["decision"])
    calibration = calibrations[decision["score"]]
    threshold = calibration.threshold(policy=decision["policy"], quantile=decision["quantile"])

    def read(rows) -> np.ndarray:
        size, resize = description["image_size"], description["resize"]
        # As the images behind the thresholds were read: large JPEGs of a folder at a reduced size.
        scheme, _ = data.split_name(description["data"])
        min_side = data.decoded_side(size, resize) if scheme.reduces_large_images else None
        originals = (data.read_image(images.paths[i], min_side=min_side) for i in rows)
        return np.stack([data.resize_u8(image, size, resize) for image in originals])

    run.begin()
    cache = run.cache("", json.dumps(description, sort_keys=True), files=images.paths)
    saved = cache.rows(_STATE)
    with progress_bar(None, config.title, total=len(images), unit="image") as bar:
        scores = compute_scores(
            key, scorer, variables, read, len(images), batching, cache=saved, keep=True, progress=bar.update
        )
    reconstructions = scores.pop(RECONSTRUCTION, None)
    decisive = scores[decision["score"]].astype(np.float64)
    calibrated = calibration.calibrated(decisive)
    decisions = np.where(decisive > threshold, "anomalous", "normal")
    write_csv(workdir / "scores.csv", _table(images.names, scores, calibrated, decisions))
    rows = extremes(decisive, config.log.num_images)
    texts = [f"{images.names[i]}\n{decisive[i]:.4g} ({calibrated[i]:.0%})\n{decisions[i]}" for i in rows]
    shown = None if reconstructions is None else reconstructions[rows]
    explanation = explain(key, scorer, variables, read(rows), batching, reconstructions_u8=shown)
    figure = draw_overview(explanation, texts, scales=tuple(description["map_scales"]))
    write_png(workdir / "overview.png", figure)
    results = {
        "num_images": len(images),
        "num_anomalous": int(np.sum(decisions == "anomalous")),
        "skipped": list(images.bad_names),
        "decision": {**decision, "threshold": threshold},
        "detector": {name: description[name] for name in ("data", "weights", "search", "knn")},
        "setting": run.provenance | {"seed": description["seed"]},
        "variants": {
            **SCORES,
            "calibrated": f"share of held-out normal images with a lower {decision['score']} score, ties by half",
        },
    }
    results = run.finish(results)
    cache.remove(_STATE)
    return results


def _decision(config: ConfigDict, own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides: the fields of config.decision that are set, and else those of the detector.

    Raises:
      UserError: a quantile for a policy that has none.
    """
    decision = {**own, **{name: value for name, value in config.decision.items() if value}}
    if config.decision.quantile and decision["policy"] != QUANTILE:
        owner = "" if config.decision.policy else " of the detector"
        raise UserError(
            f"decision.quantile={config.decision.quantile:g} has no effect with the policy "
            f"{decision['policy']}{owner}; set decision.policy={QUANTILE}"
        )
    return decision


def _table(names, scores, calibrated, decisions) -> list[list[str]]:
    """Returns the heading and a row of each image, in the order of the files."""
    rows = [["file", *SCORES, "calibrated", "decision"]]
    for i, name in enumerate(names):
        numbers = [f"{scores[score][i]:.7g}" for score in SCORES]
        rows.append([name, *numbers, f"{calibrated[i]:.6g}", decisions[i]])
    return rows
