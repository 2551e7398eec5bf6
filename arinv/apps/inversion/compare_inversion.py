"""Comparison of methods that invert a layer: trained generators, and optimization of the pixels (RI).

Writes results.json (for each method the means and standard deviations of every metric, seconds per image and the
number of trained parameters), table.md, report.html, reconstructions.png and per_image.npz ("NAME/METRIC" [N]). Every
finished batch of every method is saved in parts/, and twice a minute the current images of a search; both serve batches
of any size.

Source: Rojas-Gomez et al. 2022, section 4.4, Table 7.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, parallel
from arinv.apps import inversion
from arinv.apps.inversion.inverters import check_inverters, check_networks_of_size, load_inverters
from arinv.errors import UserError
from arinv.experiment import measurement, report
from arinv.experiment.cache import CachedBatches, ResultCache, SaveTimer
from arinv.experiment.fields import check_fields
from arinv.experiment.figures import labeled_grid
from arinv.experiment.measurement import Measurement
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_bar
from arinv.ops.images import to_float
from arinv.ops.inputs import check_count
from arinv.types import Array

_DISTANCE, _SECONDS = "feature_distance", "seconds_per_image"
_DISTANCE_VARIANT = "feature_distance: ||F(reconstruction) - F(image)||_2 / ||F(image)||_2 at the inverted layer"

Part = Mapping[str, np.ndarray]  # of some images: {"reconstruction": [n, H, W, 3], "seconds_per_image": [n]}


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name, a number out of range, or nothing to compare.
    """
    check_fields(config)
    measurement.check(config)
    for name in measurement.whole_set_metrics(config):
        raise UserError(f"metric {name} is not for this comparison; use configs/evaluate.py for it")
    check_inverters(config)
    search = config.optimization
    for name in search.encoders:
        if name not in config.order:
            raise UserError(f"optimization.encoders: {name!r} is not one of the inverters {', '.join(config.order)}")
    for name in ("num_steps", "steps_per_call"):
        check_count(search[name], f"optimization.{name}")
    if not search.step_size > 0:
        raise UserError(f"optimization.step_size must be above 0, in units of [0, 1] images; got {search.step_size}")


check_inputs = check_networks_of_size


def run(run: Run) -> dict[str, Any]:
    """Inverts the test images by config.inverters (name -> workdir) and by optimization, and returns the results.

    Args:
      run: a run of configs/compare_inversion.py.

    Raises:
      UserError: a missing inverter, or images of another size.
    """
    inverters = load_inverters(run)
    arrays = data.load_arrays(run.open_data("test"))
    images = arrays["image"]
    run.begin()
    methods = {f"RI, {name}": (inverters[name], _optimize) for name in run.config.optimization.encoders}
    methods |= {name: (inverter, _generate) for name, inverter in inverters.items()}
    values, totals = {}, {}
    for name, (inverter, reconstruct) in methods.items():
        cache = run.cache(f"parts/{name.replace(', ', '_')}", inverter.fingerprint, images)
        measures = Measurement(run, inverter.encoder)
        values[name] = _measure(run, inverter, measures, images, reconstruct(run, name, inverter, images, cache))
        totals[name] = measures.finish()
    results = _results(run.config, methods, values, totals) | {"num_images": len(images)}
    figures = _write(run, values, images)
    return run.finish(results, tables=[_table(results)], notes=[_note(run, results)], figures=figures)


def _generate(run: Run, name: str, inverter: Trained, images: np.ndarray, cache: ResultCache) -> Iterator[Part]:
    """Yields the parts of the images, in order, by the generator."""

    @jax.jit
    def step(functions, images):
        return inversion.invert(*functions, images, layer=inverter.layer)

    functions = parallel.replicate((inverter.decode_fn, inverter.features_fn), run.mesh)

    @functools.cache
    def compile_step():
        return step.lower(functions, _batch(run, images, 0)[0]).compile()

    def compute(first: int) -> Part:
        batch, mask = _batch(run, images, first)
        compiled = compile_step()
        started = time.perf_counter()
        reconstructions = jax.block_until_ready(compiled(functions, batch))
        seconds = (time.perf_counter() - started) / len(mask)
        return {"reconstruction": jax.device_get(reconstructions)[mask], _SECONDS: np.full(mask.sum(), seconds)}

    with progress_bar(None, f"{run.config.title}: {name}", total=len(images), unit="image") as bar:
        for part in cache.batches().fill(len(images), compute):
            bar.update(len(part[_SECONDS]))
            yield part


