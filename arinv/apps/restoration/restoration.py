"""Restoration of degraded test images by several methods from the same starts; `methods` lists them.

Writes results.json and table.md (for each method the means and standard deviations of every metric, FID with
config.metric_encoder, and seconds an image), report.html, restored.png, details.png (the centers of the images,
enlarged), curve.png (the error during the search, with those of methods without a search as level lines), curves.npz,
per_image.npz ("METHOD/METRIC" [N]) and restored.npz ("image" and each method, uint8 [N, H, W, C], which truth_table and
volume read). Every finished batch of every method is saved in parts/, so that a run that was killed resumes.

Source: Generative Encoder, Algorithm 1, sections 4.4 to 5.4.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics, parallel
from arinv.apps.restoration import methods
from arinv.apps.restoration.methods import SECONDS, Part
from arinv.errors import UserError
from arinv.experiment import measurement, report
from arinv.experiment.fields import check_fields
from arinv.experiment.figures import labeled_grid, write_curves
from arinv.experiment.measurement import MetricNetwork
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_bar
from arinv.ops.degradations import Operator
from arinv.ops.images import to_float, to_uint8
from arinv.train.autoencoder import operator_of
from arinv.types import Array

RESTORED = "restored.npz"
_DEGRADED = "degraded"
_DETAIL = "detail"
_FOURIER_BLOCK = 256  # images transformed at once, in complex128
_METRICS: Mapping[str, Callable[[Array, Array], Array]] = {
    "mse": jax.jit(metrics.mean_squared_error),
    "psnr": jax.jit(metrics.psnr),
    "ssim": jax.jit(metrics.ssim),
    "ssim_uniform7": jax.jit(metrics.ssim_uniform7),
}
_SMALLEST = {"ssim": metrics.SSIM_WINDOW, "ssim_uniform7": metrics.UNIFORM_WINDOW}
_VARIANTS = {
    **{name: metrics.VARIANTS[name] for name in _METRICS},
    "mse_pm1": "mse of images in [-1, 1], 4 times that of images in [0, 1]",
    _DETAIL: "detail: mean power of the Fourier coefficients above half of the band, over that of the test images",
}


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name, a number out of range, or no method.
    """
    check_fields(config)
    data.check_name(config.data.name)
    methods.check(config)
    if not all(isinstance(step, int) and step >= 0 for step in config.curve_steps):
        raise UserError(f"curve_steps={config.curve_steps} must be steps of the search, 0 or more")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the networks exist, or are stages, and take images of this size.

    Raises:
      UserError: no checkpoint, or one of another kind or image size.
    """
    methods.check_inputs(run)
    measurement.check_metric_encoder(run)


def run(run: Run) -> dict[str, Any]:
    """Degrades the test images, restores them by every method, and returns the results.

    Args:
      run: a run of configs/restoration.py.

    Raises:
      UserError: a missing network, or images of another size.
    """
    config = run.config
    operator = operator_of(config)
    networks, metric_network = methods.load(run), measurement.load_metric_encoder(run)
    arrays = data.load_arrays(run.open_data("test"))
    run.begin()
    parts = {method: restore_all(run, method, networks, operator, arrays["image"]) for method in config.methods}
    images = np.asarray(to_float(arrays["image"]))
    degraded = degrade_all(run, operator, images)
    restored = {_DEGRADED: degraded} | {method: part["image"] for method, part in parts.items()}
    values = {name: _measure(rows, images, config.batch_size) for name, rows in restored.items()}
    results = _results(run, operator, networks, parts, values)
    if metric_network:
        _add_fid(run, metric_network, results, parts, images)
    figures = _write(run, parts, values, images, degraded)
    return run.finish(results, tables=[_table(results)], notes=[_note(run, results)], figures=figures)


def restore_all(
    run: Run,
    method: str,
    networks: Mapping[str, Trained],
    operator: Operator,
    images: np.ndarray,
    *,
    degraded: bool = False,
    key: np.ndarray | None = None,
) -> Part:
    """Returns what a method returns for all images, with the seconds of each; finished batches are kept in parts/.

    They serve a later start with another batch_size too, and keep the seconds that were measured.

    Args:
      run: a run of a task with the fields of `methods.check`.
      method: one of config.methods.
      networks: as returned by `methods.load`.
      operator: operator of the degradation.
      images: uint8 [N, H, W, C].
      degraded: whether the images are degraded already.
      key: an array that determines the operator, such as a mask; None for none.
    """
    restore = methods.build(run, method, networks, operator, degraded=degraded)
    size = run.config.batch_size
    own = (images, *([] if key is None else [key]))
    cache = run.cache(f"parts/{method}", *methods.fingerprints(method, networks), *own)

    def compute(first: int) -> Part:
        batch, mask = next(parallel.padded_batches(images[first : first + size], size=size))
        part = restore(batch, first + np.arange(size))
        rows = {name: value[mask] for name, value in part.items() if name != SECONDS}
        return rows | {SECONDS: np.full(len(rows["image"]), part[SECONDS])}

    rows = []
    with progress_bar(None, f"{run.config.title}: {method}", total=len(images), unit="image") as bar:
        for part in cache.batches().fill(len(images), compute):
            rows.append(part)
            bar.update(len(part[SECONDS]))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def degrade_all(run: Run, operator: Operator, images: np.ndarray) -> np.ndarray:
    """Returns x+ of all images, clipped to [0, 1], float32 [N, H, W, C].

    Args:
      run: a run of a task with the fields of `methods.check`.
      operator: operator of the degradation.
      images: float32 [N, H, W, C] in [0, 1].
    """
    degrade = jax.jit(lambda images, indices: jnp.clip(methods.degrade(run, operator, images, indices), 0, 1))
    numbers = np.arange(len(images), dtype=np.int32)
    return parallel.map_batches(lambda rows: degrade(images[rows], rows), numbers, size=run.config.batch_size)


def measure(
    restored: np.ndarray, images: np.ndarray, names: Iterable[str], *, batch_size: int
) -> dict[str, np.ndarray]:
    """Returns metrics of restored images, without those whose window the images do not fill.

    Args:
      restored: float32 [N, H, W, C] in [0, 1].
      images: float32 [N, H, W, C] in [0, 1].
      names: metrics of `arinv.metrics.VARIANTS`.
      batch_size: number of images that are measured at once.

    Returns:
      Name -> [N].
    """
    side, numbers = min(images.shape[1:3]), np.arange(len(images))

    def all_of(metric):
        return parallel.map_batches(lambda rows: metric(restored[rows], images[rows]), numbers, size=batch_size)

    return {name: all_of(_METRICS[name]) for name in names if side >= _SMALLEST.get(name, 1)}


def _measure(restored: np.ndarray, images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    values = measure(restored, images, _METRICS, batch_size=batch_size)
    return values | {_DETAIL: detail_energy(restored) / max(float(detail_energy(images).mean()), 1e-12)}


def detail_energy(images: np.ndarray) -> np.ndarray:
    """Returns the mean power of the Fourier coefficients of images above half of the band.

    Args:
      images: float [N, H, W, C].

    Returns:
      float64 [N]; smooth images have little.
    """
    rows, columns = (np.abs(np.fft.fftfreq(side)) for side in images.shape[1:3])
    fine = np.maximum(rows[:, None], columns[None, :]) > 0.25  # cycles a pixel; the band ends at 0.5
    blocks = np.split(images, range(_FOURIER_BLOCK, len(images), _FOURIER_BLOCK))
    powers = (np.abs(np.fft.fft2(block, axes=(1, 2), norm="ortho")) ** 2 for block in blocks)
    return np.concatenate([power[:, fine].mean(axis=(1, 2)) for power in powers])


def _results(
    run: Run,
    operator: Operator,
    networks: Mapping[str, Trained],
    parts: Mapping[str, Part],
    values: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    entries = {name: report.summarize(numbers) for name, numbers in values.items()}
    for entry in entries.values():
        entry["mse_pm1"] = 4 * entry["mse"]
    for method, part in parts.items():
        entries[method][SECONDS] = float(part[SECONDS].mean())
        if "num_steps" in part:
            entries[method]["mean_steps"] = float(part["num_steps"].mean())
    return {
        "entries": entries,
        "curve": _curve(run.config, parts),
        "operator": {**run.config.operator.to_dict(), "formula": operator.formula},
        "solver": run.config.solver.to_dict(),
        "networks": {name: network.fingerprint for name, network in networks.items()},
        "layers": {
            name: run.config.layer or networks[name].default_layer for name in run.config.encoders if name in networks
        },
        "batch_size": run.config.batch_size,
        "num_images": len(next(iter(values.values()))["mse"]),
        "variants": {name: _VARIANTS[name] for name in _VARIANTS if name in entries[_DEGRADED]},
    }


def _curve(config: ConfigDict, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Returns the mean squared errors of every search at those of config.curve_steps that it reaches."""
    steps = [step for step in config.curve_steps if step <= config.solver.num_steps]
    errors = {method: part["error"].mean(axis=0) for method, part in parts.items() if "error" in part}
    return {"steps": steps, "mse": {name: [float(error[step]) for step in steps] for name, error in errors.items()}}


