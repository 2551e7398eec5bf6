"""Measures a trained encoder's robustness by AutoAttack, which stops and goes on at any moment.

Leaves results.json (accuracy after each attack, with its exact 95 % interval, seconds and passes, and every reason to
doubt the figure), adversarial.npz, hardest.png (images that withstood everything, by the smallest margin) and
smallest.png (the smallest perturbations that succeeded); rows: image, adversarial image, their difference.
"""

import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import attacks, data, metrics, parallel
from arinv.attacks.autoattack.standard import check_num_classes
from arinv.errors import UserError
from arinv.experiment import descriptions
from arinv.experiment.run import Run, check_fields, report_radius
from arinv.experiment.trained import CLASSIFIER, INVERTER
from arinv.experiment.writer import progress_bar, read_arrays, write_arrays, write_png
from arinv.ops import norms
from arinv.ops.images import image_grid
from arinv.ops.inputs import check_number

_SAVE_EVERY_SECONDS = 30.0
_STATE = "state.npz"
_WEIGHTS = "weights"
_STANDARD = {"num_steps": 100, "num_targets": 9, "num_queries": 5000}

ONE_PROCESS = True


def check(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

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
        if config.attack[name] < 1:
            raise UserError(f"attack.{name} must be 1 or more; got {config.attack[name]}")
    for name in config.attack.attacks.split("+"):
        if name not in attacks.ATTACKS:
            raise UserError(f"unknown attack {name!r}; known: {', '.join(attacks.ATTACKS)}")
    if not config.checkpoint:
        raise UserError("checkpoint is empty; name the workdir of a classifier's or an inverter's training")
    if config.data.classes:
        _check_num_classes(config, len(set(config.data.classes)), stage="NAME")


def check_inputs(run: Run) -> None:
    """Checks, before anything is trained, that the network will be of the size of the images.

    Raises:
      UserError: it will not.
    """
    run.check_planned_size(run.config.checkpoint)


def run(run: Run) -> dict[str, Any]:
    """Attacks config.checkpoint and returns the results.

    Args:
      run: of configs/evaluate.py:attack=autoattack.

    Raises:
      UserError: no usable checkpoint there, one of too few classes, or data or a state that does not fit it.
    """
    config, workdir = run.config, run.workdir
    mesh = run.mesh
    encoder = run.load(config.checkpoint, kind=(INVERTER, CLASSIFIER)).encoder
    descriptions.check_trained_size(encoder.description, config.data.image_size, run.resolve(config.checkpoint))
    _check_num_classes(config, encoder.description["num_classes"], stage=workdir.name)
    test = run.open_data("test", resize=descriptions.resize_of(config, encoder.description))
    descriptions.check_classes(encoder.description, test.info)
    arrays = data.load_arrays(test)
    images, labels = arrays["image"].astype(np.float32) / 255, arrays["label"]
    model = jax.device_put(encoder.logits_fn, parallel.replicated(mesh))
    run.begin()
    options = {name: value for name, value in config.attack.items() if name not in ("name", "attacks")}
    save = _Saver(workdir / _STATE, encoder.fingerprint)
    state = save.load()
    show = _Bar(config.title, state)
    result = attacks.autoattack(
        run.key,
        model,
        images,
        labels,
        attacks=tuple(config.attack.attacks.split("+")),
        batch_size=config.batch_size,
        multiple_of=mesh.size,
        place=lambda batch: parallel.place_batch(batch, mesh),
        state=state,
        save=save,
        on_progress=show,
        **options,
    )
    show.close()
    results, adversarial = _results(config, encoder, model, result, images, labels)
    for message in results["warnings"]:
        print(f"{config.title}: {message}", file=sys.stderr, flush=True)
    write_arrays(workdir / "adversarial.npz", adversarial)
    _write_pictures(workdir, model, adversarial, images, labels, config.log.num_pictures)
    (workdir / _STATE).unlink(missing_ok=True)
    return run.finish(results)


def _check_num_classes(config: ConfigDict, num_classes: int, *, stage: str) -> None:
    """Checks that the attacks can do with the classes; `stage` is this task's name if it is one of an experiment."""
    field = f"stages.{stage}.attack.attacks" if config.checkpoint.startswith("stage:") else "attack.attacks"
    check_num_classes(
        config.attack.attacks.split("+"),
        num_classes=num_classes,
        leave_out=lambda others: f"--config.{field}={'+'.join(others)}",
    )


def _results(config, encoder, model, result, images, labels) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the results with a second count of them, and the arrays to keep."""
    options = {"eps": config.attack.eps, "norm": config.attack.norm}
    buckets = attacks.make_buckets(batch_size=config.batch_size)
    again = attacks.rescore(model, images, result.adversarial, labels, buckets=buckets, **options)
    still = attacks.unmoved_at_radius_zero(
        jax.random.key(config.seed), model, images[:8], labels[:8], norm=config.attack.norm
    )
    warnings = [*result.messages, *again.messages, *still]
    if again.correct.sum() != result.robust.sum():
        warnings.append(
            f"a second count finds {again.correct.sum()} images robust, the attack {result.robust.sum()}: rounding "
            "decides some of them"
        )
    low, high = metrics.binomial_interval(int(result.robust.sum()), len(labels))
    records = {name: vars(record) for name, record in result.per_attack.items()}
    results = {
        "clean_accuracy": result.clean_accuracy,
        "autoattack_accuracy": result.robust_accuracy,
        "autoattack_accuracy_95": [low, high],
        "autoattack_accuracy_8bit": float(np.mean(again.correct_8bit)),
        "attack": config.attack.to_dict(),
        "per_attack": records,
        "seconds": sum(record["seconds"] for record in records.values()),
        "warnings": warnings,
        "checkpoint": dict(encoder.description),
        "num_examples": len(labels),
        "resize": descriptions.resize_of(config, encoder.description),
        "variants": {
            "autoattack_accuracy": f"autoattack, {_version(config.attack)}; exact 95 % interval (Clopper-Pearson)",
            "autoattack_accuracy_8bit": "autoattack_accuracy of the same images rounded to 256 levels",
        },
    }
    adversarial = {
        "adversarial": result.adversarial,
        "robust": result.robust,
        "clean": result.clean,
        "prediction": result.predictions,
        "label": labels,
        "distance": again.distances,
    }
    return results, adversarial


def _version(attack: ConfigDict) -> str:
    """Returns "standard" where that is what was run, or what was: only the former compares with published figures."""
    names = attack.attacks.split("+")
    if set(names) == set(attacks.ATTACKS) and all(attack[name] == value for name, value in _STANDARD.items()):
        return "standard (Croce & Hein 2020)"
    ran = "+".join(name for name in attacks.ATTACKS if name in names)
    return f"not the standard version: {ran}, {', '.join(f'{name} {attack[name]}' for name in _STANDARD)}"


def _write_pictures(workdir, model, kept, images, labels, count: int) -> None:
    """Draws the survivors that were nearest to the boundary, and the smallest perturbations that succeeded."""
    broken = np.flatnonzero(kept["clean"] & ~kept["robust"])
    broken = broken[np.argsort(kept["distance"][broken], kind="stable")][:count]
    survivors = np.flatnonzero(kept["robust"])
    if len(survivors):
        rank = attacks.make_buckets(batch_size=128)
        margins = attacks.margins(model, images[survivors], labels[survivors], rank)
        survivors = survivors[np.argsort(margins, kind="stable")][:count]
    for name, rows in (("smallest", broken), ("hardest", survivors)):
        if len(rows):
            change = kept["adversarial"][rows] - images[rows]
            scale = np.abs(change).max() or 1.0
            grid = image_grid([images[rows], kept["adversarial"][rows], 0.5 + 0.5 * change / scale])
            write_png(workdir / f"{name}.png", grid)


class _Saver:
    """Keeps the state of the attack in a file: at the end of each round, and between them twice a minute.

    With it goes the fingerprint of the network's weights: no state is continued with others.
    """

    def __init__(self, path: pathlib.Path, weights: str):
        self._path, self._weights, self._last = path, weights, time.monotonic()

    def load(self) -> attacks.AutoAttackState | None:
        if not self._path.exists():
            return None
        arrays = read_arrays(self._path)
        saved = str(arrays.get(_WEIGHTS, "not known"))
        if saved != self._weights:
            raise UserError(
                f"{self._path} is of another network: its weights are {saved}, the checkpoint's {self._weights}; "
                f"delete {self._path.parent} to start anew"
            )
        return attacks.AutoAttackState.from_arrays(arrays)

    def __call__(self, state: attacks.AutoAttackState) -> None:
        if state.position < len(state.queue) and time.monotonic() - self._last < _SAVE_EVERY_SECONDS:
            return
        write_arrays(self._path, {_WEIGHTS: np.array(self._weights), **state.to_arrays()}, compressed=False)
        self._last = time.monotonic()


class _Bar:
    """A bar over the passes of all attacks, as many as the images that still stand have to go through."""

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
