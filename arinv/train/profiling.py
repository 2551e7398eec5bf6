"""A profile of a few training steps, in files that TensorBoard's profiler, XProf and Perfetto open."""

import pathlib
import sys
from typing import Any

import jax

from arinv.errors import UserError


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
