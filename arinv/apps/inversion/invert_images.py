"""Inversion of user-supplied images at their own sizes, by one trained inverter or by several side by side.

Writes NAME/IMAGE.png (the reconstruction of every image at full size, by the inverter of that name), overview.png (the
first images above their reconstructions), report.html (that, with the means of each inverter), reconstructions.csv
(PSNR and SSIM of every image, as written, with 8 bits; file names that are not UTF-8 keep their bytes) and
results.json. The numbers of finished images are saved in parts/; a restart skips these images unless their files have
changed.

Source: Rojas-Gomez et al. 2022, section 4.3, scenario 2.
"""

import functools
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps import inversion
from arinv.apps.inversion.inverters import check_networks
from arinv.errors import UserError
from arinv.experiment import measurement, report
from arinv.experiment.cache import ResultCache, cache_key
from arinv.experiment.fields import check_images, check_num_images, dtype_of
from arinv.experiment.figures import fit, keep_end, labeled_grid
from arinv.experiment.measurement import Measurement
from arinv.experiment.output_files import check_overwrites_none, is_image, png_names, write_csv, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import INVERTER, Trained
from arinv.experiment.writer import progress_bar
from arinv.ops.images import crop_images, pad_images, padded_size, to_float, to_uint8
from arinv.ops.inputs import check_count
from arinv.types import Array, DecodeFn, FeaturesFn

_OVERVIEW = "overview.png"
_SMALLEST_SIDE = 64  # px, of images that the networks of other metrics take
_MAX_BATCH = 16
_LETTERS = 26  # of an image's name above its column

Sizes = Mapping[int, tuple[int, int]]  # index of an image -> (height, width)
Rows = Mapping[str, Mapping[int, Mapping[str, float]]]  # inverter -> index of an image -> metric -> number


