"""Comparison of methods that invert a layer: trained generators, and optimization of the pixels (RI).

Writes results.json (for each method the means and standard deviations of every metric, seconds per image and the
number of trained parameters), table.md, reconstructions.png and per_image.npz ("NAME/METRIC" [N]). Every finished batch
of every method is saved in parts/, and twice a minute the current images of a search.

Source: Rojas-Gomez et al. 2022, section 4.4, Table 7.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, parallel
from arinv.apps import inversion
from arinv.apps.evaluation import measurement
from arinv.apps.evaluation.measurement import Measurement
from arinv.apps.inversion.inverters import check_inverters, check_networks, load_inverters
from arinv.errors import UserError
from arinv.experiment import report
from arinv.experiment.cache import ResultCache
from arinv.experiment.figures import labeled_grid
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run, check_fields
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_bar
from arinv.ops.images import to_float
from arinv.types import Array, Batch

_SAVE_EVERY_SECONDS = 30.0
_DISTANCE, _SECONDS = "feature_distance", "seconds_per_image"
_DISTANCE_VARIANT = "feature_distance: ||F(reconstruction) - F(image)||_2 / ||F(image)||_2 at the inverted layer"
_WHOLE_SET = ("normalized_error", "fid")  # metrics of the evaluation task only

SINGLE_PROCESS = True

Part = Mapping[str, np.ndarray]  # of a batch: {"reconstruction": [B, H, W, 3], "seconds": []}


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name, a number out of range, or nothing to compare.
    """
    check_fields(config)
    measurement.check(config)
    for name in _WHOLE_SET:
        if name in config.metrics.split("+"):
            raise UserError(f"metric {name} is not for this comparison; use configs/evaluate.py for it")
    check_inverters(config)
    search = config.optimization
    for name in search.encoders:
        if name not in config.order:
            raise UserError(f"optimization.encoders: {name!r} is not one of the inverters {', '.join(config.order)}")
    for name in ("num_steps", "steps_per_call"):
        if search[name] < 1:
            raise UserError(f"optimization.{name} must be 1 or more; got {search[name]}")
    if not search.step_size > 0:
        raise UserError(f"optimization.step_size must be above 0, in units of [0, 1] images; got {search.step_size}")


check_inputs = check_networks


def run(run: Run) -> dict[str, Any]:
    """Inverts the test images by config.inverters (name -> workdir) and by optimization, and returns the results.

    Args:
      run: of configs/compare_inversion.py.

    Raises:
      UserError: a missing inverter, or images of another size.
    """
    inverters = load_inverters(run)
    arrays = data.load_arrays(run.open_data("test"))
    batches = data.eval_batches(arrays, batch_size=run.config.batch_size)
    run.begin()
    methods = {f"RI, {name}": (inverters[name], _optimize) for name in run.config.optimization.encoders}
    methods |= {name: (inverter, _generate) for name, inverter in inverters.items()}
    values, totals = {}, {}
    for name, (inverter, reconstruct) in methods.items():
        key = str(run.config.batch_size), inverter.fingerprint, arrays["image"]
        cache = run.cache(f"parts/{name.replace(', ', '_')}", *key)
        measures = Measurement(run, inverter.encoder)
        values[name] = _measure(run, inverter, measures, batches, reconstruct(run, name, inverter, batches, cache))
        totals[name] = measures.finish()
    results = _results(run.config, methods, values, totals) | {"num_examples": len(arrays["label"])}
    _write(run, results, values, arrays["image"])
    return run.finish(results)


def _generate(run: Run, name: str, inverter: Trained, batches: Iterable[Batch], cache: ResultCache) -> Iterator[Part]:
    """Yields the part of each batch, by the generator."""

    @jax.jit
    def step(functions, images):
        return inversion.invert(*functions, images, layer=inverter.layer)

    functions = jax.device_put((inverter.decode_fn, inverter.features_fn), parallel.replicated(run.mesh))
    compiled = None
    for number, batch in enumerate(progress_bar(batches, f"{run.config.title}: {name}", unit="batch")):
        part = cache.load(str(number))
        if part is None:
            images = _place(batch, run.mesh)
            compiled = compiled or step.lower(functions, images).compile()
            started = time.perf_counter()
            reconstructions = jax.block_until_ready(compiled(functions, images))
            seconds = time.perf_counter() - started
            part = {"reconstruction": jax.device_get(reconstructions), "seconds": np.array(seconds)}
            cache.save(str(number), part)
        yield part


def _optimize(run: Run, name: str, inverter: Trained, batches: Iterable[Batch], cache: ResultCache) -> Iterator[Part]:
    """Yields the part of each batch, by optimization of the pixels."""
    config, search = run.config, run.config.optimization
    rows = parallel.place_batch({"row": np.arange(config.batch_size)}, run.mesh)["row"].sharding
    shape = (config.data.image_size, config.data.image_size, 3)

    @jax.jit
    def encode(features_fn, images):
        return features_fn(images)[inverter.layer]

    @functools.partial(jax.jit, out_shardings=rows)
    def step(images, count, features_fn, targets):
        options = {"layer": inverter.layer, "step_size": search.step_size}
        return inversion.invert_by_optimization(features_fn, images, targets, num_steps=count, **options)

    features_fn = jax.device_put(inverter.features_fn, parallel.replicated(run.mesh))
    with progress_bar(None, f"{config.title}: {name}", total=len(batches) * search.num_steps, unit="step") as bar:
        for number, batch in enumerate(batches):
            part = cache.load(str(number))
            if part is None:
                targets = encode(features_fn, _place(batch, run.mesh))
                numbers = number * config.batch_size + np.arange(config.batch_size)
                start = inversion.start_images(run.key, numbers, shape=shape)
                state = _Search(cache, f"{number}_state", start, rows)
                bar.update(state.done)
                state.run(functools.partial(step, features_fn=features_fn, targets=targets), search, bar.update)
                part = {"reconstruction": jax.device_get(state.images), "seconds": np.array(state.seconds)}
                cache.save(str(number), part)
                cache.remove(f"{number}_state")
            else:
                bar.update(search.num_steps)
            yield part