def _optimize(run: Run, name: str, inverter: Trained, images: np.ndarray, cache: ResultCache) -> Iterator[Part]:
    """Yields the parts of the images, in order, by optimization of the pixels."""
    config, search = run.config, run.config.optimization
    sharding, states = parallel.batch_sharding(run.mesh), cache.batches("_state")

    @jax.jit
    def encode(features_fn, images):
        return features_fn(images)[inverter.layer]

    @functools.partial(jax.jit, out_shardings=sharding)
    def step(images, count, features_fn, targets):
        options = {"layer": inverter.layer, "step_size": search.step_size}
        return inversion.invert_by_optimization(features_fn, images, targets, num_steps=count, **options)

    features_fn = parallel.replicate(inverter.features_fn, run.mesh)

    def compute(first: int) -> Part:
        batch, mask = _batch(run, images, first)
        targets = encode(features_fn, batch)
        start = inversion.start_images(run.key, first + np.arange(len(mask)), shape=batch.shape[1:])
        state = _Search(states, first, start, int(mask.sum()), sharding)
        bar.update(state.done * state.count)
        state.run(functools.partial(step, features_fn=features_fn, targets=targets), search, bar.update)
        return state.part()

    total = len(images) * search.num_steps
    with progress_bar(None, f"{config.title}: {name}", total=total, unit="step") as bar:
        end = 0
        for part in cache.batches().fill(len(images), compute):
            end += len(part[_SECONDS])
            states.remove(end)
            bar.update(end * search.num_steps - bar.n)
            yield part


class _Search:
    """A search that is saved twice a minute: its images, the number of steps so far and their seconds an image.

    A search that was saved with larger batches continues with its first images, as many as the batch has; one that was
    saved with smaller batches continues with all of its images and no others.

    Attributes:
      count: number of images that are searched for; those behind them fill the batch.
      done: number of steps so far.
    """

    def __init__(self, states: CachedBatches, first: int, start: Array, count: int, sharding: jax.sharding.Sharding):
        self._states, self._first = states, first
        images, self.count, self.done, self._seconds = np.array(start), count, 0, 0.0
        if saved := states.load(first):
            self.count = min(count, len(saved["images"]))
            images[: self.count] = saved["images"][: self.count]
            self.done, self._seconds = int(saved["done"][0]), float(saved["seconds"][0])
        self._images = jax.device_put(images, sharding)

    def run(self, step: Callable, search: ConfigDict, advance: Callable[[int], Any]) -> None:
        """Runs the remaining steps; `step` maps (images, number of steps) to images."""
        step(self._images, 0)  # compiles
        timer = SaveTimer()
        while self.done < search.num_steps:
            num_steps = min(search.steps_per_call, search.num_steps - self.done)
            started = time.perf_counter()
            self._images = jax.block_until_ready(step(self._images, num_steps))
            self._seconds += (time.perf_counter() - started) / len(self._images)
            self.done += num_steps
            advance(num_steps * self.count)
            if timer.is_due() and self.done < search.num_steps:
                self._save()
                timer.restart()

    def part(self) -> Part:
        """Returns the images so far and the seconds of each."""
        images = jax.device_get(self._images)[: self.count]
        return {"reconstruction": images, _SECONDS: np.full(self.count, self._seconds)}

    def _save(self) -> None:
        images = jax.device_get(self._images)[: self.count]
        numbers = {"done": self.done, "seconds": self._seconds}
        rows = {name: np.full(self.count, value) for name, value in numbers.items()}
        self._states.save(self._first, {"images": images, **rows})


