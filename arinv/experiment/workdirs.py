"""Workdirs: the config, results and checkpoints of a task, references between workdirs, and runs inside and beside one.

config.json      the config, written first; a run with another config is refused
inputs.json      hashes of the earlier runs, files and images that the config names, see `references`
checkpoints/     of a training, see `checkpoint`
results.json     written last, so it marks the task as complete
"""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from arinv import distributed, paths, zoo
from arinv.errors import UserError
from arinv.experiment import exported
from arinv.experiment.output_files import write_json

# Fields that may change when a run is resumed, without changing its results.
_FREE_FIELDS = ("mesh", "log", "steps_per_call", "data.data_dir", "data.num_workers")
STAGE = "stage:"  # begins a reference to a stage of the same experiment
CHECKPOINTS = "checkpoints"  # folder in a training's workdir
_MAX_RUNS = 6  # in a message
_MAX_FOLDERS = 300  # searched for runs


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
    if reference.startswith(STAGE):
        return pathlib.Path(os.path.normpath(workdir.parent / reference.removeprefix(STAGE)))
    return paths.expanded(reference, name="the workdir of an earlier run")


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


def check(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    is_independent: bool = False,
    moved: Collection[str] = (),
) -> None:
    """Checks that a workdir belongs to no other config.

    Args:
      config: config of the task.
      workdir: its directory; nothing is written.
      is_independent: whether batch_size may change as well, see `Task`.
      moved: fields that name the same inputs by other paths.

    Raises:
      UserError: naming the fields that differ.
    """
    place = next((folder for folder in (workdir, *workdir.parents) if folder.exists()), workdir)
    if place.exists() and not place.is_dir():
        raise UserError(f"workdir {workdir}: {place} is a file; name a directory")
    path = workdir / "config.json"
    if not path.exists():
        return
    saved, current = flatten(read_json(path)), flatten(plain(config))
    free = (*_FREE_FIELDS, "batch_size") if is_independent else _FREE_FIELDS
    differences = [
        f"{name} (there {saved.get(name, 'missing')!r}, now {current.get(name, 'missing')!r})"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name) != current.get(name) and not name.startswith(free) and name not in moved
    ]
    if differences:
        raise UserError(
            f"workdir {workdir} belongs to another config: {', '.join(differences[:6])}"
            f"{' and more' if len(differences) > 6 else ''}; use another --workdir, or delete it to start again"
        )


