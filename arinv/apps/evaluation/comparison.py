"""Puts evaluations side by side: table.md, metrics.json, reconstructions.png and a page report.html."""

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
from arinv.metrics import METRICS
from arinv.ops.images import to_float

_ACCURACIES = {"clean_accuracy": ("clean accuracy", "{:.1%}"), "pgd_accuracy": ("PGD accuracy", "{:.1%}")}

# What evaluations side by side should share.
_SHARED = {
    "number of images": lambda result: result["num_examples"],
    "data set": lambda result: result["setting"]["data"],
    "dtype": lambda result: result["setting"]["dtype"],
    "seed": lambda result: result["setting"]["seed"],
    "attack": lambda result: result["attack"] or "none",
}


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading results.

    Raises:
      UserError: no entry.
    """
    if not config.order:
        raise UserError("a report needs at least one entry")


def run(run: Run) -> dict[str, Any]:
    """Writes the report of config.entries (name -> workdir of an evaluation) and returns its metrics.

    Args:
      run: of a config as made {"title", "text", "entries"}.

    Raises:
      UserError: an evaluation that is missing, or none at all.
    """
    config, workdir = run.config, run.workdir
    sources, results = read_entries(config, workdir)
    run.begin()
    if jax.process_index() == 0:
        picture = _picture({name: _read_pictures(source) for name, source in sources.items()})
        _write(config, workdir, results, picture)
    return run.finish(results)


def read_entries(config: ConfigDict, workdir: pathlib.Path) -> tuple[dict[str, pathlib.Path], dict[str, Any]]:
    """Returns the workdirs and the results of config.entries, by name in config.order.

    Raises:
      UserError: results that are missing.
    """
    sources = {name: workdirs.resolve(config.entries[name], workdir) for name in config.order}
    return sources, {name: workdirs.read_results(source) for name, source in sources.items()}


def _write(config: ConfigDict, workdir: pathlib.Path, results: Mapping[str, Mapping], picture: np.ndarray) -> None:
    write_png(workdir / "reconstructions.png", picture)
    write_json(workdir / "metrics.json", results)
    shown = {f"Reconstructions: {', '.join(['original', *results])}": workdir / "reconstructions.png"}
    report.write(workdir, config.title, [_table(results)], [_note(results)], text=config.text, pictures=shown)


def _table(results: Mapping[str, Mapping]) -> report.Table:
    columns = _columns(results)
    rows = []
    for entry, result in results.items():
        row = [entry]
        for name, (_, style) in columns.items():
            text = style.format(result[name]) if name in result else "-"
            row.append(text + (f" ± {style.format(result[f'{name}_std'])}" if f"{name}_std" in result else ""))
        rows.append(row)
    return report.Table(["encoder", *(heading for heading, _ in columns.values())], rows)


def _columns(results: Mapping[str, Mapping]) -> dict[str, tuple[str, str]]:
    """Returns the (heading, format) of every accuracy and metric that some entry has, in order."""
    found = {}
    for result in results.values():
        for name in [*(name for name in result if name.endswith("_accuracy")), *result.get("variants", {})]:
            found[name] = column(name)
    return {name: tuple(column) for name, (_, *column) in sorted(found.items(), key=lambda item: item[1][0])}


def column(name: str) -> tuple[int, str, str]:
    """Returns the place among the columns of a table, the heading and the format of a metric.

    Args:
      name: of an accuracy or a row of `metrics.METRICS`; a longer name begins with one of these and "_", and the rest,
        such as the network, goes into the heading.
    """
    columns = _ACCURACIES | {metric: (row.heading, row.format) for metric, row in METRICS.items()}
    for place, (known, (heading, style)) in enumerate(columns.items()):
        if name == known:
            return place, heading, style
        if name.startswith(f"{known}_"):
            return place, f"{heading} ({name.removeprefix(f'{known}_')})", style
    heading = name.replace("_", " ")
    return (1, heading, "{:.1%}") if "_accuracy" in name else (len(columns), heading, "{:.4g}")


def _note(results: Mapping[str, Mapping]) -> str:
    """Says what the figures were measured on, which all entries of a report share, and warns where they do not."""
    first = next(iter(results.values()))
    setting, attack = first["setting"], first["attack"]
    text = (
        f"{first['num_examples']} test images of {setting['data']}; {setting['device']}, {setting['dtype']}, "
        f"seed {setting['seed']}; ± is the standard deviation over images."
    )
    if attack:
        steps = f", {attack['num_steps']} steps" if "num_steps" in attack else ""
        text += f" {attack.get('name', 'pgd').upper()}: {attack['norm']}, eps {attack['eps']:g}{steps}."
    for name, (heading, _) in _columns(results).items():
        if len({result.get("metric_weights", {}).get(name) for result in results.values() if name in result}) > 1:
            text += f" {heading} was measured through networks of different weights: its rows cannot be compared."
    return text + differences(results)


def differences(results: Mapping[str, Mapping]) -> str:
    """Returns a sentence for everything that figures side by side should share and that is not the same in all rows.

    Args:
      results: name of the row -> results of an evaluation.
    """
    text = ""
    for what, look in _SHARED.items():
        values = {name: look(result) for name, result in results.items()}
        if len({str(value) for value in values.values()}) > 1:
            told = ", ".join(f"{name} {value}" for name, value in values.items())
            text += f" The {what} is not the same in all rows: {told}."
    return text


def _read_pictures(source: pathlib.Path) -> Mapping[str, np.ndarray]:
    path = source / "pictures.npz"
    if not path.exists():
        raise UserError(f"no pictures in {source}: a report compares evaluations of inverters")
    return read_arrays(path)


def _picture(pictures: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """Returns labelled rows: the originals, then each entry's reconstructions."""
    originals = to_float(next(iter(pictures.values()))["image"])
    return labelled_grid({"original": originals} | {n: value["reconstruction"] for n, value in pictures.items()})
