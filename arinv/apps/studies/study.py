"""Study of inverters: probes of any number of them, side by side.

Writes PROBE.png (the sheet of each probe), PROBE_curves.png where it has curves, PROBE_layers.png (errors by layer)
where the names of inverters differ by their layer alone, table.md and report.html (the means of every number),
per_image.npz ("INVERTER/PROBE/NUMBER" [N]) and results.json. Every finished probe of every inverter is saved in parts/.

Sources: Dosovitskiy & Brox 2016, "Inverting visual representations with convolutional networks" and "Generating images
with perceptual similarity metrics based on deep networks".
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics, parallel
from arinv.apps.inversion.inverters import check_networks
from arinv.apps.studies.probes import PROBES, Options, Sheet
from arinv.errors import UserError, unknown
from arinv.experiment import report
from arinv.experiment.fields import check_fields
from arinv.experiment.figures import caption, fit, labeled_grid, short_names, write_curves
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import INVERTER, Trained
from arinv.experiment.writer import progress_bar
from arinv.ops.images import resize_images, to_float, to_uint8
from arinv.types import Array, DecodeFn, FeaturesFn, LogitsFn

_TILE = 96  # px, least side of an image in a sheet
_NUM_LAYERS = 3  # where neighbors are searched for, unless named
_LETTERS = 9  # of a class's name below an image
_MAX_LETTERS = 13  # of an image's name above it


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    check_fields(_at_size(config, 1))
    if data.is_photographs(config.images):
        data.photograph_names(config.images)
    if not config.order or not all(config.inverters[name] for name in config.order):
        raise UserError("inverters is empty; name workdirs of inverters, or zoo:NAME/LAYER, joined by +")
    if not config.probes:
        raise UserError(f"probes is empty; name some of {', '.join(PROBES)}")
    for probe in config.probes:
        if probe not in PROBES:
            raise unknown("probe", probe, PROBES)
    if config.data.num_test == 1 or config.data.num_test < 0:
        raise UserError(f"data.num_test={config.data.num_test} must be 0 (all) or 2 and more: errors are relative")
    _check_options(config.options)


check_inputs = check_networks


def _check_options(options: ConfigDict) -> None:
    """Checks the numbers of the probes.

    Raises:
      UserError: one out of range.
    """
    allowed = {
        "strengths": (lambda x: x and all(0 <= value < 100 for value in x), "percent, each 0 to 99"),
        "steps": (
            lambda x: x[:1] == (0,) and x[-1:] == (100,) and list(x) == sorted(set(x)),
            "ascending percentages from 0 to 100",
        ),
        "scale": (lambda x: x > 0, "above 0"),
        "num_units": (lambda x: x >= 1, "1 or more"),
        "hues": (
            lambda x: all(0 < value < 1 for value in x) and len({round(360 * value) for value in x}) == len(x),
            "turns between 0 and 1, no two within a degree",
        ),
        "top": (lambda x: x >= 1, "1 or more"),
        "factors": (lambda x: all(value > 0 for value in x), "above 0"),
        "iterations": (lambda x: x and x[0] >= 1 and list(x) == sorted(set(x)), "ascending numbers from 1 up"),
    }
    for name, (is_allowed, text) in allowed.items():
        value = tuple(options[name]) if isinstance(options[name], tuple | list) else options[name]
        if not is_allowed(value):
            raise UserError(f"options.{name}={value!r} must be {text}")


def run(run: Run) -> dict[str, Any]:
    """Runs config.probes on config.inverters (name -> workdir), in config.order, and returns the results.

    Args:
      run: a run of configs/study.py.

    Raises:
      UserError: no usable inverter, an unreadable image, or fewer than two images.
    """
    config = run.config
    read = functools.cache(functools.partial(_read, run))  # inverters of one size share their images
    subjects = {name: _Subject(run, name, read) for name in config.order}
    run.begin()
    sheets: dict[str, dict[str, Sheet]] = {probe: {} for probe in config.probes}
    with progress_bar(None, config.title, total=len(subjects) * len(config.probes), unit="probe") as bar:
        for name, subject in subjects.items():
            for probe in config.probes:
                sheets[probe][name] = _unpack(_part(run, name, subject, probe))
                bar.update()
    figures = {}
    for probe, by_name in sheets.items():
        figures |= _write_figures(run, probe, by_name, subjects)
    results = _results(config, subjects, sheets)
    arrays = {
        f"{name}/{probe}/{number}": values
        for probe, by_name in sheets.items()
        for name, sheet in by_name.items()
        for number, values in sheet.numbers.items()
    }
    write_arrays(run.workdir / "per_image.npz", arrays)
    return run.finish(results, tables=[_table(results)], notes=[_note(run, results)], figures=figures)


class _Images(NamedTuple):
    """What inverters of one image size are studied on.

    Attributes:
      images: uint8 [N, S, S, 3].
      names: names of the images.
      reference: uint8 [M, S, S, 3], training images.
      mean_distance: between two of the images.
    """

    images: np.ndarray
    names: tuple[str, ...]
    reference: np.ndarray
    mean_distance: float


def _read(run: Run, size: int) -> _Images:
    """Returns the images and the reference at a size.

    Raises:
      UserError: an unreadable image, or fewer than two.
    """
    sized, limit = run.with_config(_at_size(run.config, size), run.workdir), run.config.data.num_test
    if run.config.images:
        files = sized.open_images(run.config.images)
        count = min(limit or len(files), len(files))
        resize = run.config.data.resize
        images = np.stack([data.resize_u8(files[i], size, resize) for i in range(count)])
        names = short_names(files.names[:count])
    else:
        arrays, info = data.load_arrays(source := sized.open_data("test")), source.info
        images = arrays["image"]
        names = tuple(info.class_names[label] for label in arrays["label"])
    if len(images) < 2:
        raise UserError(f"{run.config.images or run.config.data.name} has {len(images)} image; a study needs two")
    mean_distance = metrics.mean_pairwise_distance(np.asarray(to_float(images)))
    if not mean_distance > 0:
        raise UserError(
            f"all images of {run.config.images or run.config.data.name} are equal; errors are relative to the distance "
            "between two of them"
        )
    reference = data.load_arrays(train := sized.open_data("train"))["image"]
    if not run.config.images:
        run.warn_overlap(train.info, info)
    return _Images(images, names, reference, mean_distance)


class _Subject:
    """An inverter with the images that it is studied on.

    Attributes:
      inverter: the network.
      data: the images.
      key: of cached results, what determines them besides the config.
    """

    def __init__(self, run: Run, name: str, read: Callable[[int], _Images]):
        self.inverter = run.load(run.config.inverters[name], kind=INVERTER)
        self.data = read(self.inverter.image_size)
        self.key = (self.inverter.fingerprint, self.data.images, self.data.reference)
        layers = _layers(run.config.layers, self.inverter)
        place = functools.partial(_map_batches, size=run.config.batch_size, mesh=run.mesh)
        features_fn = parallel.replicate(self.inverter.features_fn, run.mesh)
        all_features_fn = parallel.replicate(self.inverter.encoder.features_fn, run.mesh)
        decode_fn = parallel.replicate(self.inverter.decode_fn, run.mesh)
        has_logits = self.inverter.encoder.module.has_weights and self.inverter.encoder.module.num_classes > 1
        logits_fn = has_logits and parallel.replicate(self.inverter.logits_fn, run.mesh)
        self.encode = functools.partial(place, functools.partial(_encode, features_fn, layer=self.inverter.layer))
        self.decode = functools.partial(place, functools.partial(_decode, decode_fn, side=self.inverter.image_size))
        options = run.config.options.to_dict()
        self.options = Options(
            mean_distance=self.data.mean_distance,
            reference=to_float(self.data.reference),
            logits=functools.partial(place, functools.partial(_classify, logits_fn)) if has_logits else None,
            has_prior=self.inverter.latent_size > 0,
            layers={n: functools.partial(place, functools.partial(_encode, all_features_fn, layer=n)) for n in layers},
            **{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()},
        )

    def run(self, key: Array, probe: str) -> Sheet:
        """Returns the sheet of a probe."""
        images = to_float(self.data.images)
        return PROBES[probe].run(key, self.encode, self.decode, images, self.options)


def _layers(names: tuple[str, ...], inverter: Trained) -> tuple[str, ...]:
    """Returns the layers where neighbors are searched for: of the config, or a few from the first to the last.

    Raises:
      UserError: unknown layer.
    """
    known = list(inverter.encoder.module.feature_specs())
    for name in names:
        if name not in known:
            raise unknown(f"layer of encoder {inverter.description['encoder']!r}", name, known)
    evenly = [known[round(i * (len(known) - 1) / (_NUM_LAYERS - 1))] for i in range(_NUM_LAYERS)]
    return tuple(name for name in dict.fromkeys(names or evenly) if name != inverter.layer)


def _part(run: Run, name: str, subject: _Subject, probe: str) -> dict[str, np.ndarray]:
    """Returns the packed sheet of one probe of one inverter, from the cache where that has images enough."""
    cache, count = run.cache("parts", *subject.key), min(run.config.log.num_images, len(subject.data.images))
    part = cache.load(f"{name}_{probe}")
    if part is None or any(len(row) < count for group, row in part.items() if group.startswith("rows/")):
        key = jax.random.fold_in(run.key, zlib.crc32(probe.encode()))  # one for all inverters
        part = _pack(subject.run(key, probe), count)
        cache.save(f"{name}_{probe}", part)
    return _first(part, count)


def _first(part: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Returns a packed sheet with the first images of each row only; an earlier start may have saved more."""
    slices = {"rows": np.s_[:count], "predictions": np.s_[:, :count]}
    return {name: array[slices.get(name.partition("/")[0], ...)] for name, array in part.items()}