def _batch(run: Run, images: np.ndarray, first: int) -> tuple[Array, np.ndarray]:
    """Returns a batch of images from the image `first` on as float32, split over the devices, and its mask."""
    size = run.config.batch_size
    batch, mask = next(parallel.padded_batches(images[first : first + size], size=size))
    return to_float(parallel.place_whole_batch({"image": batch}, run.mesh)["image"]), mask


def _measure(
    run: Run, inverter: Trained, measures: Measurement, images: np.ndarray, parts: Iterable[Part]
) -> dict[str, np.ndarray]:
    """Returns every metric and the seconds of every image [N], and the first reconstructions."""

    @jax.jit
    def step(features_fn, measure_variables, reconstructions, images):
        features, targets = features_fn(reconstructions)[inverter.layer], features_fn(images)[inverter.layer]
        numbers = measures.measure(measure_variables, reconstructions, images)
        return {**numbers, _DISTANCE: inversion.relative_distance(features, targets)}

    size, rows, reconstructions, seconds = run.config.batch_size, [], [], []
    for part in parts:
        first = sum(map(len, seconds))
        pairs = (part["reconstruction"], images[first : first + len(part[_SECONDS])])
        for (batch, mask), (targets, _) in zip(*(parallel.padded_batches(x, size=size) for x in pairs), strict=True):
            numbers = jax.device_get(step(inverter.features_fn, measures.variables, batch, to_float(targets)))
            rows.append({name: array[mask] for name, array in numbers.items()})
        reconstructions.extend(part["reconstruction"][: run.config.log.num_images - len(reconstructions)])
        seconds.append(part[_SECONDS])
    values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return {**values, _SECONDS: np.concatenate(seconds), "reconstruction": np.array(reconstructions)}


def _results(
    config: ConfigDict, methods: Mapping[str, tuple], values: Mapping[str, Mapping], totals: Mapping[str, Mapping]
) -> dict[str, Any]:
    """Returns the summary of every method, and what it was measured with."""
    entries, variants = {}, {_DISTANCE: _DISTANCE_VARIANT}
    for name, (inverter, reconstruct) in methods.items():
        variants |= totals[name]["variants"]
        is_learned = reconstruct is _generate
        size = sum(x.size for x in jax.tree.leaves(inverter.variables["params"])) if is_learned else None
        seconds = float(values[name][_SECONDS].mean())
        entries[name] = {"parameters": size, _SECONDS: seconds, "inverter": inverter.fingerprint}
        entries[name] |= report.summarize({m: values[name][m] for m in [*totals[name]["variants"], _DISTANCE]})
    return {
        "entries": entries,
        "batch_size": config.batch_size,
        "optimization": config.optimization.to_dict(),
        "variants": variants,
        "metric_weights": {name: totals[name]["metric_weights"] for name in methods},
        "inverters": {name: dict(methods[name][0].description) for name in config.order},
    }


def _write(run: Run, values: Mapping[str, Mapping], images: np.ndarray) -> dict[str, pathlib.Path]:
    """Writes per_image.npz and reconstructions.png, and returns the heading of the figure -> its file."""
    arrays = {
        f"{name}/{metric}": array
        for name, part in values.items()
        for metric, array in part.items()
        if metric not in ("reconstruction", _SECONDS)
    }
    write_arrays(run.workdir / "per_image.npz", arrays)
    count = min(run.config.log.num_images, len(images))
    if not count:
        return {}
    rows = {"image": images[:count]} | {name: part["reconstruction"] for name, part in values.items()}
    write_png(run.workdir / "reconstructions.png", labeled_grid(rows))
    return {"Images, and their reconstructions": run.workdir / "reconstructions.png"}


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
        f"{results['num_images']} test images of {setting['data']}; {report.setting_text(setting)}, batches of "
        f"{results['batch_size']}, compilation not counted; ± is the standard deviation over images. RI: "
        f"{search['num_steps']} steps of {search['step_size']:g}.{report.weights_note(results['metric_weights'])}"
    )
