"""Training steps under several versions of jaxlib and choices of XLA flags, measured for the table of arinv/_xla.py.

python -m launch.benchmarks.versions --pythons .venv/bin/python other/bin/python --out versions.json

Each Python is measured without flags of arinv's own, without XLA's library of kernels for convolutions, and without it
for convolutions and sums. The workers hold their compiled step and take turns, so that a slow drift of a shared machine
leaves the ratios alone.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from launch.benchmarks.devices import ROOT, provenance
from launch.benchmarks.measurement import summary

_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type="  # given and empty, it leaves nothing to the library
_FLAGS = ("", "-individual_convolution", "-reduce,-individual_convolution")

_WORKER = """
import json, os, sys, time
flags = os.environ["XLA_FLAGS"]
import arinv
os.environ["XLA_FLAGS"] = flags  # without those that arinv adds
from launch.benchmarks.measurement import Options, load
benchmark = load(sys.argv[1])
prepared = benchmark.variants["arinv"](benchmark.cases[0], Options(batch=int(sys.argv[2])))
prepared.run(1)
print(json.dumps(dict(prepared.facts)), flush=True)
for _ in sys.stdin:
    wall, processor = time.perf_counter(), time.process_time()
    prepared.run(1)
    print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]), flush=True)
"""


@contextmanager
def _worker(python: str, flags: str, benchmark: str, batch: int) -> Iterator[subprocess.Popen]:
    environment = {**os.environ, "XLA_FLAGS": _FUSIONS + flags if flags else "", "PYTHONWARNINGS": "ignore"}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # compilation is measured
    process = subprocess.Popen(
        [python, "-c", _WORKER, benchmark, str(batch)], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _answer(process: subprocess.Popen) -> Any:
    line = process.stdout.readline()
    if not line:
        raise SystemExit("arinv: a worker ended; its error is above")
    return json.loads(line)


def measure(
    benchmark: str, pythons: Sequence[str], flags: Sequence[str], *, rounds: int, batch: int
) -> list[dict[str, Any]]:
    """Returns a row for each Python and choice of flags: versions, flags, images/s, processor seconds of a step.

    Args:
      benchmark: name of a training step, such as "pgd"; its first case is measured.
      pythons: interpreters that have JAX, each with its own version.
      flags: values of XLA's choice of fusions.
      rounds: turns of every worker.
      batch: images in a step; 0 for the benchmark's own.
    """
    with ExitStack() as stack:
        workers = []
        for python in pythons:
            for choice in flags:
                process = stack.enter_context(_worker(python, choice, benchmark, batch))
                workers.append((process, _answer(process), choice, []))
        for i in range(rounds):
            for process, facts, choice, turns in workers:
                process.stdin.write("\n")
                process.stdin.flush()
                turns.append(_answer(process))
                speed = facts["images"] / turns[-1][0]
                print(f"{benchmark} round {i + 1}: {_label(facts, choice):50} {speed:.2f} images/s", file=sys.stderr)
    return [
        {
            "benchmark": benchmark,
            "versions": facts["versions"],
            "fusions": choice,
            "device": facts["device"],
            "images_per_second": summary([facts["images"] / wall for wall, _ in turns]),
            "processor_seconds": summary([processor for _, processor in turns]),
            "compile_seconds": facts["compile_seconds"],
        }
        for _, facts, choice, turns in workers
    ]


def _label(facts: dict[str, Any], choice: str) -> str:
    return f"jaxlib {facts['versions']['jaxlib']} {choice or 'without flags'}"


def main() -> None:
    """Measures what the command line asks for and prints a table."""
    parser = argparse.ArgumentParser(prog="launch.benchmarks.versions", description=__doc__.split("\n")[0])
    parser.add_argument("--pythons", nargs="+", default=[sys.executable], metavar="PYTHON")
    parser.add_argument("--only", nargs="+", default=["pgd", "gan_alexnet"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="images in a step")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.json")
    arguments = parser.parse_args()
    options = {"rounds": arguments.rounds, "batch": arguments.batch}
    rows = [row for name in arguments.only for row in measure(name, arguments.pythons, _FLAGS, **options)]
    for row in rows:
        speed, processor = row["images_per_second"], row["processor_seconds"]["median"]
        print(
            f"{row['benchmark']:13} {_label(row, row['fusions']):50} {speed['median']:.2f} images/s "
            f"({speed['min']:.2f} to {speed['max']:.2f}), {processor:.1f} processor seconds a step"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps({**provenance(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
