"""Evaluates a trained encoder, or an inverter with its encoder, on the test source.

Leaves results.json (means and standard deviations, each metric's exact variant), per_image.npz (every
number of every image) and, of an inverter, pictures.npz and reconstructions.png. With config.attack_from, the workdir
of another evaluation of the same encoder, the accuracies are taken from there and no attack runs. An inverter is also
measured on images of other classes than its encoder's, without accuracies.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics, parallel
from arinv.apps.evaluation import measurement as measurements
from arinv.apps.evaluation.measurement import Measurement
from arinv.errors import UserError
from arinv.experiment import descriptions, workdirs
from arinv.experiment.run import Run, attack_options, batch_rows, check_fields
from arinv.experiment.trained import CLASSIFIER, INVERTER, Trained
from arinv.experiment.writer import progress_bar, read_arrays, write_arrays, write_png
from arinv.ops.images import image_grid, to_float
from arinv.train import classifier, inverter
from arinv.train.feed import collect

_DECISIVE = ("attack", "batch_size", "data", "dtype", "seed")  # fields that the figures depend on
_FREE = ("data_dir", "num_workers")  # of the data


def encoder_figures(config: ConfigDict, workdir: pathlib.Path, weights: str, resize: str = "") -> dict[str, np.ndarray]:
    """Returns the accuracies of each image from config.attack_from, once nothing that decides them differs.

    Args:
      config: of this evaluation; attack_from is the workdir of the other, or "stage:NAME".
      workdir: of this evaluation.
      weights: fingerprint of the encoder's variables.
      resize: how its images are brought to size; empty for data.resize.

    Raises:
      UserError: no finished evaluation there, or one of another encoder, attack, data, precision or seed.
    """
    source = workdirs.resolve(config.attack_from, workdir)
    results = workdirs.read_results(source)
    there, here = _decisive(workdirs.read_json(source / "config.json")), _decisive(workdirs.plain(config))
    if resize:
        there["data.resize"], here["data.resize"] = results.get("resize"), resize
    there["the encoder's weights"], here["the encoder's weights"] = results.get("encoder_weights"), weights
    differing = [
        f"{name} (there {there.get(name)!r}, now {here[name]!r})" for name in here if there.get(name) != here[name]
    ]
    if differing:
        raise UserError(
            f"attack_from={config.attack_from} measured something else: {', '.join(differing)}; leave it empty"
        )
    arrays = read_arrays(source / "per_image.npz")
    return {name: arrays[name] for name in results["encoder_figures"]}


def _decisive(config: dict) -> dict:
    """Returns the fields that decide an encoder's figures, one level deep, as {"attack.eps": 1.0}."""
    found = {}
    for name in _DECISIVE:
        value = config.get(name)
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        found |= {name if part is None else f"{name}.{part}": x for part, x in parts if part not in _FREE}
    return found


_RENAMED = {"correct": "clean_accuracy", "robust_correct": "pgd_accuracy", "loss": "cross_entropy"}


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    check_fields(config)
    attack_options(config.attack)
    measurements.check(config)
    if not config.checkpoint:
        raise UserError("checkpoint is empty; name the workdir of a classifier's or an inverter's training")


def check_inputs(run: Run) -> None:
    """Checks, before anything is trained, that the network will be of the size of the images.

    Raises:
      UserError: it will not.
    """
    run.check_planned_size(run.config.checkpoint)


