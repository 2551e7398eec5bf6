"""Rows of tables that compare evaluations: read from the results of any task that evaluates, and joined.

A row is a mapping of metrics to numbers, NAME_std beside NAME where there is one, with what they were measured on:
variants (metric -> exact formula), setting, num_images, counts (metric -> number of images, where it is smaller),
attack, and of AutoAttack `autoattack`.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from arinv.errors import UserError
from arinv.experiment import workdirs

Row = dict[str, Any]
_COUNTED = ("parameters", "seconds_per_image")  # columns that are no metric


def columns(row: Mapping[str, Any]) -> list[str]:
    """Returns the names of a row's figures: accuracies, metrics, and counts."""
    names = [name for name in row if name.endswith("_accuracy")] + list(row.get("variants", {}))
    return [name for name in dict.fromkeys([*names, *_COUNTED]) if name in row]


def read(source: pathlib.Path) -> dict[str, Row]:
    """Returns the rows of a finished evaluation, by name; where there is one row only, its name may be empty.

    Args:
      source: workdir of the evaluation.

    Raises:
      UserError: no finished run there, or one of a task that evaluates nothing.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist; name the workdir of a finished evaluation")
    results = workdirs.read_results(source)
    task = _task(source)
    if task not in _READERS:
        what = task if " " in task else f"of the task {task}"
        raise UserError(f"{source} is {what}, which a report cannot read; supported: {', '.join(sorted(_READERS))}")
    try:
        rows = dict(_READERS[task][0](results))
        for row in rows.values():
            _ = row["setting"], row["num_images"]  # of the note below a table
        return rows
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{source / 'results.json'} lacks {error}: it is damaged or of another version") from error


def images(source: pathlib.Path) -> list[pathlib.Path]:
    """Returns the figures that a finished evaluation wrote, without those of single images."""
    return [path for name in _READERS[_task(source)][1] for path in sorted(source.glob(name))]


def _task(source: pathlib.Path) -> str:
    """Returns the task that a workdir belongs to."""
    path = source / "config.json"
    return workdirs.read_json(path).get("task", "an experiment") if path.exists() else "a folder without config.json"


def join(rows: Sequence[Row]) -> Row:
    """Joins the rows of evaluations of one network into one; of a figure in several rows the first is used.

    Raises:
      UserError: they were measured on encoders of different weights.
    """
    weights = {row["encoder_weights"] for row in rows if row.get("encoder_weights")}
    if len(weights) > 1:
        raise UserError(f"evaluations of different encoders cannot be one row: weights {', '.join(sorted(weights))}")
    joined = dict(rows[0])
    for row in rows[1:]:
        new = [name for name in columns(row) if name not in joined]
        joined |= {name: row[name] for stem in new for name in (stem, f"{stem}_std") if name in row}
        for name in ("variants", "metric_weights", "counts"):
            joined[name] = row.get(name, {}) | joined.get(name, {})
        for name in ("attack", "autoattack"):
            joined[name] = joined.get(name) or row.get(name)
    return joined


def _shared(results: Mapping[str, Any]) -> Row:
    """Returns what all rows of one evaluation share."""
    return {
        "setting": results["setting"],
        "num_images": results["num_images"],
        "attack": results.get("attack"),
        "encoder_weights": results.get("encoder_weights"),
    }


def _pick(values: Mapping[str, Any], variants: Mapping[str, str]) -> Row:
    """Returns the figures of one row with their variants, of all that has a variant."""
    names = [name for name in variants if name in values]
    figures = {name: values[name] for stem in names for name in (stem, f"{stem}_std") if name in values}
    return figures | {"variants": {name: variants[name] for name in names}}


def _of_evaluation(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    yield "", dict(results)


def _of_autoattack(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    attack = results["attack"]
    yield (
        "",
        _shared({**results, "attack": None})
        | {name: results[name] for name in ("clean_accuracy", "autoattack_accuracy")}
        | {"variants": {"autoattack_accuracy": results["variants"]["autoattack_accuracy"]}}
        | {"autoattack": {name: attack[name] for name in ("norm", "eps")} | {"num_images": results["num_images"]}},
    )


def _of_scales(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    for i, scale in enumerate(results["scales"]):
        for name, curve in results["curves"].items():
            values = {metric: numbers[i] for metric, numbers in curve.items()}
            yield f"{name} x{scale}", _shared(results) | _pick(values, results["variants"])


def _of_methods(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    for name, entry in results["entries"].items():
        counted = {key: entry[key] for key in _COUNTED if entry.get(key) is not None}
        weights = results.get("metric_weights", {}).get(name, {})
        yield name, _shared(results) | counted | _pick(entry, results["variants"]) | {"metric_weights": weights}


def _of_images(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    for name in results["inverters"]:
        values, counts = {}, {}
        for metric in results["variants"]:
            if summary := results["means"].get(f"{metric}_{name}"):
                values |= {metric: summary["mean"], f"{metric}_std": summary["std"]}
                if summary["count"] < results["num_images"]:  # some images are too small for it
                    counts[metric] = summary["count"]
        yield name, _shared(results) | _pick(values, results["variants"]) | {"counts": counts}


def _of_classes(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    variants = {"auroc" if name == "total" else f"auroc_{name}": text for name, text in results["variants"].items()}
    for name, scores in {**results["classes"], "mean": results["mean"]}.items():
        values = {"auroc" if score == "total" else f"auroc_{score}": number for score, number in scores.items()}
        yield name, _shared(results) | _pick(values, variants)


def _of_styles(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    for name, entry in results["entries"].items():
        yield name, _shared(results) | _pick(entry, results["variants"]) | {"metric_weights": results["metric_weights"]}


def _of_denoisers(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    for image_set, entries in results["sets"].items():
        for name, entry in entries.items():
            if name != "num_images":
                shared = _shared({**results, "num_images": entries["num_images"]})
                yield f"{image_set} {name}", shared | _pick(entry, results["variants"])


def _of_truth_table(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    variants = {"images": f"images: with the attribute by {' and by '.join(results['methods'])}, first and second"}
    for name, count in results["counts"].items():
        yield name, _shared(results) | _pick({"images": count}, variants)


def _of_study(results: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    for name, entry in results["inverters"].items():
        row = _shared(results) | {"variants": {}}
        for probe, values in entry["probes"].items():
            texts = {
                number: results["variants"].get(number.partition(",")[0], number)
                for number in values
                if f"{number}_std" in values
            }
            figures = _pick(values, texts)
            row["variants"] |= {f"{probe}: {number}": text for number, text in figures.pop("variants").items()}
            row |= {f"{probe}: {number}": value for number, value in figures.items()}
        yield name, row


# task -> how its results become rows, and the names or patterns of the figures that it writes
_READERS: dict[str, tuple[Callable[[Mapping[str, Any]], Iterator[tuple[str, Row]]], tuple[str, ...]]] = {
    "evaluate": (_of_evaluation, ()),
    "autoattack": (_of_autoattack, ("smallest.png", "hardest.png")),
    "high_resolution": (_of_scales, ("curves.png", "images.png")),
    "compare_inversion": (_of_methods, ("reconstructions.png",)),
    "invert": (_of_images, ("overview.png",)),
    "one_vs_all": (_of_classes, ()),
    "evaluate_style": (_of_styles, ()),
    "evaluate_denoising": (_of_denoisers, ("crops.png",)),
    "volume": (_of_methods, ("cuts.png",)),
    "truth_table": (_of_truth_table, ("images.png",)),
    "study": (_of_study, ("*.png",)),
    "restoration": (_of_methods, ("restored.png", "details.png", "curve.png")),
}
