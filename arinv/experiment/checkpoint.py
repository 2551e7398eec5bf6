"""Checkpoints of a run, through Orbax: networks, optimizers, positions of data and log, description, each an item.

What else the state holds (`TrainState.extra`) is an item too, where there is any. A checkpoint appears under its final
name only when it is complete, so a kill keeps the one before. Arrays are stored without their placement and restored
onto any mesh. Nothing in a checkpoint is executed when it is read.

All processes write together, each its share. Each reads for itself, since one of them may find damage where the
others find none, or not see a file yet, which counts as damage; then all continue from the same checkpoint.
"""

import contextlib
import errno
import functools
import itertools
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from arinv import distributed, paths, zoo
from arinv.errors import DISK_ADVICE, TemporaryError, UserError, first_line, is_out_of_memory
from arinv.experiment import exported
from arinv.experiment.descriptions import article
from arinv.experiment.state import TrainState
from arinv.experiment.workdirs import CHECKPOINTS, check_run, kind_of, runs_near, saved_steps
from arinv.types import Variables

# Items of a checkpoint, besides one for each network.
_OPTIMIZERS, _EXTRA = "optimizers", "extra"
_TEXTS = ("data", "log", "description")
_MIN_BYTES_WRITTEN_TOGETHER = 64 * 2**20
# Texts of errors that say nothing about a file: of a process at the moment, and of its rights.
_LACKS = tuple(map(os.strerror, (errno.EMFILE, errno.ENFILE, errno.ENOMEM)))
_RIGHTS = tuple(map(os.strerror, (errno.EACCES, errno.EPERM)))
_Value = TypeVar("_Value")
_numbers = itertools.count()
# Orbax warns of a file that is absent where an item has been read alone.
logging.getLogger("absl").addFilter(lambda record: "Metadata file does not exist" not in record.getMessage())
# Of arrays that cannot be written, Orbax reports the first alone.
logging.getLogger("asyncio").addFilter(
    lambda record: not ("was never retrieved" in record.getMessage() and f"/{CHECKPOINTS}/" in record.getMessage())
)


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read."""


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`, newest kept; a context manager that waits for the last save.

    Args:
      workdir: the run's directory.
      networks: names of the networks in the state.
      keep: number of checkpoints to keep.
    """

    def __init__(self, workdir: pathlib.Path, networks: Iterable[str], *, keep: int = 2):
        self.directory = paths.canonical(workdir) / CHECKPOINTS
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            step_name_format=_Steps(),
            cleanup_tmp_directories=True,
            # Stages have equal step numbers, whose names must not collide in JAX's coordinator.
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=f"run{next(_numbers)}"),
        )
        handlers = {name: _tree_handler() for name in (*networks, _OPTIMIZERS, _EXTRA)}
        handlers |= {name: ocp.JsonCheckpointHandler() for name in _TEXTS}
        self._manager = self._writing(
            lambda: ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, read by process 0; None without one."""
        return distributed.broadcast(next(iter(saved_steps(self.directory)), None))

    def save(
        self,
        state: TrainState,
        *,
        data_state: Mapping,
        description: Mapping,
        log_state: Mapping = MappingProxyType({}),
        wait: bool = False,
    ) -> None:
        """Saves in the background; returns once the arrays are copied from the devices.

        Args:
          state: the train state.
          data_state: position of the data iterator, plain JSON.
          description: what the networks are rebuilt from, plain JSON.
          log_state: position of the log, plain JSON.
          wait: whether to return only when the checkpoint is complete on disk.

        Raises:
          UserError: this checkpoint, or the previous one that was still being written, cannot be written.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            items = {
                **{name: ocp.args.PyTreeSave(tree) for name, tree in _trees(state).items()},
                "data": ocp.args.JsonSave(dict(data_state)),
                "log": ocp.args.JsonSave(dict(log_state)),
                "description": ocp.args.JsonSave(dict(description)),
            }
            if distributed.index() == 0 and not self.directory.is_dir():
                raise UserError(f"{self.directory} has vanished: it was deleted or moved during the run")
            self._writing(lambda: self._manager.save(step, args=ocp.args.Composite(**items)))
        if wait:
            self._writing(self._manager.wait_until_finished)

    def restore(self, abstract_state: TrainState, shardings: TrainState) -> tuple[TrainState, Mapping, Mapping]:
        """Returns the newest readable state, placed on devices, and the positions of data and log saved with it.

        Damaged checkpoints are reported and renamed to STEP.damaged.

        Args:
          abstract_state: shapes and dtypes of the state.
          shardings: placement of each of its arrays.

        Raises:
          UserError: a checkpoint of another model (with both sides), or no readable checkpoint.
        """
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract_state, shardings
        )

        def read(path: pathlib.Path) -> tuple[TrainState, Mapping, Mapping]:
            check_same(path, {**target.variables, _EXTRA: target.extra})
            with open_reader() as reader:
                trees = {name: restore_items(reader, path / name, tree) for name, tree in _trees(target).items()}
            step = int(path.name)
            count = jax.make_array_from_callback(
                (), target.step.sharding, lambda _: np.asarray(step, target.step.dtype)
            )
            variables = {name: trees[name] for name in target.variables}
            state = TrainState(count, variables, trees[_OPTIMIZERS], trees.get(_EXTRA, {}))
            return state, read_json(path / "data"), read_json(path / "log")

        result, damaged = newest_readable(self.directory, read)
        if damaged:
            if distributed.index() == 0:
                for path in damaged:
                    rename_damaged(path)
            distributed.gather(None)
            self._manager.reload()
        return result

    def _writing(self, write: Callable[[], _Value]) -> _Value:
        try:
            return write()
        except Exception as error:  # Orbax and TensorStore raise many kinds for a disk that is full
            if distributed.count() > 1 and isinstance(error, (jax.errors.JaxRuntimeError, TimeoutError)):
                raise  # from waiting for other processes, not from writing
            steps = saved_steps(self.directory)
            good = f"the last good checkpoint is step {steps[0]}" if steps else "no checkpoint was saved yet"
            raise UserError(
                f"a checkpoint cannot be written to {self.directory} ({reason(error)}); {good}; {DISK_ADVICE}"
            ) from error

    def __enter__(self) -> "Checkpoints":
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = functools.partial(_drop_late_ends, self._previous_hook)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or issubclass(kind, SystemExit):
            self._writing(self._manager.close)
            sys.unraisablehook = self._previous_hook
        elif distributed.count() == 1:  # else closing might wait for processes that never arrive
            with contextlib.suppress(Exception):  # the first error is raised
                self._manager.close()


