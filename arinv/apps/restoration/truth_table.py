"""Truth table of an attribute in the images of a finished restoration: what one method shows that another does not.

The attribute is the class of a classifier, or a statistic of a region above a threshold. An image is invalid where one
of the two restored images has a larger error than config.max_error, or where the classifier's probability of its
class is below config.confidence, for either.

Writes results.json and table.md, report.html, and images.png: the first images of each of the four cells.

Source: Generative Encoder, section 5.5, Table 4 and Figure 13; invalid reconstructions are not defined there.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import parallel
from arinv.apps.restoration.attributes import STATISTICS, TruthTable, compare_attribute, make_rule
from arinv.apps.restoration.restoration import RESTORED
from arinv.errors import UserError, unknown
from arinv.experiment import report, workdirs
from arinv.experiment.fields import check_fields
from arinv.experiment.figures import labeled_grid
from arinv.experiment.output_files import read_arrays, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import CLASSIFIER, INVERTER, Trained
from arinv.ops.images import to_float, to_rgb
from arinv.ops.inputs import check_number

_IMAGES = "images.png"


def check(config: ConfigDict) -> None:
    """Checks everything that needs no finished run.

    Raises:
      UserError: not two methods, a number out of range, or a confidence of a statistic, which has none.
    """
    check_fields(config)
    if len(config.methods) != 2 or len(set(config.methods)) != 2:
        raise UserError(f"methods={tuple(config.methods)} must be two methods of the restoration")
    if not config.restoration:
        raise UserError("restoration is empty; name the workdir of a finished restoration")
    if not config.attribute:
        raise UserError(f"attribute is empty; name the workdir of a classifier, or one of {', '.join(STATISTICS)}")
    check_number(config.max_error, "max_error", minimum=0.0)
    check_number(config.confidence, "confidence", minimum=0.0, maximum=1.0)
    if config.attribute in STATISTICS:
        if config.confidence:
            raise UserError(
                f"confidence={config.confidence:g} is that of a classifier, {config.attribute} has none; set it to 0"
            )
        make_rule(statistic=config.attribute, threshold=config.threshold, region=tuple(config.region))


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the classifier and the restoration exist or are stages.

    Raises:
      UserError: one does not exist, or is of another kind.
    """
    config = run.config
    images = check_restored(run, config.restoration, config.methods)
    image_size = images["image"].shape[1] if images else run.planned(config.restoration).data.image_size
    if config.attribute in STATISTICS:
        return
    if run.check_planned(config.attribute, kind=(INVERTER, CLASSIFIER), allow_other_size=True) is None:
        _load_classifier(run, image_size)


def run(run: Run) -> dict[str, Any]:
    """Counts the attribute in the restored images and returns the results.

    Args:
      run: a run of configs/truth_table.py.

    Raises:
      UserError: a restoration that is not finished or lacks a method, or a class that the classifier does not have.
    """
    config = run.config
    images = read_restored(run, config.restoration, config.methods)
    attribute_fn, confidence_fn, about = _attribute(run, images["image"].shape[1])
    run.begin()
    first, second = (images[method] for method in config.methods)
    valid = np.ones(len(first), bool)
    for restored in (first, second):
        if config.max_error:
            valid &= np.square(restored - images["image"]).mean(axis=(1, 2, 3)) <= config.max_error
        valid &= confidence_fn(restored) >= config.confidence
    table = compare_attribute(first, second, attribute_fn, valid=valid)
    own = attribute_fn(images["image"])
    workdir = run.resolve(config.restoration)
    results = {
        "methods": list(config.methods),
        "counts": table._asdict(),
        "valid": table.valid,
        "num_images": table.count,
        "recovered": None if np.isnan(table.recovered) else table.recovered,
        "with_attribute": int(own.sum()),
        "attribute": about,
        "restoration": workdirs.relative(workdir, run.workdir),
        "setting": run.provenance | {"data": workdirs.read_results(workdir)["setting"]["data"]},
    }
    figures = _write_figure(run, images, attribute_fn, valid)
    tables, notes = [_table(config.methods, table)], [_note(config.methods, table)]
    return run.finish(results, tables=tables, notes=notes, figures=figures)


