"""Denoising of a user-supplied image, or of all images in a folder, at the sizes they have.

Writes denoised/NAME.png for each, results.json, and before_after.png with the middle of the first few. A restart skips
images that are denoised already. With config.noise.sigma noise is added first, to show on a clean image what the
denoiser does; results.json then has the PSNR of the noisy and of the denoised image.
"""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.denoising import tiles
from arinv.apps.denoising.evaluate_denoising import check_tiles
from arinv.errors import UserError
from arinv.experiment.fields import check_images, check_num_images, dtype_of
from arinv.experiment.figures import center_window, evenly, labeled_grid, short_names
from arinv.experiment.output_files import is_image, png_names, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import DENOISER
from arinv.experiment.writer import progress_bar
from arinv.ops import degradations
from arinv.ops.images import to_float, to_uint8
from arinv.ops.keys import name_key

_FOLDER = "denoised"
_WINDOW = 256  # px, of the images in before_after.png


def check(config: ConfigDict) -> None:
    """Checks everything that needs no images and no checkpoint.

    Raises:
      UserError: an empty field or a number out of range.
    """
    dtype_of(config)
    degradations.check_noise(**config.noise)
    check_tiles(config.tiles)
    if not config.denoiser:
        raise UserError("denoiser is empty; name the workdir of a denoiser's training")
    check_images(config)
    check_num_images(config)


def run(run: Run) -> dict[str, Any]:
    """Denoises the images of config.data.name and returns their sizes and files.

    Args:
      run: a run of configs/denoise.py; config.denoiser is the workdir of a denoiser's training.

    Raises:
      UserError: no usable checkpoint or images, or a workdir among the images.
    """
    config = run.config
    denoiser = run.load(config.denoiser, kind=DENOISER)
    images = run.open_images()
    run.begin()
    files = _files(images.names)
    run.cache(_FOLDER, denoiser.fingerprint, files=images.paths).claim()
    for i, name in enumerate(progress_bar(images.names, config.title, unit="image")):
        path = run.workdir / files[name]
        if not is_image(path):
            denoised = tiles.denoise(denoiser.denoise_fn, _input(config, name, images[i])[None], **config.tiles)
            write_png(path, np.asarray(to_uint8(denoised[0])))
    results = {
        "images": {name: _describe(run, name, file, images[i]) for i, (name, file) in enumerate(files.items())},
        "skipped": list(images.bad_names),
        "noise": {**config.noise, "variant": degradations.NOISE_PROTOCOLS[config.noise.protocol]},
        "denoiser": dict(denoiser.description),
    }
    if config.log.num_images:
        _write_figure(run, images, files)
    return run.finish(results)


def _files(names: tuple[str, ...]) -> dict[str, str]:
    """Returns name -> path of the PNG file in the workdir."""
    return {name: f"{_FOLDER}/{path}" for name, path in zip(names, png_names(names), strict=True)}


def _input(config: ConfigDict, name: str, image: np.ndarray) -> np.ndarray:
    """Returns the image to denoise: the user's, or its noisy version as float32."""
    if not config.noise.sigma:
        return image
    key = name_key(config.seed, name)
    return np.asarray(degradations.add_gaussian_noise(key, to_float(image), **config.noise))


def _describe(run: Run, name: str, file: str, image: np.ndarray) -> dict[str, Any]:
    description = {"file": file, "height": image.shape[0], "width": image.shape[1]}
    if run.config.noise.sigma:
        clean = to_float(image)[None]
        images = {"psnr_noisy": _input(run.config, name, image), "psnr": data.read_image(run.workdir / file)}
        psnr = jax.jit(metrics.psnr)  # under jit, as noise may leave [0, 1], which metrics reject
        description |= {metric: float(psnr(to_float(x)[None], clean)[0]) for metric, x in images.items()}
    return description


def _write_figure(run: Run, images: data.ImageFiles, files: dict[str, str]) -> None:
    """Draws the middle of the first images before and after, and the clean ones where noise was added."""
    config = run.config
    indices = evenly(config.log.num_images, len(images))
    names = [images.names[i] for i in indices]
    before = [np.asarray(to_uint8(to_float(_input(config, images.names[i], images[i])))) for i in indices]
    after = [data.read_image(run.workdir / files[name]) for name in names]
    rows = {"before": before, "after": after}
    if config.noise.sigma:
        rows = {"clean": [images[i] for i in indices], "noisy": before, "denoised": after}
    windows = {row: np.stack([center_window(x, _WINDOW) for x in group]) for row, group in rows.items()}
    write_png(run.workdir / "before_after.png", labeled_grid(windows, columns=short_names(names)))