def _trees(state: TrainState) -> dict[str, Any]:
    """Returns the items of a checkpoint that are trees of arrays, by name."""
    return {**state.variables, _OPTIMIZERS: state.opt_states} | ({_EXTRA: state.extra} if state.extra else {})


def load_description(workdir: pathlib.Path, *, kind: str | Sequence[str] = "") -> Mapping[str, Any]:
    """Returns the description of another run's networks, from its newest readable checkpoint.

    Args:
      workdir: directory of that run, an entry of the zoo, or the file of a network.
      kind: required kind of network, such as "classifier", or several; empty for any.

    Raises:
      UserError: no checkpoint, none that can be read, or one of another kind.
    """
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    workdir = zoo.network(workdir, kinds)
    if exported.is_file(workdir):
        description = exported.load_description(workdir)
    else:
        description = newest_readable(_of_run(workdir), _read_description)[0]
    if any(kinds) and description.get("kind") not in kinds:
        encoder = (paths.canonical(workdir) / str(description.get("encoder_workdir", ""))).resolve()
        runs = [encoder, *(path for path, _ in runs_near(workdir))]
        example = next((f", such as {run}" for run in runs if kind_of(run) in kinds), "")
        needed = " or ".join(f"{article(name)}'s" for name in kinds)
        raise UserError(
            f"{workdir} holds {article(description.get('kind'))}; name the workdir of {needed} training{example}"
        )
    return description


