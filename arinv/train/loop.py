"""The loop around a train step: progress, logs, evaluation, checkpoints, and an orderly stop.

Steps are pure functions of (state, batch, run key), so a run that is killed and resumed from a checkpoint
ends in the same bits as one that was not.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from arinv import parallel, processes
from arinv.errors import UserError
from arinv.train.checkpoint import Checkpoints
from arinv.train.progress import progress_bar
from arinv.train.state import TrainState
from arinv.train.writer import Writer
from arinv.types import Array, Batch, Metrics


class Batches(Protocol):
    """An endless iterator of batches that knows its position."""

    steps_per_epoch: int

    def __next__(self) -> Batch:
        """Returns the next batch."""

    def get_state(self) -> Mapping:
        """Returns the position, plain JSON."""

    def set_state(self, state: Mapping) -> None:
        """Goes to a position."""


def restore_or_create(
    init: Callable[[Array], TrainState], key: Array, mesh: jax.sharding.Mesh, checkpoints: Checkpoints, batches: Batches
) -> TrainState:
    """Returns the newest checkpoint's state, batches moved to its position, or else a new state.

    Args:
      init: key -> state at step 0.
      key: PRNG key of the initial weights.
      mesh: where the state is placed.
      checkpoints: of this run.
      batches: its data iterator.
    """
    abstract = jax.eval_shape(init, key)
    shardings = parallel.state_shardings(abstract, mesh)
    if checkpoints.latest_step() is None:
        # Random numbers are slow to compile and quick to run.
        options = {"xla_backend_optimization_level": 0}
        return jax.jit(init, out_shardings=shardings, compiler_options=options)(key)
    state, data_state = checkpoints.restore(abstract, shardings)
    batches.set_state(data_state)
    return state


def fit(
    state: TrainState,
    train_step: Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]],
    batches: Batches,
    *,
    key: Array,
    mesh: jax.sharding.Mesh,
    num_steps: int,
    log_every_steps: int,
    evaluate_every_steps: int,
    checkpoint_every_steps: int,
    evaluate: Callable[[TrainState, int], Mapping[str, float]],
    checkpoints: Checkpoints,
    writer: Writer,
    description: Mapping[str, Any],
    title: str,
    notices: Mapping[str, str] | None = None,
) -> TrainState:
    """Trains until `num_steps` and returns the last state, saved.

    Args:
      state: where to begin, at any step.
      train_step: jitted (state, batch, key) -> (state, metrics); may donate the state.
      batches: endless iterator of this process's share of the batches.
      key: the run's PRNG key.
      mesh: where batches are placed.
      num_steps: of the whole run.
      log_every_steps: steps between lines of the log, each the mean over those steps.
      evaluate_every_steps: steps between calls of `evaluate`, except at the end, which is the caller's.
      checkpoint_every_steps: steps between checkpoints; the last step is always saved.
      evaluate: (state, step) -> numbers to log.
      checkpoints: where to save.
      writer: where to log.
      description: what the networks are rebuilt from, saved in every checkpoint, plain JSON.
      title: shown beside the progress bar.
      notices: name of a metric -> what to say each time its mean over a line of the log is above 0.

    Raises:
      UserError: the loss is not finite; names the step and the last good checkpoint.
      SystemExit: after SIGTERM on any process, with the state saved; exit code 143.
    """
    first = int(state.step)
    meter = _Meter()

    def save(wait=False):
        checkpoints.save(state, data_state=batches.get_state(), description=description, wait=wait)

    with (
        processes.stoppable(first) as has_to_stop,
        progress_bar(None, title, initial=first, total=num_steps, unit="step") as bar,
    ):
        for step in range(first + 1, num_steps + 1):
            state, metrics = train_step(state, parallel.place_batch(next(batches), mesh), key)
            meter.add(metrics)
            bar.update()
            last = step == num_steps
            if last or step % log_every_steps == 0 or step % checkpoint_every_steps == 0:
                values = meter.flush()
                _check_finite(values, step, checkpoints)
                writer.scalars(step, {f"train/{name}": value for name, value in values.items()})
                bar.set_postfix_str(_show(values), refresh=False)
                _tell(values, notices or {}, step, title)
            if step % evaluate_every_steps == 0 and not last:
                values = evaluate(state, step)
                writer.scalars(step, {f"test/{name}": value for name, value in values.items()})
            stop = has_to_stop(step)
            if last or step % checkpoint_every_steps == 0 or stop:
                save(wait=last or stop)
            if stop and not last:
                if processes.index() == 0:
                    print(f"stopped by SIGTERM at step {step}, saved; start again to go on", file=sys.stderr)
                raise SystemExit(processes.TERMINATED)
    return state


class _Meter:
    """Adds up metrics on the device, to wait for them only when they are read."""

    def __init__(self):
        self._sums: Metrics = {}

    def add(self, metrics: Metrics) -> None:
        if self._sums:
            metrics = jax.tree.map(lambda a, b: a + b, self._sums, dict(metrics))
        self._sums = dict(metrics)

    def flush(self) -> dict[str, float]:
        sums, self._sums = parallel.to_host(self._sums), {}
        return {name: float(total) / float(count) for name, (total, count) in sums.items() if count > 0}


def _check_finite(values: Mapping[str, float], step: int, checkpoints: Checkpoints) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        good = checkpoints.latest_step()
        where = f"the last good checkpoint is step {good}" if good is not None else "no checkpoint was saved yet"
        raise UserError(
            f"{', '.join(bad)} became non-finite at step {step} or shortly before; {where} in "
            f"{checkpoints.directory}. Lower the learning rate or clip gradients (optimizer.max_gradient_norm)"
        )


def _tell(values: Mapping[str, float], notices: Mapping[str, str], step: int, title: str) -> None:
    for name, text in notices.items():
        if values.get(name, 0) > 0 and jax.process_index() == 0:
            print(f"\n{title}, step {step}: {text}", file=sys.stderr, flush=True)


def _show(values: Mapping[str, float]) -> str:
    chosen = [name for name in ("loss", "accuracy", "psnr") if name in values]
    return ", ".join(f"{name} {values[name]:.4g}" for name in chosen)
