"""Batches on the devices: prepared ahead for training, and collected results of an evaluation."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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


def collect(
    eval_step: EvalStep,
    batches: Iterable[Batch],
    *,
    key: Array,
    mesh: jax.sharding.Mesh,
    num_images: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
    first: int = 0,
    accumulate: Callable[[Mapping[str, Any], Array], Mapping[str, Any]] = lambda results, mask: results,
    keep: Callable[[Mapping[str, np.ndarray]], Any] = lambda rows: None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the results of every example, and the images of the first few.

    Args:
      eval_step: jitted; called with a separate key for each batch.
      batches: masked batches; uint8 or float32 images.
      key: PRNG key of the evaluation.
      mesh: devices of the batches.
      num_images: number of image results, and of input images, to return.
      progress: wraps the batches, such as in a progress bar.
      first: number of the first batch, whose key follows from it; those before it have been evaluated earlier.
      accumulate: (results, mask) of each batch, in order -> results without those that belong to the whole set.
      keep: called after that with the numbers {name: [n]} of each batch's n real examples.

    Returns:
      ({name: [N]}, {name: [num_images, H, W, C]}) with N the number of real examples, in order; the second has an
      entry "image" with the input images.
    """
    numbers: dict[str, list] = {}
    first_images: dict[str, list] = {}
    missing = num_images

    def store(placed: Batch, results: dict[str, Array]) -> None:
        nonlocal missing
        results = dict(accumulate(results, placed["mask"]))
        images = {name: results.pop(name) for name in list(results) if results[name].ndim > 1}
        mask, results = parallel.to_host((placed["mask"], results))
        rows = {name: np.asarray(values)[mask > 0] for name, values in results.items()}
        for name, values in rows.items():
            numbers.setdefault(name, []).append(values)
        keep(rows)
        if missing > 0:
            for name, values in parallel.to_host({**images, "image": placed["image"]}).items():
                first_images.setdefault(name, []).append(np.asarray(values)[mask > 0][:missing])
            missing -= int(np.sum(mask > 0))

    previous = None
    for i, batch in enumerate(progress(batches), start=first):
        placed = parallel.place_batch(batch, mesh)
        current = placed, dict(eval_step(placed, jax.random.fold_in(key, i)))
        if previous:  # one batch late, so that the devices compute while the host reads the next
            store(*previous)
        previous = current
    if previous:
        store(*previous)
    return (
        {name: np.concatenate(parts) for name, parts in numbers.items()},
        {name: np.concatenate(parts) for name, parts in first_images.items()},
    )
