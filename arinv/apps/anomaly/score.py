"""Scores a user's own pictures by a detector: scores.csv, and an overview with the most anomalous first.

A picture's score follows from its content, whatever else is in the folder. Pictures that cannot be read are told, one
line each, and left out.
"""

import csv
import io
import sys
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data
from arinv.apps.anomaly import detector, overview, scoring
from arinv.errors import UserError
from arinv.experiment import workdirs
from arinv.experiment.run import Run, check_fields, open_image_files, provenance
from arinv.experiment.writer import progress_bar, write_png, write_text

ONE_PROCESS = True


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading pictures or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    check_fields(config)
    for name, what in (("detector", "the workdir of a detector"), ("images", "an image or a folder of images")):
        if not config[name]:
            raise UserError(f"{name} is empty; name {what}")
    given = {name: value for name, value in config.decision.items() if value}
    detector.check_decision(ConfigDict({"score": "total", "policy": "quantile", "quantile": 0.95} | given))
    scoring.check_pictures(config)


def run(run: Run) -> dict[str, Any]:
    """Scores config.images, writes table and picture into `workdir`, and returns the results.

    Args:
      run: of configs/score.py; config.detector names the detector's workdir.

    Raises:
      UserError: no detector there, no picture, a threshold that the detector does not have, or a workdir among the
        pictures.
    """
    config, workdir = run.config, run.workdir
    workdirs.check_apart(config, workdir)
    how = scoring.Setting(jax.random.key(0), run.mesh, config.batch_size)
    place = detector.find(run.resolve(config.detector))
    pictures = _open(config)
    loaded = detector.load(place, how, dtype=run.dtype)
    description = loaded.description
    how = how._replace(key=jax.random.key(description["seed"])).for_few(len(pictures))
    decision = description["decision"] | {name: value for name, value in config.decision.items() if value}
    calibration = loaded.calibrations[decision["score"]]
    threshold = calibration.threshold(policy=decision["policy"], quantile=decision["quantile"])

    def read(rows) -> np.ndarray:
        size, resize = description["image_size"], description["resize"]
        # As the images of the thresholds were read: of a folder, large JPEGs in a reduced size.
        scheme, _ = data.split_name(description["data"])
        min_side = data.decoded_side(size, resize) if scheme.reduces_large_images else None
        found = (data.read_image(pictures.paths[i], min_side=min_side) for i in rows)
        return np.stack([data.resize_u8(picture, size, resize) for picture in found])

    run.begin()
    store = run.cache("", *description["weights"], files=pictures.paths).rows("state")
    with progress_bar(None, config.title, total=len(pictures), unit="image") as bar:
        scores = scoring.score_images(
            loaded.scored, loaded.variables, read, len(pictures), how, store=store, keep=True, show=bar.update
        )
    made = scores.pop(scoring.RECONSTRUCTION, None)
    decisive = scores[decision["score"]].astype(np.float64)
    calibrated = calibration.calibrated(decisive)
    decisions = np.where(decisive > threshold, "anomalous", "normal")
    write_text(workdir / "scores.csv", _table(pictures.names, scores, calibrated, decisions))
    shown = overview.extremes(decisive, config.log.num_pictures)
    texts = [f"{pictures.names[i]}\n{decisive[i]:.4g} ({calibrated[i]:.0%})\n{decisions[i]}" for i in shown]
    given = None if made is None else made[shown]
    explanation = scoring.explain(loaded.scored, loaded.variables, read(shown), how, reconstructions_u8=given)
    picture = overview.overview(explanation, texts, scales=tuple(description["map_scales"]))
    write_png(workdir / "overview.png", picture)
    (workdir / "state.npz").unlink(missing_ok=True)
    results = {
        "num_images": len(pictures),
        "num_anomalous": int(np.sum(decisions == "anomalous")),
        "unreadable": [path.name for path in pictures.bad_files],
        "decision": {**decision, "threshold": threshold},
        "detector": {name: description[name] for name in ("data", "weights", "search", "knn")},
        "setting": provenance(config) | {"seed": description["seed"]},
        "variants": {
            **scoring.SCORES,
            "calibrated": f"share of held-out normal images with a lower {decision['score']} score, ties by half",
        },
    }
    return run.finish(results)


def _open(config: ConfigDict) -> data.ImageFiles:
    """Returns the pictures, after reporting those that cannot be read."""
    pictures = open_image_files(config.images, on_bad_image=config.on_bad_image)
    for path in pictures.bad_files:
        try:
            data.read_image(path)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
    return pictures


def _table(names, scores, calibrated, decisions) -> str:
    """Returns the table as CSV, in the order of the files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *scoring.SCORES, "calibrated", "decision"])
    for i, name in enumerate(names):
        numbers = [f"{scores[score][i]:.7g}" for score in scoring.SCORES]
        writer.writerow([name, *numbers, f"{calibrated[i]:.6g}", decisions[i]])
    return text.getvalue()