def run(run: Run) -> dict[str, Any]:
    """Evaluates config.checkpoint and returns the results.

    Args:
      run: of configs/evaluate.py; config.checkpoint is the workdir of a classifier or an inverter.

    Raises:
      UserError: no usable checkpoint there, or data that does not fit it.
    """
    config, workdir = run.config, run.workdir
    attack = attack_options(config.attack)
    network = run.load(config.checkpoint, kind=(CLASSIFIER, INVERTER), image_size=config.data.image_size)
    encoder = network.encoder
    measurement = Measurement(config, workdir, encoder) if network.kind == INVERTER else None
    weights = encoder.fingerprint
    resize = descriptions.resize_of(config, network.description)
    figures = encoder_figures(config, workdir, weights, resize) if config.attack_from else None
    test = run.open_data("test", resize=resize)
    if difference := descriptions.class_difference(encoder.description, test.info):
        if measurement is None:
            descriptions.check_classes(encoder.description, test.info)
        figures, attack = {}, {**attack, "eps": 0.0}
        run.report(
            f"{difference}: reconstructions of its {len(test)} images (data.test_split={test.info.split!r}) are "
            "measured, accuracies are not"
        )
    arrays = data.load_arrays(test)
    run_pass = _make_pass(
        config, data.eval_batches(arrays, batch_size=config.batch_size, **batch_rows(config)), run.mesh
    )

    run.begin()
    if figures is None:
        step = classifier.make_eval_step(encoder.module, attack=attack)
        figures, _ = run_pass("attacking", step, encoder.variables)
        figures = {_RENAMED.get(name, name): values for name, values in figures.items()}
    per_image, pictures, measured = dict(figures), {}, {"variants": {}}
    if measurement is not None:
        numbers, pictures = _measure(network, measurement, run_pass)
        if "normalized_error" in numbers:
            scale = metrics.mean_pairwise_distance(arrays["image"].astype(np.float32) / 255)
            numbers["normalized_error"] = metrics.normalized_error(numbers["normalized_error"], scale)
        per_image |= numbers
        measured = measurement.finish()
    results = _summarize(per_image) | {
        **measured,
        "attack": {**attack, "name": "pgd"} if attack["eps"] > 0 else None,
        "checkpoint": dict(network.description),
        "encoder_figures": list(figures),
        "encoder_weights": weights,
        "num_examples": test.info.num_examples,
        "resize": resize,
        **descriptions.report_size(encoder.description, config.data.image_size, config.title),
    }
    if jax.process_index() == 0:
        _write_files(workdir, per_image, pictures)
    return run.finish(results)


def _measure(network: Trained, measurement: Measurement, run_pass) -> tuple[dict, dict]:
    """Returns the numbers of every image, and the first images with their reconstructions."""
    step = inverter.make_eval_step(
        network.encoder.module, network.module, layer=network.layer, measure=measurement.measure
    )
    return run_pass(
        "inverting",
        lambda variables, batch, key: step(variables[0], batch, *variables[1:]),
        (network.variables, network.encoder.variables, measurement.variables),
        absorb=measurement.absorb,
    )


def _make_pass(config: ConfigDict, batches: Iterable, mesh: jax.sharding.Mesh):
    """Returns a function that runs an evaluation step over all batches with a progress bar."""

    def run_pass(title, eval_step, variables, absorb=lambda results, mask: results):
        jitted = jax.jit(eval_step)
        variables = parallel.replicate(variables, mesh)
        return collect(
            lambda batch, key: absorb(jitted(variables, batch, key), batch["mask"]),
            batches,
            key=jax.random.key(config.seed),
            mesh=mesh,
            num_pictures=config.log.num_pictures,
            progress=lambda items: progress_bar(items, f"{config.title}: {title}", unit="batch"),
        )

    return run_pass


def _summarize(per_image: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns each mean under its name and each standard deviation under NAME_std."""
    results = {}
    for name, values in per_image.items():
        summary = metrics.summary(values)
        results[name] = summary["mean"]
        if not name.endswith("accuracy"):
            results[f"{name}_std"] = summary["std"]
    return results


def _write_files(workdir: pathlib.Path, per_image: Mapping, pictures: Mapping) -> None:
    write_arrays(workdir / "per_image.npz", per_image)
    if "reconstruction" in pictures:
        write_arrays(workdir / "pictures.npz", pictures)
        rows = [to_float(pictures["image"]), pictures["reconstruction"]]
        write_png(workdir / "reconstructions.png", image_grid(rows))
