"""Denoises a user's own photograph, or all in a folder, at the sizes they have.

Leaves denoised/NAME.png for each, results.json, and before_after.png with the middle of the first few. Photographs
that are already there are skipped by a second start. With config.noise.sigma noise is added first, to see on a clean
photograph what the denoiser does; results.json then has the PSNR of the noisy and the denoised file.
"""

import collections
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.denoising import tiles
from arinv.apps.denoising.evaluate_denoising import check_tiles, picture_key
from arinv.errors import UserError
from arinv.experiment import workdirs
from arinv.experiment.figures import centre_window, evenly, labelled_grid, short_names
from arinv.experiment.run import Run, dtype_of
from arinv.experiment.writer import progress_bar, write_png
from arinv.ops import degradations
from arinv.ops.images import to_float, to_uint8

_WINDOW = 256  # px, of the photographs in before_after.png

ONE_PROCESS = True


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading photographs or checkpoints.

    Raises:
      UserError: a name that is missing or a number out of range.
    """
    dtype_of(config)
    degradations.check_noise(**config.noise)
    check_tiles(config.tiles)
    if not config.denoiser:
        raise UserError("denoiser is empty; name the workdir of a denoiser's training")
    if not config.data.name:
        raise UserError("images is empty; name a photograph or a folder of them")


def run(run: Run) -> dict[str, Any]:
    """Denoises the photographs of config.data.name and returns what was done.

    Args:
      run: of configs/denoise.py; config.denoiser is the workdir of a denoiser's training.

    Raises:
      UserError: no usable checkpoint or photographs, or a workdir among the photographs.
    """
    config, workdir = run.config, run.workdir
    workdirs.check_apart(config, workdir)
    denoiser = run.load(config.denoiser, kind="denoiser")
    pictures = run.open_images()
    run.begin()
    files = _files(pictures.names)
    run.cache("denoised", denoiser.fingerprint, files=pictures.paths).claim()
    for i, name in enumerate(progress_bar(pictures.names, config.title, unit="photograph")):
        path = workdir / "denoised" / files[name]
        if not path.exists():
            denoised = tiles.denoise(denoiser.denoise_fn, _input(config, name, pictures[i])[None], **config.tiles)
            write_png(path, np.asarray(to_uint8(denoised[0])))
    results = {
        "photographs": {
            name: _describe(config, workdir, name, file, pictures[i]) for i, (name, file) in enumerate(files.items())
        },
        "skipped": [str(path) for path in pictures.bad_files],
        "noise": {**config.noise, "variant": degradations.NOISE_PROTOCOLS[config.noise.protocol]},
        "denoiser": dict(denoiser.description),
    }
    _write_picture(config, workdir, pictures, files)
    return run.finish(results)


def _files(names: tuple[str, ...]) -> dict[str, str]:
    """Returns name -> name of the PNG file, no two alike; where two differ in their ending only, it is kept."""
    stems = {name: name.rpartition(".")[0] or name for name in names}
    count = collections.Counter(stems.values())
    files = {name: f"{stem if count[stem] == 1 else name}.png" for name, stem in stems.items()}
    if len(set(files.values())) < len(files):  # such as x.jpg and x.png beside x.jpg.jpg
        return {name: f"{name}.png" for name in names}
    return files


def _input(config: ConfigDict, name: str, picture: np.ndarray) -> np.ndarray:
    """Returns what is denoised: the photograph, or its noisy version as float32."""
    if not config.noise.sigma:
        return picture
    key = picture_key(config.seed, name)
    return np.asarray(degradations.add_gaussian_noise(key, to_float(picture), **config.noise))


def _describe(config: ConfigDict, workdir: pathlib.Path, name: str, file: str, picture: np.ndarray) -> dict[str, Any]:
    described = {"file": f"denoised/{file}", "height": picture.shape[0], "width": picture.shape[1]}
    if config.noise.sigma:
        clean = to_float(picture)[None]
        found = {"psnr_noisy": _input(config, name, picture), "psnr": data.read_image(workdir / "denoised" / file)}
        psnr = jax.jit(metrics.psnr)  # noise may leave [0, 1], which is refused where values are known
        described |= {metric: float(psnr(to_float(x)[None], clean)[0]) for metric, x in found.items()}
    return described


def _write_picture(config: ConfigDict, workdir: pathlib.Path, pictures: data.ImageFiles, files: dict[str, str]) -> None:
    """Draws the middle of the first photographs before and after, and the clean ones where noise was added."""
    shown = evenly(config.log.num_pictures, len(pictures))
    names = [pictures.names[i] for i in shown]
    before = [np.asarray(to_uint8(to_float(_input(config, pictures.names[i], pictures[i])))) for i in shown]
    after = [data.read_image(workdir / "denoised" / files[name]) for name in names]
    rows = {"before": before, "after": after}
    if config.noise.sigma:
        rows = {"clean": [pictures[i] for i in shown], "noisy": before, "denoised": after}
    windows = {row: np.stack([centre_window(x, _WINDOW) for x in images]) for row, images in rows.items()}
    write_png(workdir / "before_after.png", labelled_grid(windows, columns=short_names(names)))
