"""Measures training steps and applications and prints a table: launch/benchmark --against torch --out speed.json.

images/s is the median over the rounds, followed by the slowest and the fastest. A ratio above 1 means that ours is
faster; it is taken within each round, so that it is valid on a shared machine too. The peak is that of the process, or
on an accelerator of the device's memory, compilation included. `--only startup` measures what a user waits for at
first, `--only autoattack` a few images; python -m launch.benchmarks.autoattack compares the verdicts on many, too.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys
from typing import Any

from arinv.train.accelerators import peak_flops
from launch.benchmarks import DEFAULT, NAMES
from launch.benchmarks.devices import provenance
from launch.benchmarks.measurement import Options, load, measure, measure_growth

_FLOPS_TOLERANCE = 0.02  # between two counts of the same work


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch/benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--against", nargs="+", default=[], choices=("torch", "torch_compile"), metavar="LIBRARY",
                        help="measure the same steps in torch, torch_compile or both, in turns with ours")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=DEFAULT, choices=NAMES, metavar="NAME",
                        help=f"some of {', '.join(NAMES)}; without it {', '.join(DEFAULT)}")  # fmt: skip
    parser.add_argument("--cases", nargs="+", default=[], metavar="CASE",
                        help="only these of benchmarks that have them, such as batch1 of latent_search")  # fmt: skip
    parser.add_argument("--repeats", type=_positive, default=5, metavar="N", help="rounds (%(default)s)")
    parser.add_argument("--batch", type=_positive, default=0, metavar="N", help="images in a step")
    parser.add_argument("--growth", action="store_true",
                        help="measure three batches and three image sizes of each benchmark as well")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--tiny", action="store_true", help="applications at a size that only shows that they run")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.json", help="write the figures here too")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def report(name: str, cases: dict[str, Any], dtype: str) -> tuple[list[str], list[str]]:
    """Returns the lines of a benchmark's table, and its problems.

    Args:
      name: name of the benchmark.
      cases: as returned by `measure`.
      dtype: dtype of the computation.
    """
    lines, problems = [], []
    for case, result in cases.items():
        label = name if case == name else f"{name} {case}"
        lines.append(label)
        for variant, facts in result["variants"].items():
            if "error" in facts:
                problems.append(f"{label}: {variant} failed: {facts['error'].strip().splitlines()[-1]}")
                lines.append(f"  {variant:14} failed")
            else:
                lines.append(f"  {variant:14} {_speed(facts, dtype)}")
        first = next(iter(result["variants"]))
        lines += [f"  {f'{first} / {other}':24} {_spread(r, '.2f')}" for other, r in result["ratios"].items()]
        problems += [f"{label}: {text}" for text in differences(result["variants"])]
    return lines, problems


def report_growth(name: str, growth: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Returns a line for each variant and each batch or size.

    Args:
      name: name of the benchmark.
      growth: as returned by `measure_growth`.
    """
    lines = []
    for field, rows in growth.items():
        for row in rows:
            unit = " px" if field == "size" else ""
            for variant, facts in row["variants"].items():
                label = f"{name}, {field} {row['value']}{unit}, {variant}"
                if "error" in facts:
                    lines.append(f"  {label:40} failed: {facts['error'].strip().splitlines()[-1]}")
                else:
                    images = facts.get("images", 1)
                    each = facts["milliseconds"]["median"] / images
                    lines.append(f"  {label:40} {each:.4g} ms an image, {images} at once{_memory(facts)}")
    return lines


def _memory(facts: dict[str, Any]) -> str:
    return f", peak {facts['peak_bytes'] / 2**30:.2f} GiB" if facts.get("peak_bytes") else ""


def _speed(facts: dict[str, Any], dtype: str) -> str:
    if "compile_seconds" not in facts:  # of whole processes
        return f"{_spread({name: ms / 1e3 for name, ms in facts['milliseconds'].items()}, '.3g')} s"
    if "images_per_second" not in facts:
        compiled = f"compiled in {facts['compile_seconds']:.1f} s"
        return f"{_spread(facts['milliseconds'], '.3g')} ms{_rate(facts, dtype)}, {compiled}{_memory(facts)}"
    text = f"{_spread(facts['images_per_second'], '.4g')} images/s"
    if "megapixels_per_second" in facts:
        text += f", {1 / facts['megapixels_per_second']['median']:.3g} s a megapixel"
    elif facts["images_per_second"]["median"] < 1:
        text += f", {1 / facts['images_per_second']['median']:.3g} s an image"
    first = f"first step or compilation {facts['compile_seconds']:.1f} s"
    return f"{text}{_rate(facts, dtype)}, {first}{_memory(facts)}"