def check_restored(run: Run, reference: str, methods: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Checks, before any stage runs, that a restoration has images of some methods, or is a stage with them.

    Args:
      run: the run of the task that reads them.
      reference: workdir of a restoration, or "stage:NAME".
      methods: their names.

    Returns:
      The images, as `read_restored`; None of a stage.

    Raises:
      UserError: it is not finished, is none, or lacks a method.
    """
    planned = run.planned(reference)
    if planned is None:
        return read_restored(run, reference, methods)
    if missing := sorted(set(methods) - set(planned.get("methods", ()))):
        raise unknown(f"method of {reference}", missing[0], planned.get("methods", ()))
    return None


def read_restored(run: Run, reference: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the test images, "image", and those of some methods of a finished restoration, float32 [N, H, W, C].

    Args:
      run: the run of the task.
      reference: the workdir, or "stage:NAME".
      names: names of the methods.

    Raises:
      UserError: no finished restoration there, or one without a method.
    """
    workdir = run.resolve(reference)
    workdirs.read_results(workdir)  # raises where the run is not finished
    if not (workdir / RESTORED).exists():
        raise UserError(
            f"no {RESTORED} in {workdir}; name the workdir of configs/restoration.py, or its restoration stage"
        )
    arrays = read_arrays(workdir / RESTORED)
    for name in names:
        if name not in arrays:
            raise UserError(f"{workdir} has no method {name!r}; it has: {', '.join(sorted(set(arrays) - {'image'}))}")
    return {name: np.asarray(to_float(arrays[name])) for name in ("image", *names)}


def _load_classifier(run: Run, image_size: int) -> Trained:
    """Returns the classifier of config.attribute.

    Raises:
      UserError: none there, one of another image size, or one without the class config.label.
    """
    config = run.config
    try:
        classifier = run.load(config.attribute, kind=(INVERTER, CLASSIFIER)).encoder
    except UserError as error:
        raise UserError(f"attribute={config.attribute} is not one of {', '.join(STATISTICS)}, and {error}") from None
    if classifier.image_size != image_size:
        raise UserError(
            f"{config.attribute} was trained on images of {classifier.image_size} px, the restored ones have "
            f"{image_size} px; name a classifier of images of this size"
        )
    count, names = classifier.description["num_classes"], classifier.description["class_names"]
    if not 0 <= config.label < count:
        raise UserError(f"label={config.label} must be 0 to {count - 1}, of {names[:5]}")
    return classifier


def _attribute(run: Run, image_size: int) -> tuple[Callable, Callable, Mapping[str, Any]]:
    """Returns images -> bool [N], images -> confidences [N], and what decides, for results.

    Raises:
      UserError: as for `_load_classifier`.
    """
    config = run.config
    if config.attribute in STATISTICS:
        rule = make_rule(statistic=config.attribute, threshold=config.threshold, region=tuple(config.region))
        about = {"statistic": config.attribute, "threshold": config.threshold, "region": list(config.region)}
        return rule, lambda images: np.ones(len(images)), about
    classifier = _load_classifier(run, image_size)
    names = classifier.description["class_names"]
    step = functools.partial(_probabilities, classifier.logits_fn)

    def probabilities(images):
        return parallel.map_batches(step, images, size=config.batch_size)

    about = {"classifier": classifier.fingerprint, "label": config.label, "class": names[config.label] if names else ""}
    return (
        lambda images: probabilities(images).argmax(axis=1) == config.label,
        lambda images: probabilities(images).max(axis=1),
        about,
    )


@jax.jit
def _probabilities(logits_fn, images):
    return jax.nn.softmax(logits_fn(to_rgb(jnp.asarray(images))))


def _write_figure(
    run: Run, images: Mapping[str, np.ndarray], attribute_fn: Callable, valid: np.ndarray
) -> dict[str, pathlib.Path]:
    """Writes the first images of each cell, and returns the heading of the figure -> its file; empty for none."""
    first, second = run.config.methods
    values = {method: attribute_fn(images[method]) for method in (first, second)}
    indices = []
    for own, other in ((False, False), (False, True), (True, False), (True, True)):
        cell = np.flatnonzero((values[first] == own) & (values[second] == other) & valid)
        indices += cell[: run.config.log.num_images // 4].tolist()
    if not indices:
        return {}
    words = {False: "no", True: "yes"}
    columns = [f"{words[bool(values[first][i])]} / {words[bool(values[second][i])]}" for i in indices]
    grid = {name.replace("_", " "): array[indices] for name, array in images.items()}
    write_png(run.workdir / _IMAGES, labeled_grid(grid, columns=columns))
    return {f"Images, with the attribute by {first} / by {second}": run.workdir / _IMAGES}


def _table(methods: Sequence[str], table: TruthTable) -> report.Table:
    first, second = methods
    rows = [
        [f"{first}: no", str(table.neither), str(table.second)],
        [f"{first}: yes", str(table.first), str(table.both)],
    ]
    return report.Table(["", f"{second}: no", f"{second}: yes"], rows)


def _note(methods: Sequence[str], table: TruthTable) -> str:
    first, second = methods
    note = f"{table.valid} of {table.count} images are valid, {table.invalid} invalid."
    if not np.isnan(table.recovered):
        note += f" Of those without the attribute by {second}, {table.recovered:.0%} have it by {first}."
    return note
