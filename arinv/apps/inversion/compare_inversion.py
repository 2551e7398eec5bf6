"""Compares ways to invert a layer: trained generators, and optimisation of the pixels (RI).

Leaves results.json (for each way the means and standard deviations of every metric, seconds for an image and the
number of trained parameters), table.md, reconstructions.png and per_image.npz ("NAME/METRIC" [N]). Every batch of
every way is kept in parts/ when it is finished, and of a search twice a minute the images it has come to.

Source: Rojas-Gomez et al. 2022, section 4.4, Table 7.
"""

import functools
import pathlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics, parallel
from arinv.apps.evaluation import measurement as measurements
from arinv.apps.evaluation.measurement import Measurement
from arinv.apps.inversion import enlarging
from arinv.apps.inversion import representation_inversion as ri
from arinv.apps.inversion.inverters import check_inverters, load_inverters
from arinv.errors import UserError
from arinv.experiment import report
from arinv.experiment.cache import ResultCache
from arinv.experiment.figures import labelled_grid
from arinv.experiment.run import Run, check_fields
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_bar, write_arrays, write_png
from arinv.metrics import METRICS
from arinv.ops.images import to_float
from arinv.types import Array, Batch

_SAVE_EVERY_SECONDS = 30.0
_DISTANCE, _SECONDS = "feature_distance", "seconds_per_image"
_DISTANCE_VARIANT = "feature_distance: ||F(reconstruction) - F(image)||_2 / ||F(image)||_2 at the inverted layer"
_WHOLE_SET = [name for name, metric in METRICS.items() if metric.needs_set]

ONE_PROCESS = True


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

    Raises:
      UserError: an unknown name, a number out of range, or nothing to compare.
    """
    check_fields(config)
    measurements.check(config)
    for name in _WHOLE_SET:
        if name in config.metrics.split("+"):
            raise UserError(f"metric {name} is not for this comparison; use configs/evaluate.py for it")
    check_inverters(config)
    search = config.optimization
    for name in search.encoders:
        if name not in config.order:
            raise UserError(f"optimization.encoders: {name!r} is none of the inverters {', '.join(config.order)}")
    for name in ("num_steps", "steps_per_call"):
        if search[name] < 1:
            raise UserError(f"optimization.{name} must be 1 or more; got {search[name]}")
    if not search.step_size > 0:
        raise UserError(f"optimization.step_size must be above 0, in units of [0, 1] images; got {search.step_size}")


def run(run: Run) -> dict[str, Any]:
    """Inverts the test images by config.inverters (name -> workdir) and by optimisation, and returns the results.

    Args:
      run: of configs/compare_inversion.py.

    Raises:
      UserError: an inverter that is not there, or images that do not fit it.
    """
    config, workdir = run.config, run.workdir
    mesh, inverters = run.mesh, load_inverters(run)
    arrays = data.load_arrays(run.open_data("test"))
    batches = data.eval_batches(arrays, batch_size=config.batch_size)
    run.begin()
    ways = {name: (inverters[name], _generate) for name in inverters}
    ways = {f"RI, {name}": (inverters[name], _optimize) for name in config.optimization.encoders} | ways
    found, measured, checksum = {}, {}, zlib.crc32(arrays["image"])
    for name, (inverter, reconstruct) in ways.items():
        parts = run.cache(f"parts/{name.replace(', ', '_')}", inverter.fingerprint, str(checksum))
        made = reconstruct(config, name, inverter, batches, parts, mesh)
        measurement = Measurement(run, inverter.encoder)
        found[name] = _measure(config, inverter, measurement, batches, made)
        measured[name] = measurement.finish()
    results = _results(config, ways, found, measured) | {
        "num_examples": len(arrays["label"]),
        "setting": run.provenance,
    }
    _write(config, workdir, results, found, arrays["image"])
    return run.finish(results)


def _generate(
    config: ConfigDict, name: str, inverter: Trained, batches: Iterable[Batch], parts: ResultCache, mesh: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Yields {"reconstruction": [B, H, W, 3], "seconds": []} of each batch, by the generator."""

    @jax.jit
    def step(functions, images):
        return enlarging.invert(*functions, images, layer=inverter.layer)

    functions = jax.device_put((inverter.decode_fn, inverter.features_fn), parallel.replicated(mesh))
    for number, batch in enumerate(progress_bar(batches, f"{config.title}: {name}", unit="batch")):
        part = parts.load(str(number))
        if part is None:
            images = _place(batch, mesh)
            jax.block_until_ready(step(functions, images))  # compiles
            started = time.perf_counter()
            reconstructions = jax.block_until_ready(step(functions, images))
            seconds = time.perf_counter() - started
            part = {"reconstruction": jax.device_get(reconstructions), "seconds": np.array(seconds)}
            parts.save(str(number), part)
        yield part


