"""Batches on the devices: prepared ahead for training, and with their results in an evaluation."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from arinv import parallel
from arinv.types import Array, Batch


class Batches(Protocol):
    """An endless iterator of batches with a position that can be saved."""

    steps_per_epoch: int

    def __next__(self) -> Batch:
        """Returns the next batch."""

    def get_state(self) -> Mapping:
        """Returns the position, plain JSON."""

    def set_state(self, state: Mapping) -> None:
        """Sets the position."""


class Prepared(NamedTuple):
    """Batches of one call, on the devices.

    Attributes:
      batch: on the devices; several batches are stacked on a leading axis.
      num_steps: number of batches.
      num_images: number of images of all processes together.
      position: position of the iterator after these batches.
      began: time before the first batch was read, in seconds.
      ended: time after the transfer to the devices was started, in seconds.
    """

    batch: Mapping[str, jax.Array]
    num_steps: int
    num_images: int
    position: Mapping[str, Any]
    began: float
    ended: float


def prepare(batches: Iterator[Batch], num_steps: int, mesh: jax.sharding.Mesh) -> Prepared:
    """Reads this process's share of the next batches and starts its transfer to the devices.

    Args:
      batches: batches of type Batches.
      num_steps: number of batches.
      mesh: the devices.
    """
    began = time.perf_counter()
    if num_steps == 1:
        placed = parallel.place_batch(next(batches), mesh)
    else:
        parts = [next(batches) for _ in range(num_steps)]
        stacked = {name: np.stack([batch[name] for batch in parts]) for name in parts[0]}
        placed = parallel.place_batch(stacked, mesh, stacked=True)
    ended = time.perf_counter()
    return Prepared(placed, num_steps, placed["label"].size, batches.get_state(), began, ended)


# (batch, key) -> {name: [B] numbers or [B, H, W, C] images}
EvalStep = Callable[[Batch, Array], Mapping[str, Array]]


def evaluate_batches(
    eval_step: EvalStep, batches: Iterable[Batch], *, key: Array, mesh: jax.sharding.Mesh, first: int = 0
) -> Iterator[tuple[Batch, Mapping[str, Array]]]:
    """Yields every batch, on the devices, with its results.

    A batch comes when the next one is on its way, so that the devices compute while the host reads.

    Args:
      eval_step: jitted; called with a separate key for each batch.
      batches: masked batches; uint8 or float32 images.
      key: PRNG key of the evaluation.
      mesh: devices of the batches.
      first: number of the first batch, whose key follows from it; those before it have been evaluated earlier.
    """
    previous = None
    for i, batch in enumerate(batches, start=first):
        placed = parallel.place_batch(batch, mesh)
        current = placed, eval_step(placed, jax.random.fold_in(key, i))
        if previous:
            yield previous
        previous = current
    if previous:
        yield previous


def numbers_of(batch: Batch, results: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Returns the numbers [n] among the results of a batch, of its n real examples."""
    return _real_rows(batch, {name: values for name, values in results.items() if values.ndim == 1})


def _real_rows(batch: Batch, arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Returns arrays [B, ...] of a batch on the host, without the rows of padding."""
    mask, arrays = parallel.to_host((batch["mask"], arrays))
    return {name: np.asarray(values)[mask > 0] for name, values in arrays.items()}


def concatenate(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns arrays by name, one part behind the other; empty without parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


class FirstImages:
    """The first images of an evaluation, as "image", and the images among their results.

    Args:
      count: number of images to keep.
    """

    def __init__(self, count: int):
        self._missing, self._parts = count, []

    def add(self, batch: Batch, results: Mapping[str, Array]) -> None:
        """Keeps the images of the next batch, until there are enough."""
        if self._missing > 0:
            # Results may also have lists, of the features that metrics of a set accumulate.
            images = {name: values for name, values in results.items() if getattr(values, "ndim", 0) > 1}
            rows = _real_rows(batch, {**images, "image": batch["image"]})
            self._parts.append({name: values[: self._missing] for name, values in rows.items()})
            self._missing -= len(rows["image"])

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the images [n, H, W, C] by name."""
        return concatenate(self._parts)