def _add_fid(
    run: Run, network: MetricNetwork, results: dict[str, Any], parts: Mapping[str, Part], images: np.ndarray
) -> None:
    """Adds the distance of restored images from the test images in the features of a network."""

    def moments(images):
        return network.moments(parallel.padded_batches(images, size=run.config.batch_size))

    real = moments(images)
    name = network.whole_set_key("fid", real.count)
    for method, part in parts.items():
        results["entries"][method][name] = metrics.moments_distance(moments(part["image"]), real)
    results["variants"][name] = measurement.variant_text("fid", name, (network.last_layer,), network)
    results["metric_weights"] = {method: {name: network.weights} for method in parts}


def _write(
    run: Run,
    parts: Mapping[str, Part],
    values: Mapping[str, Mapping[str, np.ndarray]],
    images: np.ndarray,
    degraded: np.ndarray,
) -> dict[str, pathlib.Path]:
    """Writes the arrays and the figures, and returns heading -> file of the figures."""
    workdir, count = run.workdir, min(run.config.log.num_images, len(images))
    write_arrays(
        workdir / "per_image.npz", {f"{n}/{m}": array for n, part in values.items() for m, array in part.items()}
    )
    all_images = {"image": images} | {method: part["image"] for method, part in parts.items()}
    write_arrays(workdir / RESTORED, {name: np.asarray(to_uint8(array)) for name, array in all_images.items()})
    figures = {}
    if count:
        rows = {"image": images[:count], _DEGRADED: degraded[:count]}
        rows |= {method.replace("_", " "): part["image"][:count] for method, part in parts.items()}
        write_png(workdir / "restored.png", labeled_grid(rows))
        quarter = images.shape[1] // 4
        center = slice(quarter, images.shape[1] - quarter)
        write_png(workdir / "details.png", labeled_grid({n: row[:, center, center] for n, row in rows.items()}))
        figures = {"Restored images": workdir / "restored.png", "Their centers": workdir / "details.png"}
    curves = {method: part["error"].mean(axis=0) for method, part in parts.items() if "error" in part}
    if curves:
        write_arrays(workdir / "curves.npz", curves)
        length = len(next(iter(curves.values())))
        positions = sorted({round(i) for i in np.linspace(0, length - 1, min(length, 8))})
        lines = {method: np.log10(curve[positions]) for method, curve in curves.items()}
        levels = {name: numbers["mse"].mean() for name, numbers in values.items() if name not in curves}
        lines |= {name: np.full(len(positions), np.log10(level)) for name, level in levels.items() if level}
        panels = {"log10 of the mean squared error": lines}
        write_curves(workdir / "curve.png", panels, x=positions, x_label="step of the search", title=run.config.title)
        figures["Error during the search"] = workdir / "curve.png"
    return figures


