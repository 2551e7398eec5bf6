"""Measures trained denoisers on clean pictures to which noise is added, beside the noisy pictures and BM3D.

Leaves results.json (means and standard deviations for each set, each metric's exact variant, the protocol of the
noise), table.md, per_image.npz (every number of every picture) and crops.png. What is measured of a picture is kept
as soon as it is, and skipped by a second start. The noise of a picture follows from the seed and its name, whatever
else is in the folder. Each size of pictures, padded to multiples of 32, is compiled once; with config.tiles.size
all larger ones share that size.

Source: Rojas-Gomez et al. 2022, section 5.3, Table 10.
"""

import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.denoising import bm3d, tiles
from arinv.apps.evaluation import measurement as measurements
from arinv.apps.evaluation.measurement import Measurement
from arinv.errors import UserError
from arinv.experiment import report
from arinv.experiment.cache import ResultCache, fingerprint
from arinv.experiment.figures import centre_window, evenly, labelled_grid, short_names
from arinv.experiment.run import Run, dtype_of, open_image_files
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_bar, write_arrays, write_png
from arinv.models.generators.wavelet import MULTIPLE
from arinv.ops import degradations
from arinv.ops.images import to_float, to_uint8

_FOLDER = "folder:"


class PictureSet(NamedTuple):
    """A set of pictures.

    Attributes:
      name: of the folder or the data set.
      names: of its pictures.
      read: number -> uint8 [H, W, 3].
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[int], np.ndarray]


def validate_sets(config: ConfigDict) -> None:
    """Checks what can be seen without reading pictures.

    Raises:
      UserError: no set, one of unknown kind or that is not there, or splits that are not one a set.
    """
    references = _references(config)
    if not references:
        raise UserError("data.name is empty; name a folder of clean pictures, folder:PATH, or several joined by +")
    if len(config.data.splits) != len(references):
        raise UserError(f"data.splits={tuple(config.data.splits)} must name a split for each of {config.data.name}")
    for reference in references:
        if not reference.startswith(_FOLDER):
            data.check_name(reference)
        elif not pathlib.Path(reference.removeprefix(_FOLDER)).expanduser().exists():
            raise UserError(f"{reference} does not exist; give a folder of clean pictures")
    if config.data.num_images < 0:
        raise UserError(f"data.num_images={config.data.num_images} must be 0 (all) or more")


def open_sets(config: ConfigDict) -> list[PictureSet]:
    """Returns the sets, whose files have all been decoded once.

    Raises:
      UserError: a set that is not there, is empty or holds a damaged picture.
    """
    sets = [_open(config, *named) for named in zip(_references(config), config.data.splits, strict=True)]
    names = [found.name for found in sets]
    return [
        found._replace(name=reference) if names.count(found.name) > 1 else found
        for found, reference in zip(sets, _references(config), strict=True)
    ]


def _references(config: ConfigDict) -> list[str]:
    return list(filter(None, config.data.name.split("+")))


def _open(config: ConfigDict, reference: str, split: str) -> PictureSet:
    fields = config.data
    if reference.startswith(_FOLDER):
        path = pathlib.Path(reference.removeprefix(_FOLDER)).expanduser()
        pictures = open_image_files(path, on_bad_image=fields.on_bad_image)
        found = PictureSet(path.absolute().name, pictures.names, pictures.__getitem__)
    else:
        source = data.open_source(
            reference,
            split=split,
            image_size=fields.image_size,
            data_dir=fields.data_dir or None,
            num_examples=fields.num_images or None,
        )
        names = tuple(f"{i:05d}" for i in range(len(source)))
        found = PictureSet(reference, names, lambda i: np.asarray(source[i]["image"]))
    numbers = evenly(fields.num_images or len(found.names), len(found.names))
    return PictureSet(found.name, tuple(found.names[i] for i in numbers), lambda i: found.read(numbers[i]))


# metric -> (heading, format); a longer name begins with one of these.
_COLUMNS = {
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "mse": ("MSE", "{:.5f}"),
    "lpips": ("LPIPS", "{:.3f}"),
    "robust_lpips": ("robust LPIPS", "{:.3f}"),
    "gram": ("Gram loss", "{:.3g}"),
}


def summarize(per_image: Mapping[str, Mapping[str, np.ndarray]], rows: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns set -> {"num_images", row -> {metric, metric_std}}.

    Args:
      per_image: set -> metric -> [pictures, rows].
      rows: names of the restorations.
    """
    results = {}
    for name, numbers in per_image.items():
        results[name] = {"num_images": len(numbers["name"])}
        for i, row in enumerate(rows):
            found = {metric: metrics.summary(values[:, i]) for metric, values in numbers.items() if metric != "name"}
            results[name][row] = {metric: summary["mean"] for metric, summary in found.items()}
            results[name][row] |= {f"{metric}_std": summary["std"] for metric, summary in found.items()}
    return results