def _optimize(
    config: ConfigDict, name: str, inverter: Trained, batches: Iterable[Batch], parts: ResultCache, mesh: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Yields {"reconstruction": [B, H, W, 3], "seconds": []} of each batch, by searching for the pixels."""
    search, size = config.optimization, config.data.image_size
    rows = parallel.place_batch({"row": np.arange(config.batch_size)}, mesh)["row"].sharding

    @jax.jit
    def encode(features_fn, images):
        return features_fn(images)[inverter.layer]

    @functools.partial(jax.jit, out_shardings=rows)
    def step(images, count, features_fn, targets):
        options = {"layer": inverter.layer, "step_size": search.step_size}
        return ri.invert_by_optimization(features_fn, images, targets, num_steps=count, **options)

    features_fn = jax.device_put(inverter.features_fn, parallel.replicated(mesh))
    with progress_bar(None, f"{config.title}: {name}", total=len(batches) * search.num_steps, unit="step") as bar:
        for number, batch in enumerate(batches):
            part = parts.load(str(number))
            if part is None:
                targets = encode(features_fn, _place(batch, mesh))
                numbers = number * config.batch_size + np.arange(config.batch_size)
                start = ri.start_images(jax.random.key(config.seed), numbers, shape=(size, size, 3))
                found = _Search(parts, f"{number}_state", start, rows)
                bar.update(found.done)
                found.run(functools.partial(step, features_fn=features_fn, targets=targets), search, bar.update)
                part = {"reconstruction": jax.device_get(found.images), "seconds": np.array(found.seconds)}
                parts.save(str(number), part)
                parts.remove(f"{number}_state")
            else:
                bar.update(search.num_steps)
            yield part


class _Search:
    """A search that is saved twice a minute: the images, how many steps they have made and in how many seconds."""

    def __init__(self, parts: ResultCache, name: str, start: Array, sharding: jax.sharding.Sharding):
        self._parts, self._name = parts, name
        saved = parts.load(name) or {"images": start, "done": 0, "seconds": 0.0}
        self.images = jax.device_put(saved["images"], sharding)
        self.done, self.seconds = int(saved["done"]), float(saved["seconds"])

    def run(self, step: Callable, search: ConfigDict, advance: Callable[[int], Any]) -> None:
        """Goes on to the last step; `step` takes (images, number of steps) to images."""
        step(self.images, 0)  # compiles
        last = time.monotonic()
        while self.done < search.num_steps:
            count = min(search.steps_per_call, search.num_steps - self.done)
            started = time.perf_counter()
            self.images = jax.block_until_ready(step(self.images, count))
            self.seconds += time.perf_counter() - started
            self.done += count
            advance(count)
            if time.monotonic() - last > _SAVE_EVERY_SECONDS and self.done < search.num_steps:
                self._save()
                last = time.monotonic()

    def _save(self) -> None:
        state = {"images": self.images, "done": self.done, "seconds": self.seconds}
        self._parts.save(self._name, {name: np.asarray(value) for name, value in state.items()})


def _place(batch: Batch, mesh: jax.sharding.Mesh) -> Array:
    """Returns the images of a batch as float32, split over the devices."""
    return to_float(parallel.place_batch({"image": batch["image"]}, mesh)["image"])


def _measure(
    config: ConfigDict,
    inverter: Trained,
    measurement: Measurement,
    batches: Iterable[Batch],
    made: Iterable[dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Returns every metric of every image [N], the first reconstructions, and the seconds that an image took."""

    @jax.jit
    def step(features_fn, measure_variables, reconstructions, images):
        layer = inverter.layer
        found, wanted = features_fn(reconstructions)[layer], features_fn(images)[layer]
        numbers = measurement.measure(measure_variables, reconstructions, images)
        return {**numbers, _DISTANCE: ri.relative_distance(found, wanted)}

    parts, pictures, seconds = [], [], 0.0
    for batch, part in zip(batches, made, strict=True):
        images, real = to_float(batch["image"]), batch["mask"] > 0
        numbers = jax.device_get(step(inverter.features_fn, measurement.variables, part["reconstruction"], images))
        parts.append({name: values[real] for name, values in numbers.items()})
        pictures.extend(part["reconstruction"][real][: config.log.num_pictures - len(pictures)])
        seconds += float(part["seconds"])
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found[_SECONDS] = np.array(seconds / (len(parts) * config.batch_size))
    return {**found, "reconstruction": np.array(pictures)}


def _results(config: ConfigDict, ways: Mapping[str, tuple], found, measured) -> dict[str, Any]:
    """Returns the numbers of every way, and what they were measured with."""
    entries, variants = {}, {_DISTANCE: _DISTANCE_VARIANT}
    for name, (inverter, reconstruct) in ways.items():
        variants |= measured[name]["variants"]
        learned = reconstruct is _generate
        size = sum(x.size for x in jax.tree.leaves(inverter.variables["params"])) if learned else None
        entries[name] = {"parameters": size, _SECONDS: float(found[name][_SECONDS]), "inverter": inverter.fingerprint}
        for metric in [*measured[name]["variants"], _DISTANCE]:
            summary = metrics.summary(found[name][metric])
            entries[name] |= {metric: summary["mean"], f"{metric}_std": summary["std"]}
    return {
        "entries": entries,
        "batch_size": config.batch_size,
        "optimization": config.optimization.to_dict(),
        "variants": variants,
        "metric_weights": {name: measured[name]["metric_weights"] for name in ways},
        "inverters": {name: dict(ways[name][0].description) for name in config.order},
    }


def _write(config: ConfigDict, workdir: pathlib.Path, results: Mapping[str, Any], found, images: np.ndarray) -> None:
    report.write(workdir, config.title, [_table(results)], [_note(results)])
    arrays = {
        f"{name}/{key}": values
        for name, part in found.items()
        for key, values in part.items()
        if key not in ("reconstruction", _SECONDS)
    }
    write_arrays(workdir / "per_image.npz", arrays)
    count = min(config.log.num_pictures, len(images))
    if count:
        rows = {"image": images[:count]} | {name: part["reconstruction"] for name, part in found.items()}
        write_png(workdir / "reconstructions.png", labelled_grid(rows))


def _table(results: Mapping[str, Any]) -> report.Table:
    columns = sorted(results["variants"], key=lambda metric: (report.column(metric)[0], metric))
    heading = ["inversion", "trained parameters", *(report.column(metric)[1] for metric in columns)]
    rows = []
    for name, entry in results["entries"].items():
        row = [name, f"{entry['parameters']:,}" if entry["parameters"] else "-"]
        for metric in columns:
            style = report.column(metric)[2]
            known = metric in entry
            row.append(f"{style.format(entry[metric])} ± {style.format(entry[f'{metric}_std'])}" if known else "-")
        rows.append([*row, f"{entry[_SECONDS]:.3g}"])
    return report.Table([*heading, "seconds an image"], rows)


def _note(results: Mapping[str, Any]) -> str:
    made, search = results["setting"], results["optimization"]
    text = (
        f"{results['num_examples']} test images of {made['data']}; {made['device']}, {made['dtype']}, seed "
        f"{made['seed']}, batches of {results['batch_size']}, compilation not counted; ± is the standard deviation "
        "over images. "
        f"RI: {search['num_steps']} steps of {search['step_size']:g}."
    )
    for metric in results["variants"]:
        if len({weights.get(metric) for weights in results["metric_weights"].values()}) > 1:
            text += f" {report.column(metric)[1]} was measured through different networks: do not compare its rows."
    return text
