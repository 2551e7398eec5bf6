"""Variants of the same work, each in its own process, timed in turns.

A worker holds one variant and serves requests: prepare a case, run it n times. Between its turns it sleeps, so that
the other has all cores and the whole device. Reported are the median over the turns with the extremes, and the ratio
of speeds within each round of turns, which a slow drift of a shared machine does not change. Processor seconds, of all
threads together, are recorded beside the seconds: on a busy CPU they measure the work itself. So is the peak memory,
of the process on a CPU and of the device elsewhere, compilation included.
"""

import dataclasses
import functools
import importlib
import math
import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from launch.benchmarks import devices

_MIN_SECONDS = 0.3  # of a turn, in which a short case is repeated


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a measurement.

    Attributes:
      batch: images in a step; 0 for the benchmark's own.
      size: side of the images in pixels; 0 for the benchmark's own.
      dtype: dtype of the computation, "float32" or "bfloat16".
      tiny: whether applications run at a size that only tests that they run.
    """

    batch: int = 0
    size: int = 0
    dtype: str = "float32"
    tiny: bool = False


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Work that is ready to run.

    Attributes:
      run: runs it n times and waits for the results.
      facts: plain JSON: "device", "versions", and where they apply "compile_seconds", "images", "megapixels" and
        "flops" of one call and "parameters" by network.
      peak_bytes: returns the peak memory since the work before it was dropped.
    """

    run: Callable[[int], None]
    facts: Mapping[str, Any]
    peak_bytes: Callable[[], int | None] = devices.peak_bytes


@dataclasses.dataclass(frozen=True)
class Growth:
    """The points at which time and memory are measured over the batch and over the image size.

    Attributes:
      case: case of the benchmark.
      batches: images in a step, at the benchmark's own size.
      sizes: sides of the images in pixels, in the benchmark's own batch; none where the networks take one size only.
    """

    case: str
    batches: tuple[int, ...]
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A subject of measurement.

    Attributes:
      cases: measured one after the other; a single one for a training step.
      variants: name -> function of (case, options) that prepares it and imports its library. The first is ours, to
        which the others are compared.
      optional: the variants that run on request only.
      asked_with: the name that requests those, where it is not their own.
      summarize: what `measure` returned -> lines below the table.
      growth: where time and memory are measured over batch and size; None for nowhere.
    """

    cases: tuple[str, ...]
    variants: Mapping[str, Callable[[str, Options], Prepared]]
    optional: tuple[str, ...] = ()
    asked_with: Mapping[str, str] = dataclasses.field(default_factory=dict)
    summarize: Callable[[Mapping[str, Any]], list[str]] = lambda results: []
    growth: Growth | None = None


class VariantError(Exception):
    """A variant could not be prepared or run; the text is its traceback."""


def load(name: str) -> Benchmark:
    """Returns the benchmark of a name."""
    return importlib.import_module(f"launch.benchmarks.{name}").BENCHMARK


def _serve(connection, name: str, variant: str, options: Options) -> None:
    """Serves the requests of a connection, in a process of its own."""
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # compilation is measured
    prepare, prepared = load(name).variants[variant], None
    while (request := connection.recv()) is not None:
        kind, argument = request
        try:
            if kind == "prepare":
                prepared = None  # frees the memory of the case before
                devices.reset_peak()
                prepared = prepare(argument, options)
                answer = dict(prepared.facts)
            elif kind == "peak":
                answer = prepared.peak_bytes()
            else:
                started = time.perf_counter(), time.process_time()
                prepared.run(argument)
                answer = time.perf_counter() - started[0], time.process_time() - started[1]
        except Exception:
            answer = VariantError(traceback.format_exc())
        connection.send(answer)


@contextmanager
def worker(name: str, variant: str, options: Options) -> Iterator[Callable[[str, Any], Any]]:
    """Starts a worker.

    Args:
      name: name of the benchmark.
      variant: name of it.
      options: what is measured.

    Yields:
      A function: ("prepare", case) -> the case's facts; ("run", n) -> (seconds, processor seconds); ("peak", None) ->
        peak memory in bytes.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, name, variant, options), daemon=True)
    process.start()
    theirs.close()

    def ask(kind: str, argument: Any) -> Any:
        try:
            ours.send((kind, argument))
            answer = ours.recv()
        except (EOFError, OSError) as error:
            raise VariantError(f"{variant} ended unexpectedly (out of memory?)") from error
        if isinstance(answer, VariantError):
            raise answer
        return answer

    try:
        yield ask
    finally:
        try:
            ours.send(None)
        except OSError:
            pass  # already ended
        process.join(10)
        if process.is_alive():
            process.kill()


