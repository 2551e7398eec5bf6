"""Inversion of enlarged images: quality of reconstructions from standard and robust features, scale by scale.

Writes results.json (means and standard deviations of every metric at every scale, of every inverter), table.md,
report.html, curves.png, images.png (test images at every scale) and per_image.npz ("NAME/SCALE/METRIC" [N]). Each
finished scale of each inverter is saved in parts/.

Source: Rojas-Gomez et al. 2022, section 4.3, scenario 1, Tables 5 and A1.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from arinv import data, distributed, parallel
from arinv.apps import inversion
from arinv.apps.inversion.inverters import check_inverters, check_networks_of_size, load_inverters
from arinv.errors import UserError, unknown
from arinv.experiment import measurement, report
from arinv.experiment.cache import ResultCache
from arinv.experiment.fields import check_fields
from arinv.experiment.figures import labeled_grid, write_curves, zoom
from arinv.experiment.measurement import Measurement
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_bar
from arinv.metrics import METRICS
from arinv.ops.images import to_float, to_uint8
from arinv.train.feed import FirstImages, concatenate, evaluate_batches, numbers_of

_LARGEST_TILE = 224  # px
_TILES = "tiles"  # of the first reconstructions, beside the metrics

Parts = Mapping[tuple[str, int], Mapping[str, np.ndarray]]  # (inverter, scale) -> metrics [N] and tiles


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name, a number out of range, or no inverter.
    """
    check_fields(config)
    measurement.check(config)
    known = [name for name, metric in METRICS.items() if not metric.needs_set]
    if not any(config.metrics.split("+")):
        raise UserError(f"metrics is empty; name one or more of {', '.join(known)}, joined by +")
    for name in measurement.whole_set_metrics(config):
        raise unknown("metric at several scales", name, known)
    if config.compare not in inversion.COMPARISONS:
        raise unknown("comparison", config.compare, inversion.COMPARISONS)
    if config.scales < 1:
        raise UserError(f"scales must be 1 or more: the largest factor; got {config.scales}")
    check_inverters(config)


check_inputs = check_networks_of_size


def run(run: Run) -> dict[str, Any]:
    """Measures config.inverters (name -> workdir) at the scales 1 to config.scales and returns the results.

    Args:
      run: a run of configs/high_resolution.py.

    Raises:
      UserError: a missing inverter, or images of another size.
    """
    config, inverters = run.config, load_inverters(run)
    arrays = data.load_arrays(run.open_data("test"))
    run.begin()
    work = sum(scale**2 for scale in _scales(config)) * len(inverters) * len(arrays["label"])
    parts, totals, end = {}, {}, 0
    with progress_bar(None, config.title, total=work, unit="image") as bar:
        for name, inverter in inverters.items():
            measures = Measurement(run, inverter.encoder)
            totals[name] = measures.finish()
            cache = run.cache("parts", inverter.fingerprint, *totals[name]["metric_weights"].values(), arrays["image"])
            for scale in _scales(config):
                bar.set_description_str(f"{config.title}: {name} x{scale}", refresh=False)
                measure = functools.partial(_measure, run, inverter, measures, scale=scale, bar=bar)
                parts[name, scale] = _part(cache, f"{name}_{scale}", measure, arrays, config.log.num_images)
                end += scale**2 * len(arrays["label"])
                bar.update(end - bar.n)
    results = _results(config, inverters, parts, totals) | {"num_images": len(arrays["label"])}
    figures = _write(run, results, parts, arrays["image"]) if distributed.index() == 0 else {}
    return run.finish(results, tables=[_table(results)], notes=[_note(run, results)], figures=figures)


def _scales(config: ConfigDict) -> range:
    return range(1, config.scales + 1)


def _part(
    cache: ResultCache,
    name: str,
    measure: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
    arrays: Mapping[str, np.ndarray],
    num_tiles: int,
) -> dict[str, np.ndarray]:
    """Returns the metrics of every image at one scale and the first tiles, of which only missing ones are computed.

    Args:
      cache: cache of the parts.
      name: name of the part.
      measure: arrays -> metrics of their images and tiles of the first ones, as many as are drawn.
      arrays: arrays of the test images.
      num_tiles: number of tiles; one for each image where there are fewer.
    """
    part, count = cache.load(name), min(num_tiles, len(arrays["label"]))
    if part is None:
        part = measure(arrays)
        cache.save(name, part)
    elif (saved := len(part[_TILES])) < count:  # of an earlier start with another log.num_images
        missing = measure({key: values[saved:count] for key, values in arrays.items()})[_TILES]
        part = {**part, _TILES: np.array([*part[_TILES], *missing], np.uint8)}
        cache.save(name, part)
    return {**part, _TILES: part[_TILES][:count]}


