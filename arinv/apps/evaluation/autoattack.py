"""Robustness of a trained encoder by AutoAttack, which resumes after a kill at any moment.

The attacks are first tested within a radius of 0, where they must not move an image. Writes results.json (accuracy
after each attack, with its exact 95 % interval, seconds and passes, a sentence to cite, and every reason to doubt the
figure), adversarial.npz, hardest.png (the robust images with the smallest margins) and smallest.png (the smallest
successful perturbations); rows: image, adversarial image, their difference.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import arinv
from arinv import attacks, data, metrics, parallel
from arinv.attacks.autoattack.standard import check_num_classes
from arinv.errors import UserError, unknown
from arinv.experiment import descriptions
from arinv.experiment.cache import ResultCache, SaveTimer
from arinv.experiment.fields import check_fields, report_radius
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import CLASSIFIER, INVERTER, Trained
from arinv.experiment.writer import progress_bar
from arinv.ops import norms
from arinv.ops.images import image_grid
from arinv.ops.inputs import check_count, check_number
from arinv.types import LogitsFn
from arinv.zoo.cards import radius_text

_STATE, _SELF_TEST = "state", "self_test"  # parts of the cache
_SELF_TEST_IMAGES = 8
_STANDARD = {"num_steps": 100, "num_targets": 9, "num_queries": 5000}


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name, a number out of range, or too few classes for an attack.
    """
    check_fields(config)
    norms.check_norm(config.attack.norm)
    if not check_number(config.attack.eps, "attack.eps") > 0:
        raise UserError(
            f"attack.eps must be above 0, such as 8/255, in units of [0, 1] images; got {config.attack.eps}"
        )
    report_radius(config.attack.eps, config.attack.norm)
    for name in ("num_steps", "num_queries", "queries_per_round", "num_targets"):
        check_count(config.attack[name], f"attack.{name}")
    for name in config.attack.attacks.split("+"):
        if name not in attacks.AUTOATTACK:
            raise unknown("attack", name, attacks.AUTOATTACK)
    if not 0 <= check_number(config.attack.decide, "attack.decide") < 0.5:
        raise UserError(
            "attack.decide must be the half-width of the interval at which the attack stops, such as 0.05, or 0 to "
            f"attack all images; got {config.attack.decide}"
        )
    if not config.checkpoint:
        raise UserError("checkpoint is empty; name the workdir of a classifier's or an inverter's training")
    if config.data.classes:
        _check_num_classes(config, len(set(config.data.classes)), stage="NAME")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the network exists, or is a stage, and takes images of this size.

    Raises:
      UserError: no checkpoint, or one of another kind, or whose encoder is of another image size.
    """
    reference = run.config.checkpoint
    if network := run.check_network(reference, kind=(INVERTER, CLASSIFIER)):
        size = run.config.data.image_size
        descriptions.check_trained_size(network.encoder.description, size, run.resolve(reference))


def run(run: Run) -> dict[str, Any]:
    """Attacks config.checkpoint and returns the results.

    Args:
      run: a run of configs/autoattack.py.

    Raises:
      UserError: no usable checkpoint there, one of too few classes, or data that does not fit it.
    """
    config, workdir = run.config, run.workdir
    encoder = run.load(config.checkpoint, kind=(INVERTER, CLASSIFIER)).encoder
    descriptions.check_trained_size(encoder.description, config.data.image_size, run.resolve(config.checkpoint))
    _check_num_classes(config, encoder.description["num_classes"], stage=workdir.name)
    test = run.open_data("test", resize=descriptions.resize_of(config, encoder.description))
    descriptions.check_classes(encoder.description, test.info)
    assumption = descriptions.assumed_classes(encoder.description, test.info)
    arrays = data.load_arrays(test)
    images, labels = arrays["image"].astype(np.float32) / 255, arrays["label"]
    index = np.arange(len(labels))
    if config.attack.decide:  # a part of the images must be one of all classes
        index = np.random.default_rng(config.seed).permutation(index)
        images, labels = images[index], labels[index]
    logits_fn = parallel.replicate(encoder.logits_fn, run.mesh)
    run.begin()
    difference = descriptions.attack_difference(encoder.description, eps=config.attack.eps, norm=config.attack.norm)
    for line in filter(None, (assumption, difference)):
        run.report(line)
    cache = run.cache("", encoder.fingerprint, arrays["image"])
    doubts = _self_test(run, cache, logits_fn, images, labels)
    saved = cache.load(_STATE)
    state = None if saved is None else attacks.AutoAttackState.from_arrays(saved)
    bar = _Bar(config.title, state)
    result = attacks.autoattack(
        run.key,
        logits_fn,
        images,
        labels,
        attacks=tuple(config.attack.attacks.split("+")),
        **_batches(run),
        state=state,
        save=_saver(cache),
        on_progress=bar,
        should_stop=_stop_when_narrow(config.attack.decide) if config.attack.decide else None,
        **{name: value for name, value in config.attack.items() if name not in ("name", "attacks", "decide")},
    )
    bar.close()
    attacked = len(result.robust)
    images, labels = images[:attacked], labels[:attacked]
    results, adversarial = _results(run, encoder, logits_fn, result, images, labels, index)
    results["warnings"] += doubts
    for message in (*results["warnings"], results["citation"]):
        run.report(message)
    write_arrays(workdir / "adversarial.npz", adversarial)
    _write_figures(run, logits_fn, adversarial, images, labels)
    results = run.finish(results)
    cache.remove(_STATE)
    cache.remove(_SELF_TEST)
    return results


def _self_test(run: Run, cache: ResultCache, logits_fn: LogitsFn, images: np.ndarray, labels: np.ndarray) -> list[str]:
    """Returns a message for each attack that moves an image within a radius of 0, tested once."""
    saved = cache.load(_SELF_TEST)
    if saved is not None:
        return saved["messages"].tolist()
    rows, norm = slice(_SELF_TEST_IMAGES), run.config.attack.norm
    messages = attacks.check_radius_zero(run.key, logits_fn, images[rows], labels[rows], norm=norm)
    run.report(f"tested in {norm} within a radius of 0: {' '.join(messages) or 'the attacks move no image'}")
    cache.save(_SELF_TEST, {"messages": np.array(messages, dtype=str)})
    return messages


def _batches(run: Run) -> dict[str, Any]:
    """Returns how images are split into batches and over the devices."""
    place = functools.partial(parallel.place_whole_batch, mesh=run.mesh)
    return {"batch_size": run.config.batch_size, "multiple_of": run.mesh.size, "place": place}


def _check_num_classes(config: ConfigDict, num_classes: int, *, stage: str) -> None:
    """Checks that the attacks work with that many classes; `stage` is the task's name within an experiment."""
    field = f"stages.{stage}.attack.attacks" if config.checkpoint.startswith("stage:") else "attack.attacks"
    check_num_classes(
        config.attack.attacks.split("+"),
        num_classes=num_classes,
        leave_out=lambda others: f"--config.{field}={'+'.join(others)}",
    )