def measure(
    name: str,
    variants: tuple[str, ...],
    options: Options,
    *,
    repeats: int,
    cases: tuple[str, ...] = (),
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures every case of a benchmark.

    Args:
      name: name of the benchmark.
      variants: which of its variants; the others are compared to the first.
      options: what is measured.
      repeats: rounds of turns.
      cases: cases of the benchmark; empty for all.
      report: called with a line before each part.

    Returns:
      Case -> {"variants": {variant: facts and times, or {"error": text}}, "ratios": {variant: ...}}.
    """
    results = {}
    with ExitStack() as stack:
        ask = {variant: stack.enter_context(worker(name, variant, options)) for variant in variants}
        for case in cases or load(name).cases:
            results[case] = _measure_case(name, case, ask, repeats, report)
    return results


def _measure_case(name, case, ask, repeats, report) -> dict[str, Any]:
    label = name if case == name else f"{name} {case}"
    results, calls = {}, {}
    for variant, request in ask.items():
        report(f"{label}: preparing {variant}")
        try:
            results[variant] = {**request("prepare", case), "seconds": [], "processor_seconds": []}
            request("run", 1)
            calls[variant] = max(1, math.ceil(_MIN_SECONDS / request("run", 1)[0]))
        except VariantError as error:
            results[variant] = {"error": str(error)}
    for i in range(repeats):
        report(f"{label}: round {i + 1} of {repeats}")
        for variant, n in calls.items():
            if "error" not in results[variant]:
                try:
                    seconds, processor_seconds = ask[variant]("run", n)
                    results[variant]["seconds"].append(seconds / n)
                    results[variant]["processor_seconds"].append(processor_seconds / n)
                except VariantError as error:
                    results[variant] = {"error": str(error)}
    for variant, facts in results.items():
        if "error" not in facts:
            facts["peak_bytes"] = ask[variant]("peak", None)
    return {"variants": {v: _with_rates(facts) for v, facts in results.items()}, "ratios": ratios(results)}


def _with_rates(facts: dict) -> dict:
    if "error" in facts:
        return facts
    milliseconds = functools.partial(map, lambda s: 1e3 * s)
    facts = {**facts, "milliseconds": summary(list(milliseconds(facts["seconds"])))}
    for amount in ("images", "megapixels", "flops"):
        if facts.get(amount):
            facts[f"{amount}_per_second"] = summary([facts[amount] / s for s in facts["seconds"]])
    return facts


def measure_growth(
    name: str,
    variants: tuple[str, ...],
    options: Options,
    *,
    repeats: int,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, list[dict[str, Any]]]:
    """Measures a benchmark in several batches and at several sizes, if it has such points.

    Args:
      name: name of the benchmark.
      variants: see `measure`.
      options: see `measure`.
      repeats: rounds of turns.
      report: see `measure`.

    Returns:
      {"batch": rows, "size": rows}, each row {"value": the batch or size, "variants": ..., "ratios": ...}.
    """
    growth, results = load(name).growth, {}
    for field, values in (("batch", growth.batches), ("size", growth.sizes)) if growth else ():
        results[field] = []
        for value in values:
            point = dataclasses.replace(options, **{field: value})
            measured = measure(name, variants, point, repeats=repeats, cases=(growth.case,), report=report)
            results[field].append({"value": value, **measured[growth.case]})
    return results


def summary(values: list[float]) -> dict[str, float]:
    """Returns the median and the extremes."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(results: Mapping[str, Mapping]) -> dict[str, dict]:
    """Returns, for each variant but the first, how many times faster the first is on an image, round by round."""
    first, *others = results
    if "error" in results[first]:
        return {}

    def seconds(variant: str) -> list[float]:
        return [s / results[variant].get("images", 1) for s in results[variant]["seconds"]]

    return {
        other: summary([b / a for a, b in zip(seconds(first), seconds(other), strict=True)])
        for other in others
        if "error" not in results[other]
    }


def summarize_best(results: Mapping[str, Any]) -> list[str]:
    """Returns a line with the case in which ours is fastest, and its speed relative to the other variants.

    Args:
      results: what `measure` returned.
    """
    first = next(iter(next(iter(results.values()))["variants"]))
    speeds = {
        case: result["variants"][first]["images_per_second"]["median"]
        for case, result in results.items()
        if "error" not in result["variants"][first]
    }
    if not speeds:
        return []
    best = max(speeds, key=speeds.get)
    line = f"best of {', '.join(speeds)}: {best}, {1 / speeds[best]:.3g} s an image"
    ratios = results[best]["ratios"]
    return [line + "".join(f", {ratio['median']:.2f} times {other}" for other, ratio in ratios.items())]