def write(
    workdir: pathlib.Path,
    title: str,
    results: Mapping[str, Any],
    per_image: Mapping[str, Mapping[str, np.ndarray]],
    windows: Mapping[str, np.ndarray],
    rows: Sequence[str],
) -> None:
    """Writes table.md, per_image.npz and crops.png.

    Args:
      workdir: where to.
      title: heading of the table.
      results: of the evaluation, with "sets", "variants", "noise" and "setting".
      per_image: set -> metric -> [pictures, rows].
      windows: picture -> uint8 [1 + rows, S, S, 3], the first the clean one.
      rows: names of the restorations.
    """
    tables = [_table(name, found, results["variants"]) for name, found in results["sets"].items()]
    report.write(workdir, title, tables, [_note(results)])
    arrays = {f"{name}/{metric}": values for name, part in per_image.items() for metric, values in part.items()}
    write_arrays(workdir / "per_image.npz", arrays | {"rows": np.array(rows)})
    if windows:
        shown = np.stack(list(windows.values()), axis=1)
        grid = labelled_grid(dict(zip(("clean", *rows), shown, strict=True)), columns=short_names(list(windows)))
        write_png(workdir / "crops.png", grid)


def _table(name: str, found: Mapping[str, Any], variants: Mapping[str, str]) -> report.Table:
    columns = {metric: _column(metric) for metric in variants}
    heading = [f"{name} ({found['num_images']} pictures)", *(text for text, _ in columns.values())]
    rows = []
    for row, numbers in found.items():
        if row != "num_images":
            cells = (f"{s.format(numbers[m])} ± {s.format(numbers[f'{m}_std'])}" for m, (_, s) in columns.items())
            rows.append([row, *cells])
    return report.Table(heading, rows)


def _column(metric: str) -> tuple[str, str]:
    """Returns (heading, format)."""
    for known, (heading, style) in _COLUMNS.items():
        if metric == known:
            return heading, style
        if metric.startswith(f"{known}_"):
            return f"{heading} ({metric.removeprefix(f'{known}_')})", style
    return metric.replace("_", " "), "{:.4g}"


def _note(results: Mapping[str, Any]) -> str:
    setting, noise = results["setting"], results["noise"]
    text = (
        f"Noise: {noise['variant']}, sigma {noise['sigma'] * 255:g}/255. {setting['device']}, {setting['dtype']}, "
        f"seed {setting['seed']}; ± is the standard deviation over pictures."
    )
    return f"{text} BM3D: {results['bm3d']}." if "bm3d" in results else text


NOISY = "noisy"
METRICS = [name for name, metric in metrics.METRICS.items() if not metric.needs_set]
_WINDOW = 160  # px, of the pictures in crops.png
_WINDOWS = "windows"

ONE_PROCESS = True


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading pictures or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    dtype_of(config)
    degradations.check_noise(**config.noise)
    for name in filter(None, config.metrics.split("+")):
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r} of denoised pictures; known: {', '.join(METRICS)}")
    measurements.check(config)
    check_tiles(config.tiles)
    bm3d.find(config.bm3d)
    validate_sets(config)
    if not config.order or not all(config.entries[name] for name in config.order):
        raise UserError("an evaluation needs at least one denoiser; name the workdir of a denoiser's training")


def run(run: Run) -> dict[str, Any]:
    """Measures config.entries (name -> workdir of a denoiser) and returns the results.

    Args:
      run: of configs/denoising.py.

    Raises:
      UserError: no usable checkpoint or pictures, or pictures too small for a metric.
    """
    config, workdir = run.config, run.workdir
    denoisers = {name: run.load(config.entries[name], kind="denoiser") for name in config.order}
    measurement = Measurement(run, next(iter(denoisers.values())).encoder)
    sets = open_sets(config)
    run.begin()
    if line := bm3d.notice(config.bm3d):
        print(f"{config.title}: {line}", file=sys.stderr, flush=True)

    restoration = _Restoration(config, denoisers)
    parts = run.cache("parts", *_key(denoisers, measurement, restoration.rows))
    per_image, windows = _measure_sets(config, sets, restoration, measurement, parts)
    results = {
        "sets": summarize(per_image, restoration.rows),
        **measurement.finish(),
        "noise": {**config.noise, "variant": degradations.NOISE_PROTOCOLS[config.noise.protocol]},
        "denoisers": {name: dict(denoiser.description) for name, denoiser in denoisers.items()},
        "setting": run.provenance,
    }
    if bm3d.NAME in restoration.rows:
        results["bm3d"] = bm3d.variant()
    write(workdir, config.title, results, per_image, windows, restoration.rows)
    shutil.rmtree(workdir / "parts")
    return run.finish(results)