def _read_description(path: pathlib.Path) -> dict[str, Any]:
    """Returns the description in a checkpoint.

    Raises:
      DamagedCheckpoint: it cannot be read, or is that of no network.
    """
    description = read_json(path / "description")
    if not isinstance(description.get("kind"), str):
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read (its description names no kind of network)")
    return description


def load_variables(workdir: pathlib.Path, abstract: Mapping[str, Variables]) -> Mapping[str, Variables]:
    """Returns networks of another run's newest readable checkpoint, unsharded on the default device.

    Args:
      workdir: directory of that run, or the file of the one network in `abstract`.
      abstract: network name -> shapes and dtypes of its variables.

    Raises:
      UserError: no checkpoint, one of another model, none that can be read, or weights that are not finite.
    """
    if exported.is_file(workdir):
        return {name: exported.load_variables(workdir, shapes) for name, shapes in abstract.items()}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)

    def read(path: pathlib.Path) -> Mapping[str, Variables]:
        check_same(path, target)
        with open_reader() as reader:
            return {name: restore_items(reader, path / name, value) for name, value in target.items()}

    networks = newest_readable(_of_run(workdir), read)[0]
    for variables in networks.values():
        exported.check_values(variables, workdir)
    return networks


def _of_run(workdir: pathlib.Path) -> pathlib.Path:
    check_run(workdir)
    return paths.canonical(workdir) / CHECKPOINTS


def newest_readable(
    directory: pathlib.Path, read: Callable[[pathlib.Path], _Value]
) -> tuple[_Value, list[pathlib.Path]]:
    """Returns the content of the newest checkpoint that all processes can read.

    Args:
      directory: directory of the checkpoints.
      read: path of a checkpoint -> content; raises DamagedCheckpoint.

    Returns:
      (content, paths of the newer checkpoints that are damaged).

    Raises:
      UserError: no checkpoint can be read.
    """
    damaged: list[pathlib.Path] = []
    newest = None
    # Listed each time: a run in progress saves new checkpoints and deletes old ones.
    while (step := distributed.broadcast(_newest(directory, without=damaged))) is not None:
        path = directory / str(step)
        value, problem = None, None
        try:
            value = read(path)
        except DamagedCheckpoint as error:
            problem = str(error)
        problems = [text for text in distributed.gather(problem) if text]
        if not problems:
            if damaged:
                # Once, although the description and the variables are read separately.
                distributed.report(f"{newest}; using step {step} instead", once=True)
            return value, damaged
        newest = newest or problems[0]
        damaged.append(path)
    if newest:
        raise UserError(f"{newest}; no earlier one can be read: delete {directory} to start again")
    raise UserError(f"no complete checkpoint in {directory}: let the training run save one first")


def _newest(directory: pathlib.Path, *, without: Sequence[pathlib.Path]) -> int | None:
    return next((step for step in saved_steps(directory) if directory / str(step) not in without), None)


def rename_damaged(path: pathlib.Path) -> None:
    """Renames a damaged checkpoint, so that it is no longer read.

    Raises:
      UserError: the directory cannot be written.
    """
    target = path.with_name(f"{path.name}.damaged")
    for number in range(2, 100):
        if not target.exists():
            break
        target = path.with_name(f"{path.name}.damaged{number}")
    try:
        path.rename(target)
    except FileNotFoundError:  # deleted since it was listed
        pass
    except OSError as error:
        raise UserError(
            f"checkpoint {path} is damaged and cannot be renamed ({error.strerror}): make {path.parent} writable, or "
            "delete the checkpoint"
        ) from error


def check_same(path: pathlib.Path, expected: Mapping[str, Variables]) -> None:
    """Checks names and shapes of a checkpoint before its arrays are read.

    Args:
      path: path of the checkpoint.
      expected: network name -> shapes of its variables; likewise what else a step keeps.

    Raises:
      UserError: they differ; with both sides.
      DamagedCheckpoint: they cannot be read.
    """
    if not _read(path, lambda: any(child.is_dir() for child in path.iterdir())):
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read (it is empty)")
    with open_reader() as reader:
        names = [name for name in expected if (path / name).is_dir()]
        saved = {name: _read(path, lambda n=name: _saved_tree(reader, path / n)) for name in names}
    if differences := exported.differences(_shapes(saved), _shapes(expected)):
        if not all((path / name).is_dir() for name in names) or not path.is_dir():
            raise DamagedCheckpoint(f"checkpoint {path} cannot be read (it was deleted meanwhile)")
        raise UserError(f"checkpoint {path} is of another model: {differences}")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in exported.flat(tree).items()}


