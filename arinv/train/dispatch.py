"""Training steps as they go to the devices: compiled once, the state updated in place, several steps in one call.

A call of several steps takes their batches stacked on a leading axis and gives the bits that single steps give; it
saves the host's time between them, which counts where a step is short.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from arinv import parallel
from arinv.train.state import TrainState
from arinv.types import Array, Batch, Metrics

# (state, batch or stacked batches, key, *frozen) -> (state, metrics, those of several steps stacked)
Call = Callable[..., tuple[TrainState, Metrics]]


def gather_first(train_step: Callable, networks: Iterable[str], mesh: jax.sharding.Mesh) -> Callable:
    """Returns a train step that gathers split parameters once, at its beginning; without FSDP it is the same.

    The attack runs a network many times in a step. Left to itself the compiler gathers the parameters at each of
    these, inside the attack's loop; networks of this size have room for one whole copy while a step lasts.

    Args:
      train_step: pure (state, batch, key, *frozen) -> (state, metrics).
      networks: names of those in the state that the step runs; copies beside them, such as averages, stay split.
      mesh: where the state lives.
    """
    networks = tuple(networks)

    def step(state: TrainState, *others: Any) -> tuple[TrainState, Metrics]:
        whole = {name: parallel.gather(state.variables[name], mesh) for name in networks}
        return train_step(state.replace(variables={**state.variables, **whole}), *others)

    return step


def make_call(train_step: Callable, abstract_state: TrainState, mesh: jax.sharding.Mesh, *, num_steps: int = 1) -> Call:
    """Returns the jitted function of (state, batch, key, *frozen) -> (state, metrics); it donates the state.

    Args:
      train_step: pure (state, batch, key, *frozen) -> (state, metrics).
      abstract_state: shapes of the state.
      mesh: where the state lives.
      num_steps: steps of one call; above 1 the batches are stacked, and so are the metrics.
    """

    def several(state: TrainState, batches: Batch, key: Array, *frozen: Any) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda state, batch: train_step(state, batch, key, *frozen), state, batches)

    shardings = (parallel.state_shardings(abstract_state, mesh), parallel.replicated(mesh))
    return jax.jit(train_step if num_steps == 1 else several, donate_argnums=0, out_shardings=shardings)


def abstract_arguments(
    init: Callable[[Array], TrainState],
    frozen: tuple,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    image_size: int,
    num_steps: int = 1,
) -> tuple:
    """Returns shapes and placement of what a call takes: (state, batch, key, *frozen), to compile it without data.

    Args:
      init: key -> state at step 0.
      frozen: variables of networks that are not trained, as arrays or shapes.
      mesh: the devices.
      batch_size: of the global batch.
      image_size: side of the images, in pixels.
      num_steps: of one call.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(init, key)
    rows, stacked = (batch_size,), num_steps > 1
    leading = (num_steps,) if stacked else ()
    split, everywhere = parallel.batch_sharding(mesh, stacked=stacked), parallel.replicated(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((*leading, *rows, image_size, image_size, 3), jnp.uint8, sharding=split),
        "label": jax.ShapeDtypeStruct((*leading, *rows), jnp.int32, sharding=split),
        "mask": jax.ShapeDtypeStruct((*leading, *rows), jnp.float32, sharding=split),
    }
    state = jax.tree.map(_placed, state, parallel.state_shardings(state, mesh))
    frozen = jax.tree.map(lambda leaf: _placed(leaf, everywhere), frozen)
    return (state, batch, _placed(key, everywhere), *frozen)


def _placed(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def call_length(step: int, *, num_steps: int, steps_per_call: int, every_steps: tuple[int, ...]) -> int:
    """Returns how many steps the next call takes: as many as asked for, or one by one up to where something is due.

    Args:
      step: steps taken so far.
      num_steps: of the run.
      steps_per_call: asked for.
      every_steps: intervals after which the host wants the state or the metrics.
    """
    due = min([num_steps - step, *(interval - step % interval for interval in every_steps)])
    return steps_per_call if due >= steps_per_call else 1


class Meter:
    """Adds up metrics on the device, to wait for them only when they are read."""

    def __init__(self):
        self._sums: tuple[Metrics, ...] = ()  # none yet, or one
        self._add = jax.jit(_add_in_order)

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of one call."""
        self._sums = (self._add(dict(metrics), *self._sums),)

    def flush(self) -> dict[str, float]:
        """Returns the means since the last flush, by name, without those that were not counted."""
        sums, self._sums = parallel.to_host(self._sums[0]) if self._sums else {}, ()
        return {name: float(total) / float(count) for name, (total, count) in sums.items() if count > 0}


def _add_in_order(metrics: Metrics, *sums: Metrics) -> Metrics:
    """Adds step by step, so that the bits do not depend on how many steps a call takes."""

    def add(values: Array, *total: Array) -> Array:
        for value in jnp.atleast_1d(values):
            total = (total[0] + value,) if total else (value,)
        return total[0]

    return jax.tree.map(add, metrics, *sums)
