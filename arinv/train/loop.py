"""Training loop around a train step: progress, logs, evaluation, checkpoints, and a clean stop on SIGTERM.

Steps are pure functions of (state, batch, run key), so a run that is killed and resumed from a checkpoint
ends in the same bits as an uninterrupted one.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv import _xla, distributed, parallel
from arinv.errors import TERMINATED, UserError
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.state import TrainState
from arinv.experiment.writer import TEST, Writer, progress_bar
from arinv.train import flops, speed
from arinv.train.feed import Batches, Prepared, prepare
from arinv.train.speed import Profile
from arinv.types import Array, Batch, Metrics

# Keys of the position of the log: sums of metrics since its last line, and whether an evaluation of the step is due.
SUMS, EVALUATES = "sums", "evaluates"
# The share of waiting, and the lines of the log in a row above it, from which the input is reported as the bottleneck.
_SLOW_INPUT, _SLOW_LINES = 0.3, 3
# (state, batch or stacked batches, key, *frozen) -> (state, metrics, those of several steps stacked)
Call = Callable[..., tuple[TrainState, Metrics]]


class Timetable(NamedTuple):
    """The steps of a run, and those after which it logs, evaluates and saves.

    Attributes:
      num_steps: number of steps of the whole run.
      log: steps between lines of the log, each the mean over those steps.
      evaluate: steps between evaluations; the one after the last step is the caller's.
      checkpoint: steps between checkpoints; the last step is always saved.
      steps_per_call: steps in one call of the compiled program, where nothing is due between them.
    """

    num_steps: int
    log: int
    evaluate: int
    checkpoint: int
    steps_per_call: int = 1

    def logs(self, step: int) -> bool:
        """Returns whether a line of the log is due after `step`."""
        return step % self.log == 0 or step % self.checkpoint == 0 or step == self.num_steps

    def evaluates(self, step: int) -> bool:
        """Returns whether an evaluation is due after `step`."""
        return step % self.evaluate == 0 or step == self.num_steps

    def saves(self, step: int) -> bool:
        """Returns whether a checkpoint is due after `step`: before an evaluation too."""
        return step % self.checkpoint == 0 or self.evaluates(step)

    def call_length(self, step: int) -> int:
        """Returns the number of steps in the call after `step`: steps_per_call, or 1 where something is due before."""
        intervals = self.log, self.evaluate, self.checkpoint
        due = min(self.num_steps - step, *(interval - step % interval for interval in intervals))
        return self.steps_per_call if due >= self.steps_per_call else 1


def restore_or_create(
    init: Callable[[Array], TrainState],
    key: Array,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    batches: Batches,
    *,
    start: Callable[[TrainState], TrainState] | None = None,
) -> tuple[TrainState, Mapping]:
    """Returns the state of the newest checkpoint, after setting the position of the batches, or else a new state.

    The second value is that of the log at this checkpoint, for `fit`; empty for a new state.

    Args:
      init: key -> state at step 0.
      key: PRNG key of the initial weights.
      mesh: devices of the state.
      checkpoints: checkpoints of this run.
      batches: its data iterator.
      start: puts the weights of earlier trainings into a new state; None for random weights.
    """
    abstract = jax.eval_shape(init, key)
    shardings = parallel.state_shardings(abstract, mesh)
    if checkpoints.latest_step() is None:
        # Random initializers are slow to compile and fast to run.
        state = jax.jit(init, out_shardings=shardings, compiler_options=_xla.quick_options())(key)
        return (state if start is None else _place_copies(start(state), shardings)), {}
    state, data_state, log_state = checkpoints.restore(abstract, shardings)
    batches.set_state(data_state)
    return state, log_state


def _place_copies(state: TrainState, shardings: TrainState) -> TrainState:
    """Returns a copy of a state on the mesh.

    Weights of earlier trainings are on one device of this process. They are copied because the first step donates the
    state, and may also read the same weights as a frozen network.
    """

    def to_mesh(leaf, sharding):
        is_local = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        return jax.device_put(np.asarray(leaf) if is_local else leaf, sharding)

    copy = jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=shardings)
    return copy(jax.tree.map(to_mesh, state, shardings))


def fit(
    state: TrainState,
    train_step: Callable[..., tuple[TrainState, Metrics]],
    batches: Batches,
    *,
    key: Array,
    mesh: jax.sharding.Mesh,
    timetable: Timetable,
    evaluate: Callable[[TrainState, int], Mapping[str, float]],
    checkpoints: Checkpoints,
    writer: Writer,
    description: Mapping[str, Any],
    title: str,
    log_state: Mapping,
    frozen: tuple,
    notices: Mapping[str, str],
    peak_flops: float | None,
    profile: Profile,
) -> TrainState:
    """Trains to the last step of the timetable, saves the last state and returns it.

    Args:
      state: at any step; donated.
      train_step: pure (state, batch, key, *frozen) -> (state, metrics).
      batches: endless iterator of this process's share of the batches.
      key: the run's PRNG key.
      mesh: devices of the batches.
      timetable: the steps, and those after which something is due.
      evaluate: (state, step) -> numbers to log.
      checkpoints: checkpoints of the run.
      writer: log of the run.
      description: what the networks are rebuilt from, saved in every checkpoint, plain JSON.
      title: in front of the progress bar.
      log_state: position of the log, of `restore_or_create`: the next line of the log covers the steps before the stop
        as well, and an evaluation that was due at the stop is done first.
      frozen: further arguments of the step, placed on the mesh.
      notices: name of a metric -> message to print whenever its mean over a line of the log is above 0.
      peak_flops: peak operations per second of all devices together; None if unknown.
      profile: profile of some steps.

    Raises:
      UserError: a metric or the state that is to be saved is not finite; names the step and the last checkpoint.
      SystemExit: after SIGTERM on any process, with the state saved; exit code 143.
    """
    step, num_steps, meter = int(state.step), timetable.num_steps, Meter(log_state.get(SUMS, {}))
    steps = _Steps(train_step, jax.eval_shape(lambda x: x, state), mesh, key, frozen)
    with contextlib.ExitStack() as stack:
        has_to_stop = stack.enter_context(distributed.preemption_guard(step))
        watch = stack.enter_context(speed.Speed(peak_flops))
        stack.enter_context(profile)
        bar = stack.enter_context(progress_bar(None, title, initial=step, total=num_steps, unit="step"))
        log = _Log(title, bar, writer, checkpoints, notices)

        def prepare_next():
            return prepare(batches, timetable.call_length(step), mesh)

        def evaluate_and_log():
            with watch.paused():
                writer.scalars(step, {f"{TEST}{name}": value for name, value in evaluate(state, step).items()})

        next_batches = prepare_next() if step < num_steps else None
        if log_state.get(EVALUATES) and step < num_steps:
            evaluate_and_log()
        while step < num_steps:
            prepared = next_batches
            profile.before(step + 1, step + prepared.num_steps)
            state, metrics = steps(state, prepared, watch)
            meter.add(metrics)
            step += prepared.num_steps
            profile.after(step, metrics)
            last = step == num_steps
            if not last:  # while the devices compute
                next_batches = prepare_next()
                watch.fed(next_batches)
            bar.update(prepared.num_steps)
            if timetable.logs(step):
                log(step, meter.flush(), watch.rates())
            evaluates, stop = timetable.evaluates(step), has_to_stop(step) and not last
            if stop or evaluates:  # only a finite state is worth saving
                check_finite(meter.means(), step, checkpoints)
            # Before an evaluation, which may take longer than the time between SIGTERM and SIGKILL.
            if stop or timetable.saves(step):
                with watch.paused():
                    writer.flush()
                    check_finite(_are_finite(state.variables), step, checkpoints)
                    checkpoints.save(
                        state,
                        data_state=prepared.position,
                        description=description,
                        log_state={SUMS: meter.state(), EVALUATES: evaluates},
                        wait=last or stop,
                    )
            if stop:
                distributed.report(f"stopped by SIGTERM at step {step}, saved; start again to resume")
                raise SystemExit(TERMINATED)
            if evaluates and not last:
                evaluate_and_log()
    return state


def make_call(train_step: Callable, abstract_state: TrainState, mesh: jax.sharding.Mesh, *, num_steps: int = 1) -> Call:
    """Returns the jitted function of (state, batch, key, *frozen) -> (state, metrics); it donates the state.

    Args:
      train_step: pure (state, batch, key, *frozen) -> (state, metrics).
      abstract_state: shapes of the state.
      mesh: devices of the state.
      num_steps: steps in one call; above 1 the batches are stacked, and so are the metrics.
    """

    def several(state: TrainState, batches: Batch, key: Array, *frozen: Any) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda state, batch: train_step(state, batch, key, *frozen), state, batches)

    shardings = (parallel.state_shardings(abstract_state, mesh), parallel.replicated(mesh))
    return jax.jit(train_step if num_steps == 1 else several, donate_argnums=0, out_shardings=shardings)


def gather_first(train_step: Callable, networks: Iterable[str], mesh: jax.sharding.Mesh) -> Callable:
    """Returns a train step that gathers split parameters once, at its start; without FSDP it is the same.

    An attack runs a network many times in a step. By default the compiler gathers the parameters each time, inside
    the attack's loop; networks of this size fit into memory as a whole during a step.

    Args:
      train_step: pure (state, batch, key, *frozen) -> (state, metrics).
      networks: names of the networks that the step runs; other copies in the state, such as averages, stay split.
      mesh: devices of the state.
    """
    networks = tuple(networks)

    def step(state: TrainState, *others: Any) -> tuple[TrainState, Metrics]:
        whole = {name: parallel.gather(state.variables[name], mesh) for name in networks}
        return train_step(state.replace(variables={**state.variables, **whole}), *others)

    return step


def abstract_arguments(
    init: Callable[[Array], TrainState],
    frozen: tuple,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    image_size: int,
    channels: int = 3,
    extra: Mapping[str, jax.ShapeDtypeStruct] = MappingProxyType({}),
    num_steps: int = 1,
) -> tuple:
    """Returns shapes and placement of a call's arguments, (state, batch, key, *frozen), to compile it without data.

    Args:
      init: key -> state at step 0.
      frozen: variables of networks that are not trained, as arrays or shapes.
      mesh: the devices.
      batch_size: size of the global batch.
      image_size: side of the images, in pixels.
      channels: channels of the images.
      extra: further arrays of the batches, of one image each.
      num_steps: steps in one call.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(init, key)
    rows, stacked = (batch_size,), num_steps > 1
    leading = (num_steps,) if stacked else ()
    split, everywhere = parallel.batch_sharding(mesh, stacked=stacked), parallel.replicated(mesh)
    example = {
        "image": jax.ShapeDtypeStruct((image_size, image_size, channels), jnp.uint8),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
        "mask": jax.ShapeDtypeStruct((), jnp.float32),
        **extra,
    }
    batch = {
        name: jax.ShapeDtypeStruct((*leading, *rows, *array.shape), array.dtype, sharding=split)
        for name, array in example.items()
    }
    state = jax.tree.map(_with_sharding, state, parallel.state_shardings(state, mesh))
    frozen = jax.tree.map(lambda leaf: _with_sharding(leaf, everywhere), frozen)
    return (state, batch, _with_sharding(key, everywhere), *frozen)


