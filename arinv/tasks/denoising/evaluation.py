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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv.apps import denoising
from arinv.errors import UserError
from arinv.ops import degradations
from arinv.ops.images import to_float, to_uint8
from arinv.tasks import measurement as measurements
from arinv.tasks import setting
from arinv.tasks import workdir as workdirs
from arinv.tasks.denoising import block_matching, picture_sets
from arinv.tasks.denoising import networks as denoiser_networks
from arinv.tasks.denoising import report as denoising_report
from arinv.tasks.fingerprint import fingerprint
from arinv.tasks.measurement import Measurement
from arinv.tasks.parts import Parts
from arinv.tasks.picture_windows import centre_window, evenly
from arinv.train.progress import progress_bar

NOISY = "noisy"
METRICS = ("mse", "psnr", "ssim", "lpips_alex", "lpips_vgg", "robust_lpips", "gram")  # those of single pictures
_WINDOW = 160  # px, of the pictures in crops.png
_WINDOWS = "windows"


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading pictures or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    setting.dtype(config)
    degradations.check_noise(**config.noise)
    for name in filter(None, config.metrics.split("+")):
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r} of denoised pictures; known: {', '.join(METRICS)}")
    measurements.validate(config)
    denoiser_networks.check_tiles(config.tiles)
    block_matching.find(config.bm3d)
    picture_sets.validate(config)
    if not config.order or not all(config.entries[name] for name in config.order):
        raise UserError("an evaluation needs at least one denoiser; name the workdir of a denoiser's training")
    if jax.process_count() > 1:
        raise UserError("this evaluation runs in one process; start it on one host")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Measures config.entries (name -> workdir of a denoiser) and returns the results.

    Args:
      config: as made by configs/denoising.py.
      workdir: of this evaluation; it goes on from what it finds there.

    Raises:
      UserError: no usable checkpoint or pictures, or pictures too small for a metric.
    """
    sources = {name: workdirs.resolve(config.entries[name], workdir) for name in config.order}
    denoisers = {name: denoiser_networks.load(path, dtype=setting.dtype(config)) for name, path in sources.items()}
    measurement = Measurement(config, workdir, next(iter(denoisers.values())).classifier)
    sets = picture_sets.open_sets(config)
    workdirs.open_workdir(config, workdir)
    if line := block_matching.notice(config.bm3d):
        print(f"{config.title}: {line}", file=sys.stderr, flush=True)

    restoration = _Restoration(config, denoisers)
    parts = Parts(workdir / "parts", _identity(denoisers, measurement, restoration.rows))
    per_image, windows = _measure_sets(config, sets, restoration, measurement, parts)
    results = {
        "sets": denoising_report.summarize(per_image, restoration.rows),
        **measurement.finish(),
        "noise": {**config.noise, "variant": degradations.NOISE_PROTOCOLS[config.noise.protocol]},
        "denoisers": {name: dict(trained.description) for name, trained in denoisers.items()},
        "setting": setting.provenance(config),
    }
    if block_matching.NAME in restoration.rows:
        results["bm3d"] = block_matching.variant()
    denoising_report.write(workdir, config.title, results, per_image, windows, restoration.rows)
    shutil.rmtree(workdir / "parts")
    workdirs.write_results(workdir, results)
    return results


def picture_key(seed: int, name: str) -> jax.Array:
    """Returns the key of a picture's noise: the same in whatever folder and order it is found."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(os.fsencode(name)))


def _identity(
    denoisers: Mapping[str, denoiser_networks.TrainedDenoiser], measurement: Measurement, rows: tuple[str, ...]
) -> str:
    """Returns what the numbers of a picture depend on beside the config: exact weights, and whether BM3D is there."""
    decoders = (fingerprint((trained.classifier.variables, trained.variables)) for trained in denoisers.values())
    return " ".join([*decoders, fingerprint(measurement.variables), *rows])


class _Restoration:
    """Makes a picture noisy and restores it in every way; `rows` names them, the noisy picture first."""

    def __init__(self, config: ConfigDict, denoisers: Mapping[str, denoiser_networks.TrainedDenoiser]):
        self._noise, self._seed, self._tiles = config.noise.to_dict(), config.seed, config.tiles.to_dict()
        self._denoise_fns = {name: trained.denoise_fn for name, trained in denoisers.items()}
        self._reference = block_matching.find(config.bm3d)
        self.rows = (NOISY, *self._denoise_fns, *((block_matching.NAME,) if self._reference else ()))

    def __call__(self, name: str, picture: np.ndarray) -> np.ndarray:
        """Returns [rows, H, W, 3] of a clean picture, uint8 [H, W, 3]."""
        key = picture_key(self._seed, name)
        noisy = np.asarray(degradations.add_gaussian_noise(key, to_float(picture)[None], **self._noise))
        results = [noisy, *(denoising.denoise(fn, noisy, **self._tiles) for fn in self._denoise_fns.values())]
        if self._reference:
            results.append(self._reference(noisy[0], self._noise["sigma"])[None])
        return np.concatenate(results)


def _measure_sets(
    config: ConfigDict,
    sets: Sequence[picture_sets.PictureSet],
    restoration: _Restoration,
    measurement: Measurement,
    parts: Parts,
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