def open_reader() -> ocp.Checkpointer:
    """Returns a reader that does not synchronize with other processes."""
    own = jax.process_index()  # noqa: TID251
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix="alone"
    )
    return ocp.Checkpointer(
        ocp.StandardCheckpointHandler(multiprocessing_options=options), multiprocessing_options=options
    )


def restore_items(reader: ocp.Checkpointer, path: pathlib.Path, target: Any) -> Any:
    """Returns the arrays of one item of a checkpoint, placed as in `target`.

    Raises:
      DamagedCheckpoint: they cannot be read.
    """
    return _read(path.parent, lambda: reader.restore(path, args=ocp.args.StandardRestore(target)))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the plain JSON of one item of a checkpoint.

    Raises:
      DamagedCheckpoint: it cannot be read, or is no object.
    """
    value = _read(path.parent, lambda: json.loads((path / "metadata").read_bytes()))
    if not isinstance(value, dict):
        raise DamagedCheckpoint(f"checkpoint {path.parent} cannot be read ({path.name} is no JSON object)")
    return value


def _read(path: pathlib.Path, read: Callable[[], Any]) -> Any:
    previous = sys.unraisablehook
    sys.unraisablehook = functools.partial(_drop_late_ends, previous)
    try:
        result = read()
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        if is_out_of_memory(error):
            raise
        if isinstance(error, MemoryError) or any(text in str(error) for text in _LACKS):
            raise TemporaryError(f"checkpoint {path} cannot be read now ({reason(error)}); start again") from error
        if any(text in str(error) for text in _RIGHTS):
            raise UserError(f"checkpoint {path} cannot be read ({reason(error)}); make it readable") from error
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read ({reason(error)})") from error
    sys.unraisablehook = previous
    return result


def reason(error: Exception) -> str:
    """Returns the kind of an error and the first line of its text."""
    return f"{type(error).__name__}: {first_line(error, limit=200)}"


def _drop_late_ends(previous: Callable[[Any], None], unraisable: Any) -> None:
    """Ignores reads and writes that end after another one has failed and their event loop is closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        previous(unraisable)


def _saved_tree(reader: ocp.Checkpointer, path: pathlib.Path) -> Any:
    metadata = reader.metadata(path).item_metadata
    if metadata is None:
        raise ValueError("its metadata are damaged")
    return metadata.tree


class _Steps(ocp.path.step.NameFormat[ocp.path.step.Metadata]):
    """Names of checkpoints: plain step numbers; files and folders of other names are ignored."""

    _standard = ocp.path.step.standard_name_format()

    def build_name(self, step: int) -> str:
        """Returns the name of a step."""
        return self._standard.build_name(step)

    def find_all(self, base_path: Any) -> Iterator[ocp.path.step.Metadata]:
        """Yields the steps in a directory."""
        present = saved_steps(pathlib.Path(base_path))
        return (metadata for metadata in self._standard.find_all(base_path) if metadata.step in present)

    def find_step(self, base_path: Any, step: int) -> ocp.path.step.Metadata:
        """Returns a step."""
        return self._standard.find_step(base_path, step)


def _tree_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns the handler of trees of arrays, in which one device writes a small replicated array.

    By default every device writes a slice, cut by a program that is compiled for every shape; for small networks that
    takes several times longer than writing.
    """
    kinds = ocp.type_handlers
    arrays = kinds.ArrayHandler(min_slice_bytes_for_replica_parallel=_MIN_BYTES_WRITTEN_TOGETHER)
    registry = kinds.create_type_handler_registry(
        (jax.Array, arrays),
        (np.ndarray, kinds.NumpyHandler()),
        *((kind, kinds.ScalarHandler()) for kind in (int, float, np.number)),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
