"""Seconds that a user waits: for --help, for the line on a mistake in a config, and for the first step of a training.

Each is a process of its own, from its start. The training is the quickstart's robust encoder, until its first step is
in its log: "first_step" with the compiled programs of an earlier run, "first_step_cold" with none. The process is
killed then, so that nothing behind the step is measured.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import weakref

from launch.benchmarks.devices import ROOT
from launch.benchmarks.measurement import Benchmark, Options, Prepared

_STAGE = "robust_encoder"
_PREALLOCATION = "XLA_PYTHON_CLIENT_PREALLOCATE"
_COMMANDS = {
    "help": (["--help"], 0),
    "mistake": (["--config=quickstart:encoder=resnet19", "--workdir=never"], 2),
}
_CASES = (*_COMMANDS, "first_step", "first_step_cold")


def _environment(programs: pathlib.Path) -> dict[str, str]:
    """Returns the environment of a user whose compiled programs are kept in a directory."""
    own = (
        _PREALLOCATION,
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_ENABLE_COMPILATION_CACHE",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    )
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {**kept, "XDG_CACHE_HOME": str(programs), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def _end(arguments: list[str], code: int, folder: pathlib.Path) -> None:
    """Runs arinv to its end.

    Raises:
      RuntimeError: another exit code than `code`.
    """
    command, environment = [sys.executable, "-m", "arinv", *arguments], _environment(folder / "programs")
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode != code:
        raise RuntimeError(f"arinv {' '.join(arguments)} ended with {result.returncode}: {result.stderr[-500:]}")


def _first_step(options: Options, folder: pathlib.Path) -> None:
    """Starts the training in a new workdir, waits for its first step, and kills it.

    Raises:
      RuntimeError: it ended before.
    """
    workdir = folder / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    config = "quickstart:smoke=True,options=width:4" if options.tiny else "quickstart"
    fields = [f"--config.order=('{_STAGE}',)", f"--config.stages.{_STAGE}.log.every_steps=1"]
    command = [sys.executable, "-m", "arinv", f"--config={config}", f"--workdir={workdir}", *fields]
    log, output = workdir / _STAGE / "metrics.jsonl", folder / "output"
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=_environment(folder / "programs"), stdout=file, stderr=file)
        try:
            while not (log.exists() and log.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"the training ended with {process.returncode}: {output.read_text()[-500:]}")
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()


def prepare(case: str, options: Options) -> Prepared:
    """Makes the directory of a case, and its compiled programs where they are those of an earlier run."""
    os.environ[_PREALLOCATION] = "false"  # this process needs the device's name only
    from launch.benchmarks import jax_steps

    folder = pathlib.Path(tempfile.mkdtemp(prefix="arinv_startup_"))
    if case == "first_step":
        _first_step(options, folder)

    def run(n: int) -> None:
        for _ in range(n):
            if case in _COMMANDS:
                _end(*_COMMANDS[case], folder)
            else:
                if case == "first_step_cold":
                    shutil.rmtree(folder / "programs", ignore_errors=True)
                _first_step(options, folder)

    weakref.finalize(run, shutil.rmtree, folder, ignore_errors=True)
    return Prepared(run, jax_steps.facts(), peak_bytes=lambda: None)


BENCHMARK = Benchmark(cases=_CASES, variants={"arinv": prepare})