def _stop_when_narrow(half_width: float) -> Callable[[int, int], bool]:
    """Returns the function (number of robust images, number of images) -> whether the accuracy's interval is narrow."""

    def narrow(robust: int, count: int) -> bool:
        low, high = metrics.binomial_interval(robust, count)
        return high - low <= 2 * half_width

    return narrow


def _results(
    run: Run,
    encoder: Trained,
    logits_fn: LogitsFn,
    result: attacks.AutoAttackResult,
    images: np.ndarray,
    labels: np.ndarray,
    index: np.ndarray,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the results, with an independent count of robust images, and the arrays of adversarial.npz."""
    attack = run.config.attack
    buckets = attacks.make_buckets(**_batches(run))
    reclassified = attacks.reclassify(
        logits_fn, images, result.adversarial, labels, buckets=buckets, eps=attack.eps, norm=attack.norm
    )
    warnings = [*result.messages, *reclassified.messages]
    if reclassified.correct.sum() != result.robust.sum():
        warnings.append(
            f"a second count finds {reclassified.correct.sum()} images robust, the attack {result.robust.sum()}: "
            "rounding decides some of them"
        )
    low, high = metrics.binomial_interval(int(result.robust.sum()), len(labels))
    records = {name: vars(record) for name, record in result.per_attack.items()}
    version = _version(attack, len(labels), len(index))
    results = {
        "clean_accuracy": result.clean_accuracy,
        "autoattack_accuracy": result.robust_accuracy,
        "autoattack_accuracy_95": [low, high],
        "autoattack_accuracy_8bit": float(np.mean(reclassified.correct_8bit)),
        "citation": _citation(attack, version, result, (low, high)),
        "attack": attack.to_dict(),
        "per_attack": records,
        "seconds": sum(record["seconds"] for record in records.values()),
        "warnings": warnings,
        "checkpoint": dict(encoder.description),
        "encoder_weights": encoder.fingerprint,
        "num_images": len(labels),
        "resize": descriptions.resize_of(run.config, encoder.description),
        "variants": {
            "autoattack_accuracy": f"autoattack, {version}; exact 95 % interval (Clopper-Pearson)",
            "autoattack_accuracy_8bit": "autoattack_accuracy of the same images rounded to 256 levels",
        },
    }
    adversarial = {
        "adversarial": result.adversarial,
        "robust": result.robust,
        "clean": result.clean,
        "prediction": result.predictions,
        "label": labels,
        "index": index[: len(labels)],
        "distance": reclassified.distances,
    }
    return results, adversarial


def _citation(attack: ConfigDict, version: str, result: attacks.AutoAttackResult, interval: tuple[float, float]) -> str:
    """Returns the accuracy and what it was measured with, in one sentence."""
    count, low, high = len(result.robust), *(f"{100 * bound:.1f}%" for bound in interval)
    return (
        f"AutoAttack accuracy {100 * result.robust_accuracy:.2f}% (exact 95% interval {low} to {high}) in "
        f"{radius_text(attack)} on {count:,} images, {result.robust.sum():,} of them robust, clean accuracy "
        f"{100 * result.clean_accuracy:.2f}%; version: {version}; arinv {arinv.__version__}."
    )


def _version(attack: ConfigDict, count: int, available: int) -> str:
    """Returns "standard", whose figures compare with published ones, or the attacks and options that differ from it."""
    names = attack.attacks.split("+")
    if set(names) == set(attacks.AUTOATTACK) and all(attack[name] == value for name, value in _STANDARD.items()):
        text = "standard (Croce & Hein 2020)"
    else:
        ordered = "+".join(name for name in attacks.AUTOATTACK if name in names)
        text = f"not the standard version: {ordered}, {', '.join(f'{name} {attack[name]}' for name in _STANDARD)}"
    if attack.decide:
        text += f", {count:,} of {available:,} images in random order, decided at a half-width of {attack.decide:g}"
    return text


def _write_figures(
    run: Run, logits_fn: LogitsFn, arrays: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray
) -> None:
    """Writes smallest.png, the smallest successful perturbations, and hardest.png, the smallest margins."""
    count = run.config.log.num_images
    broken = np.flatnonzero(arrays["clean"] & ~arrays["robust"])
    broken = broken[np.argsort(arrays["distance"][broken], kind="stable")][:count]
    robust = np.flatnonzero(arrays["robust"])
    if len(robust):
        margins = attacks.margins(logits_fn, images[robust], labels[robust], attacks.make_buckets(**_batches(run)))
        robust = robust[np.argsort(margins, kind="stable")][:count]
    for name, rows in (("smallest", broken), ("hardest", robust)):
        if len(rows):
            change = arrays["adversarial"][rows] - images[rows]
            scale = np.abs(change).max() or 1.0
            grid = image_grid([images[rows], arrays["adversarial"][rows], 0.5 + 0.5 * change / scale])
            write_png(run.workdir / f"{name}.png", grid)


def _saver(cache: ResultCache) -> Callable[[attacks.AutoAttackState], None]:
    """Returns the function that saves the state at the end of each round, and twice a minute in between."""
    timer = SaveTimer()

    def save(state: attacks.AutoAttackState) -> None:
        if state.position >= len(state.queue) or timer.is_due():
            cache.save(_STATE, state.to_arrays(), compressed=False)
            timer.restart()

    return save


class _Bar:
    """A progress bar over the forward and backward passes of all attacks on the images that are still robust."""

    def __init__(self, title: str, state: attacks.AutoAttackState | None):
        before = 0 if state is None else int(state.forward_passes.sum() + state.backward_passes.sum())
        self._bar = progress_bar(None, title, total=None, initial=before, unit="pass", unit_scale=True)

    def __call__(self, progress: attacks.Progress) -> None:
        self._bar.total = progress.passes + progress.passes_left
        self._bar.set_description_str(f"{progress.attack} {progress.round}/{progress.rounds}", refresh=False)
        self._bar.set_postfix_str(f"robust {100 * progress.robust_accuracy:.1f} %", refresh=False)
        self._bar.update(progress.passes - self._bar.n)

    def close(self) -> None:
        self._bar.close()
