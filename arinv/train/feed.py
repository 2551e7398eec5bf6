"""Batches placed on the devices while the step before them runs."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from arinv import parallel
from arinv.types import Array, Batch


class Batches(Protocol):
    """An endless iterator of batches that knows its position."""

    steps_per_epoch: int

    def __next__(self) -> Batch:
        """Returns the next batch."""

    def get_state(self) -> Mapping:
        """Returns the position, plain JSON."""

    def set_state(self, state: Mapping) -> None:
        """Goes to a position."""


class Prepared(NamedTuple):
    """Batches of one call, on the devices.

    Attributes:
      batch: placed; several are stacked on a leading axis.
      num_steps: how many.
      num_images: of all processes together.
      position: of the iterator behind them.
      began: seconds, when the first was asked for.
      ended: when they were placed, or on their way to the devices.
    """

    batch: Mapping[str, jax.Array]
    num_steps: int
    num_images: int
    position: Mapping[str, Any]
    began: float
    ended: float


def prepare(batches: Iterator[Batch], num_steps: int, mesh: jax.sharding.Mesh) -> Prepared:
    """Takes this process's share of the next batches and sends it to the devices.

    Args:
      batches: of type Batches.
      num_steps: of the call they are for.
      mesh: where they go.
    """
    began = time.perf_counter()
    if num_steps == 1:
        placed = parallel.place_batch(next(batches), mesh)
    else:
        taken = [next(batches) for _ in range(num_steps)]
        stacked = {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}
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
    num_pictures: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the results of every example, and the images of the first few.

    Args:
      eval_step: jitted; called with a key of its own for each batch.
      batches: masked batches; uint8 or float32 images.
      key: PRNG key of the pass.
      mesh: where batches are placed.
      num_pictures: how many rows of the image results, and of the images themselves, to keep.
      progress: wraps the batches, to show how far the pass is.

    Returns:
      ({name: [N]}, {name: [num_pictures, H, W, C]}) with N the number of real examples, in order; the
      pictures have an "image" entry with the images as they came.
    """
    numbers: dict[str, list] = {}
    pictures: dict[str, list] = {}
    missing = num_pictures
    for i, batch in enumerate(progress(batches)):
        placed = parallel.place_batch(batch, mesh)
        results = dict(eval_step(placed, jax.random.fold_in(key, i)))
        images = {name: results.pop(name) for name in list(results) if results[name].ndim > 1}
        mask, results = parallel.to_host((placed["mask"], results))
        for name, values in results.items():
            numbers.setdefault(name, []).append(np.asarray(values)[mask > 0])
        if missing > 0:
            for name, values in parallel.to_host({**images, "image": placed["image"]}).items():
                pictures.setdefault(name, []).append(np.asarray(values)[mask > 0][:missing])
            missing -= int(np.sum(mask > 0))
    return (
        {name: np.concatenate(parts) for name, parts in numbers.items()},
        {name: np.concatenate(parts) for name, parts in pictures.items()},
    )
