"""Reports that compare evaluations: table.md, metrics.json, reconstructions.png and report.html."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv.errors import UserError
from arinv.experiment import report, workdirs
from arinv.experiment.figures import labelled_grid
from arinv.experiment.run import Run
from arinv.experiment.writer import read_arrays, write_json, write_png
from arinv.ops.images import to_float

_OVERVIEW = "overview.png"  # of the task invert


def check(config: ConfigDict) -> None:
    """Checks that a report has entries.

    Raises:
      UserError: no entry.
    """
    if not config.order:
        raise UserError("order is empty; a report needs at least one entry")


def run(run: Run) -> dict[str, Any]:
    """Writes the report of config.entries (name -> workdir of an evaluation) and returns its metrics.

    Args:
      run: of a config with title, text, entries and order; figures, heading -> workdir of inverted images, whose
        overviews are shown as well.

    Raises:
      UserError: missing results, the results of a network that reconstructs no images, or no overview in a workdir.
    """
    sources, results = read_entries(run)
    overviews = {heading: run.resolve(place) / _OVERVIEW for heading, place in run.config.get("figures", {}).items()}
    for path in overviews.values():
        if not path.exists():
            raise UserError(f"no {_OVERVIEW} in {path.parent}: a report shows the images of configs/invert.py")
    run.begin()
    if jax.process_index() == 0:
        reconstructions = run.workdir / "reconstructions.png"
        write_png(reconstructions, _figure({name: _read_images(source) for name, source in sources.items()}))
        write_json(run.workdir / "metrics.json", results)
        images = {f"Reconstructions: {', '.join(['original', *results])}": reconstructions}
        images |= overviews
        config = run.config
        report.write(run.workdir, config.title, [_table(results)], [_note(results)], text=config.text, images=images)
    return run.finish(results)


def read_entries(run: Run) -> tuple[dict[str, pathlib.Path], dict[str, Any]]:
    """Returns the workdirs and the results of config.entries, by name in config.order.

    Raises:
      UserError: missing results.
    """
    sources = {name: run.resolve(run.config.entries[name]) for name in run.config.order}
    return sources, {name: workdirs.read_results(source) for name, source in sources.items()}


def _read_images(source: pathlib.Path) -> Mapping[str, np.ndarray]:
    path = source / "pictures.npz"
    if not path.exists():
        raise UserError(f"no images in {source}: a report compares evaluations of inverters")
    return read_arrays(path)


def _figure(images: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """Returns labelled rows: the originals, then the reconstructions of each entry."""
    originals = to_float(next(iter(images.values()))["image"])
    return labelled_grid({"original": originals} | {name: value["reconstruction"] for name, value in images.items()})


def _table(results: Mapping[str, Mapping]) -> report.Table:
    """Returns every accuracy and metric that some entry has."""
    names = [
        name
        for result in results.values()
        for name in [*(name for name in result if name.endswith("_accuracy")), *result.get("variants", {})]
    ]
    columns = report.columns(names)
    rows = [[entry, *(c.cell(result, name) for name, c in columns.items())] for entry, result in results.items()]
    return report.Table(["encoder", *(column.heading for column in columns.values())], rows)


def _note(results: Mapping[str, Mapping]) -> str:
    """Returns what the figures were measured on, with warnings where the entries differ."""
    first = next(iter(results.values()))
    setting, attack = first["setting"], first["attack"]
    text = (
        f"{first['num_examples']} test images of {setting['data']}; {report.setting_text(setting)}; ± is the standard "
        "deviation over images."
    )
    if attack:
        text += f" PGD: {attack['norm']}, eps {attack['eps']:g}, {attack['num_steps']} steps."
    weights = {entry: result.get("metric_weights", {}) for entry, result in results.items()}
    return text + report.weights_note(weights) + report.differences(results)