def check(config: ConfigDict) -> None:
    """Checks everything that needs no images and no checkpoint.

    Raises:
      UserError: no images or no inverter, or a number out of range.
    """
    dtype_of(config)
    check_num_images(config)
    check_images(config)
    if config.data.max_side < 0:
        raise UserError(f"data.max_side must be 0 (no limit) or more; got {config.data.max_side}")
    if not config.order or not all(config.inverters[name] for name in config.order):
        raise UserError(
            "no inverter; name the workdir of an inverter's training: inverter=, standard_inverter= or robust_inverter="
        )
    if _others(config):
        measurement.check(others := _of_others(config))
        for name in measurement.whole_set_metrics(others):
            raise UserError(f"metric {name} is of a whole set of images of one size; use configs/evaluate.py for it")
    for name in ("multiple", "edge", "limit"):
        check_count(config[name], name, minimum=0)
    for name in ("batch_pixels", "max_pixels"):
        check_count(config[name], name)


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the inverters exist, or are stages, and take padded images.

    Raises:
      UserError: one does not exist, is another network, or takes no such images.
    """
    for inverter in check_networks(run).values():
        _check_padding(run, inverter)


def _check_padding(run: Run, inverter: Trained) -> None:
    inverter.check_side(run.config.multiple or inverter.image_size, "multiple")


def run(run: Run) -> dict[str, Any]:
    """Inverts the images of config.data.name by config.inverters (name -> workdir) and returns the results.

    Args:
      run: a run of configs/invert.py.

    Raises:
      UserError: an image or an inverter that cannot be read, an image that is too large, or a workdir among the
        images.
    """
    config, workdir = run.config, run.workdir
    check_overwrites_none(workdir, [*config.order, _OVERVIEW], images=config.data.name)
    images = run.open_images()
    files = png_names(images.names)
    sizes, too_large = _read_sizes(config, images)
    inverters = {name: run.load(config.inverters[name], kind=INVERTER) for name in config.order}
    for inverter in inverters.values():
        _check_padding(run, inverter)
    run.begin()
    skipped = [*images.bad_names, *too_large]
    if skipped:
        run.report(f"skipped {len(skipped)} images, unreadable or too large: {', '.join(skipped[:5])}")
    rows, variants = {}, {}
    for name, inverter in inverters.items():
        others = _OtherMetrics(run, inverter) if _others(config) else None
        variants |= others.variants if others else {}
        keys = [inverter.fingerprint, *(others.weights if others else ())]
        caches = {i: run.cache(f"parts/{name}", *keys, files[i], files=[images.paths[i]]) for i in sizes}
        rows[name] = _load_rows(caches, images.names, workdir / name, files)
        missing = {i for i in sizes if i not in rows[name]}
        options = {"initial": len(sizes) - len(missing), "total": len(sizes), "unit": "image"}
        reconstructions = _reconstruct(config, inverter, images, sizes, missing)
        for i, image, reconstruction in progress_bar(reconstructions, f"{config.title}: {name}", **options):
            write_png(workdir / name / files[i], reconstruction)
            rows[name][i] = _measure(reconstruction, image, others)
            caches[i].save(cache_key(images.names[i]), {m: np.array(value) for m, value in rows[name][i].items()})
    _write_csv(run, images.names, sizes, rows)
    first = list(sizes)[: config.log.num_images]
    results = _results(inverters, sizes, rows, skipped, variants)
    figures = {}
    if first:
        write_png(workdir / _OVERVIEW, _overview(run, images, first, rows, files))
        figures = {"Images, and their reconstructions from features": workdir / _OVERVIEW}
    table, note = _report(run, inverters, results)
    return run.finish(results, tables=[table], notes=[note], figures=figures)


def _read_sizes(config: ConfigDict, images: data.ImageFiles) -> tuple[Sizes, list[str]]:
    """Returns the sizes of the images, and the names of those that are too large."""
    sizes, too_large = {}, []
    for i, image in zip(range(config.limit or len(images)), images, strict=False):
        height, width = image.shape[:2]
        if height * width <= config.max_pixels:
            sizes[i] = (height, width)
        elif config.data.on_bad_image == "skip":
            too_large.append(images.names[i])
        else:
            raise UserError(
                f"{images.paths[i]} has {width} x {height} pixels, more than max_pixels={config.max_pixels:,}; "
                "make it smaller, raise max_pixels if memory allows, or set on_bad_image=skip"
            )
    if not sizes:
        raise UserError(
            f"all images in {config.data.name!r} have more than max_pixels={config.max_pixels:,} pixels; make them "
            "smaller, or raise max_pixels if memory allows"
        )
    return sizes, too_large


def _load_rows(
    caches: Mapping[int, ResultCache], names: Sequence[str], folder: pathlib.Path, files: Sequence[str]
) -> dict[int, dict[str, float]]:
    """Returns the numbers of the images that are finished and whose reconstructions can be read."""
    parts = {i: cache.load(cache_key(names[i])) for i, cache in caches.items() if is_image(folder / files[i])}
    return {i: {m: float(value) for m, value in part.items()} for i, part in parts.items() if part is not None}


def _reconstruct(
    config: ConfigDict, inverter: Trained, images: data.ImageFiles, sizes: Sizes, missing: Set[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (index, image, its reconstruction, uint8 [H, W, 3]) of the missing images.

    Each padded size is compiled once. Batches are those of all images, whichever are missing, so that a run that
    resumes gives the same results.
    """
    padding = {"multiple": config.multiple or inverter.image_size, "edge": config.edge}
    groups = defaultdict(list)
    for i, size in sizes.items():
        groups[padded_size(size, **padding)].append(i)
    for (height, width), members in groups.items():
        count = max(1, min(len(members), _MAX_BATCH, config.batch_pixels // (height * width)))
        for start in range(0, len(members), count):
            numbers = members[start : start + count]
            if missing.isdisjoint(numbers):
                continue
            originals = {i: images[i] for i in numbers}
            batch = np.zeros((count, height, width, 3), np.uint8)  # the last batch may have empty rows
            for row, image in enumerate(originals.values()):
                batch[row] = pad_images(image[None], **padding)[0]
            reconstructions = np.asarray(_step(inverter.decode_fn, inverter.features_fn, batch, layer=inverter.layer))
            for row, (i, image) in enumerate(originals.items()):
                if i in missing:
                    yield i, image, crop_images(reconstructions[row][None], sizes[i], edge=config.edge)[0]


@functools.partial(jax.jit, static_argnames="layer")
def _step(decode_fn: DecodeFn, features_fn: FeaturesFn, images_u8: Array, *, layer: str) -> Array:
    return to_uint8(inversion.invert(decode_fn, features_fn, to_float(images_u8), layer=layer))


_psnr, _ssim = jax.jit(metrics.psnr), jax.jit(metrics.ssim)


class _OtherMetrics:
    """The metrics of one image beside PSNR and SSIM.

    Attributes:
      variants: metric -> exact formula.
      weights: fingerprints of the networks whose features they compare.
    """

    def __init__(self, run: Run, inverter: Trained):
        measures = Measurement(run.with_config(_of_others(run.config), run.workdir), inverter.encoder)
        totals = measures.finish()
        self.variants, self.weights = totals["variants"], tuple(totals["metric_weights"].values())
        self._measure, self._variables = jax.jit(measures.measure), measures.variables

    def __call__(self, *pair: Array) -> dict[str, float]:
        """Returns the metrics of a reconstruction and its image, each [1, H, W, 3]."""
        return {name: float(value[0]) for name, value in self._measure(self._variables, *pair).items()}


def _measure(reconstruction: np.ndarray, image: np.ndarray, others: _OtherMetrics | None) -> dict[str, float]:
    """Returns PSNR, and of images that are large enough SSIM and the other metrics of the config."""
    pair = [to_float(x)[None] for x in (reconstruction, image)]
    numbers = {"psnr": float(_psnr(*pair)[0])}
    if min(image.shape[:2]) >= metrics.SSIM_WINDOW:
        numbers["ssim"] = float(_ssim(*pair)[0])
    if others and min(image.shape[:2]) >= _SMALLEST_SIDE:
        numbers |= others(*pair)
    return numbers


def _others(config: ConfigDict) -> list[str]:
    """Returns the metrics of the config beside PSNR and SSIM, which are always measured."""
    return [name for name in config.get("metrics", "").split("+") if name not in ("", "psnr", "ssim")]


def _of_others(config: ConfigDict) -> ConfigDict:
    """Returns the config of a measurement of the other metrics, at the images' own sizes."""
    fields = config.to_dict()
    return ConfigDict({**fields, "metrics": "+".join(_others(config)), "data": {**fields["data"], "image_size": 224}})


def _write_csv(run: Run, names: Sequence[str], sizes: Sizes, rows: Rows) -> None:
    keys = [(inverter, metric) for inverter in rows for metric in _names(rows[inverter])]
    lines = [["image", "height", "width", *(f"{metric}_{inverter}" for inverter, metric in keys)]]
    for i, size in sizes.items():
        numbers = (rows[inverter][i].get(metric) for inverter, metric in keys)
        lines.append([names[i], *size, *("" if number is None else f"{number:.4f}" for number in numbers)])
    write_csv(run.workdir / "reconstructions.csv", lines)


def _names(numbers: Mapping[int, Mapping[str, float]]) -> list[str]:
    """Returns the metrics of an inverter's images."""
    return list(dict.fromkeys(["psnr", "ssim", *(name for row in numbers.values() for name in row)]))


def _overview(
    run: Run, images: data.ImageFiles, indices: Sequence[int], rows: Rows, files: Sequence[str]
) -> np.ndarray:
    """Returns the first images above their reconstructions, each fitted into a tile."""
    shapes = [images[i].shape[:2] for i in indices]
    width = 512 if len(indices) < 3 else 320 if len(indices) < 6 else 224
    widest = max(across for _, across in shapes)
    if width / 2 < widest < width:  # images are enlarged by whole factors only
        width = widest
    tallest = max(height / max(1, across) for height, across in shapes)
    height = round(width * min(1.5, max(0.25, tallest)))
    tiles = {"image": [fit(images[i], height=height, width=width) for i in indices]}
    for inverter in rows:
        paths = [run.workdir / inverter / files[i] for i in indices]
        tiles[inverter] = [fit(data.read_image(path), height=height, width=width) for path in paths]
    columns = []
    for i in indices:
        text = images.names[i].encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # names may not be text
        decibels = [f"{inverter} {rows[inverter][i]['psnr']:.1f} dB" for inverter in rows]
        columns.append("\n".join([keep_end(text, _LETTERS), *decibels]))
    return labeled_grid({name: np.stack(row) for name, row in tiles.items()}, columns=columns, font_size=16)


def _report(run: Run, inverters: Mapping[str, Trained], results: Mapping[str, Any]) -> tuple[report.Table, str]:
    """Returns the table of the report and the note below it."""
    columns = report.columns(["psnr", "ssim"])
    rows = []
    for name, inverter in inverters.items():
        keys = {metric: f"{metric}_{name}" for metric in columns}
        means = {metric: results["means"][key]["mean"] for metric, key in keys.items() if key in results["means"]}
        network = f"{inverter.description['encoder']} {inverter.layer}"
        cells = [column.cell(means, metric) for metric, column in columns.items()]
        rows.append([name, network, run.config.inverters[name], *cells])
    heading = ["", "network", "from", *(column.heading for column in columns.values())]
    note = f"Means over {results['num_images']} images at their own sizes: {run.config.data.name}."
    counts = {
        metric: results["means"].get(f"{metric}_{next(iter(inverters))}", {}).get("count", 0) for metric in columns
    }
    if smaller := [f"{metric} over {count}" for metric, count in counts.items() if count < results["num_images"]]:
        note += f" Images that are too small for a metric do not count for it: {', '.join(smaller)}."
    return report.Table(heading, rows), note


def _results(
    inverters: Mapping[str, Trained], sizes: Sizes, rows: Rows, skipped: list[str], variants: Mapping[str, str]
) -> dict[str, Any]:
    """Returns means over the images, with the networks behind them."""
    means = {}
    for name in inverters:
        for metric in _names(rows[name]):
            values = [rows[name][i][metric] for i in sizes if metric in rows[name][i]]
            if values:
                means[f"{metric}_{name}"] = metrics.summary(values)
    return {
        "means": means,
        "num_images": len(sizes),
        "skipped": skipped,
        "inverters": {
            name: {"checkpoint": dict(inverter.description), "weights": inverter.fingerprint}
            for name, inverter in inverters.items()
        },
        "variants": {
            name: f"{text}; of images with 8 bits"
            for name, text in {**{name: metrics.VARIANTS[name] for name in ("psnr", "ssim")}, **variants}.items()
        },
    }