def _pack(sheet: Sheet, count: int) -> dict[str, np.ndarray]:
    """Returns a sheet as named arrays, with the first images of each row as uint8."""
    arrays = {f"rows/{name}": np.asarray(to_uint8(row[:count])) for name, row in sheet.rows.items()}
    for name, (classes, confidences) in sheet.predictions.items():
        arrays[f"predictions/{name}"] = np.stack([classes[:count], confidences[:count]])
    for group in ("numbers", "curves"):
        arrays |= {f"{group}/{name}": np.asarray(x, np.float64) for name, x in getattr(sheet, group).items()}
    return arrays | {"x": np.array(sheet.x, np.int64)}


def _unpack(arrays: Mapping[str, np.ndarray]) -> Sheet:
    groups: dict[str, dict[str, np.ndarray]] = {"rows": {}, "numbers": {}, "predictions": {}, "curves": {}}
    for name, array in arrays.items():
        group, slash, rest = name.partition("/")
        if slash:
            groups[group][rest] = array
    return Sheet(**groups, x=tuple(arrays["x"].tolist()))


def _at_size(config: ConfigDict, size: int) -> ConfigDict:
    """Returns the config with the side of its images, in pixels."""
    copy = config.copy_and_resolve_references()
    copy.data.image_size = size
    return copy