def picture_key(seed: int, name: str) -> jax.Array:
    """Returns the key of a picture's noise: the same in whatever folder and order it is found."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(os.fsencode(name)))


def _key(denoisers: Mapping[str, Trained], measurement: Measurement, rows: tuple[str, ...]) -> list[str]:
    """Returns what the numbers of a picture depend on beside the config: exact weights, and whether BM3D is there."""
    weights = [denoiser.fingerprint for denoiser in denoisers.values()]
    return [*weights, fingerprint(measurement.variables), *rows]


class _Restoration:
    """Makes a picture noisy and restores it in every way; `rows` names them, the noisy picture first."""

    def __init__(self, config: ConfigDict, denoisers: Mapping[str, Trained]):
        self._noise, self._seed, self._tiles = config.noise.to_dict(), config.seed, config.tiles.to_dict()
        self._denoise_fns = {name: denoiser.denoise_fn for name, denoiser in denoisers.items()}
        self._reference = bm3d.find(config.bm3d)
        self.rows = (NOISY, *self._denoise_fns, *((bm3d.NAME,) if self._reference else ()))

    def __call__(self, name: str, picture: np.ndarray) -> np.ndarray:
        """Returns [rows, H, W, 3] of a clean picture, uint8 [H, W, 3]."""
        key = picture_key(self._seed, name)
        noisy = np.asarray(degradations.add_gaussian_noise(key, to_float(picture)[None], **self._noise))
        results = [noisy, *(tiles.denoise(fn, noisy, **self._tiles) for fn in self._denoise_fns.values())]
        if self._reference:
            results.append(self._reference(noisy[0], self._noise["sigma"])[None])
        return np.concatenate(results)


def _measure_sets(
    config: ConfigDict,
    sets: Sequence[PictureSet],
    restoration: _Restoration,
    measurement: Measurement,
    parts: ResultCache,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Returns set -> metric -> [pictures, rows], with their "name" [pictures], and the windows of pictures shown."""
    pictures = [(found, i) for found in sets for i in range(len(found.names))]
    shown = set(evenly(config.log.num_pictures, len(pictures)))
    measure = jax.jit(measurement.measure)
    measured: dict[str, list[dict[str, np.ndarray]]] = {found.name: [] for found in sets}
    windows = {}
    for number, (found, i) in enumerate(progress_bar(pictures, config.title, unit="picture")):
        name = f"{found.name}/{found.names[i]}"
        part = parts.load(f"{number:06d}")
        if part is None or str(part["name"]) != name:
            picture = found.read(i)
            restored = restoration(found.names[i], picture)
            part = {"name": np.array(name), **_measure(measure, measurement.variables, name, restored, picture)}
            if number in shown:
                part[_WINDOWS] = _windows(picture, restored)
            parts.save(f"{number:06d}", part)
        if _WINDOWS in part:
            windows[name] = part.pop(_WINDOWS)
        measured[found.name].append(part)
    per_image = {name: {key: np.stack([p[key] for p in group]) for key in group[0]} for name, group in measured.items()}
    return per_image, windows


def _measure(measure, variables: Any, name: str, restored: np.ndarray, picture: np.ndarray) -> dict[str, np.ndarray]:
    """Returns metric -> [rows]."""
    clean = np.broadcast_to(np.asarray(to_float(picture)), restored.shape)
    try:
        return jax.device_get(measure(variables, restored, clean))
    except UserError as error:  # an image smaller than a metric's window
        raise UserError(f"{name}: {error}") from error


def _windows(picture: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """Returns the middle of the clean picture and of each restoration, uint8 [1 + rows, S, S, 3]."""
    return np.stack([centre_window(x, _WINDOW) for x in (picture, *np.asarray(to_uint8(restored)))])


def check_tiles(options: Mapping[str, int]) -> None:
    """Checks that the sizes of config.tiles fit together and suit the networks.

    Raises:
      UserError: they do not.
    """
    if options["multiple"] % MULTIPLE:
        raise UserError(
            f"multiple={options['multiple']} must be a multiple of {MULTIPLE} px, as the networks' sides are"
        )
    tiles.check_tiles(**options)
