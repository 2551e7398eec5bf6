"""Workdirs: the config and results of a task, references between workdirs, and checks of paths in configs.

config.json      the config, written first; a run with another config is refused
inputs.json      hashes of the earlier runs and images that the config names
results.json     written last, so it marks the task as complete
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from arinv import data, distributed, paths, zoo
from arinv.data.image_files import image_paths
from arinv.errors import UserError
from arinv.experiment import checkpoint
from arinv.experiment.output_files import write_json

# Fields that may change when a run is resumed, without changing its results.
_FREE_FIELDS = ("mesh", "log", "steps_per_call", "data.data_dir", "data.num_workers")
# Tasks whose images do not depend on each other: their batch_size may change as well.
INDEPENDENT = (
    "autoattack",
    "compare_inversion",
    "detector",
    "evaluate_style",
    "high_resolution",
    "one_vs_all",
    "restoration",
    "restore",
    "score",
    "study",
    "stylize",
    "truth_table",
    "volume",
)
_STAGE = "stage:"
_FOLDER, _VOLUME = "folder:", "volume:"
# Fields that name a folder of images without the prefix "folder:"; of these tasks, data.name does so too.
_FOLDERS = ("images", "anomalous", "data.content", "data.style", "data.content_labels", "data.style_labels")
_PATH_TASKS = ("invert", "denoise", "restore", "score")
_DATA = ("folder", "npz", "volume")  # schemes of data on disk
_SCHEMES = (f"{name}:" if scheme.location else name for name, scheme in data.SCHEMES.items())
_JOINED = re.compile(rf"\+(?={'|'.join(_SCHEMES)})")  # between data sets; paths may have a + in them
# Fields that name other runs, or hold such names: first those of trainings, then those of other tasks.
_TRAINED = ("checkpoint", "encoder_checkpoint", "inverter", "inverters", "denoiser", "gans")
_GROUPS = ("inverters", "gans", "entries", "figures", "encoders", "metric_networks")  # of them, those that hold names
_SOURCES = (*_TRAINED, "entries", "figures", "attack_from", "detector")
# Fields that name other runs whose tasks look for them themselves, or that do so in some tasks only.
_OTHER_SOURCES = ("encoders", "metric_networks", "metric_encoder", "start", "comparator", "restoration", "attribute",
                  "stylized")  # fmt: skip
_WORDS = ("optimization.encoders", "encoder.start")  # fields with such a name that name no run
_NETWORKS = ("gan", "autoencoder", "aegan")  # of restorations; of their trainings these are groups of fields
_FILES = ("path", "mask")  # fields that name a file
_BEGINNING = 2**16  # bytes of an image by which it is recognized
_MAX_READ = 20_000  # larger folders are recognized by names and sizes alone
_PARTS = 16  # places at which a single file, such as an archive, is read
_hashes: dict[tuple, str] = {}  # of the images that were hashed last, which several stages may name
# Fields that had other names.
_RENAMED = {
    "average_decay": "ema_decay", "other_size": "allow_other_size", "at_a_time": "chunk_size", "most_error": "max_error"
}  # fmt: skip
_PROSE = ("title", "text")  # fields printed in reports


def plain(config: Any) -> Any:
    """Returns a config as plain JSON values."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    return json.loads(json.dumps(config, default=_scalar))


def _scalar(value: Any) -> Any:
    """Returns a NumPy number as a plain one."""
    if isinstance(value, np.generic):
        return value.item()
    raise UserError(f"a config has a field of type {type(value).__name__}, {value!r}; use numbers, texts, and tuples")


def resolve(reference: str, workdir: pathlib.Path) -> pathlib.Path:
    """Returns the workdir that a field of a config names.

    Args:
      reference: "stage:NAME" for a stage of the same experiment, "zoo:NAME" for an entry of the zoo, or a path.
      workdir: directory of the config.

    Raises:
      UserError: no usable path, or an unknown entry of the zoo.
    """
    if zoo.is_reference(reference):
        return zoo.resolve(reference)
    if reference.startswith(_STAGE):
        return pathlib.Path(os.path.normpath(workdir.parent / reference.removeprefix(_STAGE)))
    return paths.expanded(reference, name="the workdir of an earlier run")


