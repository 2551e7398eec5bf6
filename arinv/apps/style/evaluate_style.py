"""Evaluation of a style transfer over all its contents and styles: Gram loss to the style, SSIM to the content.

Reads the images that the stylization wrote. Writes per_pair.csv and per_pair.npz (every number of every pair),
table.md, report.html (the table with the contact sheets) and results.json: means over pairs for each entry, such as a
standard and a robust encoder, and for the unchanged contents. A restart skips the contents that are measured, unless
the images or the weights have changed.

The Gram loss is of the features of VGG-19 if config.metric_networks.vgg19 names its weights, as in the paper; else of
the encoder of the entry "robust" (or the last one), which its name then states.
"""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.style.image_sets import Collection
from arinv.apps.style.levels import sides
from arinv.apps.style.stylize_images import output_path
from arinv.errors import UserError
from arinv.experiment import loading, report, workdirs
from arinv.experiment.fields import check_fields
from arinv.experiment.measurement import (
    OWN,
    MetricNetwork,
    check_metric_network,
    check_planned_network,
    load_metric_network,
    variant_text,
)
from arinv.experiment.output_files import write_arrays, write_csv
from arinv.experiment.run import Run
from arinv.experiment.trained import INVERTER
from arinv.experiment.writer import progress_bar
from arinv.ops.images import to_float

_CONTENT = "content as it was"  # the entry of the unchanged contents
_PARTS = "parts"  # folder of the finished numbers

Pairs = Mapping[str, Mapping[str, np.ndarray]]  # entry -> metric -> [contents, styles]


def check(config: ConfigDict) -> None:
    """Checks everything that needs no results and no weights.

    Raises:
      UserError: no stylization, or weights that do not exist.
    """
    check_fields(config)
    if not config.stylized:
        raise UserError("stylized is empty; name the workdir of a stylization")
    check_metric_network(config, _field(config), "gram")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that a stage which trains the network of the metric trains a classifier.

    Raises:
      UserError: it trains another network, or none.
    """
    check_planned_network(run, _field(run.config))


def run(run: Run) -> dict[str, Any]:
    """Measures config.stylized and returns the results.

    Args:
      run: a run of configs/style.py; config.stylized is the workdir of a stylization.

    Raises:
      UserError: no finished stylization there, one of a mixture, other contents or styles than it had, images that
        are too small, or no usable weights.
    """
    source = run.resolve(run.config.stylized)
    stylized = workdirs.read_results(source)
    if stylized["mix"]:
        raise UserError(f"{source} holds images in a mixture of styles, which have no one style to compare with")
    fields = ConfigDict(stylized["pixels"])
    content, style = Collection(fields, "content"), Collection(fields, "style")
    for kind, collection in (("contents", content), ("styles", style)):
        if list(collection.names) != stylized[kind]:
            raise UserError(
                f"the {kind} of {source} have changed since it ran: {len(stylized[kind])} then, {len(collection)} now"
            )
    network = _load_network(run, source, stylized["order"])
    run.begin()
    measurement = _Measurement(network, content, style, run.config.batch_size)
    key = f"gram_{network.name}"
    pairs = {
        entry: {key: values["gram"], "ssim": values["ssim"]}
        for entry, values in _measure_all(run, source, stylized["order"], measurement).items()
    }
    results = {
        "entries": {
            entry: report.summarize({metric: array.ravel() for metric, array in values.items()})
            for entry, values in pairs.items()
        },
        "variants": {
            key: f"{variant_text('gram', key, network.style_layers, network)}, style against image",
            "ssim": metrics.VARIANTS["ssim"] + ", content against image",
        },
        "metric_weights": {key: network.weights},
        "num_images": len(content) * len(style),
        "num_contents": len(content),
        "num_styles": len(style),
        "stylized": {name: stylized[name] for name in ("entries", "transform", "keep_color", "pixels", "num_labels")},
    }
    _write_pairs(run.workdir, content.names, style.names, pairs)
    table, note = _report(run, results, key)
    sheets = [path for path in (source / "side_by_side.png", *sorted(source.glob("sheet_*.png"))) if path.exists()]
    figures = {path.stem.replace("_", " "): path for path in sheets}
    results = run.finish(results, tables=[table], notes=[note], figures=figures)
    run.cache(_PARTS).discard()
    return results


def _field(config: ConfigDict) -> str:
    return "vgg19" if config.metric_networks.vgg19 else OWN


def _load_network(run: Run, source: pathlib.Path, entries: Sequence[str]) -> MetricNetwork:
    """Returns the network of the Gram loss."""
    config = workdirs.read_json(source / "config.json")
    entry = "robust" if "robust" in entries else entries[-1]
    own = loading.load(workdirs.resolve(config["entries"][entry][0], source), kind=INVERTER).encoder
    return load_metric_network(run, _field(run.config), own)


class _Measurement:
    """The metrics of one content with all styles at a time."""

    def __init__(self, network: MetricNetwork, content: Collection, style: Collection, batch_size: int):
        """Checks the sizes of all images, and computes the statistics of the styles.

        Raises:
          UserError: an image that is too small.
        """
        self.content, self.style, self.weights = content, style, network.weights
        self._network, self._batch_size = network, batch_size
        self._statistics, self._distance = jax.jit(self._statistics_of), jax.jit(metrics.gram_distance)
        self._ssim = jax.jit(lambda images, content: metrics.ssim(to_float(images), to_float(content)))
        self._smallest = max(metrics.SSIM_WINDOW, sides(network.module)[1])
        self._styles = [self._of_one(self._read(style, j)) for j in range(len(style))]
        for i in range(len(content)):
            self._read(content, i)

    def of_content(self, index: int) -> dict[str, list[float]]:
        """Returns the metrics of an unchanged content, whose SSIM with itself is 1."""
        own = self._of_one(self._read(self.content, index))
        gram = [float(self._distance(own, other)[0]) for other in self._styles]
        return {"gram": gram, "ssim": [1.0] * len(gram)}

    def of_images(self, index: int, images: Sequence[np.ndarray]) -> dict[str, list[float]]:
        """Returns the metrics of a content's stylized images, uint8 [H, W, 3], one a style."""
        content = self._read(self.content, index)
        step = min(self._batch_size, len(images))
        numbers: dict[str, list[float]] = {"gram": [], "ssim": []}
        for start in range(0, len(images), step):
            rows = [min(j, len(images) - 1) for j in range(start, start + step)]
            batch = np.stack([images[j] for j in rows])
            styles = jax.tree.map(lambda *values: np.concatenate(values), *(self._styles[j] for j in rows))
            gram = self._distance(self._statistics(self._network.variables, batch), styles)
            ssim = self._ssim(batch, np.broadcast_to(content, batch.shape))
            for name, values in (("gram", gram), ("ssim", ssim)):
                numbers[name] += [float(x) for x in values[: len(images) - start]]
        return numbers

    def _statistics_of(self, variables, images):
        features_fn = self._network.features_fn(variables)
        return metrics.gram_statistics(features_fn, to_float(images), layers=self._network.style_layers)

    def _of_one(self, image: np.ndarray):
        return jax.device_get(self._statistics(self._network.variables, image[None]))

    def _read(self, collection: Collection, index: int) -> np.ndarray:
        """Returns an image, after checking its size."""
        image = collection[index]
        height, width = image.shape[:2]
        if min(height, width) < self._smallest:
            raise UserError(
                f"{collection.names[index]} is {height} x {width} px; SSIM and the Gram loss through "
                f"{self._network.name} need {self._smallest}: remove it, or set size"
            )
        return image


