"""Runs of tests/short_run.py and others in several processes, to stop and to kill, and what they leave behind."""

import atexit
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for scripts; pytest has it there

import quick_compilation  # noqa: E402

from arinv import distributed  # noqa: E402
from launch.local_processes import environments, is_noise  # noqa: E402

END_SECONDS = 600.0
_STAGES = ("encoder", "evaluation")


class Run:
    """The processes of a run in a directory.

    Args:
      workdir: of the run; gets a file output0, output1, ... for each process.
      arguments: of the config.
      count: number of processes.
      devices: of each.
      config: file of the config, in tests/.
      program: arguments of Python that start arinv.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        arguments: str,
        count: int,
        devices: int,
        *,
        config: str = "short_run.py",
        program: Sequence[str] = ("-m", "arinv"),
    ):
        flags = os.environ.get("XLA_FLAGS") or quick_compilation.FLAGS
        inherited = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
        options = [f"--config={ROOT}/tests/{config}:{arguments}", f"--workdir={workdir}"]
        command = [sys.executable, *program, *options]
        workdir.mkdir(parents=True, exist_ok=True)
        self.workdir, self.all = workdir, []
        atexit.register(self._kill)
        for i, environment in enumerate(environments(count, devices, [], inherited)):
            with (workdir / f"output{i}").open("wb") as output:
                self.all.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))

    def wait(self, seconds: float) -> list[int | None]:
        """Returns the exit codes; None of a process that is still there after so long, and is killed then."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(process.poll() is None for process in self.all):
            time.sleep(0.01)
        codes = [process.poll() for process in self.all]
        self._kill()
        return codes

    def _kill(self) -> None:
        for process in self.all:
            process.kill()
            process.wait()
        atexit.unregister(self._kill)

    def end(self) -> None:
        """Waits for the end of the run.

        Raises:
          RuntimeError: it ended badly.
        """
        if any(code != 0 for code in self.wait(END_SECONDS)):
            raise RuntimeError(self.story())

    def wait_until(self, is_now: Callable[[], bool]) -> None:
        """Waits for a moment of the run.

        Raises:
          RuntimeError: the run ended before it came.
        """
        deadline = time.monotonic() + END_SECONDS
        while not is_now():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.all):
                self.wait(1.0)
                raise RuntimeError(self.story())
            time.sleep(0.001)

    def said(self, index: int) -> list[str]:
        """Returns the lines that a process has written."""
        lines = (self.workdir / f"output{index}").read_bytes().replace(b"\r", b"\n").split(b"\n")
        return [line.decode(errors="replace") for line in lines if not is_noise(line)]

    def story(self) -> str:
        """Returns how the processes ended and what they said last."""
        codes = [process.poll() for process in self.all]
        return f"ended with {codes}: " + " | ".join(" ".join(self.said(i)[-3:]) for i in range(len(self.all)))


def log_of(workdir: pathlib.Path) -> list[dict]:
    """Returns the lines of the training's log, without how fast it was."""
    path = workdir / "encoder" / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("speed/")} for line in lines]


@contextlib.contextmanager
def stopping_behind(step):
    """Simulates SIGTERM during a step."""
    real = distributed.preemption_guard
    distributed.preemption_guard = lambda _: contextlib.nullcontext(lambda done: done >= step)
    try:
        yield
    finally:
        distributed.preemption_guard = real


def last_step(workdir: pathlib.Path) -> int:
    """Returns the last step that was logged."""
    lines = log_of(workdir)
    return lines[-1]["step"] if lines else 0


def saved_step(workdir: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint."""
    folder = workdir / "encoder" / "checkpoints"
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


def difference(workdir: pathlib.Path, reference: pathlib.Path) -> str:
    """Returns "same" where a run ended in the bytes of another but for its speed, or else in what they differ."""
    if log_of(workdir) != log_of(reference):
        return "encoder/metrics.jsonl differs"
    for stage in _STAGES:
        if (workdir / stage / "results.json").read_bytes() != (reference / stage / "results.json").read_bytes():
            return f"{stage}/results.json differs"
    mine, theirs = (arrays_of(folder) for folder in (workdir, reference))
    differing = [name for name in theirs if not np.array_equal(mine.get(name), theirs[name])]
    return f"{', '.join(differing)} differs" if differing or mine.keys() != theirs.keys() else "same"


def arrays_of(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the results of every test image."""
    with np.load(workdir / "evaluation" / "per_image.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def largest_difference(workdir: pathlib.Path, reference: pathlib.Path) -> float:
    """Returns the largest difference between two runs' losses of any step, and of any number of any test image."""
    logs = [log_of(folder) for folder in (workdir, reference)]
    if [line["step"] for line in logs[0]] != [line["step"] for line in logs[1]]:
        return float("inf")
    losses = [abs(a[name] - b[name]) for a, b in zip(*logs, strict=True) for name in b]
    mine, theirs = (arrays_of(folder) for folder in (workdir, reference))
    return max(*losses, *(float(np.abs(mine[name] - theirs[name]).max()) for name in theirs))
