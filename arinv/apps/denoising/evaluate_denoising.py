"""Evaluation of denoisers on clean images with added noise, beside the noisy images and BM3D.

Writes results.json (means and standard deviations for each set, the exact variant of each metric, the protocol of the
noise), table.md, report.html, per_image.npz (every number of every image) and crops.png. The numbers of an image are
saved as soon as they are computed, and a restart skips them. The noise of an image depends on the seed and its name
only. Each size of images, padded to multiples of 32, is compiled once; with config.tiles.tile all larger ones share
that size.

Source: Rojas-Gomez et al. 2022, section 5.3, Table 10.
"""

import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.denoising import bm3d, tiles
from arinv.data.image_files import list_images
from arinv.errors import UserError, unknown
from arinv.experiment import measurement, report
from arinv.experiment.cache import fingerprint
from arinv.experiment.fields import dtype_of
from arinv.experiment.figures import center_window, evenly, labeled_grid, short_names
from arinv.experiment.measurement import Measurement
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run, open_dataset, open_image_files
from arinv.experiment.trained import DENOISER, Trained
from arinv.experiment.writer import progress_bar
from arinv.models.generators.wavelet import MULTIPLE
from arinv.ops import degradations
from arinv.ops.images import to_float, to_uint8
from arinv.ops.keys import name_key
from arinv.paths import expanded
from arinv.types import Array, Variables

METRICS = [name for name, metric in metrics.METRICS.items() if not metric.needs_set]  # those of single images
NOISY = "noisy"
_FOLDER = "folder:"
_PARTS = "parts"  # folder of the finished numbers
_WINDOW = 160  # px, of the images in crops.png
_WINDOWS = "windows"
_CHECKSUM = "checksum"  # of an image, in its part


def check(config: ConfigDict) -> None:
    """Checks everything that needs no images and no checkpoint.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    dtype_of(config)
    degradations.check_noise(**config.noise)
    for name in filter(None, config.metrics.split("+")):
        if name not in METRICS:
            raise unknown("metric of denoised images", name, METRICS)
    measurement.check(config)
    check_tiles(config.tiles)
    bm3d.find(config.bm3d)
    check_sets(config)
    if not config.order or not all(config.entries[name] for name in config.order):
        raise UserError("entries needs at least one denoiser; name the workdir of a denoiser's training")


def check_tiles(options: Mapping[str, int]) -> None:
    """Checks that the sizes of config.tiles match each other and the networks.

    Raises:
      UserError: a size that the others, or the networks, do not allow.
    """
    if options["multiple"] % MULTIPLE:
        raise UserError(
            f"multiple={options['multiple']} must be a multiple of {MULTIPLE} px, as the networks' sides are"
        )
    tiles.check_tiles(**options)


def check_sets(config: ConfigDict) -> None:
    """Checks the image sets without reading images.

    Raises:
      UserError: no set, one of unknown kind or that does not exist, or not one split for each set.
    """
    references = _references(config)
    if not references:
        raise UserError("data.name is empty; name a folder of clean images, folder:PATH, or several joined by +")
    if len(config.data.splits) != len(references):
        raise UserError(f"data.splits={tuple(config.data.splits)} must name a split for each of {config.data.name}")
    for reference in references:
        if not reference.startswith(_FOLDER):
            data.check_name(reference)
        elif not expanded(reference.removeprefix(_FOLDER)).exists():
            raise UserError(f"{reference} does not exist; name a folder of clean images")
    if config.data.num_images < 0:
        raise UserError(f"data.num_images={config.data.num_images} must be 0 (all) or more")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the denoisers exist or are trained by one, and that folders hold images.

    Raises:
      UserError: another network, or a folder without an image.
    """
    for name in run.config.order:
        run.check_network(run.config.entries[name], kind=DENOISER, allow_other_size=True)  # images have any
    measurement.check_inputs(run)
    for reference in _references(run.config):
        place = expanded(reference.removeprefix(_FOLDER))
        if reference.startswith(_FOLDER) and place.is_dir():
            list_images(place)  # raises where there is none