def write_config(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes config.json; on process 0 only.

    Raises:
      UserError: the workdir cannot be written.
    """
    try:
        write_json(workdir / "config.json", plain(config))
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written: {error.strerror}") from error


def is_complete(workdir: pathlib.Path) -> bool:
    """Returns whether the task in a workdir has finished; results that a lost machine left empty do not count."""
    try:
        return isinstance(json.loads((workdir / "results.json").read_bytes()), dict)
    except (OSError, ValueError):
        return False


def unfinished(workdir: pathlib.Path) -> pathlib.Path | None:
    """Returns the workdir of a training that has checkpoints and no results yet; None for any other place."""
    place = paths.canonical(workdir)
    is_training = (place / CHECKPOINTS).is_dir() and (place / "config.json").exists()
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


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the results of a complete task.

    Raises:
      UserError: there are none, or they are damaged.
    """
    path = workdir / "results.json"
    if not path.exists():
        is_task = (workdir / "config.json").exists()
        stages = [] if is_task else [str(place.parent) for place in sorted(workdir.glob("*/results.json"))]
        advice = f"name a stage, such as {', '.join(stages[:6])}" if stages else "run that task to its end first"
        raise UserError(f"no results in {workdir}: {advice}")
    if not is_complete(workdir):
        raise UserError(f"{path} is damaged (not JSON); delete it and start that task again, which resumes")
    return read_json(path)


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


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the name of each field of a plain config, such as "data.name" -> its value."""
    if not isinstance(value, Mapping):
        return {prefix.removesuffix("."): value}
    flat = {}
    for name, part in value.items():
        flat |= flatten(part, f"{prefix}{name}.")
    return flat


def saved_steps(directory: pathlib.Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a directory, newest first; other files are ignored."""
    try:
        return sorted((int(path.name) for path in directory.iterdir() if _is_step(path)), reverse=True)
    except OSError:
        return []


def _is_step(path: pathlib.Path) -> bool:
    return re.fullmatch("0|[1-9][0-9]{0,17}", path.name) is not None and path.is_dir()


def check_run(workdir: pathlib.Path, *, name: str = "") -> None:
    """Checks that a place is the workdir of a training, an entry of the zoo, or the file of a network.

    Args:
      workdir: the place.
      name: name of the field that names it, for the message.

    Raises:
      UserError: it is not; the message describes what is there and names candidates.
    """
    if exported.is_file(workdir) or zoo.reference(workdir):
        return
    if not (paths.canonical(workdir) / CHECKPOINTS).is_dir():
        raise UserError(f"{name}{': ' if name else ''}no checkpoint in {workdir}: {_describe(workdir)}")


def kind_of(workdir: pathlib.Path) -> str:
    """Returns the kind of network in a run's newest checkpoint, such as "classifier"; empty without a checkpoint."""
    for step in saved_steps(workdir / CHECKPOINTS):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            description = json.loads((workdir / CHECKPOINTS / str(step) / "description" / "metadata").read_bytes())
            return str(description.get("kind", "network"))
    return ""


def runs_near(place: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Yields workdirs of trainings inside a directory, up to two levels deep, and next to it, with their kinds.

    Args:
      place: as the user wrote it; the yielded paths start with it.
    """
    count = 0
    for folder in (*_folders(place), *_folders(place.parent)):
        for path in (folder, *(_folders(folder) if folder.parent == place else ())):
            count += 1
            if count > _MAX_FOLDERS:
                return
            if path != place and (kind := kind_of(path)):
                yield path, kind


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir())
    except OSError:
        return []


def _describe(place: pathlib.Path) -> str:
    """Returns what a path that is not the workdir of a training holds, and what to write instead.

    Args:
      place: as the user wrote it.
    """
    path = paths.canonical(place)
    if not path.exists():
        return "it does not exist; expected the workdir of a training run"
    around = next((folder for folder in path.parents if saved_steps(folder / CHECKPOINTS)), None)
    if around:
        return f"it is inside the workdir of a run; write {around}"
    if path.is_file():
        return "it is a file; expected the workdir of a training run (configs/import_torch.py:path=FILE creates one)"
    runs = list(runs_near(place))
    inside = [f"{run} ({kind})" for run, kind in runs if place in run.parents]
    if inside:
        return f"it holds {len(inside)} run{'s'[: len(inside) > 1]}; write one of {', '.join(inside[:_MAX_RUNS])}"
    nearby = [f"{run} ({kind})" for run, kind in runs]
    advice = f"next to it: {', '.join(nearby[:_MAX_RUNS])}" if nearby else "expected the workdir of a training run"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        config = json.loads((path / "config.json").read_bytes())
        values = [value for value in config.values() if value and isinstance(value, str)]
        used = next((run for value in values if (run := _named_run(value, place))), None)
        text = f"it is the workdir of the task {config.get('task')!r}"
        if "optimizer" in config:
            if (path / "results.json").exists():  # a run that is complete would be skipped
                return f"{text}, whose checkpoints are gone; delete it and start it again"
            return f"{text}, whose training has saved none yet; start it again"
        text += ", which saves no checkpoints"
        return f"{text}; it used {used}" if used else f"{text}; {advice}"
    return advice


def _named_run(value: str, place: pathlib.Path) -> pathlib.Path | None:
    """Returns the workdir of a training that a field of the config in `place` names; None for any other text."""
    try:
        run = resolve(value, place)
        return run if (paths.canonical(run) / CHECKPOINTS).is_dir() else None
    except (OSError, ValueError):  # no path, such as a long text; `UserError` is a ValueError
        return None
