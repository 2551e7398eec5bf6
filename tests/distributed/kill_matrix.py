"""Kills a run in two processes at many moments, resumes it, and compares it with an undisturbed one.

    python tests/distributed/kill_matrix.py --out matrix.md              # 36 kills, half an hour on two cores
    python tests/distributed/kill_matrix.py --only checkpoint --repeats 1
    python tests/distributed/kill_matrix.py --restores     # also other numbers of devices and processes in mid-epoch
    python tests/distributed/kill_matrix.py --folder runs/matrix         # resumes a stopped matrix

Each row kills one process once, by SIGKILL or SIGTERM, during a training step, while a checkpoint is being written, in
an evaluation between two epochs, or in the evaluation behind the training. All processes must exit within a minute;
the run is started again and must end with the same bytes: losses of every step, weights, results of every test image.
The table says for each kill at which step it was, how both processes ended and how soon, and how many steps were lost:
at most those of one interval between checkpoints and those taken while the next checkpoint was still being written.
The exit code is 0 where every row is as it should be.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from disturbed_runs import END_SECONDS, Run, difference, largest_difference, last_step, log_of, saved_step

STEPS, EPOCH, CHECKPOINT_EVERY = 24, 6, 4
CONFIG = f"num_steps={STEPS},checkpoint_every={CHECKPOINT_EVERY},evaluate_every_epochs=1"
GONE_SECONDS = 60.0
TOLERANCE = 2e-5


def in_step(workdir: pathlib.Path, number: int) -> bool:
    """Whether the training is behind a step that ends no epoch and has no checkpoint."""
    return last_step(workdir) >= (2, 9, 15)[number % 3]


def in_checkpoint(workdir: pathlib.Path, number: int) -> bool:
    """Whether a checkpoint is half written."""
    step = (1 + number % 5) * CHECKPOINT_EVERY
    return any((workdir / "encoder" / "checkpoints").glob(f"{step}.orbax-checkpoint-tmp*"))


def half_written(workdir: pathlib.Path) -> int:
    """Returns the step of the checkpoint that is half written, 0 for none."""
    results = (workdir / "encoder" / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    return max((int(path.name.partition(".")[0]) for path in results), default=0)


def in_evaluation(workdir: pathlib.Path, number: int) -> bool:
    """Whether the evaluation at the end of an epoch has begun."""
    lines = log_of(workdir)
    return bool(lines) and lines[-1]["step"] == (1 + number % 3) * EPOCH and "train/loss" in lines[-1]


def in_last_evaluation(workdir: pathlib.Path, number: int) -> bool:
    """Whether the evaluation behind the training has begun."""
    del number
    return (workdir / "evaluation" / "config.json").exists()


MOMENTS: dict[str, Callable[[pathlib.Path, int], bool]] = {
    "step": in_step,
    "checkpoint": in_checkpoint,
    "evaluation": in_evaluation,
    "last evaluation": in_last_evaluation,
}
REPEATS = {"step": 3, "checkpoint": 3, "evaluation": 2, "last evaluation": 1}


@dataclasses.dataclass
class Row:
    """One kill.

    Attributes:
      moment: a key of MOMENTS.
      number: of the kill at that moment.
      signal: what is sent.
      victim: the process it is sent to.
      at: the last logged step.
      hit: whether the moment had not passed yet when the signal was sent.
      codes: how the processes ended.
      seconds: until all were gone.
      lost: steps that were done again.
      written: the step of the checkpoint that was half written, 0 for none; saved beside the training.
      same: whether the resumed run ended in the same bytes.
    """

    moment: str
    number: int
    signal: signal.Signals
    victim: int
    at: int = 0
    hit: bool = False
    codes: list[int | None] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    lost: int = 0
    written: int = 0
    same: str = ""

    def problems(self) -> list[str]:
        """Returns what is not as it should be."""
        expected = [143, 143] if self.signal == signal.SIGTERM else [75, 75]
        if self.signal == signal.SIGKILL:
            expected[self.victim] = -signal.SIGKILL
        results = [] if self.codes == expected else [f"exit codes {self.codes} instead of {expected}"]
        results += [f"gone after {self.seconds:.0f} s"] if self.seconds > GONE_SECONDS else []
        most = 0 if self.signal == signal.SIGTERM and self.moment != "last evaluation" else CHECKPOINT_EVERY
        most += max(0, self.at - self.written) if self.written else 0
        results += [f"{self.lost} steps lost"] if self.lost > most else []
        return results + ([self.same] if self.same != "same" else [])

    def cells(self) -> list[str]:
        """Returns the line of the table."""
        codes = ", ".join("hangs" if code is None else str(code if code >= 0 else 128 - code) for code in self.codes)
        moment = self.moment if self.hit else f"{self.moment} (just over)"
        lost = f"{self.lost}, {self.written} being written" if self.written else str(self.lost)
        numbers = [str(self.at), codes, f"{self.seconds:.1f}", lost]
        return [moment, self.signal.name, str(self.victim), *numbers, "; ".join(self.problems()) or "same bytes"]


HEADING = ["killed during", "signal", "process", "at step", "exit codes", "seconds", "steps lost", "resumed to"]


def plan(only: list[str], repeats: int) -> Iterator[Row]:
    """Yields the kills."""
    for moment in only:
        for number in range(repeats or REPEATS[moment]):
            for name in (signal.SIGKILL, signal.SIGTERM):
                for victim in (0, 1):
                    yield Row(moment, number, name, victim)


def kill(row: Row, workdir: pathlib.Path, devices: int, chance: random.Random) -> None:
    """Starts the run, kills it at its moment, and waits until all processes are gone."""
    run = Run(workdir, CONFIG, 2, devices)
    run.wait_until(lambda: MOMENTS[row.moment](workdir, row.number))
    if row.moment != "checkpoint":  # that is over soon
        time.sleep(chance.uniform(0, 0.05))
    started = time.monotonic()
    run.all[row.victim].send_signal(row.signal)
    row.hit = MOMENTS[row.moment](workdir, row.number)
    row.codes = run.wait(2 * GONE_SECONDS)
    row.seconds = time.monotonic() - started
    row.at = last_step(workdir)
    row.written = half_written(workdir)
    row.lost = max(0, row.at - saved_step(workdir))


# (processes, devices of each): where a run resumes after each stop within an epoch.
RESTORES = {
    "1 -> 8 -> 4 -> 1 devices": ((1, 1), (1, 8), (1, 4), (1, 1)),
    "1 -> 2 processes": ((1, 2), (2, 1)),
    "2 -> 1 -> 2 processes": ((2, 4), (1, 8), (2, 2)),
}


def restore(name: str, workdir: pathlib.Path) -> list[int]:
    """Runs with other devices after each stop by SIGTERM, and returns the steps of the stops."""
    stops, last = [], len(RESTORES[name]) - 1
    for i, (count, devices) in enumerate(RESTORES[name]):
        run = Run(workdir, CONFIG, count, devices)
        if i == last:
            run.end()
            return stops
        soonest = 2 + EPOCH * i
        run.wait_until(lambda n=soonest: last_step(workdir) >= n and last_step(workdir) % EPOCH not in (0, EPOCH - 1))
        run.all[-1].send_signal(signal.SIGTERM)
        if set(run.wait(END_SECONDS)) != {143}:
            raise RuntimeError(run.story())
        stops.append(saved_step(workdir))
    return stops


class Done:
    """The rows that are done, also those of an earlier start in the same folder."""

    def __init__(self, folder: pathlib.Path):
        self._path = folder / "rows.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._rows = {row["key"]: row for row in map(json.loads, lines)}

    def row(self, key: str, make: Callable[[], tuple[list[str], bool]]) -> tuple[list[str], bool]:
        """Returns the cells of a row and whether it is bad, run where it is not done yet."""
        if key not in self._rows:
            cells, bad = make()
            self._rows[key] = {"key": key, "cells": cells, "bad": bad}
            with self._path.open("a") as file:
                file.write(json.dumps(self._rows[key]) + "\n")
        row = self._rows[key]
        print(" | ".join(row["cells"]), flush=True)
        return row["cells"], row["bad"]


def undisturbed(workdir: pathlib.Path, count: int, devices: int) -> pathlib.Path:
    """Returns the directory of a finished run."""
    if not (workdir / "evaluation" / "results.json").exists():
        Run(workdir, CONFIG, count, devices).end()
    return workdir


def kill_and_resume(row: Row, folder: pathlib.Path, devices: int, seed: int) -> tuple[list[str], bool]:
    """Returns the cells of a row, and whether it is bad."""
    reference, workdir = undisturbed(folder / f"undisturbed{devices}", 2, devices), folder / "killed"
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(reference / "compilation_cache", workdir / "compilation_cache")
    try:
        kill(row, workdir, devices, random.Random(f"{seed} {row.moment} {row.number} {row.victim}"))
        Run(workdir, CONFIG, 2, devices).end()
        row.same = difference(workdir, reference)
    except (RuntimeError, OSError) as error:
        row.same = " ".join(str(error).split())
    return row.cells(), bool(row.problems())


def restore_and_compare(name: str, folder: pathlib.Path) -> tuple[list[str], bool]:
    """Returns the cells of a restore onto other devices, and whether it is bad."""
    reference, workdir = undisturbed(folder / "one_device", 1, 1), folder / "restored"
    shutil.rmtree(workdir, ignore_errors=True)
    try:
        stops = restore(name, workdir)
        results = largest_difference(workdir, reference)
    except (RuntimeError, OSError) as error:
        return [name, "", " ".join(str(error).split())], True
    return [name, ", ".join(map(str, stops)), f"{results:.1e}"], not results <= TOLERANCE


def table(lines: list[list[str]]) -> str:
    """Returns a Markdown table; the first line is its heading."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def main() -> int:
    """Runs what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=MOMENTS, default=list(MOMENTS), metavar="MOMENT",
                        help=f"some of: {', '.join(MOMENTS)}")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=0, help="kills of each kind at each moment (3, 3, 2 and 1)")
    parser.add_argument("--devices", type=int, default=1, help="of each process (%(default)s)")
    parser.add_argument("--restores", action="store_true", help="also restore onto other devices")
    parser.add_argument("--folder", type=pathlib.Path, help="keep the runs here; another start resumes them")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.md", help="write the tables here too")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the runs end with this script
    with contextlib.ExitStack() as stack:
        folder = options.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        done, devices = Done(folder), options.devices
        kills = [
            done.row(
                f"{row.moment} {row.number} {row.signal.name} {row.victim} {devices}",
                lambda row=row: kill_and_resume(row, folder, devices, options.seed),
            )
            for row in plan(options.only, options.repeats)
        ]
        restores = [
            done.row(name, lambda name=name: restore_and_compare(name, folder))
            for name in (RESTORES if options.restores else ())
        ]
    bad = sum(is_bad for _, is_bad in kills + restores)
    text = f"{len(kills)} kills; {bad} rows are not as they should be\n\n{table([HEADING, *(c for c, _ in kills)])}"
    if restores:
        heading = ["restored", "stopped at steps", f"largest difference (at most {TOLERANCE:g})"]
        text += f"\n{table([heading, *(cells for cells, _ in restores)])}"
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
