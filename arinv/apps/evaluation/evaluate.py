"""Evaluation of a trained encoder, or of an inverter with its encoder, on test images.

Writes results.json (means and standard deviations, the exact variant of each metric), per_image.npz (every number of
every image) and, for an inverter, images.npz and reconstructions.png. With config.attack_from, the workdir of another
evaluation of the same encoder, the accuracies are read from there and no attack runs. An inverter whose encoder has
other classes than the images is evaluated without accuracies.

The numbers of finished images are saved in parts/ every half minute, and at the end of each pass, until all results are
written; a run that was killed resumes to the same bits.
"""

import functools
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import attacks, data, distributed, metrics, parallel
from arinv.errors import UserError
from arinv.experiment import descriptions, measurement, report, workdirs
from arinv.experiment.cache import fingerprint
from arinv.experiment.fields import attack_options, check_fields
from arinv.experiment.measurement import Measurement
from arinv.experiment.output_files import read_arrays, write_arrays, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import CLASSIFIER, INVERTER, Trained
from arinv.experiment.writer import progress_bar
from arinv.ops.images import image_grid, to_float
from arinv.train import classifier, inverter
from arinv.train.feed import FirstImages, evaluate_batches, numbers_of
from arinv.types import Batch

_NAMES = {"correct": "clean_accuracy", "loss": "cross_entropy"}
_DECISIVE = ("attack", "batch_size", "data", "dtype", "seed")  # fields that decide an encoder's figures
_IMAGES = "images"  # name of their hash in the results
_FREE = ("data_dir", "num_workers")  # fields of the data that decide no figure
_PARTS = "parts"  # folder of the numbers of finished images


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    check_fields(config)
    attack_options(config.attack)
    measurement.check(config)
    if not config.checkpoint:
        raise UserError("checkpoint is empty; name the workdir of a classifier's or an inverter's training")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the networks fit, whether they exist or stages train them.

    Raises:
      UserError: no checkpoint, or one of another kind or image size.
    """
    size = run.config.data.image_size
    run.check_network(run.config.checkpoint, kind=(CLASSIFIER, INVERTER), image_size=size)
    measurement.check_inputs(run)


def run(run: Run) -> dict[str, Any]:
    """Evaluates config.checkpoint and returns the results.

    Args:
      run: a run of configs/evaluate.py; config.checkpoint is the workdir of a classifier or an inverter.

    Raises:
      UserError: no usable checkpoint there, or data that does not fit it.
    """
    config = run.config
    network = run.load(config.checkpoint, kind=(CLASSIFIER, INVERTER), image_size=config.data.image_size)
    encoder = network.encoder
    measure = Measurement(run, encoder) if network.kind == INVERTER else None
    resize = descriptions.resize_of(config, network.description)
    test = run.open_data("test", resize=resize)
    arrays = data.load_arrays(test)
    inputs = {"the encoder's weights": encoder.fingerprint, "data.resize": resize, _IMAGES: _hash_of(arrays)}
    figures, attack = _known_accuracies(run, network, test.info, inputs)
    if measure is not None:
        measurement.check_enough_images(config, len(test))
    run.begin()
    run_pass = _make_pass(run, arrays, encoder, resize)
    if attack and not figures:
        difference = descriptions.attack_difference(encoder.description, eps=attack["eps"], norm=attack["norm"])
        assumption = descriptions.assumed_classes(encoder.description, test.info)
        for line in filter(None, (assumption, difference, data.report_absent(test))):
            run.report(line)
        figures = _attack(encoder, attack, run_pass)
    per_image, images, totals = dict(figures), {}, {"variants": {}}
    if measure is not None:
        numbers, images = _reconstruct(network, measure, run_pass)
        for name in numbers.keys() & metrics.METRICS.keys():
            if finish := metrics.METRICS[name].finish:
                numbers[name] = finish(numbers[name], arrays["image"].astype(np.float32) / 255)
        per_image |= numbers
        totals = measure.finish()
        if "keypoints" in numbers:
            module = encoder.module
            text = f"keypoints of SIFT in an image, by {module.library} from octave {module.first_octave}"
            totals["variants"]["keypoints"] = text
    results = _summarize(per_image) | {
        **totals,
        **_report_undefined(run, figures),
        "attack": (
            {**attacks.make_attack(**attack).keywords, "name": attack["name"]} if attack and attack["eps"] > 0 else None
        ),
        "checkpoint": dict(network.description),
        "encoder_figures": list(figures),
        "encoder_weights": encoder.fingerprint,
        _IMAGES: inputs[_IMAGES],
        "num_images": test.info.num_examples,
        "resize": resize,
        **descriptions.report_size(encoder.description, config.data.image_size, config.title),
    }
    if distributed.index() == 0:
        _write_files(run, per_image, images)
    results = run.finish(results)
    run.cache(_PARTS).discard()
    return results


def _known_accuracies(
    run: Run, network: Trained, info: data.SourceInfo, inputs: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Returns the accuracies of each image that are not measured here, and the options of the attack.

    The accuracies are those of config.attack_from, or empty. Where an inverter's encoder has no classes, or others than
    the images, the options are None: nothing is attacked.

    Args:
      run: the run of the evaluation.
      network: what is evaluated.
      info: description of the images.
      inputs: see `encoder_figures`.

    Raises:
      UserError: a classifier of other classes than the images have, or as `encoder_figures`.
    """
    encoder = network.encoder
    if not encoder.module.has_weights:
        return {}, None
    if difference := descriptions.class_difference(encoder.description, info):
        if network.kind == CLASSIFIER:
            descriptions.check_classes(encoder.description, info)  # raises
        run.report(
            f"{difference}: reconstructions of its {info.num_examples} images (data.test_split={info.split!r}) are "
            "measured, accuracies are not"
        )
        return {}, None
    return encoder_figures(run, inputs) if run.config.attack_from else {}, attack_options(run.config.attack)


