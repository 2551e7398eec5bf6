"""Measures a style transfer over all its contents and styles: Gram loss to the style, SSIM to the content.

Reads the pictures that the stylization left, so what is measured is what is seen. Leaves per_pair.csv and per_pair.npz
(every number of every pair), table.md, report.html (the table with the contact sheets) and results.json: means over
pairs for each entry, such as a standard and a robust encoder, and for the contents as they were. Killed at any moment,
it goes on with the contents that are missing, or anew where the pictures or the weights are others.

The Gram loss looks through VGG-19 where config.metric_networks.vgg19 names its weights, as in the paper; else through
the encoder of the entry "robust" (or the last one), and then says so in its name.
"""

import csv
import dataclasses
import io
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.evaluation import measurement
from arinv.apps.style import levels, stylize
from arinv.apps.style.image_sets import Collection
from arinv.errors import UserError
from arinv.experiment import report, trained, workdirs
from arinv.experiment.run import Run, check_fields
from arinv.experiment.writer import progress_bar, write_arrays, write_json, write_text
from arinv.ops.images import to_float


def write_pairs(
    workdir: pathlib.Path,
    contents: Sequence[str],
    styles: Sequence[str],
    pairs: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Writes the numbers of every pair to per_pair.csv and per_pair.npz.

    Args:
      workdir: where they go.
      contents: names of the contents.
      styles: names of the styles.
      pairs: entry -> metric -> [contents, styles].
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = list(next(iter(pairs.values())))
    lines.writerow(["encoder", "content", "style", *names])
    for entry, values in pairs.items():
        for i, content in enumerate(contents):
            for j, style in enumerate(styles):
                numbers = [f"{values[name][i, j]:.6g}" for name in names]
                lines.writerow([entry, content, style, *numbers])
    write_text(workdir / "per_pair.csv", text.getvalue())
    arrays = {f"{entry}/{name}": one for entry, values in pairs.items() for name, one in values.items()}
    names = {"contents": np.array(contents), "styles": np.array(styles)}
    write_arrays(workdir / "per_pair.npz", arrays | names)


def _write_page(title: str, workdir: pathlib.Path, source: pathlib.Path, results: Mapping[str, Any], key: str) -> None:
    """Writes the table of the entries, and a page of the table with the contact sheets.

    Args:
      title: heading of both.
      workdir: where table.md and report.html go.
      source: workdir of the stylization.
      results: of the evaluation.
      key: name of the Gram loss.
    """
    heading = ["encoder", f"Gram loss ({key.removeprefix('gram_')})", "SSIM"]
    rows = [
        [entry, _text(values, key, ".4g"), _text(values, "ssim", ".3f")] for entry, values in results["entries"].items()
    ]
    note = (
        f"{results['num_contents']} contents x {results['num_styles']} styles; means ± standard deviations over pairs. "
        f"The Gram loss is to the style (lower is closer to it), SSIM to the content (1 for the content itself). "
        f"{results['variants'][key]}; {results['setting']['device']}, {results['setting']['dtype']}."
    )
    sheets = [path for path in (source / "side_by_side.png", *sorted(source.glob("sheet_*.png"))) if path.exists()]
    shown = {path.stem.replace("_", " "): path for path in sheets}
    report.write(workdir, title, [report.Table(heading, rows)], [note], images=shown)


def _text(values: Mapping[str, float], name: str, style: str) -> str:
    return f"{values[name]:{style}} ± {values[f'{name}_std']:{style}}"


_CONTENT = "content as it was"
_SSIM_WINDOW = 11  # px
_PARTS = "parts"  # folder of the numbers that are there, until all are


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading results.

    Raises:
      UserError: no stylization named, or weights that are not there.
    """
    check_fields(config)
    if not config.stylized:
        raise UserError("stylized is empty; name the workdir of a stylization")
    measurement.check_network(config, _field(config), "gram")


def run(run: Run) -> dict[str, Any]:
    """Measures config.stylized and returns the results.

    Args:
      run: of configs/style.py; config.stylized is the workdir of a stylization.

    Raises:
      UserError: no finished stylization there, one of a mixture, other contents or styles than it had, pictures that
        are too small, or no usable weights.
    """
    config, workdir = run.config, run.workdir
    source = run.resolve(config.stylized)
    done = workdirs.read_results(source)
    if done["mix"]:
        raise UserError(f"{source} holds pictures in a mixture of styles: there is no one style to measure against")
    fields = ConfigDict(done["pixels"])
    content, style = Collection(fields, "content"), Collection(fields, "style")
    for kind, here, there in (("contents", content.names, done["contents"]), ("styles", style.names, done["styles"])):
        if list(here) != there:
            raise UserError(f"the {kind} of {source} have changed since it ran: {len(there)} there, {len(here)} now")
    network = _load_network(run, source, done["order"])
    run.begin()
    measure = _Measurement(network, content, style, config.batch_size)
    run.cache(_PARTS, *_cache_parts(measure), files=_images(source, done["order"], measure)).claim()
    pairs = _measure_all(config, workdir, source, done["order"], measure)
    key = f"gram_{network.name}"
    pairs = {entry: {key: values["gram"], "ssim": values["ssim"]} for entry, values in pairs.items()}
    entries = {entry: _summarize(values) for entry, values in pairs.items()}
    results = {
        "entries": entries,
        "variants": {key: _variant(key, network), "ssim": metrics.VARIANTS["ssim"] + ", content against picture"},
        "metric_weights": {key: network.weights},
        "num_pairs": len(content) * len(style),
        "num_contents": len(content),
        "num_styles": len(style),
        "stylized": {name: done[name] for name in ("entries", "transform", "keep_color", "pixels", "num_labels")},
        "setting": run.provenance,
    }
    write_pairs(workdir, content.names, style.names, pairs)
    _write_page(config.title, workdir, source, results, key)
    results = run.finish(results)
    shutil.rmtree(workdir / _PARTS)
    return results


def _field(config: ConfigDict) -> str:
    return "vgg19" if config.metric_networks.vgg19 else measurement.OWN


def _load_network(run: Run, source: pathlib.Path, entries: Sequence[str]) -> measurement.MetricNetwork:
    """Returns the network of the Gram loss, for images of every size."""
    saved = workdirs.read_json(source / "config.json")
    entry = "robust" if "robust" in entries else entries[-1]
    own = trained.load(workdirs.resolve(saved["entries"][entry][0], source), kind="inverter").encoder
    network = measurement.load_network(run, _field(run.config), own)
    return dataclasses.replace(network, module=levels.without_head(network.module))


class _Measurement:
    """The numbers of one content with all styles at a time."""

    def __init__(self, network: measurement.MetricNetwork, content: Collection, style: Collection, batch_size: int):
        self.content, self.style, self.weights = content, style, network.weights
        self._network, self._batch_size = network, batch_size
        self._statistics, self._distance = jax.jit(self._statistics_of), jax.jit(metrics.gram_distance)
        self._ssim = jax.jit(lambda images, content: metrics.ssim(to_float(images), to_float(content)))
        self._smallest = max(_SSIM_WINDOW, levels.sides(network.module)[1])
        self._styles = [self._of_one(self._checked(style, j)) for j in range(len(style))]
        for i in range(len(content)):  # all that are too small are told before hours of work
            self._checked(content, i)

    def of_content(self, index: int) -> dict[str, list[float]]:
        """Returns the numbers of an unchanged content, whose SSIM with itself is 1."""
        own = self._of_one(self._checked(self.content, index))
        gram = [float(self._distance(own, other)[0]) for other in self._styles]
        return {"gram": gram, "ssim": [1.0] * len(gram)}

    def of_pictures(self, index: int, pictures: Sequence[np.ndarray]) -> dict[str, list[float]]:
        """Returns the numbers of a content's pictures, uint8 [H, W, 3], one a style."""
        content = self._checked(self.content, index)
        step = min(self._batch_size, len(pictures))
        numbers: dict[str, list[float]] = {"gram": [], "ssim": []}
        for start in range(0, len(pictures), step):
            rows = [min(j, len(pictures) - 1) for j in range(start, start + step)]
            images = np.stack([pictures[j] for j in rows])
            styles = jax.tree.map(lambda *values: np.concatenate(values), *(self._styles[j] for j in rows))
            gram = self._distance(self._statistics(self._network.variables, images), styles)
            ssim = self._ssim(images, np.broadcast_to(content, images.shape))
            for name, values in (("gram", gram), ("ssim", ssim)):
                numbers[name] += [float(x) for x in values[: len(pictures) - start]]
        return numbers

    def _statistics_of(self, variables, images):
        with jax.default_matmul_precision("highest"):  # a GPU's TF32 would show in the third digit
            features_fn = self._network.features_fn(variables)
            return metrics.gram_statistics(features_fn, to_float(images), layers=self._network.style_layers)

    def _of_one(self, picture: np.ndarray):
        return jax.device_get(self._statistics(self._network.variables, picture[None]))

    def _checked(self, collection: Collection, index: int) -> np.ndarray:
        picture = collection[index]
        height, width = picture.shape[:2]
        if min(height, width) < self._smallest:
            raise UserError(
                f"{collection.names[index]} is {height} x {width} px; SSIM and the Gram loss through "
                f"{self._network.name} need {self._smallest}: leave it out, or set size"
            )
        return picture


def _cache_parts(measure: _Measurement) -> tuple[str, ...]:
    return measure.weights, measure.content.identity(), measure.style.identity()


def _images(source: pathlib.Path, entries: Sequence[str], measure: _Measurement) -> list[pathlib.Path]:
    """Returns the stylized images that exist; a missing one is reported when it is read."""
    content, style = measure.content, measure.style
    places = (stylize.picture_path(source, *names) for names in product(entries, content.names, style.names))
    return [path for path in places if path.exists()]


def _measure_all(
    config: ConfigDict, workdir: pathlib.Path, source: pathlib.Path, entries: Sequence[str], measure: _Measurement
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the numbers of all pairs, [contents, styles] each; what was finished before is read."""
    work = [(entry, i) for entry in (*entries, _CONTENT) for i in range(len(measure.content))]
    numbers: dict[str, dict[str, list]] = {entry: {"gram": [], "ssim": []} for entry, _ in work}
    for entry, i in progress_bar(work, config.title, unit="content"):
        name = measure.content.names[i]
        path = workdir / _PARTS / entry / f"{name}.json"
        if not path.exists():
            if entry == _CONTENT:
                part = measure.of_content(i)
            else:
                places = [stylize.picture_path(source, entry, name, style) for style in measure.style.names]
                part = measure.of_pictures(i, [data.read_image(place) for place in places])
            write_json(path, part)
        for metric, values in workdirs.read_json(path).items():
            numbers[entry][metric].append(values)
    return {
        entry: {metric: np.array(values, np.float64) for metric, values in part.items()}
        for entry, part in numbers.items()
    }


def _summarize(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    summaries = {name: metrics.summary(numbers.ravel()) for name, numbers in values.items()}
    means = {name: summary["mean"] for name, summary in summaries.items()}
    return means | {f"{name}_std": summary["std"] for name, summary in summaries.items()}


def _variant(key: str, network: measurement.MetricNetwork) -> str:
    text = metrics.VARIANTS["gram"].removeprefix("gram")
    layers = ", ".join(network.style_layers)
    return (
        f"{key}{text}; {layers} of {network.name} ({network.origin}, weights {network.weights}), style against picture"
    )
