"""The command: reads a config and runs its task, or its stages one after the other.

    python -m arinv --config=configs/quickstart.py:encoder=resnet18 --workdir=runs/mine [--config.FIELD=VALUE]

A user's mistake ends in one line on stderr and exit code 2; a run stopped by SIGTERM in 143, to be started again.
"""

import pathlib
import sys
from collections.abc import Sequence
from fractions import Fraction

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from arinv.errors import UserError, unknown
from arinv.tasks import (
    anomaly,
    anomaly_report,
    autoattack,
    classifier,
    denoise,
    denoiser,
    denoising_evaluation,
    detector,
    evaluation,
    export_torch,
    high_resolution,
    import_torch,
    inversion_comparison,
    invert,
    inverter,
    report,
    score,
    style_evaluation,
    stylization,
)
from arinv.tasks import workdir as workdirs

_TASKS = {
    "anomaly": anomaly,
    "anomaly_report": anomaly_report,
    "autoattack": autoattack,
    "classifier": classifier,
    "detector": detector,
    "inverter": inverter,
    "evaluation": evaluation,
    "report": report,
    "score": score,
    "import_torch": import_torch,
    "export_torch": export_torch,
    "high_resolution": high_resolution,
    "invert": invert,
    "inversion_comparison": inversion_comparison,
    "denoiser": denoiser,
    "denoising_evaluation": denoising_evaluation,
    "denoise": denoise,
    "stylization": stylization,
    "style_evaluation": style_evaluation,
}
_MISTAKE = 2  # exit code


class _NumberParser(flags.ArgumentParser):
    """Reads 0.03 and 8/255."""

    syntactic_help = "a number or a fraction such as 8/255"

    def parse(self, argument):
        """Returns the number."""
        try:
            return float(argument) if isinstance(argument, (int, float)) else float(Fraction(argument))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"must be {self.syntactic_help}") from None

    def flag_type(self):
        """Returns the name of the type, for --help."""
        return "float"


config_flags.register_flag_parser_for_type(float, _NumberParser())
_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; arguments follow a colon, name=value,...")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, logs, pictures, results.")


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs a task, or every stage that is not complete yet.

    Args:
      config: of one task, or with `stages` and their `order`.
      workdir: of the run; each stage has a folder of its name in it.

    Raises:
      UserError: a mistake in the config or in what it names.
    """
    if "stages" not in config:
        stages = {workdir: config}
    else:
        stages = {workdir / name: config.stages[name] for name in config.order}
    for folder, stage in stages.items():  # all mistakes that can be seen now are told before any work
        if stage.task not in _TASKS:
            raise unknown("task", stage.task, _TASKS)
        workdirs.check(stage, folder)
        _TASKS[stage.task].validate(stage)
    for i, (folder, stage) in enumerate(stages.items(), start=1):
        complete = workdirs.is_complete(folder)
        if jax.process_index() == 0 and (complete or len(stages) > 1):
            state = "is complete" if complete else stage.task
            print(f"[{i}/{len(stages)}] {folder.name}: {state}", file=sys.stderr, flush=True)
        if not complete:
            _TASKS[stage.task].run(stage, folder)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; a mistake, also one inside a config file, becomes one line."""
    # Configs import each other as `configs.NAME`, from wherever the program was started.
    for argument in argv:
        if argument.startswith(("--config=", "-config=")):
            path = pathlib.Path(argument.partition("=")[2].partition(":")[0]).absolute()
            packages = [folder for folder in path.parents if (folder / "__init__.py").exists()]
            sys.path.insert(0, str((packages[-1] if packages else path.parent).parent))
    try:
        rest = flags.FLAGS(list(argv))
        if _CONFIG.value is None or _WORKDIR.value is None:
            raise UserError("needs --config=FILE[:name=value,...] and --workdir=DIRECTORY")
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}; options are written --name=value")
        "task" in _CONFIG.value  # noqa: B015  a file that could not be read is only told when looked into
        return rest
    except (flags.Error, UserError, OSError, AttributeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        _exit(lines[-1].removeprefix("ValueError: ") if lines else repr(error))


def _exit(message: str) -> None:
    print(f"arinv: {message}", file=sys.stderr)
    raise SystemExit(_MISTAKE)


def _main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax tells every save, and warns of items that are read alone
    workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        run(_CONFIG.value, workdir)
    except UserError as error:
        _exit(str(error))
    except KeyboardInterrupt:
        print("interrupted; start again to go on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def console() -> None:
    """Entry point of the `arinv` command."""
    app.run(_main, flags_parser=_parse_flags)
