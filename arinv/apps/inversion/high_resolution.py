"""Inverts enlarged images: how well do standard and robust features lead back to them, scale by scale?

Leaves results.json (means and standard deviations of every metric at every scale, of every inverter), table.md,
curves.png, pictures.png (test images at every scale) and per_image.npz ("NAME/SCALE/METRIC" [N]). Each scale of each
inverter is kept in parts/ when it is finished.

Source: Rojas-Gomez et al. 2022, section 4.3, scenario 1, Tables 5 and A1.
"""

import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from arinv import data, metrics, parallel
from arinv.apps.evaluation import measurement as measurements
from arinv.apps.evaluation.measurement import Measurement
from arinv.apps.inversion import enlarging
from arinv.apps.inversion.inverters import check_inverters, load_inverters
from arinv.errors import UserError, unknown
from arinv.experiment import figures, report
from arinv.experiment.figures import labelled_grid, zoom
from arinv.experiment.run import Run, check_fields, process_share
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_bar, write_arrays, write_png
from arinv.metrics import METRICS
from arinv.ops.images import to_float, to_uint8
from arinv.train.feed import collect

_OF_ONE_SIZE = [name for name, metric in METRICS.items() if metric.needs_set]
_LARGEST_TILE = 224  # px


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

    Raises:
      UserError: an unknown name, a number out of range, or no inverter.
    """
    check_fields(config)
    measurements.check(config)
    named, known = config.metrics.split("+"), [name for name in METRICS if name not in _OF_ONE_SIZE]
    if not any(named):
        raise UserError(f"metrics is empty; name one or more of {', '.join(known)}, joined by +")
    for name in _OF_ONE_SIZE:
        if name in named:
            raise unknown("metric at several scales", name, known)
    if config.compare not in enlarging.COMPARISONS:
        raise unknown("comparison", config.compare, enlarging.COMPARISONS)
    if config.scales < 1:
        raise UserError(f"scales must be 1 or more: the largest factor; got {config.scales}")
    check_inverters(config)


def run(run: Run) -> dict[str, Any]:
    """Measures config.inverters (name -> workdir) at the scales 1 to config.scales and returns the results.

    Args:
      run: of configs/high_resolution.py.

    Raises:
      UserError: an inverter that is not there, or images that do not fit it.
    """
    config, workdir = run.config, run.workdir
    mesh, inverters = run.mesh, load_inverters(run)
    arrays = data.load_arrays(run.open_data("test"))
    run.begin()
    work = sum(scale**2 for scale in _scales(config)) * len(inverters) * len(arrays["label"])
    found, measured, checksum = {}, {}, str(zlib.crc32(arrays["image"]))
    with progress_bar(None, config.title, total=work, unit="image") as bar:
        for name, inverter in inverters.items():
            measurement = Measurement(run, inverter.encoder)
            measured[name] = measurement.finish()
            made_with = [inverter.fingerprint, *measured[name]["metric_weights"].values(), checksum]
            parts = run.cache("parts", *made_with)
            for scale in _scales(config):
                bar.set_description_str(f"{config.title}: {name} x{scale}", refresh=False)
                part = parts.load(f"{name}_{scale}")
                if part is None:
                    part = _measure(config, inverter, measurement, arrays, scale=scale, mesh=mesh, bar=bar)
                    parts.save(f"{name}_{scale}", part)
                else:
                    bar.update(scale**2 * len(arrays["label"]))
                found[name, scale] = part
    results = _results(config, inverters, found, measured) | {
        "num_examples": len(arrays["label"]),
        "setting": run.provenance,
    }
    if jax.process_index() == 0:
        _write(config, workdir, results, found, arrays["image"])
    return run.finish(results)


def _scales(config: ConfigDict) -> range:
    return range(1, config.scales + 1)


def _measure(
    config: ConfigDict,
    inverter: Trained,
    measurement: Measurement,
    arrays: Mapping[str, np.ndarray],
    *,
    scale: int,
    mesh: jax.sharding.Mesh,
    bar: tqdm.tqdm,
) -> dict[str, np.ndarray]:
    """Returns every metric of every image at one scale, and tiles of the first reconstructions as "pictures"."""

    @jax.jit
    def step(batch, functions, measure_variables):
        images = to_float(batch["image"])
        pair = enlarging.invert_scaled(*functions, images, layer=inverter.layer, scale=scale, compare=config.compare)
        numbers = measurement.measure(measure_variables, pair.reconstructions, pair.targets)
        return {**numbers, "reconstruction": pair.reconstructions}

    # The memory of a step grows with the area: fewer images at a time make up for it, at least one a device.
    share = max(1, config.batch_size // scale**2 // mesh.size)
    batches = data.eval_batches(arrays, batch_size=share * mesh.size, **process_share())
    functions = inverter.decode_fn, inverter.features_fn
    variables = jax.device_put((functions, measurement.variables), parallel.replicated(mesh))

    def progress(items: Iterable) -> Iterable:
        for batch in items:
            yield batch
            bar.update(scale**2 * int(batch["mask"].sum()) * jax.process_count())

    numbers, pictures = collect(
        lambda batch, _: step(batch, *variables),
        batches,
        key=jax.random.key(config.seed),
        mesh=mesh,
        num_pictures=config.log.num_pictures,
        progress=progress,
    )
    side = _tile_side(config)
    tiles = [zoom(np.asarray(to_uint8(picture)), side) for picture in pictures.get("reconstruction", ())]
    return {"pictures": np.array(tiles, np.uint8), **numbers}


def _tile_side(config: ConfigDict) -> int:
    """Returns the side at which reconstructions of all scales are shown."""
    side = config.data.image_size
    return side * max(1, min(config.scales, _LARGEST_TILE // side))


def _results(config, inverters, found, measured) -> dict[str, Any]:
    """Returns each metric's means and standard deviations by inverter and scale, and what they were measured with."""
    curves_of, variants = {}, {}
    for name in inverters:
        variants |= measured[name]["variants"]
        curves_of[name] = {}
        for metric in measured[name]["variants"]:
            summaries = [metrics.summary(found[name, scale][metric]) for scale in _scales(config)]
            curves_of[name][metric] = [summary["mean"] for summary in summaries]
            curves_of[name][f"{metric}_std"] = [summary["std"] for summary in summaries]
    return {
        "curves": curves_of,
        "scales": list(_scales(config)),
        "compare": config.compare,
        "variants": variants,
        "metric_weights": {name: measured[name]["metric_weights"] for name in inverters},
        "inverters": {
            name: {
                "checkpoint": dict(inverter.description),
                "encoder": dict(inverter.encoder.description),
                "weights": inverter.fingerprint,
            }
            for name, inverter in inverters.items()
        },
    }


