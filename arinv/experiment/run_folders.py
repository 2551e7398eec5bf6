"""Folders of runs: their checkpoints, the runs in and beside a path, and what to write instead of a wrong one."""

import contextlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from arinv import paths, zoo
from arinv.errors import UserError
from arinv.experiment import exported

FOLDER = "checkpoints"  # in a run's workdir
_MAX_RUNS = 6  # in a message
_MAX_FOLDERS = 300  # searched for runs


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
    if not (paths.canonical(workdir) / FOLDER).is_dir():
        raise UserError(f"{name}{': ' if name else ''}no checkpoint in {workdir}: {_describe(workdir)}")


def kind_of(workdir: pathlib.Path) -> str:
    """Returns the kind of network in a run's newest checkpoint, such as "classifier"; empty without a checkpoint."""
    for step in saved_steps(workdir / FOLDER):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            description = json.loads((workdir / FOLDER / str(step) / "description" / "metadata").read_bytes())
            return str(description.get("kind", "network"))
    return ""


def runs_near(place: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Yields workdirs of trainings inside a directory, up to two levels deep, and next to it, with their kinds.

    Args:
      place: as the user wrote it; the yielded paths start with it.
    """
    count = 0
    for folder in itertools.chain(_folders(place), _folders(place.parent)):
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
    around = next((folder for folder in path.parents if saved_steps(folder / FOLDER)), None)
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
    run = place.parent / value.removeprefix("stage:") if value.startswith("stage:") else pathlib.Path(value)
    try:
        return run if (paths.canonical(run) / FOLDER).is_dir() else None
    except (OSError, ValueError):  # no path, such as a long text; `UserError` is a ValueError
        return None


def article(kind: Any) -> str:
    """Returns a kind of network with its indefinite article."""
    return f"{'an' if str(kind)[:1] in 'aeiou' else 'a'} {kind}"