def _map_batches(function: Callable[[Array], Array], rows: Array, *, size: int, mesh: jax.sharding.Mesh) -> Array:
    return jnp.asarray(parallel.map_batches(function, np.asarray(rows), size=size, mesh=mesh))


@functools.partial(jax.jit, static_argnames="layer")
def _encode(features_fn: FeaturesFn, images: Array, *, layer: str) -> Array:
    return features_fn(images)[layer]


@functools.partial(jax.jit, static_argnames="side")
def _decode(decode_fn: DecodeFn, features: Array, *, side: int) -> Array:
    images = decode_fn(features)
    return images if images.shape[1] == side else jnp.clip(resize_images(images, side), 0.0, 1.0)


@jax.jit
def _classify(logits_fn: LogitsFn, images: Array) -> Array:
    return logits_fn(images)


def _write_figures(
    run: Run, probe: str, sheets: Mapping[str, Sheet], subjects: Mapping[str, _Subject]
) -> dict[str, Any]:
    """Writes the sheet and the curves of a probe, and returns heading -> file."""
    row, images = PROBES[probe], {}
    if run.config.log.num_images:
        path = run.workdir / f"{probe}.png"
        names = () if row.is_random else next(iter(subjects.values())).data.names[: run.config.log.num_images]
        write_png(path, _draw(sheets, subjects, names))
        images[row.text] = path
    first = next(iter(sheets.values()))
    if first.x:
        path = run.workdir / f"{probe}_curves.png"
        panels = {
            curve: {name: sheet.curves[curve].mean(axis=1) for name, sheet in sheets.items()} for curve in first.curves
        }
        write_curves(path, panels, x=first.x, x_label=row.x_label, title=row.text)
        images[f"{row.text}: curves"] = path
    if panels := _errors_by_layer(sheets, subjects):
        path, layers = run.workdir / f"{probe}_layers.png", _common_layers(subjects)
        write_curves(path, panels, x=range(len(layers)), x_label="layer", title=row.text, y_label="error", ticks=layers)
        images[f"{row.text}: by layer"] = path
    return images


def _common_layers(subjects: Mapping[str, _Subject]) -> list[str]:
    """Returns the layers of the inverters, in the order of their encoders."""
    own = {subject.inverter.layer for subject in subjects.values()}
    known = (name for subject in subjects.values() for name in subject.inverter.encoder.module.feature_specs())
    return [name for name in dict.fromkeys(known) if name in own]