def encoder_figures(run: Run, inputs: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Returns the accuracies of each image from config.attack_from, if everything that decides them is the same.

    Args:
      run: the run of this evaluation; config.attack_from is the workdir of the other, or "stage:NAME".
      inputs: what decides them besides the config: "the encoder's weights", "data.resize" and "images", hashes of
        weights and of all images and their labels.

    Raises:
      UserError: no finished evaluation there, or one of another encoder, attack, dataset, dtype or seed, or of other
        images.
    """
    source = run.resolve(run.config.attack_from)
    results = workdirs.read_results(source)
    saved, current = _decisive(workdirs.read_json(source / "config.json")), _decisive(workdirs.plain(run.config))
    saved |= {"data.resize": results.get("resize"), "the encoder's weights": results.get("encoder_weights")}
    saved[_IMAGES] = results.get(_IMAGES)
    current |= inputs
    differences = [
        f"{name} (there {saved.get(name)!r}, now {value!r})"
        for name, value in current.items()
        if saved.get(name) != value
    ]
    if differences:
        raise UserError(
            f"attack_from={run.config.attack_from} used other settings: {', '.join(differences)}; leave it empty to "
            "attack again"
        )
    arrays = read_arrays(source / "per_image.npz")
    return {name: arrays[name] for name in results["encoder_figures"]}


def _report_undefined(run: Run, figures: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Prints how many images have logits that are not finite, and returns it as results; nothing where none has."""
    losses = figures.get("cross_entropy", np.zeros(0))
    if not (count := int(np.sum(~np.isfinite(losses)))):
        return {}
    run.report(f"warning: the logits of {count} of {len(losses)} images are not finite; they count as misclassified")
    return {"num_undefined": count}


def _hash_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns a hash of images and labels, with their number."""
    images = zlib.crc32(np.ascontiguousarray(arrays["image"]))
    return f"{zlib.crc32(np.ascontiguousarray(arrays['label']), images):08x} of {len(arrays['label'])}"


def _decisive(config: dict) -> dict:
    """Returns the fields that decide an encoder's figures, one level deep, as {"attack.eps": 1.0}."""
    fields = {}
    for name in _DECISIVE:
        value = config.get(name)
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        fields |= {name if part is None else f"{name}.{part}": x for part, x in parts if part not in _FREE}
    return fields


def _make_pass(
    run: Run, arrays: Mapping[str, np.ndarray], encoder: Trained, resize: str
) -> Callable[..., tuple[dict, dict]]:
    """Returns a function that runs an evaluation step over all batches with a progress bar.

    The function takes a title, the step, its variables, and texts that determine the results besides the config, the
    encoder and the images. With `measure`, the measurement of reconstructions, it also returns the first images.
    """
    config, mesh, module, size = run.config, run.mesh, encoder.module, run.config.batch_size
    own_key = encoder.fingerprint, resize, arrays["image"], arrays["label"]
    total = len(arrays["label"])
    num_batches = -(-total // size)

    def open_batches(first: int, end: int) -> Iterable[Batch]:
        part = {name: values[first * size : end * size] for name, values in arrays.items()}
        batches = data.eval_batches(part, batch_size=size, rows=run.rows)
        return data.ExtendedBatches(batches, module.host_features) if module.has_host_features else batches

    def run_pass(title, eval_step, variables, *key, measure=None):
        rows = run.cache(_PARTS, *own_key, *key).rows(title)
        jitted, variables = jax.jit(eval_step), parallel.replicate(variables, mesh)
        results_of = functools.partial(
            evaluate_batches, lambda batch, key: jitted(variables, batch, key), key=run.key, mesh=mesh
        )
        finished = -(-rows.count // size)
        num_images = min(config.log.num_images, total) if measure else 0
        images = FirstImages(num_images)
        if finished and measure:
            measure.set_state(rows.totals)
            for batch, results in results_of(open_batches(0, -(-num_images // size))):  # images are not saved
                images.add(batch, results)
        position = {"initial": finished, "total": num_batches}
        bar = progress_bar(open_batches(finished, num_batches), f"{config.title}: {title}", unit="batch", **position)
        for batch, results in results_of(bar, first=finished):
            if measure:
                results = measure.accumulate(results, batch["mask"])
            rows.append(numbers_of(batch, results), measure and measure.get_state())
            images.add(batch, results)
        rows.save()
        return rows.arrays(), images.arrays()

    return run_pass


def _attack(encoder: Trained, attack: Mapping[str, Any], run_pass: Callable) -> dict[str, np.ndarray]:
    """Returns the accuracies and the loss of every image, with and without the attack."""
    step = classifier.make_eval_step(encoder.module, attack=attack)
    figures, _ = run_pass("attacking", step, encoder.variables, str(sorted(attack.items())))
    names = _NAMES | {"robust_correct": f"{attack['name']}_accuracy"}
    return {names.get(name, name): values for name, values in figures.items()}


def _reconstruct(network: Trained, measure: Measurement, run_pass: Callable) -> tuple[dict, dict]:
    """Returns the metrics of every image, and the first images with their reconstructions."""
    step = inverter.make_eval_step(network.encoder.module, network.module, layer=network.layer, measure=measure.measure)
    return run_pass(
        "inverting",
        lambda variables, batch, key: step(variables[0], batch, *variables[1:]),
        (network.variables, network.encoder.variables, measure.variables),
        network.fingerprint,
        fingerprint(measure.variables),
        measure=measure,
    )


def _summarize(per_image: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the mean of each metric, and under NAME_std the standard deviation of all but the accuracies."""
    results = report.summarize(per_image)
    return {name: value for name, value in results.items() if not name.endswith("accuracy_std")}


def _write_files(run: Run, per_image: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]) -> None:
    write_arrays(run.workdir / "per_image.npz", per_image)
    if "reconstruction" in images:
        write_arrays(run.workdir / "images.npz", images)
        rows = [to_float(images["image"]), images["reconstruction"]]
        write_png(run.workdir / "reconstructions.png", image_grid(rows))
