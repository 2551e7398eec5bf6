"""Checkpoints of a run, through Orbax: networks, optimisers and data position, each its own item.

A checkpoint appears under its final name only when it is complete, so a kill leaves the one before.
Arrays are stored without their placement and restored onto whatever mesh asks for them. Nothing in a
checkpoint is executed when it is read.

All processes write together, each its share. They read each for itself, for one of them may find damage where the
others find none; then they go on together, from the same checkpoint.
"""

import contextlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from arinv import paths, processes
from arinv.errors import UserError
from arinv.train import checkpoint_reading as reading
from arinv.train.state import TrainState
from arinv.train.writer import MADE_ROOM
from arinv.types import Variables

# Beside one item for each network.
_OTHER_TREES = ("optimizers",)
_TEXTS = ("data", "description")
_MIN_BYTES_WRITTEN_TOGETHER = 64 * 2**20
_Value = TypeVar("_Value")
_numbers = itertools.count()


class Checkpoints:
    """The checkpoints in `workdir/checkpoints`, newest kept; a context manager that waits for the last save.

    Args:
      workdir: the run's directory.
      networks: names of the networks in the state.
      keep: number of checkpoints to keep.
    """

    def __init__(self, workdir: pathlib.Path, networks: Iterable[str], *, keep: int = 2):
        self.directory = paths.canonical(workdir) / reading.FOLDER
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            step_name_format=_Steps(),
            cleanup_tmp_directories=True,
            # Stages have steps of the same numbers, whose names must not meet in JAX's coordinator.
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=f"run{next(_numbers)}"),
        )
        handlers = {name: _tree_handler() for name in (*networks, *_OTHER_TREES)}
        handlers |= {name: ocp.JsonCheckpointHandler() for name in _TEXTS}
        self._manager = self._writing(
            lambda: ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None, as process 0 sees it."""
        return processes.first(next(iter(reading.steps(self.directory)), None))

    def save(self, state: TrainState, *, data_state: Mapping, description: Mapping, wait: bool = False) -> None:
        """Saves in the background; returns once the arrays are copied from the devices.

        Args:
          state: the train state.
          data_state: position of the data iterator, plain JSON.
          description: what the networks are rebuilt from, plain JSON.
          wait: return only when the checkpoint is complete on disk.

        Raises:
          UserError: this checkpoint, or the one before that was still being written, cannot be written.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            items = {
                **{name: ocp.args.PyTreeSave(value) for name, value in state.variables.items()},
                "optimizers": ocp.args.PyTreeSave(state.opt_states),
                "data": ocp.args.JsonSave(dict(data_state)),
                "description": ocp.args.JsonSave(dict(description)),
            }
            if processes.index() == 0 and not self.directory.is_dir():
                raise UserError(f"{self.directory} has vanished: it was deleted or moved while this run wrote to it")
            self._writing(lambda: self._manager.save(step, args=ocp.args.Composite(**items)))
        if wait:
            self._writing(self._manager.wait_until_finished)

    def restore(self, abstract_state: TrainState, shardings: TrainState) -> tuple[TrainState, Mapping]:
        """Returns the newest state that can be read, placed as asked, and the data position saved with it.

        A damaged checkpoint is put aside as STEP.damaged, and told.

        Args:
          abstract_state: shapes and dtypes of the state.
          shardings: a placement for each of its arrays.

        Raises:
          UserError: a checkpoint of another model (both sides are shown), or no checkpoint that can be read.
        """
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract_state, shardings
        )

        def read(path: pathlib.Path) -> tuple[TrainState, Mapping]:
            reading.check_same(path, target.variables)
            with reading.open_reader() as reader:
                variables = {
                    name: reading.restore(reader, path / name, value) for name, value in target.variables.items()
                }
                opt_states = reading.restore(reader, path / "optimizers", target.opt_states)
            step = int(path.name)
            count = jax.make_array_from_callback(
                (), target.step.sharding, lambda _: np.asarray(step, target.step.dtype)
            )
            return TrainState(count, variables, opt_states), reading.read_json(path / "data")

        result, damaged = reading.newest_readable(self.directory, read)
        if damaged:
            if processes.index() == 0:
                for path in damaged:
                    reading.put_aside(path)
            processes.gather(None)
            self._manager.reload()
        return result

    def _writing(self, write: Callable[[], _Value]) -> _Value:
        try:
            return write()
        except Exception as error:  # Orbax and TensorStore raise many kinds for a disk that is full
            if processes.count() > 1 and isinstance(error, (jax.errors.JaxRuntimeError, TimeoutError)):
                raise  # of waiting for the others, not of writing
            steps = reading.steps(self.directory)
            good = f"the last good checkpoint is step {steps[0]}" if steps else "no checkpoint was saved yet"
            raise UserError(
                f"a checkpoint cannot be written to {self.directory} ({reading.reason(error)}); {good}; {MADE_ROOM}"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or issubclass(kind, SystemExit):
            self._writing(self._manager.close)
        elif processes.count() == 1:  # else the others may never come to where closing waits for them
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._manager.close()


def load_description(workdir: pathlib.Path, *, kind: str = "") -> Mapping[str, Any]:
    """Returns what the networks of another run are rebuilt from, as saved with its newest readable checkpoint.

    Args:
      workdir: that run's directory.
      kind: of network that has to be there, such as "classifier"; empty for any.

    Raises:
      UserError: no checkpoint there, none that can be read, or one of another kind.
    """
    description = reading.newest_readable(_of_run(workdir), lambda path: reading.read_json(path / "description"))[0]
    if kind and description.get("kind") != kind:
        own = (paths.canonical(workdir) / str(description.get("encoder_workdir", ""))).resolve()
        runs = [own, *(path for path, _ in reading.runs_near(workdir))]
        example = next((f", such as {run}" for run in runs if reading.kind_of(run) == kind), "")
        raise UserError(
            f"{workdir} holds {reading.article(description.get('kind'))}; name the workdir of "
            f"{reading.article(kind)}'s training{example}"
        )
    return description


def load_variables(workdir: pathlib.Path, abstract: Mapping[str, Variables]) -> Mapping[str, Variables]:
    """Returns networks of the newest readable checkpoint of another run, whole on the default device.

    Args:
      workdir: that run's directory.
      abstract: network name -> shapes and dtypes of its variables.

    Raises:
      UserError: no checkpoint there, one of another model, or none that can be read.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract)

    def read(path: pathlib.Path) -> Mapping[str, Variables]:
        reading.check_same(path, target)
        with reading.open_reader() as reader:
            return {name: reading.restore(reader, path / name, value) for name, value in target.items()}

    return reading.newest_readable(_of_run(workdir), read)[0]


def check_run(workdir: pathlib.Path, *, name: str = "") -> None:
    """Checks that a directory is that of a training run.

    Args:
      workdir: the directory.
      name: of the field that holds it, for the message.

    Raises:
      UserError: it is not; says what is there, and what to write instead.
    """
    if not (paths.canonical(workdir) / reading.FOLDER).is_dir():
        raise UserError(f"{name}{': ' if name else ''}no checkpoint in {workdir}: {reading.describe(workdir)}")


def _of_run(workdir: pathlib.Path) -> pathlib.Path:
    check_run(workdir)
    return paths.canonical(workdir) / reading.FOLDER


class _Steps(ocp.path.step.NameFormat[ocp.path.step.Metadata]):
    """Names of checkpoints: plain step numbers. Whatever else lies beside them is no checkpoint."""

    _standard = ocp.path.step.standard_name_format()

    def build_name(self, step: int) -> str:
        """Returns the name of a step."""
        return self._standard.build_name(step)

    def find_all(self, base_path: Any) -> Iterator[ocp.path.step.Metadata]:
        """Yields the steps in a directory."""
        present = reading.steps(pathlib.Path(base_path))
        return (metadata for metadata in self._standard.find_all(base_path) if metadata.step in present)

    def find_step(self, base_path: Any, step: int) -> ocp.path.step.Metadata:
        """Returns a step."""
        return self._standard.find_step(base_path, step)


def _tree_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns what writes trees of arrays: one device writes a small one that many hold.

    By default each of them writes its share, cut off by a program that is compiled for every shape; for small networks
    that takes several times longer than the writing.
    """
    kinds = ocp.type_handlers
    arrays = kinds.ArrayHandler(min_slice_bytes_for_replica_parallel=_MIN_BYTES_WRITTEN_TOGETHER)
    registry = kinds.create_type_handler_registry(
        (jax.Array, arrays),
        (np.ndarray, kinds.NumpyHandler()),
        *((kind, kinds.ScalarHandler()) for kind in (int, float, np.number)),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
