"""The command: reads a config and runs its task, or its stages one after the other.

    python -m arinv --config=configs/quickstart.py:encoder=resnet18 --workdir=runs/mine [--config.FIELD=VALUE]
    python -m arinv --config=configs/quickstart.py --plan [--devices=256] [--accelerator=h100]

With --plan nothing is run: it tells what the training stages would cost.
A user's mistake ends in one line on stderr and exit code 2; a run stopped by SIGTERM in 143 and one that lost a process
or a machine in 75, to be started again. Several processes find each other; see launch/README.md.
"""

import errno
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from arinv import processes
from arinv.errors import UserError, unknown
from arinv.tasks import lock, plan_text
from arinv.tasks import plan as plans
from arinv.tasks import workdir as workdirs
from arinv.tasks.registry import TASKS
from arinv.train import accelerators
from arinv.train.writer import MADE_ROOM, write_json

_MISTAKE = 2  # exit code
# What a disk may say that is full, read-only, gone or broken.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


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
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    processes.MODES,
    "Several processes as one run: auto joins those that JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
    "JAX_PROCESS_ID, SLURM, Open MPI, a TPU pod or Kubernetes tell of; on refuses to be alone; off is alone.",
)
_START_SECONDS = flags.DEFINE_float("start_seconds", 300.0, "How long to wait for the other processes.", 1.0)
_LOST_SECONDS = flags.DEFINE_float("lost_seconds", 60.0, "Silence after which a process counts as lost.", 4.0)
_PLAN = flags.DEFINE_bool("plan", False, "Run nothing; print memory, FLOPs, collectives and time of every training.")
_DEVICES = flags.DEFINE_integer("devices", None, "Of --plan: so many virtual devices; without it those here.", 1)
_ACCELERATOR = flags.DEFINE_string("accelerator", None, "Of --plan: whose times; without it the device here, or h100.")
_UTILIZATION = flags.DEFINE_float("utilization", 0.3, "Of --plan: share of the peak that is reached.", 0.01, 1.0)
_PLANNED_FOR = "h100"  # where nothing better is known


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs a task, or every stage that is not complete yet.

    Args:
      config: of one task, or with `stages` and their `order`.
      workdir: of the run; each stage has a folder of its name in it.

    Raises:
      UserError: a mistake in the config or in what it names.
    """
    stages = _stages(config, workdir)
    for folder, stage in stages.items():  # all mistakes that can be seen now are told before any work
        if processes.index() == 0:  # network file systems remember that others looked, and found nothing yet
            workdirs.check_paths(stage)
            workdirs.check(stage, folder)
        TASKS[stage.task].validate(stage)
    if processes.index() == 0:
        _check_order(stages)
        if len(stages) > 1:  # a single task looks as soon itself
            pending = {folder: stage for folder, stage in stages.items() if not workdirs.is_complete(folder)}
            workdirs.check_sources(pending)
            for folder, stage in pending.items():
                if check_inputs := getattr(TASKS[stage.task], "check_inputs", None):
                    check_inputs(stage, folder, stages)
    for i, (folder, stage) in enumerate(stages.items(), start=1):
        complete = processes.first(processes.index() == 0 and workdirs.is_complete(folder))
        if jax.process_index() == 0 and (complete or len(stages) > 1):
            state = "is complete" if complete else stage.task
            print(f"[{i}/{len(stages)}] {folder.name}: {state}", file=sys.stderr, flush=True)
        if not complete:
            with lock.hold(folder):
                TASKS[stage.task].run(stage, folder)
            processes.gather(None)  # what process 0 wrote last is there before anybody looks for it


def _check_order(stages: Mapping[pathlib.Path, ConfigDict]) -> None:
    """Refuses to make a stage anew beside complete ones that were made of its predecessor.

    Raises:
      UserError: naming both.
    """
    names = {f"stage:{folder.name}": folder for folder in stages}
    for folder, stage in stages.items():
        used = {part for value in _texts(workdirs.plain(stage)) for part in value.split("+")}
        for name in sorted(part for part in used if part.startswith("stage:")):
            if name in names and workdirs.is_complete(folder) and not workdirs.is_complete(names[name]):
                raise UserError(
                    f"{names[name]} is to be made, but {folder}, which was made of it, is complete: delete that too, "
                    "or bring the other back"
                )


def _texts(value: Any) -> Iterator[str]:
    """Yields every text in a config."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(part)