class _Search:
    """A search that is saved twice a minute: its images, the number of steps so far and their seconds."""

    def __init__(self, cache: ResultCache, name: str, start: Array, sharding: jax.sharding.Sharding):
        self._cache, self._name = cache, name
        saved = cache.load(name) or {"images": start, "done": 0, "seconds": 0.0}
        self.images = jax.device_put(saved["images"], sharding)
        self.done, self.seconds = int(saved["done"]), float(saved["seconds"])

    def run(self, step: Callable, search: ConfigDict, advance: Callable[[int], Any]) -> None:
        """Runs the remaining steps; `step` maps (images, number of steps) to images."""
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
        self._cache.save(self._name, {name: np.asarray(value) for name, value in state.items()})


def _place(batch: Batch, mesh: jax.sharding.Mesh) -> Array:
    """Returns the images of a batch as float32, split over the devices."""
    return to_float(parallel.place_batch({"image": batch["image"]}, mesh)["image"])


def _measure(
    run: Run, inverter: Trained, measures: Measurement, batches: Iterable[Batch], parts: Iterable[Part]
) -> dict[str, np.ndarray]:
    """Returns every metric of every image [N], the first reconstructions, and the seconds per image."""

    @jax.jit
    def step(features_fn, measure_variables, reconstructions, images):
        features, targets = features_fn(reconstructions)[inverter.layer], features_fn(images)[inverter.layer]
        numbers = measures.measure(measure_variables, reconstructions, images)
        return {**numbers, _DISTANCE: inversion.relative_distance(features, targets)}

    rows, reconstructions, seconds = [], [], 0.0
    for batch, part in zip(batches, parts, strict=True):
        images, real = to_float(batch["image"]), batch["mask"] > 0
        numbers = jax.device_get(step(inverter.features_fn, measures.variables, part["reconstruction"], images))
        rows.append({name: array[real] for name, array in numbers.items()})
        reconstructions.extend(part["reconstruction"][real][: run.config.log.num_images - len(reconstructions)])
        seconds += float(part["seconds"])
    values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    values[_SECONDS] = np.array(seconds / (len(rows) * run.config.batch_size))
    return {**values, "reconstruction": np.array(reconstructions)}


def _results(
    config: ConfigDict, methods: Mapping[str, tuple], values: Mapping[str, Mapping], totals: Mapping[str, Mapping]
) -> dict[str, Any]:
    """Returns the summary of every method, and what it was measured with."""
    entries, variants = {}, {_DISTANCE: _DISTANCE_VARIANT}
    for name, (inverter, reconstruct) in methods.items():
        variants |= totals[name]["variants"]
        is_learned = reconstruct is _generate
        size = sum(x.size for x in jax.tree.leaves(inverter.variables["params"])) if is_learned else None
        entries[name] = {"parameters": size, _SECONDS: float(values[name][_SECONDS]), "inverter": inverter.fingerprint}
        entries[name] |= report.summarize({m: values[name][m] for m in [*totals[name]["variants"], _DISTANCE]})
    return {
        "entries": entries,
        "batch_size": config.batch_size,
        "optimization": config.optimization.to_dict(),
        "variants": variants,
        "metric_weights": {name: totals[name]["metric_weights"] for name in methods},
        "inverters": {name: dict(methods[name][0].description) for name in config.order},
    }


def _write(run: Run, results: Mapping[str, Any], values: Mapping[str, Mapping], images: np.ndarray) -> None:
    report.write(run.workdir, run.config.title, [_table(results)], [_note(run, results)])
    arrays = {
        f"{name}/{metric}": array
        for name, part in values.items()
        for metric, array in part.items()
        if metric not in ("reconstruction", _SECONDS)
    }
    write_arrays(run.workdir / "per_image.npz", arrays)
    count = min(run.config.log.num_images, len(images))
    if count:
        rows = {"image": images[:count]} | {name: part["reconstruction"] for name, part in values.items()}
        write_png(run.workdir / "reconstructions.png", labeled_grid(rows))


def _table(results: Mapping[str, Any]) -> report.Table:
    columns = report.columns(sorted(results["variants"]))
    heading = ["inversion", "trained parameters", *(column.heading for column in columns.values()), "seconds an image"]
    rows = []
    for name, entry in results["entries"].items():
        cells = (column.cell(entry, metric) for metric, column in columns.items())
        size = f"{entry['parameters']:,}" if entry["parameters"] else "-"
        rows.append([name, size, *cells, f"{entry[_SECONDS]:.3g}"])
    return report.Table(heading, rows)


def _note(run: Run, results: Mapping[str, Any]) -> str:
    setting, search = run.provenance, results["optimization"]
    return (
        f"{results['num_examples']} test images of {setting['data']}; {report.setting_text(setting)}, batches of "
        f"{results['batch_size']}, compilation not counted; ± is the standard deviation over images. RI: "
        f"{search['num_steps']} steps of {search['step_size']:g}.{report.weights_note(results['metric_weights'])}"
    )
