"""The runs of launch/accelerator: a command each, the minutes it takes, and what its record contains."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

_CIFAR10_TRAIN = 50_000
# Cost of an epoch of each part of the comparison, in epochs of the robust classifier's training. The steps'
# floating-point operations are 1, 0.17, and 0.13, 0.24 and 0.30; the rest allows for smaller steps.
_CLASSIFIER_EPOCHS = 1.0 + 0.3 + 2 * 0.2  # robust, standard, and for both an evaluation under attack
_INVERTER_EPOCHS = 2 * (0.2 + 0.35 + 0.45)  # pixel, feature and gan loss, of two encoders
_INVERTER_SHARE = 0.6  # inverter epochs for each epoch of the classifiers: 90 for 150, as published
_MAX_CLASSIFIER_EPOCHS = 150
_FEWEST_EPOCHS = 3
_FIXED_MINUTES = 6.0  # compilation, reading the data, last evaluations
_ASSUMED_IMAGES_PER_SECOND = 4000.0  # of the robust step, where it has not been measured


@dataclasses.dataclass(frozen=True)
class Context:
    """The surroundings of a run.

    Attributes:
      python: the interpreter that has JAX.
      scratch: folder for checkpoints and logs.
      out: folder of the records.
      minutes: that remain.
      data_dir: folder of TFDS datasets; empty for the default.
      has_torch: whether PyTorch can be imported.
      records: name of an earlier run -> its record.
      tiny: whether the runs are tests of the smallest size, with one repetition.
    """

    python: str
    scratch: pathlib.Path
    out: pathlib.Path
    minutes: float
    data_dir: str
    has_torch: bool
    records: Callable[[str], dict | None]
    tiny: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      name: name of its record, NAME.json.
      minutes: that it takes; of a run that fills the remaining time, the least.
      about: one line.
      command: its command line.
      collect: returns the content of its record, plain JSON, also of a run that was ended early.
    """

    name: str
    minutes: float
    about: str
    command: Callable[[Context], list[str]]
    collect: Callable[[Context], dict[str, Any]]


def _benchmark(name: str, minutes: float, about: str, *arguments: str, against: bool = False) -> Run:
    def result(context: Context) -> pathlib.Path:
        return context.scratch / f"{name}.json"

    def command(context: Context) -> list[str]:
        result(context).unlink(missing_ok=True)
        others = ["--against", "torch", "torch_compile"] if against and context.has_torch else []
        module = [context.python, "-m", "launch.benchmarks"]
        tiny = ["--tiny", "--batch", "2", "--repeats", "1"] if context.tiny else []  # argparse keeps the last value
        return [*module, *arguments, *tiny, *others, "--out", str(result(context))]

    def collect(context: Context) -> dict[str, Any]:
        return json.loads(result(context).read_text()) if result(context).exists() else {}

    return Run(name, minutes, about, command, collect)


def cifar10_epochs(minutes: float, images_per_second: float) -> int:
    """Returns the epochs of the classifiers that fit, at least 1 and at most the published 150.

    Args:
      minutes: for the whole comparison.
      images_per_second: images a second of the robust classifier's training step.
    """
    epoch = _CIFAR10_TRAIN / images_per_second / 60
    each = epoch * (_CLASSIFIER_EPOCHS + _INVERTER_SHARE * _INVERTER_EPOCHS)
    return max(1, min(_MAX_CLASSIFIER_EPOCHS, int((0.85 * minutes - _FIXED_MINUTES) / each)))


def _measured_speed(context: Context) -> float:
    try:
        case = context.records("benchmark_bfloat16")["benchmarks"]["pgd"]["resnet18"]
        return case["variants"]["arinv"]["images_per_second"]["median"]
    except (KeyError, TypeError):
        return _ASSUMED_IMAGES_PER_SECOND


def _cifar10_workdir(context: Context) -> pathlib.Path:
    return context.scratch / "cifar10_resnet18"


def _cifar10_command(context: Context) -> list[str]:
    workdir = _cifar10_workdir(context)
    plan = workdir / "epochs.json"
    if plan.exists():  # a resumed run keeps its plan
        epochs = json.loads(plan.read_text())
    else:
        epochs = max(_FEWEST_EPOCHS, cifar10_epochs(context.minutes, _measured_speed(context)))
        workdir.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps(epochs))
    options = {"encoder": "resnet18", "eps": "1.0", "dtype": "bfloat16"}
    if context.tiny:
        options = {"encoder": "resnet18", "smoke": True}
    if context.data_dir:
        options["data_dir"] = context.data_dir
    config = "configs/cifar10.py:" + ",".join(f"{name}={value}" for name, value in options.items())
    if context.tiny:
        return [context.python, "-m", "arinv", f"--config={config}", f"--workdir={workdir}"]
    # Both schedules are shrunk with the epochs: learning rates fall by 10 at each third.
    extra = []
    for stage, share in (("encoder", epochs), ("inverter", max(1, round(_INVERTER_SHARE * epochs)))):
        extra += [f"--config.stages.*_{stage}.num_epochs={share}", *_step_schedule(stage, share / 3)]
    return [context.python, "-m", "arinv", f"--config={config}", *extra, f"--workdir={workdir}"]