def _write(config: ConfigDict, workdir: pathlib.Path, results: Mapping[str, Any], found, images) -> None:
    names, scales = list(results["curves"]), results["scales"]
    columns = sorted(results["variants"], key=lambda metric: (report.column(metric)[0], metric))
    panels = {
        report.column(metric)[1]: {n: results["curves"][n][metric] for n in names if metric in results["curves"][n]}
        for metric in columns
    }
    report.write(workdir, config.title, [_table(results, columns)], [_note(results)])
    figures.write_curves(workdir / "curves.png", panels, x=scales, x_label="scale", title=config.title)
    # A part from before may hold more pictures or fewer than are asked for now.
    count = min(config.log.num_pictures, *(len(part["pictures"]) for part in found.values()))
    if count > 0:
        write_png(workdir / "pictures.png", _picture(config, names, found, images[:count]))
    arrays = {
        f"{name}/{scale}/{key}": values
        for (name, scale), part in found.items()
        for key, values in part.items()
        if key != "pictures"
    }
    write_arrays(workdir / "per_image.npz", arrays)


def _table(results: Mapping[str, Any], columns: list[str]) -> report.Table:
    heading, rows = ["scale"], [[str(scale)] for scale in results["scales"]]
    for metric in columns:
        _, title, style = report.column(metric)
        for name, curve in results["curves"].items():
            if metric in curve:
                heading.append(f"{title}, {name}")
                for row, mean, std in zip(rows, curve[metric], curve[f"{metric}_std"], strict=True):
                    row.append(f"{style.format(mean)} ± {style.format(std)}")
    return report.Table(heading, rows)


def _note(results: Mapping[str, Any]) -> str:
    made = results["setting"]
    side = next(iter(results["inverters"].values()))["checkpoint"]["image_size"]
    where = "at the enlarged size" if results["compare"] == "enlarged" else "brought back to the size before"
    text = (
        f"{results['num_examples']} test images of {made['data']}, enlarged bilinearly, compared {where}; inverters "
        f"trained at {side} px; {made['device']}, {made['dtype']}, seed {made['seed']}; ± is the standard deviation "
        "over images."
    )
    for metric in results["variants"]:
        if len({weights.get(metric) for weights in results["metric_weights"].values()}) > 1:
            text += f" {report.column(metric)[1]} was measured through different networks: do not compare its columns."
    return text


def _picture(config: ConfigDict, names: list[str], found, images: np.ndarray) -> np.ndarray:
    """Returns rows for each of these first images: itself, then each inverter's reconstructions at every scale."""
    side, rows = _tile_side(config), {}
    for i, image in enumerate(images):
        suffix = f" {i + 1}" if len(images) > 1 else ""
        rows[f"image{suffix}"] = zoom(image, side)[None]
        for name in names:
            rows[f"{name}{suffix}"] = np.stack([found[name, scale]["pictures"][i] for scale in _scales(config)])
    size = config.data.image_size
    columns = [f"x{scale}\n{scale * size} px" for scale in _scales(config)]
    return labelled_grid(rows, columns=columns)