def run(run: Run) -> dict[str, Any]:
    """Evaluates config.entries (name -> workdir of a denoiser) and returns the results.

    Args:
      run: a run of configs/denoising.py.

    Raises:
      UserError: no usable checkpoint or images, or images too small for a metric.
    """
    config = run.config
    denoisers = {name: run.load(config.entries[name], kind=DENOISER) for name in config.order}
    measures = Measurement(run, next(iter(denoisers.values())).encoder)
    sets = open_sets(config)
    run.begin()
    if notice := bm3d.notice(config.bm3d):
        run.report(notice)

    restoration = _Restoration(config, denoisers)
    per_image, windows = _measure_sets(run, sets, restoration, measures)
    results = {
        "sets": {name: _summarize(numbers, restoration.rows) for name, numbers in per_image.items()},
        **measures.finish(),
        "noise": {**config.noise, "variant": degradations.NOISE_PROTOCOLS[config.noise.protocol]},
        "denoisers": {name: dict(denoiser.description) for name, denoiser in denoisers.items()},
    }
    if bm3d.NAME in restoration.rows:
        results["bm3d"] = bm3d.variant()
    figures = _write(run, per_image, windows, restoration.rows)
    tables = [_table(name, entries, results["variants"]) for name, entries in results["sets"].items()]
    results = run.finish(results, tables=tables, notes=[_note(run, results)], figures=figures)
    run.cache(_PARTS).discard()
    return results


class ImageSet(NamedTuple):
    """A set of images.

    Attributes:
      name: name of the folder or the dataset.
      names: names of its images.
      read: index -> uint8 [H, W, 3].
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[int], np.ndarray]


def open_sets(config: ConfigDict) -> list[ImageSet]:
    """Returns the image sets, after decoding every file once.

    Raises:
      UserError: a set that does not exist, is empty or holds a damaged image.
    """
    sets = [_open(config, *pair) for pair in zip(_references(config), config.data.splits, strict=True)]
    names = [image_set.name for image_set in sets]
    return [
        image_set._replace(name=reference) if names.count(image_set.name) > 1 else image_set
        for image_set, reference in zip(sets, _references(config), strict=True)
    ]


def _references(config: ConfigDict) -> list[str]:
    return list(filter(None, config.data.name.split("+")))


def _open(config: ConfigDict, reference: str, split: str) -> ImageSet:
    fields = config.data
    if reference.startswith(_FOLDER):
        path = expanded(reference.removeprefix(_FOLDER))
        images = open_image_files(path, on_bad_image=fields.on_bad_image)
        image_set = ImageSet(path.absolute().name, images.names, images.__getitem__)
    else:
        source = open_dataset(config, reference, split, num_examples=fields.num_images or None)
        names = tuple(f"{i:05d}" for i in range(len(source)))
        image_set = ImageSet(reference, names, lambda i: np.asarray(source[i]["image"]))
    numbers = evenly(fields.num_images or len(image_set.names), len(image_set.names))
    names = tuple(image_set.names[i] for i in numbers)
    return ImageSet(image_set.name, names, lambda i: image_set.read(numbers[i]))


class _Restoration:
    """Adds noise to an image and restores it in every way; `rows` names the ways, the noisy image first."""

    def __init__(self, config: ConfigDict, denoisers: Mapping[str, Trained]):
        self._noise, self._seed, self._tiles = config.noise.to_dict(), config.seed, config.tiles.to_dict()
        self._denoise_fns = {name: denoiser.denoise_fn for name, denoiser in denoisers.items()}
        self._bm3d = bm3d.find(config.bm3d)
        self.rows = (NOISY, *self._denoise_fns, *((bm3d.NAME,) if self._bm3d else ()))
        self.weights = [denoiser.fingerprint for denoiser in denoisers.values()]

    def __call__(self, name: str, image: np.ndarray) -> np.ndarray:
        """Returns [rows, H, W, 3] of a clean image, uint8 [H, W, 3]."""
        key = name_key(self._seed, name)
        noisy = np.asarray(degradations.add_gaussian_noise(key, to_float(image)[None], **self._noise))
        results = [noisy, *(tiles.denoise(fn, noisy, **self._tiles) for fn in self._denoise_fns.values())]
        if self._bm3d:
            results.append(self._bm3d(noisy[0], self._noise["sigma"])[None])
        return np.concatenate(results)


def _measure_sets(
    run: Run, sets: Sequence[ImageSet], restoration: _Restoration, measures: Measurement
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Returns set -> metric -> [images, rows], with their "name" [images], and name -> windows in crops.png."""
    parts = run.cache(_PARTS, *restoration.weights, fingerprint(measures.variables), *restoration.rows)
    images = [(image_set, i) for image_set in sets for i in range(len(image_set.names))]
    cropped = set(evenly(run.config.log.num_images, len(images)))
    measure = jax.jit(measures.measure)
    numbers: dict[str, list[dict[str, np.ndarray]]] = {image_set.name: [] for image_set in sets}
    windows = {}
    for number, (image_set, i) in enumerate(progress_bar(images, run.config.title, unit="image")):
        name = f"{image_set.name}/{image_set.names[i]}"
        image = image_set.read(i)
        part = parts.load(f"{number:06d}")
        checksum = zlib.crc32(np.ascontiguousarray(image))
        is_measured = part is not None and (str(part["name"]), int(part[_CHECKSUM])) == (name, checksum)
        if not is_measured or (number in cropped and _WINDOWS not in part):  # an earlier start may have cropped others
            restored = restoration(image_set.names[i], image)
            if not is_measured:
                part = {"name": np.array(name), _CHECKSUM: np.array(checksum)}
                part |= _measure(measure, measures.variables, name, image, restored)
            if number in cropped:
                part[_WINDOWS] = _crop(image, restored)
            parts.save(f"{number:06d}", part)
        crops = part.pop(_WINDOWS, None)
        if number in cropped:
            windows[name] = crops
        part.pop(_CHECKSUM)
        numbers[image_set.name].append(part)
    per_image = {name: {key: np.stack([p[key] for p in group]) for key in group[0]} for name, group in numbers.items()}
    return per_image, windows


