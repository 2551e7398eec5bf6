"""Makes the runs that need an accelerator and have no record: launch/accelerator --minutes 30.

A run's record is launch/records/NAME.json. The shortest run is first; one that does not fit into the remaining time is
skipped, one that the limit ends is reported, and one that fails leaves the last lines of its error in NAME.failed.json;
the others still run. Only the standard library is imported: the runs are processes of a Python that has JAX, this one
where it has an accelerator, else that of the clone's .venv.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.benchmarks.devices import ROOT, provenance
from launch.benchmarks.runs import RUNS, Context, Run

_RECORDS = ROOT / "launch" / "records"
_LAST_LINES = 30
_GRACE_SECONDS = 60.0  # for a training run to save itself after SIGTERM


def read_record(name: str, folders: Sequence[pathlib.Path]) -> dict | None:
    """Returns the record of a run from the first folder that contains it, or None."""
    for folder in folders:
        path = folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
    return None


def execute(command: Sequence[str], *, log: pathlib.Path, seconds: float, environment: Mapping[str, str]) -> str:
    """Runs a command until it ends or its time is over.

    Args:
      command: with its arguments.
      log: file for what it prints.
      seconds: after which it gets SIGTERM, and some time later SIGKILL.
      environment: variables.

    Returns:
      "ok", "failed" or "cut".
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
        grace = min(_GRACE_SECONDS, seconds / 10)
        try:
            return "failed" if process.wait(max(0.0, seconds - grace)) else "ok"
        except subprocess.TimeoutExpired:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
            return "cut"
        finally:
            with contextlib.suppress(ProcessLookupError):  # its children
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def last_lines(log: pathlib.Path) -> list[str]:
    """Returns the end of a log; of a progress bar the last state only."""
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in log.read_text(errors="replace").split("\n")]
    return [line for line in lines if line][-_LAST_LINES:]


