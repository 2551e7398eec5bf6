"""Batches placed on the devices while the step before them runs."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from arinv import parallel
from arinv.types import Batch


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
