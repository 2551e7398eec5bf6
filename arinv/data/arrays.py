"""Small data sets decoded once and kept in memory as uint8."""

import os
from collections.abc import Callable
from concurrent import futures

import numpy as np

from arinv.data.source import Source, read_examples

Arrays = dict[str, np.ndarray]
_BLOCK = 64  # examples a task: enough to make handing out the tasks cheap


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

    def decode(start: int) -> int:
        stop = min(start + _BLOCK, total)
        for i, example in enumerate(read_examples(source, range(start, stop)), start):
            image[i], label[i] = example["image"], example["label"]
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
    return {"image": image, "label": label}
