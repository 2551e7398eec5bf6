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
    """Which examples belong to a step of this process."""

    share: int

    def indices(self, step: int, rows: slice = slice(None)) -> np.ndarray:
        """Returns the example numbers of `step`, [share], or some of them."""
        ...


class _Examples:
    """The examples in the order of training, from one step on."""

    def __init__(self, source: Source, order: Order, first_step: int):
        self._source, self._order, self._first_step = source, order, first_step

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> dict[str, Any]:
        step, row = divmod(position, self._order.share)
        (index,) = self._order.indices(self._first_step + step, slice(row, row + 1))
        example = self._source[int(index)]
        return {
            "image": example["image"],
            "label": np.int32(example["label"]),
            "mask": np.float32(1.0),
        }

    def __repr__(self) -> str:
        return f"_Examples({self._source.info})"


def stream_examples(source: Source, order: Order, num_workers: int, first_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns the batches from `first_step` on.

    Args:
      source: random access to the examples; pickled where there are worker processes.
      order: which example comes when.
      num_workers: processes that decode; 0: threads of this process.
      first_step: number of the first batch.

    Returns:
      Endless iterator over {"image": uint8 [b, S, S, 3], "label": int32 [b], "mask": float32 [b]}.
    """
    from absl import flags
    from grain import python as grain

    share = order.share
    examples = grain.MapDataset.source(_Examples(source, order, first_step))
    if num_workers == 0:
        options = grain.ReadOptions(num_threads=min(32, 2 * (os.cpu_count() or 1)), prefetch_buffer_size=4 * share)
        return iter(examples.to_iter_dataset(options).batch(share, drop_remainder=True))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags
    # Whole batches as elements: the workers take turns, so the order stays what it is without them.
    batches = examples.batch(share, drop_remainder=True)
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
