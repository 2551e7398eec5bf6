"""Small data sets decoded once and kept in memory as uint8."""

import os
from collections.abc import Callable
from concurrent import futures

import numpy as np

from arinv.data.source import Source, read_examples

Arrays = dict[str, np.ndarray]
_BLOCK = 64  # examples a task: enough to make handing out the tasks cheap


class Originals:
    """The examples of a source in memory, images in the sizes in which they are stored."""

    def __init__(self, source: Source, *, progress: Callable[[int, int], None] | None = None):
        """Decodes all examples by a pool of threads; arguments as of `load_arrays`."""
        self.info, self.num_skipped = source.info, source.num_skipped
        self._examples: list[dict] = [{} for _ in range(len(source))]
        _decode_blocks(source, self._examples.__setitem__, progress)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict:
        return self._examples[index]

    def read_labels(self) -> np.ndarray:
        """Returns all labels, int32 [N]."""
        return np.array([example["label"] for example in self._examples], np.int32)


def estimate_bytes(source: Source, *, num_samples: int = 32) -> int:
    """Returns about how many bytes the images of a source take in memory, from some that are spread evenly."""
    count = min(num_samples, len(source))
    samples = read_examples(source, [i * len(source) // count for i in range(count)])
    return round(len(source) * sum(example["image"].nbytes for example in samples) / count)


def load_arrays(source: Source, *, progress: Callable[[int, int], None] | None = None) -> Arrays:
    """Returns all examples of a source, decoded by a pool of threads.

    Args:
      source: what `open_source` returned; all of it must fit into memory (N * S * S * 3 bytes).
      progress: called with (examples done, number of examples) as the work goes on.

    Returns:
      {"image": uint8 [N, S, S, 3], "label": int32 [N]}, in the order of the source.

    Raises:
      UserError: an image that cannot be decoded.
    """
    total, size = len(source), source.info.image_size
    image = np.empty((total, size, size, 3), np.uint8)
    label = np.empty(total, np.int32)

    def keep(i: int, example: dict) -> None:
        image[i], label[i] = example["image"], example["label"]

    _decode_blocks(source, keep, progress)
    return {"image": image, "label": label}


def _decode_blocks(source: Source, keep: Callable[[int, dict], None], progress) -> None:
    """Calls keep(i, example) for each example, from several threads."""
    total = len(source)

    def decode(start: int) -> int:
        stop = min(start + _BLOCK, total)
        for i, example in enumerate(read_examples(source, range(start, stop)), start):
            keep(i, example)
        return stop - start

    pool = futures.ThreadPoolExecutor(os.cpu_count())
    try:
        done = 0
        for task in futures.as_completed([pool.submit(decode, i) for i in range(0, total, _BLOCK)]):
            done += task.result()
            if progress:
                progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)
