"""Runs the task of a config, or its stages one after the other, or plans what they would cost.

With --plan nothing is run: it tells what the training stages would cost.
A user's mistake ends in one line on stderr and exit code 2; a run stopped by SIGTERM in 143 and one that lost a process
or a machine in 75, to be started again. Several processes find each other; see launch/README.md.
"""

import errno
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import flags, logging
from ml_collections import ConfigDict

from arinv import distributed, interrupts
from arinv.command_line import Command
from arinv.errors import UserError, unknown
from arinv.experiment import lock
from arinv.experiment import workdir as workdirs
from arinv.experiment.writer import MADE_ROOM, write_json
from arinv.plan import plan as plan_text
from arinv.plan import plan as plans
from arinv.tasks import TASKS
from arinv.train import accelerators

_MISTAKE = 2  # exit code
# What a disk may report that is full, read-only, gone or broken.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
_PLANNED_FOR = "h100"  # where nothing better is known


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs a task, or every stage that is not complete yet.

    Args:
      config: of one task, or with `stages` and their `order`.
      workdir: of the run; each stage has a folder of its name in it.

    Raises:
      UserError: a mistake in the config or in what it names.
    """
    stages = check(config, workdir)
    for i, (folder, stage) in enumerate(stages.items(), start=1):
        complete = distributed.first(distributed.index() == 0 and workdirs.is_complete(folder))
        if jax.process_index() == 0 and (complete or len(stages) > 1):
            state = "is complete" if complete else stage.task
            print(f"[{i}/{len(stages)}] {folder.name}: {state}", file=sys.stderr, flush=True)
        if not complete:
            with lock.hold(folder):
                TASKS[stage.task].run(stage, folder)
            distributed.gather(None)  # what process 0 wrote last is there before anybody looks for it


def check(config: ConfigDict, workdir: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Raises every mistake that can be seen before any work, and returns the directory of each stage with its config.

    Args:
      config: as of `run`.
      workdir: of the run; nothing is written.

    Raises:
      UserError: a mistake in the config or in what it names.
    """
    stages = _stages(config, workdir)
    for folder, stage in stages.items():
        if distributed.index() == 0:  # network file systems remember that others looked, and found nothing yet
            workdirs.check_paths(stage)
            workdirs.check(stage, folder)
        TASKS[stage.task].validate(stage)
    if distributed.index() == 0:
        _check_order(stages)
        if len(stages) > 1:  # a single task looks as soon itself
            pending = {folder: stage for folder, stage in stages.items() if not workdirs.is_complete(folder)}
            workdirs.check_sources(pending)
            for folder, stage in pending.items():
                if check_inputs := getattr(TASKS[stage.task], "check_inputs", None):
                    check_inputs(stage, folder, stages)
    return stages


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
        if missing := [name for name in config.order if name not in config.stages]:
            raise unknown("stage", missing[0], config.stages)
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


def execute(command: Command, arguments: list[str]) -> None:
    """Carries out a command, and ends the process with its exit code where that is not 0.

    Args:
      command: as parsed.
      arguments: of the command line, which several processes compare.

    Raises:
      SystemExit: with the exit code.
    """
    logging.set_verbosity(logging.FATAL)  # Orbax logs every save, and every error that it also raises
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read them
    if command.options["plan"]:
        return _guard(command, lambda: _print_plan(command))
    options = {name: command.options[name] for name in ("start_seconds", "lost_seconds")}
    try:
        distributed.start(command.options["distributed"], **options, arguments=arguments)
    except distributed.MissingProcesses as error:
        distributed.fail(distributed.LOST, str(error))
    except UserError as error:
        distributed.fail(_MISTAKE, str(error))
    jax.config.update("jax_compilation_cache_dir", str(command.workdir / "compilation_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    interrupts.let_finish(distributed.AGAIN)
    _guard(command, lambda: run(command.config, command.workdir))
    distributed.finish()


def _print_plan(command: Command) -> None:
    jax.config.update("jax_enable_compilation_cache", False)  # a program from the cache has no compile time
    if command.options["devices"]:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", command.options["devices"])
    accelerator, utilization = command.options["accelerator"] or "", command.options["utilization"]

    def show(line: str) -> None:
        if jax.process_index() == 0:
            print(line, flush=True)

    plan(command.config, command.workdir, accelerator=accelerator, utilization=utilization, show=show)


def _guard(command: Command, work: Callable[[], None]) -> None:
    """Works, and turns what goes wrong into one line and an exit code."""
    try:
        work()
    except SystemExit:  # all processes leave at the same step
        distributed.finish()
        raise
    except BaseException as error:
        if interrupts.received() or isinstance(error, KeyboardInterrupt):
            interrupts.report()
            raise SystemExit(distributed.INTERRUPTED) from None
        if isinstance(error, BrokenPipeError) and distributed.count() == 1:
            raise
        if message := _message(error, command.workdir):
            distributed.fail(_MISTAKE, message)
        if isinstance(error, Exception):
            distributed.crash(error)
        raise


def _message(error: BaseException, workdir: pathlib.Path | None) -> str:
    """Returns the line on what a user can mend, empty for anything else."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        lines = str(error).strip().splitlines() or ["the machine has no more"]
        return f"out of memory ({lines[0][:200]}): set a smaller batch, fewer or smaller images, or use more devices"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        place = error.filename if isinstance(error.filename, (str, bytes)) else workdir
        line = f"{place}: {error.strerror}" if place else error.strerror
        return f"{line}; {MADE_ROOM}" if error.errno in _DISK else line
    return ""