def _with_sharding(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


class _Steps:
    """Sends calls of one or several steps to the devices; each length is compiled at its first use."""

    def __init__(self, train_step, abstract_state, mesh, key, frozen):
        self._make = functools.partial(make_call, train_step, abstract_state, mesh)
        self._calls: dict[int, Call] = {}
        self._others = key, *frozen

    def __call__(self, state: TrainState, prepared: Prepared, watch: speed.Speed) -> tuple[TrainState, Metrics]:
        new = prepared.num_steps not in self._calls
        if new:
            self._calls[prepared.num_steps] = self._make(num_steps=prepared.num_steps)
        call = self._calls[prepared.num_steps]
        if watch.needs_flops:  # the call compiles the same trace
            operations = flops.operations(call.trace(state, prepared.batch, *self._others).jaxpr)
            watch.set_flops(flops.total(operations) / prepared.num_images)
        state, metrics = call(state, prepared.batch, *self._others)
        watch.step(prepared, metrics)
        if new:  # compilation time does not count
            with watch.paused():
                watch.restart()
        return state, metrics


class Meter:
    """Sums of metrics on the devices, which the host waits for only when it reads them.

    Args:
      state: sums to start from, as `Meter.state` returned them.
    """

    def __init__(self, state: Mapping[str, tuple[float, float]] = MappingProxyType({})):
        self._resumed = dict(state)
        self._sums: tuple[Metrics, ...] = ()  # none yet, or one
        self._add = jax.jit(_add_in_order)

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one call."""
        if self._resumed:
            self._sums = ({name: self._resumed_sums(name, metric) for name, metric in metrics.items()},)
            self._resumed = {}
        self._sums = (self._add(dict(metrics), *self._sums),)

    def _resumed_sums(self, name: str, metric: tuple[Array, Array]) -> tuple[np.ndarray, ...]:
        pairs = zip(self._resumed.get(name, (0, 0)), metric, strict=True)
        return tuple(np.asarray(value, sums.dtype) for value, sums in pairs)

    def means(self) -> dict[str, float]:
        """Returns the means since the last flush, by name, without metrics of count 0."""
        return {name: total / count for name, (total, count) in self.state().items() if count > 0}

    def flush(self) -> dict[str, float]:
        """Returns `means` and starts again from zero."""
        means, self._sums, self._resumed = self.means(), (), {}
        return means

    def state(self) -> dict[str, tuple[float, float]]:
        """Returns sum and count of each metric since the last flush, plain JSON that is exact."""
        if not self._sums:
            return self._resumed
        sums = parallel.to_host(self._sums[0])
        return {name: (float(total), float(count)) for name, (total, count) in sums.items()}


def _add_in_order(metrics: Metrics, *sums: Metrics) -> Metrics:
    """Adds step by step, so that the bits do not depend on the number of steps in a call."""

    def add(values: Array, *total: Array) -> Array:
        for value in jnp.atleast_1d(values):
            total = (total[0] + value,) if total else (value,)
        return total[0]

    return jax.tree.map(add, metrics, *sums)


class _Log:
    """Reports metrics and speed in the log and the progress bar, and notices on stderr."""

    def __init__(self, title: str, bar: Any, writer: Writer, checkpoints: Checkpoints, notices: Mapping[str, str]):
        self._title, self._bar, self._writer, self._checkpoints = title, bar, writer, checkpoints
        self._notices = notices
        self._has_reported_memory, self._slow_lines, self._last_psnr = False, 0, 0.0

    def __call__(self, step: int, values: Mapping[str, float], rates: Mapping[str, float]) -> None:
        check_finite(values, step, self._checkpoints)
        memory = speed.device_memory()
        metrics = {f"train/{name}": value for name, value in values.items()}
        self._writer.scalars(step, metrics | {f"speed/{name}": value for name, value in {**rates, **memory}.items()})
        self._bar.set_postfix_str(", ".join(filter(None, [_show(values), speed.show(rates)])), refresh=False)
        for name, text in self._notices.items():
            if values.get(name, 0) > 0:
                self._report(f"step {step}: {text}")
        if memory and not self._has_reported_memory:
            self._has_reported_memory = True
            self._report(f"at most {speed.show_memory(memory)} in use on each device")
        self._report_slow_input(step, rates.get("waiting_for_input", 0.0))
        self._report_divergence(step, values.get("psnr", 0.0))

    def _report_divergence(self, step: int, psnr: float) -> None:
        """Reports that PSNR fell below 0 dB, where images differ by more than their range."""
        if psnr < 0 < self._last_psnr:
            self._report(
                f"step {step}: psnr fell to {psnr:.4g} dB: outputs differ from the images by more than their range, so "
                "the training diverges; start a new run with a lower optimizer.*.schedule.learning_rate"
            )
        self._last_psnr = psnr

    def _report_slow_input(self, step: int, share: float) -> None:
        """Reports once that the devices of process 0 have waited for input for much of the last lines of the log."""
        if self._slow_lines < _SLOW_LINES:
            self._slow_lines = self._slow_lines + 1 if share > _SLOW_INPUT else 0
            if self._slow_lines == _SLOW_LINES:
                self._report(
                    f"step {step}: the input is the bottleneck: the devices wait for it {share:.0%} of the time. What "
                    "helps: more workers (data.num_workers), smaller images (arinv resize), fewer px (data.image_size)"
                )

    def _report(self, text: str) -> None:
        distributed.report(f"\n{self._title}, {text}")


@jax.jit
def _sums(variables: Mapping[str, Any]) -> Mapping[str, Array]:
    """Returns 0 for each network whose weights are finite, and NaN for others."""

    def total(network):
        leaves = [x for x in jax.tree.leaves(network) if jnp.issubdtype(x.dtype, jnp.inexact)]
        return sum((jnp.sum(jnp.where(jnp.isfinite(x), 0.0, jnp.nan)) for x in leaves), jnp.zeros(()))

    return {name: total(network) for name, network in variables.items()}


def _are_finite(variables: Mapping[str, Any]) -> dict[str, float]:
    sums = parallel.to_host(_sums(dict(variables)))
    return {f"the weights of the {name}": float(value) for name, value in sums.items()}


def check_finite(values: Mapping[str, float], step: int, checkpoints: Checkpoints) -> None:
    """Checks metrics of a step.

    Args:
      values: by name.
      step: after which they were measured.
      checkpoints: checkpoints of the run.

    Raises:
      UserError: one is not finite; names the step and the last checkpoint.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        good = checkpoints.latest_step()
        where = f"the last checkpoint is step {good}" if good is not None else "no checkpoint was saved yet"
        raise UserError(
            f"{', '.join(bad)} became non-finite at step {step} or shortly before; {where} in "
            f"{checkpoints.directory}. Lower the learning rate or clip gradients (optimizer.max_gradient_norm)"
        )


def _show(values: Mapping[str, float]) -> str:
    names = [name for name in ("loss", "accuracy", "psnr") if name in values]
    return ", ".join(f"{name} {values[name]:.4g}" for name in names)
