"""Restoration of user-supplied images: degraded first by an operator, or degraded already.

Images are resized to the size of the networks: the largest square in the center. Writes METHOD/IMAGE.png and
degraded/IMAGE.png, overview.png (the first images, degraded, and restored by every method), report.html,
restorations.csv (PSNR and SSIM of every image where it was degraded here) and results.json. Finished batches are saved
in parts/; a run that was killed resumes.

Source: Generative Encoder, Algorithm 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.restoration import methods
from arinv.apps.restoration.methods import SECONDS
from arinv.apps.restoration.restoration import degrade_all, measure, restore_all
from arinv.data.decoding import fits
from arinv.errors import UserError
from arinv.experiment import report
from arinv.experiment.fields import check_fields, check_images
from arinv.experiment.figures import labeled_grid, short_names
from arinv.experiment.output_files import check_overwrites_none, png_names, write_csv, write_png
from arinv.experiment.run import Run
from arinv.ops.degradations import Operator
from arinv.ops.images import to_float, to_uint8
from arinv.train.autoencoder import operator_of

_OVERVIEW = "overview.png"
_DEGRADED = "degraded"
_METRICS = ("psnr", "ssim")


def check(config: ConfigDict) -> None:
    """Checks everything that needs no images and no checkpoint.

    Raises:
      UserError: no images, an unknown name, or a number out of range.
    """
    check_fields(config)
    check_images(config)
    methods.check(config)
    if config.mask and config.operator.name != "mask":
        raise UserError(f"mask={config.mask} needs operator=mask; got operator={config.operator.name}")
    if config.degraded and config.operator.name == "mask" and not config.mask:
        raise UserError(
            "degraded=true with operator=mask needs mask=, an image file that is black where pixels are missing"
        )
    if config.limit < 0:
        raise UserError(f"limit must be 0 (all images) or more; got {config.limit}")


def check_inputs(run: Run) -> None:
    """Checks that the networks and the mask exist.

    Raises:
      UserError: no checkpoint, or one of another kind, or a mask that cannot be read.
    """
    methods.check_inputs(run)
    if run.config.mask:
        data.read_image(run.config.mask)


def run(run: Run) -> dict[str, Any]:
    """Restores the images of config.data.name and returns the results.

    Args:
      run: a run of configs/restore.py.

    Raises:
      UserError: an image or a network that cannot be read, a workdir among the images, or a mask that hides all or
        nothing, or has another aspect ratio than an image.
    """
    config, workdir = run.config, run.workdir
    check_overwrites_none(workdir, [*config.methods, _DEGRADED, _OVERVIEW], images=config.data.name)
    files = run.open_images()
    names = files.names[: config.limit or None]
    networks = methods.load(run)
    network = next(iter(networks.values()))
    size, channels = network.image_size, network.description.get("channels", 3)
    factor = config.operator.options.get("factor", 4) if config.degraded and config.operator.name == "downsample" else 1
    mask = data.read_image(config.mask) if config.mask else None
    prepared = []
    for i in range(len(names)):
        image = files[i]
        if mask is not None:
            _check_mask_shape(mask, image, config.mask, names[i])
        prepared.append(_prepare(image, size, channels, factor))
    images_u8 = np.stack(prepared)
    operator = operator_of(config)
    key = None
    if mask is not None:
        known = known_pixels(mask, size, config.mask)
        operator, key = masking(known), known
        images_u8 = images_u8 * known if config.degraded else images_u8
    run.begin()
    parts = {
        method: restore_all(run, method, networks, operator, images_u8, degraded=config.degraded, key=key)
        for method in config.methods
    }
    images = np.asarray(to_float(images_u8))
    degraded = images if config.degraded else degrade_all(run, operator, images)
    rows = {_DEGRADED: degraded} | {method: part["image"] for method, part in parts.items()}
    for folder, restored in rows.items():
        for file, image in zip(png_names(names), np.asarray(to_uint8(restored)), strict=True):
            write_png(workdir / folder / file, np.repeat(image, 3, axis=-1) if channels == 1 else image)
    values = {}
    if not config.degraded:
        options = {"batch_size": config.batch_size}
        values = {name: measure(restored, images, _METRICS, **options) for name, restored in rows.items()}
    _write_csv(run, names, values)
    results = {
        "num_images": len(names),
        "skipped": list(files.bad_names),
        "image_size": size,
        "entries": {name: report.summarize(numbers) for name, numbers in values.items()},
        SECONDS: {method: float(part[SECONDS].mean()) for method, part in parts.items()},
        "operator": {**config.operator.to_dict(), "formula": operator.formula},
        **({} if key is None else {"masked_share": float(1 - key.mean())}),
        "solver": config.solver.to_dict(),
        "networks": {name: network.fingerprint for name, network in networks.items()},
        "variants": {name: metrics.VARIANTS[name] for name in _METRICS},
    }
    figures = {}
    if count := min(config.log.num_images, len(names)):
        grid = {} if config.degraded else {"image": images[:count]}
        grid |= {name.replace("_", " "): array[:count] for name, array in rows.items()}
        write_png(workdir / _OVERVIEW, labeled_grid(grid, columns=short_names(names[:count])))
        figures = {"Degraded images, and what is restored from them": workdir / _OVERVIEW}
    return run.finish(results, tables=[_table(results, rows)], notes=[_note(config, results)], figures=figures)


def known_pixels(mask: np.ndarray, size: int, name: str) -> np.ndarray:
    """Returns 0 where a mask is dark and 1 elsewhere, uint8 [size, size, 1], of the square in its center.

    Args:
      mask: uint8 [H, W, 3].
      size: size of the result in pixels.
      name: name of its file, for the message.

    Raises:
      UserError: it is dark or bright everywhere.
    """
    levels = data.to_grey(data.resize_u8(mask, size, "crop"))
    known = (levels > 127).astype(np.uint8)[..., None]
    if known.min() == known.max():
        everything = "hides the whole image" if not known.max() else "hides nothing"
        raise UserError(
            f"mask={name} {everything}: its square in the center has the grey levels {levels.min()} to {levels.max()}; "
            "paint what is missing black (below 128) and the rest white"
        )
    return known


def _check_mask_shape(mask: np.ndarray, image: np.ndarray, mask_name: str, name: str) -> None:
    """Checks that a mask is square, for the square in the center of an image, or has the image's aspect ratio.

    Raises:
      UserError: the mask has another aspect ratio and is not square.
    """
    (mask_height, mask_width), (height, width) = mask.shape[:2], image.shape[:2]
    if not fits(mask.shape, image.shape):
        raise UserError(
            f"mask={mask_name} of {mask_width}x{mask_height} px has another aspect ratio than {name} of "
            f"{width}x{height} px; give a mask of the image's size, or a square one for the square in its center"
        )


def masking(known: np.ndarray) -> Operator:
    """Returns the operator that sets what is not known to 0.

    Args:
      known: [H, W, 1], 0 or 1.
    """

    def apply(keys, images):
        return images * known.astype(np.float32)[None]

    return Operator(apply, apply, "0 where the mask is black")


def _prepare(image: np.ndarray, size: int, channels: int, factor: int) -> np.ndarray:
    """Returns the largest square in the center of an image, uint8 [size, size, channels].

    With a factor above 1, pixels are means of blocks of that size, repeated, as the operator downsample returns them.
    """
    if factor == 1:
        resized = data.resize_u8(image, size, "crop")
    else:
        resized = np.repeat(np.repeat(data.means_u8(image, size // factor), factor, axis=0), factor, axis=1)
    return data.to_grey(resized)[..., None] if channels == 1 else resized


def _write_csv(run: Run, names: Sequence[str], values: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    keys = [(method, metric) for method, numbers in values.items() for metric in numbers]
    rows = [["image", *(f"{metric}_{method}" for method, metric in keys)]]
    for i, name in enumerate(names):
        rows.append([name, *(f"{values[method][metric][i]:.4f}" for method, metric in keys)])
    write_csv(run.workdir / "restorations.csv", rows)


def _table(results: Mapping[str, Any], names: Iterable[str]) -> report.Table:
    """Returns the table of the degraded images and of every method."""
    entries = {}
    for name in names:
        seconds = {SECONDS: results[SECONDS][name]} if name in results[SECONDS] else {}
        entries[name.replace("_", " ")] = results["entries"].get(name, {}) | seconds
    return report.metric_table("method", report.columns([*_METRICS, SECONDS]), entries)


def _note(config: ConfigDict, results: Mapping[str, Any]) -> str:
    size, formula = results["image_size"], results["operator"]["formula"]
    masked = f" ({results['masked_share']:.1%} of the pixels)" if "masked_share" in results else ""
    if config.degraded and not masked:
        formula = "degraded already" + (f", by {config.operator.name}" if config.operator.name != "identity" else "")
    return f"{results['num_images']} images of {config.data.name} at {size} px: {formula}{masked}."
