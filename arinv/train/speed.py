"""How fast a training runs: images in a second, use of the devices, time lost waiting for input, memory.

Evaluations, checkpoints and compilation are not counted. A device waits for input from the end of its last step until
the next batch has been sent, as far as this is while the host was busy with that batch.
"""

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax

from arinv.errors import UserError
from arinv.train.feed import Prepared


class Speed:
    """A stopwatch for the steps between two lines of the log; a context manager that ends its thread.

    Args:
      peak_flops: operations in a second of all devices together; None where nobody knows.
      clock: seconds.
    """

    def __init__(self, peak_flops: float | None = None, *, clock: Callable[[], float] = time.perf_counter):
        self._peak = peak_flops
        self._clock = clock
        self._flops_per_image: float | None = None
        self._watcher = futures.ThreadPoolExecutor(1, "end-of-steps")
        self._ends: list[futures.Future] = []
        self.restart()

    @property
    def wants_flops(self) -> bool:
        """Whether the use of the devices could be told, once the operations of a step are known."""
        return self._peak is not None and self._flops_per_image is None

    def set_flops(self, flops_per_image: float) -> None:
        """Takes the operations that training does for one image, its attack included."""
        self._flops_per_image = flops_per_image

    def restart(self) -> None:
        """Forgets what was counted, and begins anew."""
        self._images, self._waited, self._elapsed, self._since = 0, 0.0, 0.0, self._clock()

    def step(self, prepared: Prepared, results: Any) -> None:
        """Counts a call that has just been sent off, and waits until the call before it has ended.

        So the devices always have the next call in hand, and the host is never more than that ahead of them.

        Args:
          prepared: the call's batches.
          results: arrays that it will return, not donated to another call.
        """
        if self._ends:
            self._ends[-1].result()
        self._ends = [self._watcher.submit(self._end_of, results)]
        self._images += prepared.num_images

    def fed(self, prepared: Prepared) -> None:
        """Counts for how long the devices had nothing to do while batches were prepared for them."""
        if self._ends and self._ends[-1].done():
            self._waited += max(0.0, prepared.ended - max(prepared.began, self._ends[-1].result()))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the watch for what is not training, once the steps sent off have ended."""
        if self._ends:
            self._ends[-1].result()
        self._elapsed += self._clock() - self._since
        yield
        self._since = self._clock()

    def rates(self) -> dict[str, float]:
        """Returns "images_per_second", "waiting_for_input" (0 to 1), "mfu" where it is known, and restarts."""
        seconds = self._elapsed + self._clock() - self._since
        images, waited = self._images, self._waited
        self.restart()
        if not images or seconds <= 0:
            return {}
        found = {"images_per_second": images / seconds, "waiting_for_input": min(1.0, waited / seconds)}
        if self._peak and self._flops_per_image:
            found["mfu"] = self._flops_per_image * images / seconds / self._peak
        return found

    def _end_of(self, results: Any) -> float:
        jax.block_until_ready(results)
        return self._clock()

    def __enter__(self) -> "Speed":
        return self

    def __exit__(self, *_: Any) -> None:
        self._watcher.shutdown()


def device_memory() -> dict[str, float]:
    """Returns "peak_memory_bytes" and "memory_limit_bytes" of the fullest device here; empty where none is told."""
    found = {}
    for stats in (device.memory_stats() or {} for device in jax.local_devices()):
        if "peak_bytes_in_use" not in stats:
            continue
        for name, key in (("peak_memory_bytes", "peak_bytes_in_use"), ("memory_limit_bytes", "bytes_limit")):
            if key in stats:
                found[name] = max(found.get(name, 0.0), float(stats[key]))
    return found


def show_memory(found: Mapping[str, float]) -> str:
    """Returns what device_memory found in a few words."""
    limit = found.get("memory_limit_bytes")
    return f"{found['peak_memory_bytes'] / 2**30:.2f} GiB" + (f" of {limit / 2**30:.2f} GiB" if limit else "")


def show(rates: Mapping[str, float]) -> str:
    """Returns the rates in a few words."""
    forms = {"images_per_second": "{:,.0f} images/s", "mfu": "{:.0%} MFU", "waiting_for_input": "{:.1%} waiting"}
    return ", ".join(form.format(rates[name]) for name, form in forms.items() if name in rates)


class Profile:
    """Records the steps `first` to `last` of a run in `directory`; a context manager that ends what was begun.

    Args:
      directory: where the trace goes.
      steps: (first, last), counted from 1; empty for none.

    Raises:
      UserError: another pair.
    """

    def __init__(self, directory: pathlib.Path, steps: tuple[int, ...]):
        self._first, self._last = check_steps(steps) or (0, 0)
        self._directory = directory
        self._running = False

    def before(self, step: int) -> None:
        """Begins the recording if `step`, which is about to be sent off, belongs to it."""
        if not self._running and self._first <= step <= self._last:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Ends the recording if `step`, which returns `results`, is the last of it."""
        if self._running and step >= self._last:
            jax.block_until_ready(results)
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._running = False
        if jax.process_index() == 0:
            print(f"\nprofile of the steps up to {self._last}: {self._directory}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._running:
            self._end()


def check_steps(steps: tuple[int, ...]) -> tuple[int, int] | None:
    """Returns the first and the last step to record, None for no recording.

    Raises:
      UserError: neither empty nor two whole numbers in order.
    """
    if not steps:
        return None
    if len(steps) != 2 or not all(isinstance(step, int) for step in steps) or not 1 <= steps[0] <= steps[1]:
        raise UserError(f"log.profile_steps must be empty or (first, last) such as (10, 13); got {tuple(steps)}")
    return steps[0], steps[1]
