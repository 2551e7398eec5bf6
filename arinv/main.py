"""Running a command: a task or the stages of an experiment, or with --plan a plan of what the trainings would cost.

Exit codes: 2 for a user's mistake, with one line on stderr; 143 after SIGTERM and 75 after the loss of a process or
machine, both to be started again; 130 after Ctrl-C. For several processes see launch/README.md.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import flags, logging
from ml_collections import ConfigDict

from arinv import _compilation_cache, distributed, interrupts, parallel
from arinv.command_line import Command
from arinv.errors import INTERRUPTED, LOST, MISTAKE, TemporaryError, UserError, user_line
from arinv.experiment import stages
from arinv.plan import plan as plans
from arinv.tasks import TASKS


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs a task, or every stage of an experiment that is not complete yet: `stages.run` with arinv's tasks.

    Raises:
      UserError: as `stages.run`, no device of the platform, or several processes of JAX that arinv has not started.
    """
    parallel.count_devices()  # raises where JAX_PLATFORMS names a platform without devices
    if (count := jax.process_count()) != distributed.count():  # noqa: TID251
        raise UserError(
            f"JAX runs in {count} processes, arinv in {distributed.count()}; start each of them with --distributed=on"
        )
    stages.run(config, workdir, TASKS)


def check(config: ConfigDict, workdir: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Checks everything that can be checked before any work: `stages.check` with arinv's tasks."""
    return stages.check(config, workdir, TASKS)


def plan(config: ConfigDict, workdir: pathlib.Path | None, **options: Any) -> Iterator[str]:
    """Plans a run while it yields the lines of the plan: `plan.write` with arinv's tasks."""
    return plans.write(stages.expand(config, workdir or pathlib.Path.cwd(), TASKS), workdir, TASKS, **options)


def execute(command: Command, arguments: list[str]) -> None:
    """Executes a command, and ends the process with its exit code unless that is 0.

    Args:
      command: as parsed.
      arguments: of the command line, which must be the same in all processes.

    Raises:
      SystemExit: with the exit code.
    """
    logging.set_verbosity(logging.FATAL)  # Orbax logs every save, and every error that it also raises
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read them
    if command.options["plan"]:
        return _guard(command, lambda: _print_plan(command))
    seconds = {name: command.options[name] for name in ("initialization_timeout", "heartbeat_timeout")}
    try:
        distributed.start(command.options["distributed"], **seconds, arguments=arguments)
    except UserError as error:
        distributed.fail(_code(error), str(error))

    _keep_compilations(command.workdir)
    interrupts.allow_cleanup(distributed.AGAIN)
    _guard(command, lambda: run(command.config, command.workdir))
    distributed.finish()


def _keep_compilations(workdir: pathlib.Path) -> None:
    """Keeps compiled programs of several processes in the workdir, which all hosts see: process 0 alone writes them."""
    if distributed.count() > 1 and _compilation_cache.is_default(jax.config.jax_compilation_cache_dir):
        folder = workdir / "compilation_cache" / _compilation_cache.kind()
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _print_plan(command: Command) -> None:
    jax.config.update("jax_enable_compilation_cache", False)  # a cached program has no compile time
    if command.options["devices"]:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", command.options["devices"])
    parallel.count_devices()  # raises
    accelerator, utilization = command.options["accelerator"] or "", command.options["utilization"]
    for line in plan(command.config, command.workdir, accelerator=accelerator, utilization=utilization):
        print(line, flush=True)


def _code(error: BaseException) -> int:
    """Returns the exit code of an error that is reported in one line."""
    return LOST if isinstance(error, TemporaryError) else MISTAKE


def _guard(command: Command, work: Callable[[], None]) -> None:
    """Calls a function, and turns its exceptions into one line and an exit code."""
    try:
        work()
    except SystemExit:  # raised by all processes at the same step
        distributed.finish()
        raise
    except BaseException as error:
        if interrupts.received() or isinstance(error, KeyboardInterrupt):
            interrupts.report()
            raise SystemExit(INTERRUPTED) from None
        if isinstance(error, BrokenPipeError) and distributed.count() == 1:
            raise
        if line := user_line(error, command.workdir):
            distributed.fail(_code(error), line)
        if isinstance(error, Exception):
            distributed.crash(error)
        raise