def _rate(facts: dict[str, Any], dtype: str) -> str:
    if "flops_per_second" not in facts:
        return ""
    rate, peak = facts["flops_per_second"]["median"], peak_flops(facts["device"], dtype)
    return f", {rate / 1e9:,.0f} GFLOP/s" + (f" ({rate / peak:.0%} of peak)" if peak else "")


def _spread(values: dict[str, float], form: str) -> str:
    return f"{values['median']:{form}} ({values['min']:{form}} to {values['max']:{form}})"


def differences(variants: dict[str, dict]) -> list[str]:
    """Returns the differences between the work of the variants: parameters, floating-point operations."""
    measured = {name: facts for name, facts in variants.items() if "error" not in facts}
    result = []
    for key, tolerance in (("parameters", 0.0), ("flops", _FLOPS_TOLERANCE)):
        values = {name: _share(facts, key) for name, facts in measured.items() if key in facts}
        first = next(iter(values.values()), None)
        for name, value in values.items():
            same = value == first if not tolerance else abs(value - first) <= tolerance * first
            if not same:
                result.append(f"{name} does other work: {key} {value} against {first}")
    return result


def _share(facts: dict[str, Any], key: str) -> Any:
    """Returns the operations for one image, since variants may take different numbers of them at a time."""
    return facts[key] / facts.get("images", 1) if key == "flops" else facts[key]


def _chosen(name: str, arguments: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the variants and the cases of a benchmark that the command line asks for."""
    benchmark = load(name)
    variants = tuple(
        variant
        for variant in benchmark.variants
        if variant not in benchmark.optional or benchmark.asked_with.get(variant, variant) in arguments.against
    )
    return variants, tuple(case for case in benchmark.cases if case in arguments.cases)


def main(argv: list[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit code."""
    arguments = _arguments(argv)
    if arguments.against and importlib.util.find_spec("torch") is None:
        command = f"{os.path.relpath(sys.executable)} -m pip install torch"
        print(f"arinv: --against torch needs PyTorch in this environment: {command}", file=sys.stderr)
        return 2
    chosen = {name: _chosen(name, arguments) for name in arguments.only}
    if unknown := set(arguments.cases) - {case for _, cases in chosen.values() for case in cases}:
        known = ", ".join(case for name in arguments.only for case in load(name).cases)
        print(f"arinv: unknown case {', '.join(sorted(unknown))}; known: {known}", file=sys.stderr)
        return 2
    most = max(len(variants) for variants, _ in chosen.values())
    if most > 1:  # on a GPU all variants hold their memory at the same time
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / most:.2f}")
    options = Options(batch=arguments.batch, dtype=arguments.dtype, tiny=arguments.tiny)
    results = {**provenance(), "dtype": arguments.dtype, "repeats": arguments.repeats, "benchmarks": {}, "growth": {}}
    problems = []
    for name in arguments.only:
        variants, selected = chosen[name]
        cases = measure(name, variants, options, repeats=arguments.repeats, cases=selected, report=_show_progress)
        results["benchmarks"][name] = cases
        _show_progress("")
        lines, wrong = report(name, cases, arguments.dtype)
        if name == arguments.only[0]:
            print(heading(cases, arguments.dtype))
        print("\n".join([*lines, *load(name).summarize(cases)]), flush=True)
        problems += wrong
        if arguments.growth:
            points = measure_growth(name, variants, options, repeats=arguments.repeats, report=_show_progress)
            results["growth"][name] = points
            _show_progress("")
            print("\n".join(report_growth(name, points)), flush=True)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    for problem in problems:
        print(f"arinv: {problem}", file=sys.stderr)
    return 1 if problems else 0


def heading(cases: dict[str, Any], dtype: str) -> str:
    """Returns the device, its threads, the dtype and the versions in one line."""
    facts = [v for case in cases.values() for v in case["variants"].values() if "error" not in v]
    if not facts:
        return dtype
    versions = {name: version for f in facts for name, version in f["versions"].items()}
    threads = f", {facts[0]['threads']} threads" if facts[0]["threads"] else ""
    return f"{facts[0]['device']}{threads}, {dtype}, " + ", ".join(f"{n} {v}" for n, v in versions.items())


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
