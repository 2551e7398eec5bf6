"""Reading checkpoints, damaged ones among them: each process for itself, all from the same one in the end."""

import functools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from arinv import processes
from arinv.errors import UserError
from arinv.types import Variables

_MAX_DIFFERENCES = 6
_Value = TypeVar("_Value")
_told: set[str] = set()


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read."""


def steps(directory: pathlib.Path) -> list[int]:
    """Returns the steps of the complete checkpoints, newest first."""
    try:
        return sorted((int(path.name) for path in directory.iterdir() if path.name.isdigit()), reverse=True)
    except OSError:
        return []


def newest_readable(
    directory: pathlib.Path, read: Callable[[pathlib.Path], _Value]
) -> tuple[_Value, list[pathlib.Path]]:
    """Returns what all processes read of the newest checkpoint that all of them can read.

    Args:
      directory: of the checkpoints.
      read: path of a checkpoint -> what is wanted of it; raises DamagedCheckpoint.

    Returns:
      (what was read, paths of the newer checkpoints that are damaged).

    Raises:
      UserError: there is none.
    """
    damaged: list[pathlib.Path] = []
    newest = None
    for step in processes.first(steps(directory)):
        path = directory / str(step)
        value, problem = None, None
        try:
            value = read(path)
        except DamagedCheckpoint as error:
            problem = str(error)
        problems = [text for text in processes.gather(problem) if text]
        if not problems:
            if damaged:
                _tell(f"{newest}; using step {step} instead")
            return value, damaged
        newest = newest or problems[0]
        damaged.append(path)
    if newest:
        raise UserError(f"{newest}; no earlier one can be read: delete {directory} to start anew")
    raise UserError(f"no complete checkpoint in {directory}: let the training run save one first")


def _tell(text: str) -> None:
    if processes.index() == 0 and text not in _told:
        _told.add(text)  # description and variables are read one after the other
        print(text, file=sys.stderr, flush=True)


def put_aside(path: pathlib.Path) -> None:
    """Gives a damaged checkpoint another name, under which nothing looks for it."""
    aside = path.with_name(f"{path.name}.damaged")
    for number in range(2, 100):
        if not aside.exists():
            break
        aside = path.with_name(f"{path.name}.damaged{number}")
    path.rename(aside)


def open_reader() -> ocp.Checkpointer:
    """Returns a reader that waits for no other process."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
    )
    return ocp.Checkpointer(ocp.StandardCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def restore(reader: ocp.Checkpointer, path: pathlib.Path, target: Any) -> Any:
    """Returns the arrays of one item of a checkpoint, placed as `target` says.

    Raises:
      DamagedCheckpoint: they cannot be read.
    """
    return _read(path.parent, lambda: reader.restore(path, args=ocp.args.StandardRestore(target)))


def read_json(path: pathlib.Path) -> Any:
    """Returns the plain JSON of one item of a checkpoint.

    Raises:
      DamagedCheckpoint: it cannot be read.
    """
    return _read(path.parent, lambda: json.loads((path / "metadata").read_bytes()))


def _read(path: pathlib.Path, read: Callable[[], Any]) -> Any:
    previous = sys.unraisablehook
    sys.unraisablehook = functools.partial(_drop_late_reads, previous)
    try:
        result = read()
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read ({reason(error)})") from error
    sys.unraisablehook = previous
    return result


def reason(error: Exception) -> str:
    """Returns the kind of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"


def _drop_late_reads(previous: Callable[[Any], None], unraisable: Any) -> None:
    """Keeps quiet about the reads that end after the first of them has failed, and their loop is gone."""
    if str(unraisable.exc_value) != "Event loop is closed":
        previous(unraisable)


def _saved_tree(reader: ocp.Checkpointer, path: pathlib.Path) -> Any:
    metadata = reader.metadata(path).item_metadata
    if metadata is None:
        raise ValueError("its metadata are damaged")
    return metadata.tree


def check_same(path: pathlib.Path, expected: Mapping[str, Variables]) -> None:
    """Compares names and shapes before anything is read, to show both sides of a difference.

    Raises:
      UserError: they differ.
      DamagedCheckpoint: they cannot be read.
    """
    if not any(child.is_dir() for child in path.iterdir()):
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read (it is empty)")
    with open_reader() as reader:
        found = [name for name in expected if (path / name).is_dir()]
        saved = {name: _read(path, lambda n=name: _saved_tree(reader, path / n)) for name in found}
    saved, wanted = _shapes(saved), _shapes(expected)
    differences = [
        f"{name}: checkpoint {saved.get(name, 'has none')}, model {wanted.get(name, 'has none')}"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differences:
        more = len(differences) - _MAX_DIFFERENCES
        shown = "; ".join(differences[:_MAX_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(f"checkpoint {path} is of another model: {shown}")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