def _measure(
    run: Run,
    inverter: Trained,
    measures: Measurement,
    arrays: Mapping[str, np.ndarray],
    *,
    scale: int,
    bar: tqdm.tqdm,
) -> dict[str, np.ndarray]:
    """Returns every metric of every image at one scale, and tiles of the first reconstructions."""
    config, mesh = run.config, run.mesh

    @jax.jit
    def step(batch, functions, measure_variables):
        images = to_float(batch["image"])
        pair = inversion.invert_scaled(*functions, images, layer=inverter.layer, scale=scale, compare=config.compare)
        numbers = measures.measure(measure_variables, pair.reconstructions, pair.targets)
        return {**numbers, "reconstruction": pair.reconstructions}

    # The memory of a step grows with the area, so that batches get smaller, down to one image a device.
    share = max(1, config.batch_size // scale**2 // mesh.size)
    batches = data.eval_batches(
        arrays, batch_size=share * mesh.size, rows=parallel.process_rows(share * mesh.size, mesh)
    )
    functions = inverter.decode_fn, inverter.features_fn
    variables = parallel.replicate((functions, measures.variables), mesh)

    numbers, images = [], FirstImages(config.log.num_images)
    for batch, results in evaluate_batches(lambda batch, _: step(batch, *variables), batches, key=run.key, mesh=mesh):
        numbers.append(numbers_of(batch, results))
        images.add(batch, results)
        bar.update(scale**2 * len(next(iter(numbers[-1].values()))))
    side = _tile_side(config)
    tiles = [zoom(np.asarray(to_uint8(image)), side) for image in images.arrays().get("reconstruction", ())]
    return {_TILES: np.array(tiles, np.uint8), **concatenate(numbers)}


def _tile_side(config: ConfigDict) -> int:
    """Returns the side of the tiles, equal for all scales."""
    side = config.data.image_size
    return side * max(1, min(config.scales, _LARGEST_TILE // side))


def _results(
    config: ConfigDict, inverters: Mapping[str, Trained], parts: Parts, totals: Mapping[str, Mapping]
) -> dict[str, Any]:
    """Returns each metric's means and standard deviations by inverter and scale, and what they were measured with."""
    curves, variants = {}, {}
    for name in inverters:
        metrics = totals[name]["variants"]
        summaries = [report.summarize({m: parts[name, scale][m] for m in metrics}) for scale in _scales(config)]
        curves[name] = {key: [summary[key] for summary in summaries] for key in summaries[0]}
        variants |= metrics
    return {
        "curves": curves,
        "scales": list(_scales(config)),
        "compare": config.compare,
        "variants": variants,
        "metric_weights": {name: totals[name]["metric_weights"] for name in inverters},
        "inverters": {
            name: {
                "checkpoint": dict(inverter.description),
                "encoder": dict(inverter.encoder.description),
                "weights": inverter.fingerprint,
            }
            for name, inverter in inverters.items()
        },
    }


def _write(run: Run, results: Mapping[str, Any], parts: Parts, images: np.ndarray) -> dict[str, pathlib.Path]:
    """Writes the curves, the images and per_image.npz, and returns heading -> file of the figures."""
    config, workdir, curves = run.config, run.workdir, results["curves"]
    panels = {
        column.heading: {name: curve[metric] for name, curve in curves.items() if metric in curve}
        for metric, column in _columns(results).items()
    }
    write_curves(workdir / "curves.png", panels, x=results["scales"], x_label="scale", title=config.title)
    figures = {"Means at every scale": workdir / "curves.png"}
    if count := min(config.log.num_images, len(images)):
        write_png(workdir / "images.png", _figure(config, list(curves), parts, images[:count]))
        figures["Reconstructions at every scale"] = workdir / "images.png"
    arrays = {
        f"{name}/{scale}/{metric}": values
        for (name, scale), part in parts.items()
        for metric, values in part.items()
        if metric != _TILES
    }
    write_arrays(workdir / "per_image.npz", arrays)
    return figures


def _columns(results: Mapping[str, Any]) -> dict[str, report.Column]:
    return report.columns(sorted(results["variants"]))


def _table(results: Mapping[str, Any]) -> report.Table:
    heading, rows = ["scale"], [[str(scale)] for scale in results["scales"]]
    for metric, column in _columns(results).items():
        for name, curve in results["curves"].items():
            if metric in curve:
                heading.append(f"{column.heading}, {name}")
                for i, row in enumerate(rows):
                    row.append(column.cell({key: values[i] for key, values in curve.items()}, metric))
    return report.Table(heading, rows)


def _note(run: Run, results: Mapping[str, Any]) -> str:
    setting = run.provenance
    side = next(iter(results["inverters"].values()))["checkpoint"]["image_size"]
    size = "at the enlarged size" if results["compare"] == "enlarged" else "reduced to the original size"
    return (
        f"{results['num_images']} test images of {setting['data']}, enlarged bilinearly, compared {size}; inverters "
        f"trained at {side} px; {report.setting_text(setting)}; ± is the standard deviation over images."
        f"{report.weights_note(results['metric_weights'])}"
    )


def _figure(config: ConfigDict, names: list[str], parts: Parts, images: np.ndarray) -> np.ndarray:
    """Returns rows for each of the first images: itself, then each inverter's reconstructions at every scale."""
    side, rows = _tile_side(config), {}
    for i, image in enumerate(images):
        suffix = f" {i + 1}" if len(images) > 1 else ""
        rows[f"image{suffix}"] = zoom(image, side)[None]
        for name in names:
            rows[f"{name}{suffix}"] = np.stack([parts[name, scale][_TILES][i] for scale in _scales(config)])
    size = config.data.image_size
    columns = [f"x{scale}\n{scale * size} px" for scale in _scales(config)]
    return labeled_grid(rows, columns=columns)
