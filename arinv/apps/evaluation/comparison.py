"""Reports that compare evaluations: table.md, metrics.json, reconstructions.png and report.html.

Published figures stand in columns beside the measured ones; results.json has both, and whether their differences have
the same sign.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from arinv import distributed
from arinv.apps.evaluation import published, result_rows
from arinv.errors import UserError
from arinv.experiment import report, workdirs
from arinv.experiment.figures import labeled_grid
from arinv.experiment.output_files import read_arrays, write_json, write_png
from arinv.experiment.run import Run
from arinv.ops.images import to_float

_OVERVIEW = "overview.png"  # of the task invert


def check(config: ConfigDict) -> None:
    """Checks that a report has entries or figures, and the form of its published figures.

    Raises:
      UserError: neither, or a wrong form.
    """
    if not config.order and not config.get("figures"):
        raise UserError('evaluations is empty; name the workdirs of finished evaluations, joined by "+"')
    published.check(config.get("published") or {})


def run(run: Run) -> dict[str, Any]:
    """Writes the report of config.entries and returns its rows, with the published figures and their directions.

    Args:
      run: run of a config with title, text, order and entries: name -> workdir of an evaluation, or a tuple of those of
        one network, whose figures are joined in one row. Optional are labels (entry -> name in the table), rows (the
        names of the rows that are shown; empty for all), published (see `arinv.apps.evaluation.published`) and figures
        (heading -> PNG file, or the workdir of inverted images, whose overview is shown).

    Raises:
      UserError: missing results, a run that is not an evaluation, or a figure that does not exist.
    """
    config = run.config
    sources = entry_sources(run)
    measured = read_rows(config, sources)
    quoted = workdirs.plain(config.get("published") or {})
    changes = published.changes(measured, quoted)
    figures = _figures(run, sources)
    run.begin()
    if distributed.index() == 0:
        write_json(run.workdir / "metrics.json", measured)
        if arrays_of := _reconstructions(config, sources):
            path = run.workdir / "reconstructions.png"
            write_png(path, _figure(arrays_of))
            figures = {f"Reconstructions: {', '.join(['original', *arrays_of])}": path} | figures
    tables = [published.table(measured, quoted)] if measured or quoted else []
    notes = [_note(measured)] if measured else []
    if quoted:
        tables += [published.changes_table(changes)] * bool(changes)
        is_marked = any(row["row"] not in measured for row in quoted["rows"])
        notes += published.notes(quoted, changes, is_marked=is_marked)
    signs = [change._asdict() | {"same_sign": change.is_same} for change in changes]
    results = {"rows": measured, "published": quoted, "signs": signs}
    return run.finish(results, tables=tables, notes=notes, figures=figures, text=config.text)


def entry_sources(run: Run) -> dict[str, tuple[pathlib.Path, ...]]:
    """Returns the workdirs of config.entries, by name in config.order.

    Raises:
      UserError: an entry that is not a path.
    """
    entries = {name: run.config.entries[name] for name in run.config.order}
    return {
        name: tuple(run.resolve(part) for part in ([value] if isinstance(value, str) else value))
        for name, value in entries.items()
    }


def read_rows(config: ConfigDict, sources: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, result_rows.Row]:
    """Returns the rows of all entries: under the entry's name where an evaluation has one row, else "ENTRY: ROW".

    If the report has a single entry, its rows have their own names alone.

    Raises:
      UserError: missing results, or evaluations that cannot be joined.
    """
    measured: dict[str, result_rows.Row] = {}
    for entry, folders in sources.items():
        parts: dict[str, list[result_rows.Row]] = {}
        for folder in folders:
            for name, row in result_rows.read(folder).items():
                parts.setdefault(name, []).append(row)
        label = config.get("labels", {}).get(entry, entry)
        for name, group in parts.items():
            title = label if not name else name if len(sources) == 1 else f"{label}: {name}"
            measured[title] = result_rows.join(group)
    names = config.get("rows") or ()
    return {name: row for name, row in measured.items() if not names or name in names}


def _reconstructions(
    config: ConfigDict, sources: Mapping[str, Sequence[pathlib.Path]]
) -> dict[str, Mapping[str, np.ndarray]]:
    """Returns the first images and their reconstructions, of every entry that has some of the same images."""
    arrays_of: dict[str, Mapping[str, np.ndarray]] = {}
    for entry, folders in sources.items():
        path = next((path for folder in folders if (path := folder / "images.npz").exists()), None)
        if path is not None:
            arrays = read_arrays(path)
            first = next(iter(arrays_of.values()), arrays)
            if np.array_equal(arrays["image"], first["image"]):
                arrays_of[config.get("labels", {}).get(entry, entry)] = arrays
    return arrays_of


def _figures(run: Run, sources: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, pathlib.Path]:
    """Returns heading -> file of config.figures, and of the figures that the evaluations wrote.

    Raises:
      UserError: a file of config.figures does not exist.
    """
    figures = {}
    for heading, reference in (run.config.get("figures") or {}).items():
        place = run.resolve(reference)
        if place.is_dir() and not (place / _OVERVIEW).exists():
            raise UserError(f"no {_OVERVIEW} in {place}: a report shows the images of configs/invert.py")
        if not place.exists():
            raise UserError(f"figures: {place} does not exist; name a PNG file, or the workdir of inverted images")
        figures[heading] = place / _OVERVIEW if place.is_dir() else place
    paths = {
        path: entry for entry, folders in sources.items() for folder in folders for path in result_rows.images(folder)
    }
    return figures | {f"{entry}: {path.stem}": path for path, entry in paths.items() if path not in figures.values()}


def _figure(images: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """Returns labeled rows: the originals, then the reconstructions of each entry."""
    originals = to_float(next(iter(images.values()))["image"])
    return labeled_grid({"original": originals} | {name: value["reconstruction"] for name, value in images.items()})


def _note(measured: Mapping[str, result_rows.Row]) -> str:
    """Returns what the figures were measured on, with warnings where the rows differ."""
    first = next(iter(measured.values()))
    setting, attacks = first["setting"], [row["attack"] for row in measured.values()]
    text = (
        f"{first['num_images']} test images of {setting['data']}; {report.setting_text(setting)}; ± is the standard "
        "deviation over images."
    )
    if all(attack and {"norm", "eps", "num_steps"} <= attack.keys() for attack in attacks):
        options = {"norm": "{}", "eps": "eps {:g}", "num_steps": "{} steps"}
        shared = [
            form.format(attacks[0][name]) for name, form in options.items() if len({a[name] for a in attacks}) == 1
        ]
        text += f" PGD: {', '.join(shared)}." if shared else ""
    if autoattacks := {name: row["autoattack"] for name, row in measured.items() if row.get("autoattack")}:
        text += f" AutoAttack: {_autoattack_text(autoattacks)}."
    counts = [f"{m} of {name} is of {n}" for name, row in measured.items() for m, n in row.get("counts", {}).items()]
    text += f" Of fewer images: {', '.join(counts)}." if counts else ""
    weights = {name: row.get("metric_weights", {}) for name, row in measured.items()}
    return text + report.weights_note(weights) + report.differences(measured)


def _autoattack_text(attacks: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns norm, radius and number of images, once where all rows share them."""
    texts = {row: f"{a['norm']}, eps {a['eps']:g}, {a['num_images']} images" for row, a in attacks.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{row}: {text}" for row, text in texts.items())
