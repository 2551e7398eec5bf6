"""A task's directory: the config it belongs to, its results, and how stages find each other.

config.json      the config, written first; another config is refused
results.json     written last: its presence says that the task is complete
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from arinv.errors import UserError
from arinv.train.writer import write_json

# What may change between two starts of the same run without changing its results.
_FREE_FIELDS = ("mesh", "log", "steps_per_call", "data.data_dir", "data.num_workers")
_STAGE = "stage:"
_FOLDER = "folder:"
# Fields that name a folder of images without "folder:" in front; of these tasks data.name does so too.
_FOLDERS = ("images", "anomalous", "data.content", "data.style", "data.content_labels", "data.style_labels")
_PATH_TASKS = ("invert", "denoise")
_JOINED = re.compile(r"\+(?=folder:|tfds:|npz:|photos)")  # between data sets; paths may have a + in them
# Fields that name other runs, or hold such names.
_SOURCES = (
    "checkpoint",
    "encoder_checkpoint",
    "inverter",
    "inverters",
    "entries",
    "attack_from",
    "detector",
    "denoiser",
)


def plain(config: Any) -> Any:
    """Returns a config as plain JSON values."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    return json.loads(json.dumps(config))


def resolve(reference: str, workdir: pathlib.Path) -> pathlib.Path:
    """Returns the workdir that a config names: "stage:NAME" is a sibling stage, anything else a path."""
    if reference.startswith(_STAGE):
        return workdir.parent / reference.removeprefix(_STAGE)
    return pathlib.Path(reference).expanduser()


def check_sources(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Checks that the workdirs of earlier runs that a config names are there.

    Raises:
      UserError: one is not.
    """
    fields = _flatten(plain(config))
    for name, reference in fields.items():
        if not reference or not any(part in _SOURCES for part in name.split(".")):
            continue
        for one in [reference] if isinstance(reference, str) else reference:
            if not one.startswith(_STAGE) and not resolve(one, workdir).exists():
                raise UserError(f"{name}={one!r} does not exist; name the workdir of an earlier run")


def relative(target: pathlib.Path, workdir: pathlib.Path) -> str:
    """Returns how a checkpoint in `workdir` names another workdir: from where it is, so that both can be moved."""
    return os.path.relpath(target.absolute(), workdir.absolute())


def follow(reference: str, workdir: pathlib.Path) -> pathlib.Path:
    """Returns the workdir that a checkpoint in `workdir` names (see `relative`)."""
    return (workdir / reference).resolve()


def check_apart(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses a directory in a folder of images that a task reads: the pictures it writes would be among them.

    Raises:
      UserError: it is.
    """
    place = workdir.resolve()
    plain_paths = _FOLDERS + (("data.name",) if config.get("task") in _PATH_TASKS else ())
    for name, value in _flatten(plain(config)).items():
        for part in _JOINED.split(value) if isinstance(value, str) else ():
            folder = part.removeprefix(_FOLDER)
            is_folder = folder and (folder != part or name.endswith(plain_paths))
            if is_folder and pathlib.Path(folder).expanduser().resolve() in (place, *place.parents):
                raise UserError(
                    f"workdir {workdir} lies in the folder of pictures {folder} that {name} reads: what the run writes "
                    "would be among them; name another --workdir"
                )


def check(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses a directory that belongs to another config, or lies in a folder of images that the config reads.

    Raises:
      UserError: naming the fields that differ; nothing is written.
    """
    check_apart(config, workdir)
    path = workdir / "config.json"
    if not path.exists():
        if workdir.exists() and not workdir.is_dir():
            raise UserError(f"workdir {workdir} is a file; name a directory")
        return
    saved, wanted = _flatten(read_json(path)), _flatten(plain(config))
    differences = [
        f"{name} (there {saved.get(name, 'missing')!r}, now {wanted.get(name, 'missing')!r})"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name) and not name.startswith(_FREE_FIELDS)
    ]
    if differences:
        raise UserError(
            f"workdir {workdir} belongs to another config: {', '.join(differences[:6])}"
            f"{' and more' if len(differences) > 6 else ''}; use another --workdir, or delete it to start anew"
        )


def open_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Checks the directory and writes the config into it; process 0 does."""
    if jax.process_index() == 0:
        check(config, workdir)
        try:
            write_json(workdir / "config.json", plain(config))
        except OSError as error:
            raise UserError(f"workdir {workdir} cannot be written: {error.strerror}") from error


def is_complete(workdir: pathlib.Path) -> bool:
    """Returns whether the task in this directory has finished."""
    return (workdir / "results.json").exists()


def write_results(workdir: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Marks the task as complete, with its results. Must be the last thing a task writes.

    Raises:
      UserError: the directory has vanished.
    """
    if jax.process_index() == 0:
        if not (workdir / "config.json").exists():
            raise UserError(f"workdir {workdir} has vanished: it was deleted or moved while this run wrote into it")
        write_json(workdir / "results.json", results)


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the results of a complete task.

    Raises:
      UserError: there are none.
    """
    if not is_complete(workdir):
        raise UserError(f"no results in {workdir}: run that task to its end first")
    return read_json(workdir / "results.json")


def read_json(path: pathlib.Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
      UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete {path.parent} to start anew") from error


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix.removesuffix("."): value}
    flat = {}
    for name, part in value.items():
        flat |= _flatten(part, f"{prefix}{name}.")
    return flat
