"""Training batches of sets too large for memory, decoded ahead of time by Grain.

Grain fetches, with threads or processes; which example comes when is decided by the order it is
given, so that a streamed run sees the batches that a run in memory would see.
"""

import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from arinv.data.source import Source

_ENDLESS = 1 << 40  # Grain wants a length; nobody trains that long


class Order(Protocol):
    """How many examples of a batch are this process's."""

    share: int


class Examples(Protocol):
    """The examples of training batches: source, order, and how each is read."""

    source: Source
    order: Order

    def read(self, step: int, row: int) -> dict[str, Any]:
        """Returns an example of a batch: `row` counts among those of this process."""
        ...


class _Positions:
    """The examples in the order of training, numbered from one step on."""

    def __init__(self, examples: Examples, first_step: int):
        self._examples, self._first_step = examples, first_step

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> dict[str, Any]:
        step, row = divmod(position, self._examples.order.share)
        example = self._examples.read(self._first_step + step, row)
        return {
            "image": example["image"],
            "label": np.int32(example["label"]),
            "mask": np.float32(1.0),
        }

    def __repr__(self) -> str:
        return f"_Positions({self._examples.source.info})"


def stream_examples(examples: Examples, num_workers: int, first_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns the batches from `first_step` on.

    Args:
      examples: which example comes when, and how it is read; pickled where there are worker processes.
      num_workers: processes that decode; 0: threads of this process.
      first_step: number of the first batch.

    Returns:
      Endless iterator over {"image": uint8 [b, S, S, 3], "label": int32 [b], "mask": float32 [b]}.
    """
    from absl import flags
    from grain import python as grain

    share = examples.order.share
    positions = grain.MapDataset.source(_Positions(examples, first_step))
    if num_workers == 0:
        options = grain.ReadOptions(num_threads=min(32, 2 * (os.cpu_count() or 1)), prefetch_buffer_size=4 * share)
        return iter(positions.to_iter_dataset(options).batch(share, drop_remainder=True))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags
    # Whole batches as elements: the workers take turns, so the order stays what it is without them.
    batches = positions.batch(share, drop_remainder=True)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
    return _own_copies(iter(batches.to_iter_dataset(options).mp_prefetch(workers)))


def _own_copies(batches) -> Iterator[dict[str, np.ndarray]]:
    """Copies batches out of the memory shared with the workers, which could not outlive them."""
    try:
        for batch in batches:
            yield {name: np.array(values) for name, values in batch.items()}
    finally:
        batches.close()
