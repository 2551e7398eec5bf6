"""The processor cores that decode images, and how many processes use them."""

import numbers
import os

from arinv.errors import UserError

BY_CORES = -1  # num_workers
# Cores that the threads of one process keep busy. Decoding an ImageNet photograph takes 2.6 ms of a core, and 0.2 ms
# more of Python, which one thread at a time executes, so that one process reads at most 4,600 images a second.
_THREADED = 12


def num_cores() -> int:
    """Returns the number of cores that this process may use: fewer than the host's where a scheduler binds it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_workers(num_workers: int, cores: int) -> int:
    """Returns the number of worker processes that decode images; 0 if threads of this process do.

    Args:
      num_workers: number of workers; -1 for 0 on up to 12 cores and, on more, one worker of two threads per two cores.
      cores: number of cores, from `num_cores`.

    Returns:
      The number, 0 or more.

    Raises:
      UserError: num_workers that is not a whole number of -1 or more.
    """
    if not isinstance(num_workers, numbers.Integral) or num_workers < BY_CORES:
        raise UserError(f"num_workers must be -1 (by the number of cores), 0 (threads) or more; got {num_workers!r}")
    if num_workers != BY_CORES:
        return num_workers
    return 0 if cores <= _THREADED else cores // 2
