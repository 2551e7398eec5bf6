"""Speed of a training: images per second, model FLOPs utilization (MFU), time waiting for input, memory, profiles.

Evaluations, checkpoints and compilation are not counted. The devices wait for input from the end of their last step
until the next batch has been sent, as far as the host was busy with that batch.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax

from arinv import distributed
from arinv.errors import UserError
from arinv.train.feed import Prepared


class Speed:
    """Stopwatch of the steps between two lines of the log; a context manager that ends its thread.

    Args:
      peak_flops: peak operations per second of all devices together; None if unknown.
      clock: returns the time in seconds.
    """

    def __init__(self, peak_flops: float | None = None, *, clock: Callable[[], float] = time.perf_counter):
        self._peak = peak_flops
        self._clock = clock
        self._flops_per_image: float | None = None
        self._watcher = futures.ThreadPoolExecutor(1, "end-of-steps")
        self._ends: list[futures.Future] = []
        self.restart()

    @property
    def needs_flops(self) -> bool:
        """Whether `set_flops` is needed to compute the MFU."""
        return self._peak is not None and self._flops_per_image is None

    def set_flops(self, flops_per_image: float) -> None:
        """Sets the operations of training on one image, the attack included."""
        self._flops_per_image = flops_per_image

    def restart(self) -> None:
        """Resets all counts."""
        self._images, self._waited, self._elapsed, self._since = 0, 0.0, 0.0, self._clock()

    def step(self, prepared: Prepared, results: Any) -> None:
        """Counts a call that has just been dispatched, and waits until the previous call has ended.

        So the next call is always queued on the devices, and the host is at most one call ahead.

        Args:
          prepared: the call's batches.
          results: arrays that the call returns, not donated to another call.
        """
        if self._ends:
            self._ends[-1].result()
        self._ends = [self._watcher.submit(self._end_of, results)]
        self._images += prepared.num_images

    def fed(self, prepared: Prepared) -> None:
        """Counts the time in which the devices were idle while batches were prepared."""
        if self._ends and self._ends[-1].done():
            self._waited += max(0.0, prepared.ended - max(prepared.began, self._ends[-1].result()))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pauses for what is not training, once the dispatched steps have ended."""
        if self._ends:
            self._ends[-1].result()
        self._elapsed += self._clock() - self._since
        yield
        self._since = self._clock()

    def rates(self) -> dict[str, float]:
        """Returns "images_per_second", "waiting_for_input" (0 to 1) and, where computable, "mfu"; then restarts."""
        seconds = self._elapsed + self._clock() - self._since
        images, waited = self._images, self._waited
        self.restart()
        if not images or seconds <= 0:
            return {}
        rates = {"images_per_second": images / seconds, "waiting_for_input": min(1.0, waited / seconds)}
        if self._peak and self._flops_per_image:
            rates["mfu"] = self._flops_per_image * images / seconds / self._peak
        return rates

    def _end_of(self, results: Any) -> float:
        jax.block_until_ready(results)
        return self._clock()

    def __enter__(self) -> "Speed":
        return self

    def __exit__(self, *_: Any) -> None:
        self._watcher.shutdown()


def device_memory() -> dict[str, float]:
    """Returns "peak_memory_bytes" and "memory_limit_bytes" of the fullest local device; empty where not available."""
    memory = {}
    for stats in (device.memory_stats() or {} for device in jax.local_devices()):
        if "peak_bytes_in_use" not in stats:
            continue
        for name, key in (("peak_memory_bytes", "peak_bytes_in_use"), ("memory_limit_bytes", "bytes_limit")):
            if key in stats:
                memory[name] = max(memory.get(name, 0.0), float(stats[key]))
    return memory


def show_memory(memory: Mapping[str, float]) -> str:
    """Returns a text on the result of `device_memory`."""
    limit = memory.get("memory_limit_bytes")
    return f"{memory['peak_memory_bytes'] / 2**30:.2f} GiB" + (f" of {limit / 2**30:.2f} GiB" if limit else "")


def show(rates: Mapping[str, float]) -> str:
    """Returns a text on the result of `Speed.rates`."""
    forms = {"images_per_second": "{:,.0f} images/s", "mfu": "{:.0%} MFU", "waiting_for_input": "{:.1%} waiting"}
    return ", ".join(form.format(rates[name]) for name, form in forms.items() if name in rates)


class Profile:
    """Profile of the steps `first` to `last` of a run; a context manager that stops a running trace.

    Args:
      directory: directory of the trace.
      steps: (first, last), counted from 1; empty for none.

    Raises:
      UserError: another kind of `steps`.
    """

    def __init__(self, directory: pathlib.Path, steps: tuple[int, ...]):
        self._first, self._last = check_steps(steps) or (0, 0)
        self._directory = directory
        self._running = False

    def before(self, first: int, last: int) -> None:
        """Starts the trace if one of the steps from `first` to `last`, about to be dispatched, is in the range."""
        if not self._running and first <= self._last and self._first <= last:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """Stops the trace if `step`, which returns `results`, is the last of the range."""
        if self._running and step >= self._last:
            jax.block_until_ready(results)
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._running = False
        distributed.report(f"\nprofile of the steps up to {self._last}: {self._directory}")

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._running:
            self._end()


def check_steps(steps: tuple[int, ...]) -> tuple[int, int] | None:
    """Returns the first and the last step to profile; None for no profile.

    Args:
      steps: (first, last), counted from 1, or empty.

    Raises:
      UserError: neither empty nor two whole numbers in ascending order.
    """
    if not steps:
        return None
    if len(steps) != 2 or not all(isinstance(step, int) for step in steps) or not 1 <= steps[0] <= steps[1]:
        raise UserError(f"log.profile_steps must be empty or (first, last) such as (10, 13); got {tuple(steps)}")
    return steps[0], steps[1]
