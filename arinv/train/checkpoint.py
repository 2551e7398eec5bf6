"""Checkpoints of a run, through Orbax: networks, optimisers and data position, each its own item.

A checkpoint appears under its final name only when it is complete, so a kill leaves the one before.
Arrays are stored without their placement and restored onto whatever mesh asks for them. Nothing in a
checkpoint is executed when it is read.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from arinv.errors import UserError
from arinv.train.state import TrainState
from arinv.types import Variables

_OTHER_ITEMS = ("optimizers", "data", "description")  # beside one item for each network
_MAX_DIFFERENCES = 6


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`, newest kept; a context manager that waits for the last save.

    Args:
      workdir: the run's directory.
      networks: names of the networks in the state.
      keep: number of checkpoints to keep.
    """

    def __init__(self, workdir: pathlib.Path, networks: Iterable[str], *, keep: int = 2):
        self.directory = workdir.absolute() / "checkpoints"
        policy = ocp.checkpoint_managers.LatestN(keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=(*networks, *_OTHER_ITEMS))

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, *, data_state: Mapping, description: Mapping, wait: bool = False) -> None:
        """Saves in the background; returns once the arrays are copied from the devices.

        Args:
          state: the train state.
          data_state: position of the data iterator, plain JSON.
          description: what the networks are rebuilt from, plain JSON.
          wait: return only when the checkpoint is complete on disk.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            items = {
                **{name: ocp.args.StandardSave(value) for name, value in state.variables.items()},
                "optimizers": ocp.args.StandardSave(state.opt_states),
                "data": ocp.args.JsonSave(dict(data_state)),
                "description": ocp.args.JsonSave(dict(description)),
            }
            self._manager.save(step, args=ocp.args.Composite(**items))
        if wait:
            self._manager.wait_until_finished()

    def restore(self, abstract_state: TrainState, shardings: TrainState) -> tuple[TrainState, Mapping]:
        """Returns the newest state, placed as asked, and the data position saved with it.

        Args:
          abstract_state: shapes and dtypes of the state.
          shardings: a placement for each of its arrays.

        Raises:
          UserError: a checkpoint of another model (both sides are shown), or a damaged one.
        """
        step = self.latest_step()
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract_state, shardings
        )
        path = self.directory / str(step)
        _check_same(path, target.variables)
        items = {
            **{name: ocp.args.StandardRestore(value) for name, value in target.variables.items()},
            "optimizers": ocp.args.StandardRestore(target.opt_states),
            "data": ocp.args.JsonRestore(),
        }
        restored = _read(path, lambda: self._manager.restore(step, args=ocp.args.Composite(**items)))
        count = jax.device_put(step, target.step.sharding).astype(target.step.dtype)
        variables = {name: restored[name] for name in target.variables}
        return TrainState(count, variables, restored.optimizers), restored.data

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()


def load_description(workdir: pathlib.Path) -> Mapping[str, Any]:
    """Returns what the networks of another run are rebuilt from, as saved with its newest checkpoint.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    path = _latest(workdir)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return _read(path, lambda: reader.restore(path / "description"))


def load_variables(workdir: pathlib.Path, abstract: Mapping[str, Variables]) -> Mapping[str, Variables]:
    """Returns networks of the newest checkpoint of another run, whole on the default device.

    Args:
      workdir: that run's directory.
      abstract: network name -> shapes and dtypes of its variables.

    Raises:
      UserError: no checkpoint there, one of another model, or a damaged one.
    """
    path = _latest(workdir)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)
    with ocp.StandardCheckpointer() as reader:
        _check_same(path, target)
        return {name: _read(path, lambda n=name: reader.restore(path / n, target[n])) for name in target}


def _latest(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the directory of the newest complete checkpoint of another run."""
    directory = pathlib.Path(workdir).absolute() / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"no checkpoint in {workdir}: expected the workdir of a training run")
    with ocp.CheckpointManager(directory, options=ocp.CheckpointManagerOptions(create=False)) as manager:
        step = manager.latest_step()
    if step is None:
        raise UserError(f"no complete checkpoint in {directory}: let the training run save one first")
    return directory / str(step)


def _read(path: pathlib.Path, read: Callable[[], Any]) -> Any:
    previous = sys.unraisablehook
    sys.unraisablehook = functools.partial(_drop_late_reads, previous)
    try:
        result = read()
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        reason = str(error).splitlines()[0][:200] if str(error) else "no reason given"
        raise UserError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {reason}); "
            "delete it to go on from the one before"
        ) from error
    sys.unraisablehook = previous
    return result


def _drop_late_reads(previous: Callable[[Any], None], unraisable: Any) -> None:
    """Keeps quiet about the reads that end after the first of them has failed, and their loop is gone."""
    if str(unraisable.exc_value) != "Event loop is closed":
        previous(unraisable)


def _saved_tree(reader: ocp.StandardCheckpointer, path: pathlib.Path) -> Any:
    metadata = reader.metadata(path).item_metadata
    if metadata is None:
        raise ValueError("its metadata are damaged")
    return metadata.tree


def _check_same(path: pathlib.Path, expected: Mapping[str, Variables]) -> None:
    """Compares names and shapes before anything is read, to show both sides of a difference."""
    with ocp.StandardCheckpointer() as reader:
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