def make_runs(
    runs: Sequence[Run],
    context: Callable[[float], Context],
    *,
    minutes: float,
    folders: Sequence[pathlib.Path],
    environment: Mapping[str, str],
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Makes every run that has no record yet, the shortest first.

    Args:
      runs: all of them.
      context: minutes left -> where a run is made.
      minutes: for all runs together.
      folders: where records may be; new ones are written into the first.
      environment: variables of the runs.
      report: called with a line for each run.
      clock: seconds.

    Returns:
      Names of the runs that failed or were cut.
    """
    end, bad = clock() + 60 * minutes, []
    for run in sorted(runs, key=lambda run: run.minutes):
        left = (end - clock()) / 60
        if read_record(run.name, folders) is not None:
            report(f"{run.name}: has a record")
        elif run.minutes > left:
            report(f"{run.name}: skipped, needs about {run.minutes:g} minutes and {max(0.0, left):.1f} are left")
        else:
            report(f"{run.name}: started, {left:.1f} minutes are left")
            state = _make(run, context(left), folders[0], 60 * left, environment, clock)
            report(f"{run.name}: {_WORDS[state]}")
            if state != "ok":
                bad.append(run.name)
    return bad


_WORDS = {
    "ok": "done",
    "failed": "failed; see its .failed.json",
    "cut": "ended by the time limit; started again with the same --scratch, a training resumes",
}


def _make(run, context, out, seconds, environment, clock) -> str:
    started, log = clock(), context.scratch / f"{run.name}.log"
    record = {**provenance(), "run": run.name}
    kept: dict[str, Any] = {}
    try:
        command = run.command(context)
        record["command"] = [_shown(part, context) for part in command]
        state = execute(command, log=log, seconds=seconds, environment=environment)
        kept = run.collect(context)
        if state == "ok" and not kept:
            state, error = "failed", ["no result"]
        else:
            error = last_lines(log)
    except (OSError, ValueError, KeyError) as problem:
        state, error = "failed", [repr(problem)]
    record |= {"minutes": (clock() - started) / 60, **kept}
    failed, done = out / f"{run.name}.failed.json", out / f"{run.name}.json"
    out.mkdir(parents=True, exist_ok=True)
    if state == "ok":
        failed.unlink(missing_ok=True)
        done.write_text(json.dumps(record, indent=2) + "\n")
    else:
        failed.write_text(json.dumps({**record, "state": state, "last_lines": error}, indent=2) + "\n")
    return state


def _shown(part: str, context: Context) -> str:
    """Returns a word of a command without the folders of this machine."""
    for folder, name in ((context.python, "python"), (str(context.scratch), "SCRATCH"), (context.data_dir, "DATA")):
        part = part.replace(folder, name) if folder else part
    return part


def install(wheels: pathlib.Path, target: pathlib.Path, python: str) -> None:
    """Installs the wheels of a folder that are missing, without a network and without dependencies.

    Raises:
      CalledProcessError: a wheel does not fit this Python.
    """
    present = {_normal(d.name) for d in importlib.metadata.distributions() if d.name}
    names = {_normal(wheel.name.split("-")[0]) for wheel in wheels.glob("*.whl")} - present
    if names:
        options = ["--no-index", "--find-links", str(wheels), "--no-deps", "--upgrade", "--target", str(target)]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *options, *sorted(names)], check=True)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _probe(python: str, code: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Returns what the code prints, and the last line of its error or nothing."""
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    error = result.stderr.strip().split("\n")[-1] if result.returncode else ""
    return result.stdout.strip(), error


def find_python(environment: Mapping[str, str], *, needs_accelerator: bool) -> str:
    """Returns a Python whose JAX sees an accelerator: this one, else that of the clone's environment.

    Raises:
      SystemExit: there is none.
    """

    def sees(python: str) -> bool:
        backend, _ = _probe(python, "import jax; print(jax.default_backend())", environment)
        return bool(backend) and (backend != "cpu" or not needs_accelerator)

    if sees(sys.executable):
        _, error = _probe(sys.executable, "import arinv.main", environment)
        if error:
            raise SystemExit(f"arinv: {error}; give the wheels of what is missing with --wheels DIR")
        return sys.executable
    script = 'source launch/environment && ensure_environment run && echo "$python"'
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    python = result.stdout.strip().split("\n")[-1]
    if result.returncode or not sees(python):
        raise SystemExit(f"arinv: JAX sees no accelerator, neither in {sys.executable} nor in .venv (requirements.txt)")
    return python


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch/accelerator", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="for everything together (%(default)g)")
    parser.add_argument("--data-dir", default="", metavar="DIR", help="where TFDS sets lie")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help=f"for the records ({_RECORDS}; with --cpu SCRATCH/records)")  # fmt: skip
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "runs" / "accelerator", metavar="DIR",
                        help="for checkpoints and logs (%(default)s)")  # fmt: skip
    parser.add_argument("--wheels", type=pathlib.Path, metavar="DIR", help="wheels of packages that may be missing")
    parser.add_argument(
        "--only", nargs="+", choices=[run.name for run in RUNS], metavar="NAME", help="some of the runs"
    )
    parser.add_argument("--list", action="store_true", help="show the runs and which have a record")
    parser.add_argument("--cpu", action="store_true", help="try every run in its smallest size, also on a CPU")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the runs that the command line asks for; returns the exit code, 1 if any failed or was cut."""
    arguments = _arguments(argv)
    runs = [run for run in RUNS if not arguments.only or run.name in arguments.only]
    scratch = arguments.scratch.absolute()
    out = (arguments.out or (scratch / "records" if arguments.cpu else _RECORDS)).absolute()
    folders = [out] if arguments.cpu else [out, _RECORDS]
    if arguments.list:
        for run in sorted(runs, key=lambda run: run.minutes):
            state = "recorded" if read_record(run.name, folders) else f"about {run.minutes:g} minutes"
            print(f"{run.name:20} {state:18} {run.about}")
        return 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])}
    if arguments.wheels:
        packages = scratch / "packages"
        install(arguments.wheels, packages, sys.executable)
        environment["PYTHONPATH"] += os.pathsep + str(packages)
    python = find_python(environment, needs_accelerator=not arguments.cpu)
    shared = {
        "python": python,
        "scratch": scratch,
        "out": out,
        "data_dir": str(pathlib.Path(arguments.data_dir).absolute()) if arguments.data_dir else "",
        "has_torch": not _probe(python, "import torch", environment)[1],
        "records": lambda name: read_record(name, folders),
        "tiny": arguments.cpu,
    }
    bad = make_runs(
        runs,
        lambda left: Context(minutes=left, **shared),
        minutes=arguments.minutes,
        folders=folders,
        environment=environment,
        report=lambda text: print(f"arinv: {text}", file=sys.stderr, flush=True),
    )
    return 1 if bad else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run in progress too
    raise SystemExit(main())