def _errors_by_layer(
    sheets: Mapping[str, Sheet], subjects: Mapping[str, _Subject]
) -> dict[str, dict[str, list[float]]]:
    """Returns the mean errors of a probe over `_common_layers`, NaN where there is none.

    Args:
      sheets: sheets of the inverters.
      subjects: the inverters by name.

    Returns:
      A panel for all inverters whose names differ by their layer only, such as conv1_inverter and conv5_inverter: name
      of an error -> values. Empty where there are no two such inverters, or the probe has no errors.
    """
    groups: dict[str, dict[str, Sheet]] = {}
    for name, subject in subjects.items():
        layer = subject.inverter.layer
        rest = name.replace(layer, "").strip("_") or subject.inverter.encoder.description["encoder"]
        groups.setdefault(rest, {})[layer] = sheets[name]
    groups = {name: members for name, members in groups.items() if len(members) > 1}
    errors = dict.fromkeys(name for sheet in sheets.values() for name in sheet.numbers if name.startswith("error"))
    layers = _common_layers(subjects)

    def curve(members: Mapping[str, Sheet], error: str) -> list[float]:
        values = [members[layer].numbers.get(error) if layer in members else None for layer in layers]
        return [math.nan if value is None else float(value.mean()) for value in values]

    return {name: {error: curve(members, error) for error in errors} for name, members in groups.items() if errors}


def _draw(sheets: Mapping[str, Sheet], subjects: Mapping[str, _Subject], columns: Sequence[str]) -> np.ndarray:
    """Returns the rows of all inverters as one image; those that all share, such as the images, are there once."""
    sizes = {subject.inverter.image_size for subject in subjects.values()}
    tile = max(-(-_TILE // size) * size for size in sizes)  # images are enlarged by whole factors
    has_text, tiles = any(sheet.predictions for sheet in sheets.values()), {}
    for name, sheet in sheets.items():
        classes = subjects[name].inverter.encoder.description["class_names"] if sheet.predictions else ()
        for row, images in sheet.rows.items():
            is_shared = all(_is_same_row(sheet, other, row) for other in sheets.values())
            label = row if is_shared else f"{name}: {row}"
            if label in tiles:
                continue
            fitted = np.stack([fit(image, height=tile, width=tile) for image in images])
            pairs = zip(*sheet.predictions.get(row, ((), ())), strict=True)
            texts = [
                f"{(classes[int(number)] if classes else str(int(number)))[:_LETTERS]} {confidence:.0%}"
                for number, confidence in pairs
            ]
            tiles[label] = caption(fitted, texts) if has_text else fitted
    return labeled_grid(tiles, columns=[name[:_MAX_LETTERS] for name in columns], min_tile=_TILE, font_size=14)


def _is_same_row(sheet: Sheet, other: Sheet, row: str) -> bool:
    """Returns whether two sheets have the same images, and no predictions for them, in a row."""
    has_predictions = row in sheet.predictions or row in other.predictions
    same = row in other.rows and np.array_equal(sheet.rows[row], other.rows[row])
    return sheet is other or (same and not has_predictions)


def _results(
    config: ConfigDict, subjects: Mapping[str, _Subject], sheets: Mapping[str, Mapping[str, Sheet]]
) -> dict[str, Any]:
    """Returns the means over the images, of every inverter, probe and number."""
    inverters, curves = {}, {}
    for name, subject in subjects.items():
        inverters[name] = {
            "checkpoint": dict(subject.inverter.description),
            "weights": subject.inverter.fingerprint,
            "mean_distance": subject.data.mean_distance,
            "probes": {probe: report.summarize(by_name[name].numbers) for probe, by_name in sheets.items()},
        }
    for probe, by_name in sheets.items():
        if x := next(iter(by_name.values())).x:
            means = {
                name: {curve: values.mean(axis=1).tolist() for curve, values in sheet.curves.items()}
                for name, sheet in by_name.items()
            }
            curves[probe] = {"x": list(x), "x_label": PROBES[probe].x_label, "inverters": means}
    first = next(iter(subjects.values())).data
    return {
        "inverters": inverters,
        "curves": curves,
        "num_images": len(first.images),
        "num_reference": len(first.reference),
        "options": config.options.to_dict(),
        "variants": {"error": metrics.VARIANTS["normalized_error"]},
    }


def _table(results: Mapping[str, Any]) -> report.Table:
    """Returns a row for each number of each probe, and a column for each inverter."""
    inverters = results["inverters"]
    names = dict.fromkeys(
        (probe, number)
        for entry in inverters.values()
        for probe, numbers in entry["probes"].items()
        for number in numbers
        if f"{number}_std" in numbers
    )
    column = report.Column(0, "", "{:.3f}")
    rows = [
        [f"{probe}: {number}", *(column.cell(entry["probes"][probe], number) for entry in inverters.values())]
        for probe, number in names
    ]
    return report.Table(["", *inverters], rows)


def _note(run: Run, results: Mapping[str, Any]) -> str:
    place = run.config.images or run.config.data.name
    return (
        f"Means ± standard deviations over {results['num_images']} images of {place}; "
        f"{results['num_reference']} training images of {run.config.data.name} for statistics and neighbors; "
        f"{report.setting_text(run.provenance)}. Error: distance between two images over the mean distance between "
        "images. Change: distance over the norm. Offset: in image widths."
    )