def _step_schedule(stage: str, every_epochs: float) -> list[str]:
    field = "optimizer" if stage == "encoder" else "optimizer.generator"  # the discriminator's schedule follows
    return [f"--config.stages.*_{stage}.{field}.schedule.every_epochs={every_epochs:.6g}"]


def _collect_stages(context: Context, name: str) -> dict[str, Any]:
    """Returns results and configs of an experiment's stages, and copies its figures and table to the records."""
    workdir = context.scratch / name
    kept: dict[str, Any] = {"stages": {}, "configs": {}}
    for path in sorted(workdir.glob("*/results.json")):
        if path.parent.name != "report":
            kept["stages"][path.parent.name] = json.loads(path.read_text())
    for path in sorted(workdir.glob("*/config.json")):
        kept["configs"][path.parent.name] = json.loads(path.read_text())
    report = workdir / "report" / "metrics.json"
    if report.exists():
        kept["metrics"] = json.loads(report.read_text())
    figures = context.out / name
    paths = [*workdir.glob("report/*.png"), *workdir.glob("report/table.md"), *workdir.glob("autoattack/*.png")]
    for path in sorted(paths):
        figures.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, figures / path.name)
    return kept


def _experiment(
    name: str, minutes: float, about: str, config: str, options: dict[str, Any], fields: Mapping[str, Any]
) -> Run:
    """Returns a run of a config with stages, with fixed arguments and, except in a tiny run, fixed fields."""

    def command(context: Context) -> list[str]:
        given = options | ({"data_dir": context.data_dir} if context.data_dir else {})
        if context.tiny:
            given |= {"smoke": True}
        text = f"configs/{config}.py:" + ",".join(f"{key}={value}" for key, value in given.items())
        overrides = [] if context.tiny else [f"--config.stages.{field}={value}" for field, value in fields.items()]
        return [context.python, "-m", "arinv", f"--config={text}", *overrides, f"--workdir={context.scratch / name}"]

    return Run(name, minutes, about, command, lambda context: _collect_stages(context, name))


_STEPS = ("--only", "pgd", "gan_alexnet", "--repeats", "7")

RUNS = (
    _benchmark(
        "benchmark_float32", 5, "speed of the training steps in float32, against PyTorch where it is installed",
        *_STEPS, "--dtype", "float32", against=True,
    ),
    _benchmark(
        "benchmark_bfloat16", 5, "the same in bfloat16",
        *_STEPS, "--dtype", "bfloat16", against=True,
    ),
    _benchmark(
        "benchmark_applications", 9, "seconds of latent search, restoration, RI, WCT and denoising, against PyTorch",
        "--only", "latent_search", "restoration", "ri", "wct", "denoise", "--repeats", "3", "--dtype", "float32",
        against=True,
    ),
    _benchmark(
        "conv_rewrites", 6, "the rewritten convolutions and pools against the plain ones, for the platform's default",
        "--only", "conv_rewrites", "--repeats", "5", "--batch", "128", "--dtype", "bfloat16",
    ),
    Run(
        "cifar10_resnet18", 15, "standard and robust ResNet-18 on CIFAR-10, inverted with three losses; fills the time",
        _cifar10_command, lambda context: _collect_stages(context, "cifar10_resnet18"),
    ),
    _experiment(
        "autoattack_resnet18", 9, "AutoAttack, linf 8/255, of a ResNet-18 on all 10,000 test images of CIFAR-10",
        "robustness", {"encoder": "resnet18", "dtype": "bfloat16"},
        {"encoder.num_epochs": 5, "encoder.attack.num_steps": 7},
    ),
    _experiment(
        "recipes", 14, "ResNet-18 and WRN-28-10 by three recipes: accuracy, under attack, and inverted",
        "compare_recipes",
        {"encoders": "resnet18+wrn28_10", "dtype": "bfloat16"},
        {"*_encoder.num_epochs": 3, "*_inverter.num_epochs": 3, "*.data.num_test": 2000},
    ),
)  # fmt: skip