def _measure(
    measure: Callable[..., dict[str, Array]], variables: Variables, name: str, image: np.ndarray, restored: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns metric -> [rows] of the restorations of an image.

    Raises:
      UserError: the image is smaller than a metric's window.
    """
    clean = np.broadcast_to(np.asarray(to_float(image)), restored.shape)
    try:
        return jax.device_get(measure(variables, restored, clean))
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _crop(image: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """Returns the middle of the clean image and of each restoration, uint8 [1 + rows, S, S, 3]."""
    return np.stack([center_window(x, _WINDOW) for x in (image, *np.asarray(to_uint8(restored)))])


def _summarize(numbers: Mapping[str, np.ndarray], rows: Sequence[str]) -> dict[str, Any]:
    """Returns {"num_images", row -> {metric, metric_std}} of metric -> [images, rows]."""
    values = {metric: array for metric, array in numbers.items() if metric != "name"}
    summaries = {row: report.summarize({m: array[:, i] for m, array in values.items()}) for i, row in enumerate(rows)}
    return {"num_images": len(numbers["name"]), **summaries}


def _write(
    run: Run,
    per_image: Mapping[str, Mapping[str, np.ndarray]],
    windows: Mapping[str, np.ndarray],
    rows: Sequence[str],
) -> dict[str, pathlib.Path]:
    """Writes per_image.npz and crops.png, and returns the heading of the figure -> its file."""
    arrays = {f"{name}/{metric}": values for name, part in per_image.items() for metric, values in part.items()}
    write_arrays(run.workdir / "per_image.npz", arrays | {"rows": np.array(rows)})
    if not windows:
        return {}
    crops = np.stack(list(windows.values()), axis=1)
    grid = labeled_grid(dict(zip(("clean", *rows), crops, strict=True)), columns=short_names(list(windows)))
    write_png(run.workdir / "crops.png", grid)
    return {"Centers of the images": run.workdir / "crops.png"}


def _table(name: str, entries: Mapping[str, Any], variants: Mapping[str, str]) -> report.Table:
    columns = {metric: report.column(metric) for metric in variants}
    rows = {row: numbers for row, numbers in entries.items() if row != "num_images"}
    return report.metric_table(f"{name} ({entries['num_images']} images)", columns, rows)


def _note(run: Run, results: Mapping[str, Any]) -> str:
    noise, setting = results["noise"], run.provenance
    text = (
        f"Noise: {noise['variant']}, sigma {noise['sigma'] * 255:g}/255. {report.setting_text(setting)}; "
        "± is the standard deviation over images."
    )
    return f"{text} BM3D: {results['bm3d']}." if "bm3d" in results else text
