"""The command `python -m arinv` and the console script `arinv`.

JAX is imported after the command line has been parsed, so that help, errors and Ctrl-C respond at once.
"""

import faulthandler
import importlib
import multiprocessing
import os
import re
import sys
from types import ModuleType

from arinv import interrupts
from arinv.errors import BROKEN_PIPE, INTERRUPTED, MISTAKE, UserError

if multiprocessing.current_process().name != "MainProcess":  # a worker that imports the main module
    interrupts.leave_to_parent()


def console() -> None:
    """Runs the command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    faulthandler.enable()
    interrupts.install_handler()
    interrupts.outlive_terminals()
    try:
        _run(sys.argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        interrupts.report()
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # as of `arinv --help | head`
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)
        raise SystemExit(BROKEN_PIPE) from None
    except OSError as error:  # of stdout, such as a full disk
        print(f"arinv: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(MISTAKE) from None


def _run(argv: list[str]) -> None:
    try:
        command_line = _import("arinv.command_line")
        if argv[1:2] and argv[1] in command_line.SUBCOMMANDS:
            program = _import(command_line.SUBCOMMANDS[argv[1]][0])
            if code := program.main(argv[2:]):
                raise SystemExit(code)
            return
        if text := command_line.information(argv):
            print(text)
            return
        command, program = command_line.parse(argv), _import("arinv.main")
    except UserError as error:
        print(f"arinv: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
    program.execute(command, argv[1:])


def _import(name: str) -> ModuleType:
    """Returns a module, which imports other packages, JAX among them.

    Raises:
      UserError: a package is not installed, or an environment variable has a value that JAX does not take.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("arinv"):
            raise
        raise UserError(
            f"{error}; install the packages (python -m pip install -r requirements.txt) or activate their environment"
        ) from None
    except ValueError as error:
        if not re.search(r"\bJAX(_| flag)", str(error)):
            raise
        raise UserError(f"JAX does not take an environment variable: {error}") from None


if __name__ == "__main__":
    console()