def _table(results: Mapping[str, Any]) -> report.Table:
    columns = report.columns([*(name for name in results["variants"] if name != "mse_pm1"), SECONDS])
    entries = {name.replace("_", " "): entry for name, entry in results["entries"].items()}
    return report.metric_table("method", columns, entries)


def _note(run: Run, results: Mapping[str, Any]) -> str:
    setting, solver = run.provenance, results["solver"]
    curve = results["curve"]
    text = (
        f"{results['num_images']} test images of {setting['data']}, degraded: {results['operator']['formula']}; "
        f"{report.setting_text(setting)}, batches of {results['batch_size']}, compilation not counted; ± is the "
        f"standard deviation over images. Search: Adam at {solver['learning_rate']:g}, {solver['num_steps']} steps, "
        "the same starts for all methods. Squared errors of images in [-1, 1] are 4 times these."
    )
    if results["layers"]:
        text += f" Compared: {', '.join(f'{layer} of {name}' for name, layer in results['layers'].items())}."
    if curve["mse"] and curve["steps"]:
        errors = (f"{name} {', '.join(f'{value:.4f}' for value in values)}" for name, values in curve["mse"].items())
        text += f" Squared error after {', '.join(map(str, curve['steps']))} steps: {'; '.join(errors)}."
    return text