def _measure_all(
    run: Run, source: pathlib.Path, entries: Sequence[str], measurement: _Measurement
) -> dict[str, dict[str, np.ndarray]]:
    """Returns entry -> metric -> [contents, styles]; finished contents are loaded."""
    content, style = measurement.content, measurement.style
    paths = [output_path(source, *names) for names in itertools.product(entries, content.names, style.names)]
    files = [path for path in paths if path.exists()]  # a missing one is an error when it is read
    cache = run.cache(_PARTS, measurement.weights, content.identity(), style.identity(), files=files)
    work = [(entry, i) for entry in (*entries, _CONTENT) for i in range(len(content))]
    parts: dict[str, list[Mapping[str, np.ndarray]]] = {entry: [] for entry, _ in work}
    for entry, i in progress_bar(work, run.config.title, unit="content"):
        name = content.names[i]
        part = cache.load(f"{entry}/{name}")
        if part is None:
            if entry == _CONTENT:
                numbers = measurement.of_content(i)
            else:
                images = [data.read_image(output_path(source, entry, name, column)) for column in style.names]
                numbers = measurement.of_images(i, images)
            part = {metric: np.array(values, np.float64) for metric, values in numbers.items()}
            cache.save(f"{entry}/{name}", part)
        parts[entry].append(part)
    return {entry: {m: np.stack([part[m] for part in group]) for m in group[0]} for entry, group in parts.items()}


def _write_pairs(workdir: pathlib.Path, contents: Sequence[str], styles: Sequence[str], pairs: Pairs) -> None:
    """Writes the numbers of every pair to per_pair.csv and per_pair.npz."""
    names = list(next(iter(pairs.values())))
    rows = [["encoder", "content", "style", *names]]
    for entry, values in pairs.items():
        for (i, content), (j, style) in itertools.product(enumerate(contents), enumerate(styles)):
            rows.append([entry, content, style, *(f"{values[name][i, j]:.6g}" for name in names)])
    write_csv(workdir / "per_pair.csv", rows)
    arrays = {f"{entry}/{name}": array for entry, values in pairs.items() for name, array in values.items()}
    write_arrays(workdir / "per_pair.npz", arrays | {"contents": np.array(contents), "styles": np.array(styles)})


def _report(run: Run, results: Mapping[str, Any], key: str) -> tuple[report.Table, str]:
    """Returns the table of the report and the note below it."""
    setting = run.provenance
    columns = {key: report.column(key)._replace(style="{:.4g}"), "ssim": report.column("ssim")}
    note = (
        f"{results['num_contents']} contents x {results['num_styles']} styles; means ± standard deviations over pairs. "
        f"The Gram loss is to the style (lower is closer to it), SSIM to the content (1 for the content itself). "
        f"{results['variants'][key]}; {setting['device']}, {setting['dtype']}."
    )
    return report.metric_table("encoder", columns, results["entries"]), note
