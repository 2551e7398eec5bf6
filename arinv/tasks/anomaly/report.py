"""Puts one-vs-all evaluations of encoders side by side: table.md, results.json, overview.png and a page report.html."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data
from arinv.errors import UserError
from arinv.tasks import page, report
from arinv.tasks import workdir as workdirs
from arinv.tasks.anomaly import pictures as anomaly_pictures
from arinv.train.writer import write_png

# score -> heading, in the order of the columns
_COLUMNS = {
    "total": "search",
    "pixel": "pixel term",
    "feature": "feature term",
    "amortized": "without search",
    "knn": "nearest neighbours",
    "attacked_total": "search, attacked",
    "attacked_held": "held search, attacked",
    "attacked_amortized": "without search, attacked",
    "attacked_knn": "nearest neighbours, attacked",
}


validate = report.validate


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes the report of config.entries (name -> workdir of a one-vs-all evaluation) and returns their results.

    Args:
      config: {"title", "text", "entries", "order", "num_classes_shown"}.
      workdir: where the report goes.

    Raises:
      UserError: an evaluation that is missing, or of something else.
    """
    sources, results = report.read_entries(config, workdir)
    for name, result in results.items():
        if not {"classes", "mean"} <= result.keys():
            raise UserError(f"{sources[name]} is no one-vs-all evaluation of anomaly detection")
    workdirs.open_workdir(config, workdir)
    if jax.process_index() == 0:
        _write(config, workdir, results, _pictures(sources, config.num_classes_shown))
    workdirs.write_results(workdir, results)
    return results


def _write(config: ConfigDict, workdir: pathlib.Path, results: Mapping, pictures: Mapping[str, np.ndarray]) -> None:
    named = [anomaly_pictures.titled(picture, f"{name} encoder") for name, picture in pictures.items()]
    write_png(workdir / "overview.png", anomaly_pictures.stack(named))
    for name, picture in pictures.items():
        write_png(workdir / f"{name}.png", picture)
    shown = {name: workdir / f"{name}.png" for name in pictures}
    page.write(workdir, config.title, _tables(results), _notes(results), text=config.text, pictures=shown)


def _tables(results: Mapping[str, Mapping]) -> list[page.Table]:
    """Returns the means of all encoders, then of the classes for each encoder."""
    columns = [name for name in _COLUMNS if any(name in result["mean"] for result in results.values())]

    def row(title: str, values: Mapping[str, float]) -> list[str]:
        return [title, *(f"{values[name]:.4f}" if name in values else "-" for name in columns)]

    headings = [_COLUMNS[name] for name in columns]
    means = [row(name, result["mean"]) for name, result in results.items()]
    tables = [page.Table(["mean AUROC", *headings], means)]
    for name, result in results.items():
        rows = [row(label, values) for label, values in result["classes"].items()]
        tables.append(page.Table([f"{name}, normal class", *headings], [*rows, row("mean", result["mean"])]))
    return tables


def _notes(results: Mapping[str, Mapping]) -> list[str]:
    """Says what was measured on what, what was attacked, and what the encoders had seen before."""
    first = next(iter(results.values()))
    setting, attack, search = first["setting"], first["attack"], first["search"]
    some = first.get("num_anomalous")
    told_from = f", its images told from {some} of the others" if some else ""
    if first.get("num_normal"):
        told_from = f", {first['num_normal']} of its images{told_from.replace(', its images', '')}"
    notes = [
        f"AUROC over {first['num_examples']} test images of {setting['data']}, each class in turn the normal one"
        f"{told_from}; {setting['device']}, {setting['dtype']}, seed {setting['seed']}. "
        f"Search: {search['num_steps']} steps, {search['num_restarts']} start(s); "
        f"features: {first['layer']}; nearest neighbours: k={first['knn']['k']}.{report.differences(results)}"
    ]
    if attack:
        notes.append(
            f"Attacks: PGD, {attack['norm']}, eps {attack['eps']:g}, {attack['num_steps']} steps, raise the scores of "
            "normal images and lower those of anomalous ones."
        )
    notes += [f"{_COLUMNS[name]}: {first['variants'][name]}." for name in _COLUMNS if name in first["mean"]]
    for name, result in results.items():
        if result["encoder_knew"]:
            notes.append(
                f"The {name} encoder was trained to tell {len(result['encoder_knew'])} of these classes apart, the "
                "anomalous ones among them: no figure of it is comparable with detectors that saw normal images only."
            )
    return notes


def _pictures(sources: Mapping[str, pathlib.Path], count: int) -> dict[str, np.ndarray]:
    """Returns each encoder's pictures of its first classes, one below the other."""
    pictures = {}
    for name, source in sources.items():
        paths = sorted(source.glob("class_*.png"), key=lambda path: int(path.stem.removeprefix("class_")))
        if not paths:
            raise UserError(f"no pictures in {source}; delete {source / 'results.json'} and start again")
        pictures[name] = anomaly_pictures.stack([data.read_image(path) for path in paths[:count]])
    return pictures
