"""The report of one-vs-all evaluations: table.md, results.json, overview.png and report.html."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from arinv import data, distributed
from arinv.apps.anomaly.heat_map_figures import stack, titled
from arinv.apps.evaluation import comparison
from arinv.errors import UserError
from arinv.experiment import report, workdirs
from arinv.experiment.output_files import write_png
from arinv.experiment.run import Run

# score -> heading, in the order of the columns
_COLUMNS = {
    "total": "search",
    "pixel": "pixel term",
    "feature": "feature term",
    "amortized": "without search",
    "knn": "nearest neighbors",
    "adgan": "ADGAN",
    "attacked_total": "search, attacked",
    "attacked_held": "held search, attacked",
    "attacked_amortized": "without search, attacked",
    "attacked_knn": "nearest neighbors, attacked",
}


def check(config: ConfigDict) -> None:
    """Checks that a report has entries, each of one evaluation.

    Raises:
      UserError: none, or an entry of several, whose figures cannot be joined.
    """
    comparison.check(config)
    for name in config.order:
        folders = config.entries[name]
        if not isinstance(folders, str) and len(folders) != 1:
            raise UserError(
                f"entries.{name} names {len(folders)} workdirs; a report of one-vs-all evaluations takes one each"
            )


def run(run: Run) -> dict[str, Any]:
    """Writes the report of config.entries (name -> workdir of a one-vs-all evaluation) and returns their results.

    Args:
      run: a run of a config with title, text, entries, order and num_classes_shown.

    Raises:
      UserError: a missing evaluation, or one of another task.
    """
    sources = {name: folder for name, (folder,) in comparison.entry_sources(run).items()}
    results = {name: workdirs.read_results(source) for name, source in sources.items()}
    for name, result in results.items():
        if not {"classes", "mean"} <= result.keys():
            raise UserError(f"{sources[name]} is not a one-vs-all evaluation of anomaly detection")
    run.begin()
    figures = _write_figures(run, sources) if distributed.index() == 0 else {}
    return run.finish(results, tables=_tables(results), notes=_notes(results), figures=figures, text=run.config.text)


def _write_figures(run: Run, sources: Mapping[str, pathlib.Path]) -> dict[str, pathlib.Path]:
    """Writes the images of every evaluation, and returns its name -> file.

    Raises:
      UserError: an evaluation without images.
    """
    figures = {}
    for name, source in sources.items():
        paths = sorted(source.glob("class_*.png"), key=lambda path: int(path.stem.removeprefix("class_")))
        if not paths:
            raise UserError(f"no images in {source}; delete {source / 'results.json'} and start again")
        figures[name] = stack([data.read_image(path) for path in paths[: run.config.num_classes_shown]])
        write_png(run.workdir / f"{name}.png", figures[name])
    titles = [titled(figure, f"{name} encoder") for name, figure in figures.items()]
    write_png(run.workdir / "overview.png", stack(titles))
    return {name: run.workdir / f"{name}.png" for name in figures}


def _tables(results: Mapping[str, Mapping]) -> list[report.Table]:
    """Returns the means of all encoders, then of the classes for each encoder."""
    results = _with_shared(results)
    columns = [name for name in _COLUMNS if any(name in result["mean"] for result in results.values())]

    def row(title: str, values: Mapping[str, float]) -> list[str]:
        return [title, *(f"{values[name]:.4f}" if name in values else "-" for name in columns)]

    headings = [_COLUMNS[name] for name in columns]
    means = [row(name, result["mean"]) for name, result in results.items()]
    tables = [report.Table(["mean AUROC", *headings], means)]
    for name, result in results.items():
        rows = [row(label, values) for label, values in result["classes"].items()]
        tables.append(report.Table([f"{name}, normal class", *headings], [*rows, row("mean", result["mean"])]))
    return tables


def _with_shared(results: Mapping[str, Mapping]) -> dict[str, dict[str, Any]]:
    """Returns results in which those of ADGAN, which uses no encoder, are in every entry of these classes."""
    source = next((result for result in results.values() if "adgan" in result["mean"]), None)
    filled = {name: {**result} for name, result in results.items()}
    for result in filled.values():
        if source and result["classes"].keys() == source["classes"].keys():
            result["mean"] = {"adgan": source["mean"]["adgan"]} | result["mean"]
            classes = result["classes"].items()
            result["classes"] = {n: {"adgan": source["classes"][n]["adgan"]} | values for n, values in classes}
    return filled


def _notes(results: Mapping[str, Mapping]) -> list[str]:
    """Returns what was measured on what, what was attacked, and the classes that the encoders were trained on."""
    first = next(iter(results.values()))
    attack, search = first["attack"], first["search"]
    normal, anomalous = first.get("num_normal"), first.get("num_anomalous")
    counts = " and ".join(
        text
        for count, text in ((normal, f"{normal} of its images"), (anomalous, f"{anomalous} of the others"))
        if count
    )
    notes = [
        f"AUROC over {first['num_images']} test images of {first['setting']['data']}, each class in turn the normal "
        f"one{f', with {counts}' if counts else ''}; {report.setting_text(first['setting'])}. "
        f"Search: {search['num_steps']} steps, {search['num_restarts']} start(s); "
        f"features: {first['layer']}; nearest neighbors: k={first['knn']['k']}.{report.differences(results)}"
    ]
    if attack:
        notes.append(
            f"Attacks: PGD, {attack['norm']}, eps {attack['eps']:g}, {attack['num_steps']} steps, raise the scores of "
            "normal images and lower those of anomalous ones."
        )
    explained = [name for name in _COLUMNS if name in first["mean"] and name != "adgan"]
    notes += [f"{_COLUMNS[name]}: {first['variants'][name]}." for name in explained]
    for result in results.values():
        if adgan := result.get("adgan"):
            notes.append(
                f"ADGAN: {result['variants']['adgan']}; {adgan['num_seeds']} starts, {adgan['num_steps']} steps, "
                f"{adgan['seconds_per_image']:.3g} seconds an image. It uses no encoder: all rows have its "
                "one value."
            )
    for name, result in results.items():
        if result["training_classes"]:
            notes.append(
                f"The {name} encoder was trained on {len(result['training_classes'])} of these classes, the anomalous "
                "ones among them: none of its figures compares with detectors that were trained on normal images only."
            )
    return notes
