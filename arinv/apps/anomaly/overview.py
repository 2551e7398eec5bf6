"""Puts one-vs-all evaluations of encoders side by side: table.md, results.json, overview.png and a page report.html."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from arinv import data
from arinv.apps.anomaly.scoring import Explanation
from arinv.apps.evaluation import comparison
from arinv.errors import UserError
from arinv.experiment import report
from arinv.experiment.figures import labelled_grid
from arinv.experiment.run import Run
from arinv.experiment.writer import write_png

_PER_BAND = 8  # images side by side
_FONT_SIZE = 12
_TITLE_SIZE = 18
_MAX_TEXT = 15  # letters that fit above an image


def extremes(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of the highest and the lowest scores, highest first: `count` at most, half of them each.

    Args:
      scores: [N].
      count: of places; all where there are no more.
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) <= count:
        return order
    half = count // 2
    return np.concatenate([order[: count - half], order[len(order) - half :]])


def heat(explanation: Explanation, scales: tuple[float, float]) -> np.ndarray:
    """Returns one map of each image, the pixel map and the feature map in units of their scales, added.

    Args:
      explanation: of the images.
      scales: a usual value of the pixel map and one of the feature map.

    Returns:
      float32 [N, H, W].
    """
    maps = explanation.maps
    return sum(values / scale for values, scale in zip(maps, scales, strict=True) if scale > 0)


def map_scales(explanation: Explanation) -> tuple[float, float]:
    """Returns the means of the pixel maps and of the feature maps."""
    return tuple(float(np.mean(values)) for values in explanation.maps)


def overview(
    explanation: Explanation, texts: Sequence[str], *, scales: tuple[float, float], min_tile: int = 96
) -> np.ndarray:
    """Returns a picture of images, reconstructions and heat maps, in bands one below the other.

    Args:
      explanation: of the images, in their order.
      texts: what stands above each; lines are parted by newlines.
      scales: see `heat`; the brightest point of the picture is white, black is no difference.
      min_tile: images with shorter sides are enlarged, in pixels.

    Returns:
      uint8 [H', W', 3].
    """
    values = heat(explanation, scales)
    colours = _colours(values / max(float(np.max(values)), 1e-12))
    bands = []
    for first in range(0, len(texts), _PER_BAND):
        part = slice(first, first + _PER_BAND)
        rows = {
            "image": explanation.images[part],
            "reconstruction": explanation.reconstructions[part],
            "difference": colours[part],
        }
        columns = ["\n".join(shorten(line) for line in text.split("\n")) for text in texts[part]]
        bands.append(labelled_grid(rows, columns=columns, min_tile=min_tile, font_size=_FONT_SIZE))
    return stack(bands)


def stack(pictures: Sequence[np.ndarray], *, gap: int = 16) -> np.ndarray:
    """Returns uint8 pictures one below the other, left-aligned on white."""
    height = sum(len(picture) for picture in pictures) + gap * (len(pictures) - 1)
    canvas = np.full((height, max(picture.shape[1] for picture in pictures), 3), 255, np.uint8)
    top = 0
    for picture in pictures:
        canvas[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return canvas


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """Returns a uint8 picture with a line of text above it."""
    font = ImageFont.load_default(size=_TITLE_SIZE)
    line = Image.new("RGB", (max(picture.shape[1], math.ceil(font.getlength(title)) + 24), 2 * _TITLE_SIZE), "white")
    ImageDraw.Draw(line).text((12, _TITLE_SIZE), title, fill="black", font=font, anchor="lm")
    return stack([np.asarray(line), picture], gap=0)


def shorten(text: str) -> str:
    """Returns a text with its beginning left out where it is too long to stand above an image."""
    return text if len(text) <= _MAX_TEXT else "\N{HORIZONTAL ELLIPSIS}" + text[1 - _MAX_TEXT :]


def _colours(values: np.ndarray) -> np.ndarray:
    """Returns 0 to 1 as black, red, yellow, white."""
    return np.clip(3 * values[..., None] - np.arange(3, dtype=np.float32)[None, None, None, :], 0, 1)


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


check = comparison.check


def run(run: Run) -> dict[str, Any]:
    """Writes the report of config.entries (name -> workdir of a one-vs-all evaluation) and returns their results.

    Args:
      run: of a config as made {"title", "text", "entries", "order", "num_classes_shown"}.

    Raises:
      UserError: an evaluation that is missing, or of something else.
    """
    config, workdir = run.config, run.workdir
    sources, results = comparison.read_entries(config, workdir)
    for name, result in results.items():
        if not {"classes", "mean"} <= result.keys():
            raise UserError(f"{sources[name]} is no one-vs-all evaluation of anomaly detection")
    run.begin()
    if jax.process_index() == 0:
        _write(config, workdir, results, _pictures(sources, config.num_classes_shown))
    return run.finish(results)


def _write(config: ConfigDict, workdir: pathlib.Path, results: Mapping, pictures: Mapping[str, np.ndarray]) -> None:
    named = [titled(picture, f"{name} encoder") for name, picture in pictures.items()]
    write_png(workdir / "overview.png", stack(named))
    for name, picture in pictures.items():
        write_png(workdir / f"{name}.png", picture)
    shown = {name: workdir / f"{name}.png" for name in pictures}
    report.write(workdir, config.title, _tables(results), _notes(results), text=config.text, images=shown)


def _tables(results: Mapping[str, Mapping]) -> list[report.Table]:
    """Returns the means of all encoders, then of the classes for each encoder."""
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
        pictures[name] = stack([data.read_image(path) for path in paths[:count]])
    return pictures