def _stages(config: ConfigDict, workdir: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Returns the directory of each stage with its config, in order; of a single task its own."""
    stages = {workdir: config}
    if "stages" in config:
        stages = {workdir / name: config.stages[name] for name in config.order}
    for stage in stages.values():
        if stage.task not in TASKS:
            raise unknown("task", stage.task, TASKS)
    return stages


def plan(
    config: ConfigDict,
    workdir: pathlib.Path | None,
    *,
    accelerator: str = "",
    utilization: float = 0.3,
    show: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Plans a run on the devices that JAX sees, writes plan.json if there is a workdir, and returns it in words.

    Args:
      config: of one task or of an experiment, as for `run`.
      workdir: of the run, or None.
      accelerator: a key of arinv.train.accelerators; empty for the device here, or else for an H100.
      utilization: share of its peak that is reached, 0 to 1.
      show: called with each line as soon as it is known.

    Raises:
      UserError: a mistake in the config, or an unknown accelerator.
    """
    name = accelerator or accelerators.name_of(jax.devices()[0].device_kind) or _PLANNED_FOR
    assumptions = plans.Assumptions(accelerators.accelerator(name), utilization)
    stages = _stages(config, workdir or pathlib.Path.cwd())
    lines: list[str] = []

    def add(more: Sequence[str]) -> None:
        for line in more:
            lines.append(line)
            show(line)

    found = plans.run(stages, assumptions, show=lambda planned: add(plan_text.stage_lines(planned)))
    if workdir is not None and jax.process_index() == 0:
        try:
            write_json(workdir / "plan.json", found)
        except OSError as error:
            raise UserError(f"workdir {workdir} cannot be written: {error.strerror}") from error
    others = [folder.name for folder, stage in stages.items() if stage.task not in plans.TRAINING]
    add(plan_text.summary_lines(found, others))
    return lines


def _plan_by_flags(workdir: pathlib.Path | None) -> None:
    jax.config.update("jax_enable_compilation_cache", False)  # a program from the cache has no compile time
    if _DEVICES.value:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", _DEVICES.value)

    def show(line: str) -> None:
        if jax.process_index() == 0:
            print(line, flush=True)

    accelerator = _ACCELERATOR.value or ""
    plan(_CONFIG.value, workdir, accelerator=accelerator, utilization=_UTILIZATION.value, show=show)


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
        if _CONFIG.value is None or (_WORKDIR.value is None and not _PLAN.value):
            raise UserError("needs --config=FILE[:name=value,...] and --workdir=DIRECTORY")
        if not _PLAN.value and (_DEVICES.value or _ACCELERATOR.value):
            raise UserError("--devices and --accelerator are for --plan; a run takes the devices that are there")
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}; options are written --name=value")
        "task" in _CONFIG.value  # noqa: B015  a file that could not be read is only told when looked into
        return rest
    except (flags.Error, UserError, OSError, AttributeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        _exit(lines[-1].removeprefix("ValueError: ") if lines else repr(error))


def _exit(message: str, code: int = _MISTAKE) -> NoReturn:
    print(f"arinv: {message}", file=sys.stderr)
    raise SystemExit(code)


def _main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # Orbax tells every save, and every error that it also raises
    workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute() if _WORKDIR.value else None
    if _PLAN.value:
        try:
            return _plan_by_flags(workdir)
        except UserError as error:
            _exit(str(error))
    try:
        processes.start(
            _DISTRIBUTED.value,
            start_seconds=_START_SECONDS.value,
            lost_seconds=_LOST_SECONDS.value,
            arguments=sys.argv[1:],
        )
    except processes.MissingProcesses as error:
        _exit(str(error), processes.LOST)
    except UserError as error:
        _exit(str(error))
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        run(_CONFIG.value, workdir)
    except UserError as error:
        processes.fail(_MISTAKE, str(error))
    except KeyboardInterrupt:
        print(f"interrupted; {processes.AGAIN}", file=sys.stderr)
        raise SystemExit(processes.INTERRUPTED) from None
    except OSError as error:
        if error.errno in _DISK:
            processes.fail(_MISTAKE, f"{error.filename or workdir}: {error.strerror}; {MADE_ROOM}")
        processes.crash(error)
    except SystemExit:  # all processes leave at the same step
        processes.finish()
        raise
    except Exception as error:
        processes.crash(error)
    processes.finish()


def console() -> None:
    """Entry point of the `arinv` command."""
    app.run(_main, flags_parser=_parse_flags)