def check_paths(config: ml_collections.ConfigDict) -> None:
    """Checks that no field of a config names a URL.

    Raises:
      UserError: one does.
    """
    for name, value in _flatten(plain(config)).items():
        if name.rpartition(".")[2] not in _PROSE:
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    paths.check_local(text, name=name)


def check_sources(stages: Mapping[pathlib.Path, ml_collections.ConfigDict]) -> None:
    """Checks that the workdirs of earlier runs that stages name exist, and that trainings have a checkpoint.

    Args:
      stages: workdir -> config.

    Raises:
      UserError: a workdir or checkpoint is missing.
    """
    references = [reference for workdir, config in stages.items() for reference in _references(config, workdir)]
    for name, reference, path in references:
        if not path.exists():
            raise UserError(f"{name}={reference!r} does not exist; name the workdir of an earlier run")
    for name, _, path in references:
        if _is_one_of(name, _TRAINED):
            checkpoint.check_run(path, name=name)


def _references(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Iterator[tuple[str, str, pathlib.Path]]:
    """Yields field, value and path of every earlier run that a config names, without stages."""
    for name, value in _flatten(plain(config)).items():
        if value and _is_one_of(name, _SOURCES):
            for reference in [value] if isinstance(value, str) else value:
                if not reference.startswith(_STAGE):
                    yield name, reference, resolve(reference, workdir)


def _is_one_of(name: str, fields: Sequence[str]) -> bool:
    """Returns whether a field is one of those named, or in a group of that name, such as inverters.robust."""
    *groups, last = name.split(".")
    return last in fields or any(group in fields and group in _GROUPS for group in groups)


def relative(target: pathlib.Path, workdir: pathlib.Path) -> str:
    """Returns the path of another workdir relative to `workdir`, so that both can be moved together.

    An entry of the zoo is named by its reference, since it is wherever arinv is installed.
    """
    return zoo.reference(target) or os.path.relpath(paths.canonical(target), paths.canonical(workdir))


def follow(reference: str, workdir: pathlib.Path, *, what: str = "encoder") -> pathlib.Path:
    """Returns the workdir at a relative path (see `relative`).

    Args:
      reference: relative to `workdir`, or of the zoo.
      workdir: directory of the run that refers to the other; it may be a symbolic link to a run that was moved.
      what: the other run trained, for the message.

    Raises:
      UserError: nothing is there.
    """
    if zoo.is_reference(reference):
        return zoo.resolve(reference)
    place = (paths.canonical(workdir) / reference).resolve()
    if place.exists():
        return place
    unresolved = pathlib.Path(os.path.normpath(pathlib.Path(workdir).absolute() / reference))
    if unresolved.exists():
        return unresolved.resolve()
    raise UserError(
        f"{workdir} needs the {what} that it was trained on, which is not at {place}: move or copy both together, or "
        f"put the {what} there"
    )


def check_outside_inputs(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Checks that a workdir is not in a folder of images that the task reads, since it writes images itself.

    Raises:
      UserError: it is.
    """
    place = paths.canonical(workdir)
    plain_paths = _FOLDERS + (("data.name",) if config.get("task") in _PATH_TASKS else ())
    for name, value in _flatten(plain(config)).items():
        for part in _JOINED.split(value) if isinstance(value, str) else ():
            folder = part.removeprefix(_FOLDER).removeprefix(_VOLUME)
            is_folder = folder and (folder != part or name.endswith(plain_paths))
            if is_folder and paths.canonical(folder, name=name) in (place, *place.parents):
                raise UserError(
                    f"workdir {workdir} is in the folder of images {folder} that {name} reads, so it would read its "
                    "own outputs; name another --workdir"
                )


def check(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Checks that a workdir belongs to no other config and is not in a folder of images that the config reads.

    Raises:
      UserError: naming the fields that differ; nothing is written.
    """
    check_outside_inputs(config, workdir)
    place = next((folder for folder in (workdir, *workdir.parents) if folder.exists()), workdir)
    if place.exists() and not place.is_dir():
        raise UserError(f"workdir {workdir}: {place} is a file; name a directory")
    path = workdir / "config.json"
    if not path.exists():
        return
    saved, current = _flatten(read_config(workdir)), _flatten(plain(config))
    free = (*_FREE_FIELDS, "batch_size") if config.task in INDEPENDENT else _FREE_FIELDS
    differences = [
        f"{name} (there {saved.get(name, 'missing')!r}, now {current.get(name, 'missing')!r})"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name) != current.get(name) and not name.startswith(free)
    ]
    if differences:
        raise UserError(
            f"workdir {workdir} belongs to another config: {', '.join(differences[:6])}"
            f"{' and more' if len(differences) > 6 else ''}; use another --workdir, or delete it to start again"
        )


def open_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> str:
    """Checks the workdir and writes the config into it; on process 0 only.

    Returns:
      A hash of the earlier runs and files that the config names; "" for none, and on other processes.

    Raises:
      UserError: it belongs to another config or cannot be written.
    """
    if distributed.index() != 0:
        return ""
    check(config, workdir)
    fields = plain(config)
    runs = _runs(fields, workdir)
    try:
        write_json(workdir / "config.json", fields)
        write_json(workdir / "inputs.json", runs | _images(fields))
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written: {error.strerror}") from error
    return _hash(json.dumps(runs, sort_keys=True).encode()) if runs else ""


def is_complete(workdir: pathlib.Path) -> bool:
    """Returns whether the task in a workdir has finished; results that a lost machine left empty do not count."""
    try:
        return isinstance(json.loads((workdir / "results.json").read_bytes()), dict)
    except (OSError, ValueError):
        return False


def unfinished(workdir: pathlib.Path) -> pathlib.Path | None:
    """Returns the workdir of a training that has checkpoints and no results yet; None for any other place."""
    place = paths.canonical(workdir)
    is_training = (place / checkpoint.FOLDER).is_dir() and (place / "config.json").exists()
    return place if is_training and not is_complete(place) else None


def write_results(workdir: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes the results, which marks the task as complete, so it has to be the last write; on process 0 only.

    Raises:
      UserError: the workdir no longer exists.
    """
    if distributed.index() == 0:
        if not (workdir / "config.json").exists():
            raise UserError(f"workdir {workdir} has vanished: it was deleted or moved during the run")
        write_json(workdir / "results.json", results)


def check_inputs(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Checks that what a task has used is the same today, where it exists.

    Of a complete task these are earlier runs, files and images; of a training that was stopped files and images, since
    it compares the weights of earlier runs itself. Other tasks that were stopped recognize their finished parts.

    Raises:
      UserError: naming what has changed.
    """
    path, complete = workdir / "inputs.json", is_complete(workdir)
    trainings = (workdir, *workdir.glob("class*"))  # a training of each class has a folder of its own
    is_stopped_training = not complete and any(checkpoint.saved_steps(path / checkpoint.FOLDER) for path in trainings)
    if not path.exists() or not (complete or is_stopped_training):  # earlier versions wrote no such file
        return
    fields = plain(config)
    runs = _runs(fields, workdir)
    current = (runs if complete else {name: runs[name] for name in runs if _names_file(name)}) | _images(fields)
    saved = read_json(path)
    changed = [name for name, value in current.items() if saved.get(name, value) != value]
    if changed:
        state = "is complete" if complete else "holds a stopped run"
        raise UserError(
            f"{workdir} {state}, but its inputs have changed: {', '.join(changed[:5])}"
            f"{' and more' if len(changed) > 5 else ''}; delete {workdir} to run it again, or name another --workdir"
        )


def _runs(config: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, str]:
    """Returns "field=value" -> a hash of the earlier run or the file that the field of a config names."""
    inputs, own = {}, paths.canonical(workdir)
    for name, text in _texts(config):
        is_run = _is_one_of(name, (*_SOURCES, *_OTHER_SOURCES, *_NETWORKS))
        if name in _WORDS or zoo.is_reference(text) or not (is_run or _names_file(name)):
            continue
        with contextlib.suppress(OSError, UserError):  # moved or deleted since, or not readable
            place = resolve(text, workdir) if is_run else paths.expanded(text)
            if place.is_file():
                inputs[f"{name}={text}"] = _hash(place.read_bytes())
            elif is_run and paths.canonical(place) not in (own, *own.parents):  # else a word such as edges
                inputs[f"{name}={text}"] = _hash_of_run(place)
    return inputs


def _names_file(name: str) -> bool:
    """Returns whether the field of "field=value" names a file of a user."""
    return bool(set(name.partition("=")[0].split(".")) & {*_FILES})


def _images(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns "field=value" -> a hash of the images that the field of a config names."""
    plain_paths = _FOLDERS + (("data.name",) if config.get("task") in _PATH_TASKS else ())
    inputs = {}
    for name, text in _texts(config):
        for part in _JOINED.split(text):
            scheme, _, location = part.partition(":")
            is_data = scheme in _DATA and location
            if not is_data and (data.is_photographs(text) or not name.endswith(plain_paths)):
                continue
            with contextlib.suppress(OSError, UserError):  # moved or deleted since, or not readable
                inputs[f"{name}={part}"] = _hash_of_images(paths.expanded(location if is_data else part))
    return inputs


def _texts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the name and the text of each field that may name something."""
    for name, value in _flatten(config).items():
        if name.rpartition(".")[2] not in _PROSE:
            yield from ((name, text) for text in (value if isinstance(value, list) else [value])
                        if isinstance(text, str) and text)  # fmt: skip


def _hash_of_run(place: pathlib.Path) -> str:
    if not place.is_dir():
        raise FileNotFoundError(place)
    return _hash((place / "results.json").read_bytes()) if is_complete(place) else "not complete"


def _hash_of_images(place: pathlib.Path) -> str:
    """Returns a hash of the names, sizes and beginnings of the images of a folder, or of one file.

    For very many images only names and sizes count.
    """
    files = [place] if place.is_file() else image_paths(place)
    stats = [path.stat() for path in files]
    key = tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(files, stats, strict=True))
    if key not in _hashes:
        digest = hashlib.sha256()
        for path, stat in zip(files, stats, strict=True):
            digest.update(os.fsencode(f"{os.path.relpath(path, place)} {stat.st_size}\n"))
            if len(files) <= _MAX_READ:
                with path.open("rb") as file:
                    for part in range(1 if len(files) > 1 else _PARTS):
                        file.seek(part * max(0, stat.st_size - _BEGINNING) // _PARTS)
                        digest.update(file.read(_BEGINNING))
        _hashes.clear()
        _hashes[key] = digest.hexdigest()[:16]
    return _hashes[key]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the results of a complete task.

    Raises:
      UserError: there are none, or they are damaged.
    """
    path = workdir / "results.json"
    if not path.exists():
        raise UserError(f"no results in {workdir}: run that task to its end first")
    if not is_complete(workdir):
        raise UserError(f"{path} is damaged (not JSON); delete it and start that task again, which resumes")
    return read_json(path)


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the config of a run as plain JSON values, with today's names of its fields.

    Raises:
      UserError: the file is damaged.
    """
    return _renamed(read_json(workdir / "config.json"))


def _renamed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {_RENAMED.get(name, name): _renamed(part) for name, part in value.items()}


def read_json(path: pathlib.Path, *, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the content of a JSON file that a run has written.

    Args:
      path: path of the file.
      needed: names that it must have.

    Raises:
      UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or (missing := [name for name in needed if name not in content]):
            raise ValueError(f"it lacks {', '.join(missing)}" if isinstance(content, dict) else "it holds no names")
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete {path.parent} to start again") from error
    return content


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix.removesuffix("."): value}
    flat = {}  # of an empty group too, which earlier versions may not have had
    for name, part in value.items():
        flat |= _flatten(part, f"{prefix}{name}.")
    return flat
