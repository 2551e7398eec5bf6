"""Runs the task of a config, or its stages one after the other, or plans what they would cost.

With --plan nothing is run: it tells what the training stages would cost.
A user's mistake ends in one line on stderr and exit code 2; a run stopped by SIGTERM in 143 and one that lost a process
or a machine in 75, to be started again. Several processes find each other; see launch/README.md.
"""

import errno
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from absl import flags, logging
from ml_collections import ConfigDict

from arinv import distributed, interrupts
from arinv.command_line import Command
from arinv.errors import UserError
from arinv.experiment import stages
from arinv.experiment.writer import DISK_ADVICE
from arinv.plan import plan as plans
from arinv.tasks import TASKS

_MISTAKE = 2  # exit code
# What a disk may report that is full, read-only, gone or broken.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs a task, or every stage of an experiment that is not complete yet: `stages.run` with arinv's tasks."""
    stages.run(config, workdir, TASKS)


def check(config: ConfigDict, workdir: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Raises every mistake that can be seen before any work: `stages.check` with arinv's tasks."""
    return stages.check(config, workdir, TASKS)


def plan(config: ConfigDict, workdir: pathlib.Path | None, **options: Any) -> list[str]:
    """Plans a run and returns the lines of the plan: `plan.write` with arinv's tasks."""
    return plans.write(stages.of(config, workdir or pathlib.Path.cwd(), TASKS), workdir, **options)


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
        return f"{line}; {DISK_ADVICE}" if error.errno in _DISK else line
    return ""
