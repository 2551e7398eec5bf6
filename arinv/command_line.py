"""The command line: flags, the config file with overrides of its fields, and help.

Nothing here imports JAX, so that help and mistakes cost no seconds.
"""

import dataclasses
import inspect
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

import arinv
from arinv import config_files, paths
from arinv.errors import UserError

_HELP = {"--help", "-help", "-h", "--h", "-?", "--helpshort", "--helpfull", "--helpxml"}
_VERSION = {"--version", "-version", "-V"}
_OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<field>[^=]*)(?P<equals>=)?(?P<value>.*)", re.DOTALL)
_NUMBER = re.compile(r"-[\d.]")
_USAGE = "python -m arinv --config=FILE[:name=value,...] --workdir=DIRECTORY [--config.FIELD=VALUE ...] [--plan]"
_EXAMPLE = "python -m arinv --config=configs/quickstart.py:smoke=True --workdir=runs/smoke"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
      config: with all overrides, locked.
      workdir: of the run; None where --plan needs none.
      options: the other flags by name: plan, devices, accelerator, utilization, distributed, start_seconds,
        lost_seconds.
    """

    config: ConfigDict
    workdir: pathlib.Path | None
    options: Mapping[str, Any]


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "Config file or name; its arguments follow a colon.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, logs, results.", flag_values=values)
    flags.DEFINE_string(
        "distributed",
        "auto",
        "Several processes as one run. auto: with those that JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
        "JAX_PROCESS_ID, SLURM, Open MPI, a TPU pod or Kubernetes name; on: raises if there is none; off: alone.",
        flag_values=values,
    )
    flags.DEFINE_float("start_seconds", 300.0, "How long to wait for the other processes.", 1.0, flag_values=values)
    flags.DEFINE_float("lost_seconds", 60.0, "Silence after which a process counts as lost.", 4.0, flag_values=values)
    flags.DEFINE_bool(
        "plan", False, "Run nothing; print memory, FLOPs, collectives and time of every training.", flag_values=values
    )
    flags.DEFINE_integer("devices", None, "Of --plan: number of virtual devices.", 1, flag_values=values)
    flags.DEFINE_string("accelerator", None, "Of --plan: whose times, such as h100.", flag_values=values)
    flags.DEFINE_float(
        "utilization", 0.3, "Of --plan: share of the peak that is reached.", 0.01, 1.0, flag_values=values
    )
    return values


def information(argv: Sequence[str]) -> str | None:
    """Returns the text that --help, -h or --version ask for, None where none of them is given.

    Args:
      argv: the command line, the program's name first.
    """
    given = set(argv[1:])
    if given & _VERSION:
        return f"arinv {arinv.__version__}"
    if not given & _HELP:
        return None
    specs = list(_values(argv, "config"))
    if specs:
        try:
            path, _ = config_files.find(specs[-1])
            return f"{path}\n\n{inspect.cleandoc(config_files.docstring(path))}"
        except UserError:
            pass
    return _help()


def _help() -> str:
    summary = arinv.__doc__.strip().splitlines()[0]
    lines = [f"arinv {arinv.__version__}: {summary}", "", f"usage: {_USAGE}", "", f"example: {_EXAMPLE}", "", "flags:"]
    values = _flags()
    first = ("config", "workdir", "plan")
    for name in (*first, *sorted({*values} - {*first, "flagfile", "undefok"})):
        flag = values[name]
        default = f" ({flag.default})" if flag.default not in (None, False) else ""
        lines.append(f"  --{name:14} {flag.help}{default}")
    lines.append("  --config.FIELD   Sets a field of the config, such as --config.seed=1.")
    lines.append("  --version        Prints the version.")
    if configs := config_files.shipped():
        lines += ["", "configs (arguments of one: --config=NAME --help):"]
        for name, path in configs.items():
            lines.append(f"  {name:28} {config_files.docstring(path).strip().splitlines()[0]}")
    return "\n".join(lines)


def _values(argv: Sequence[str], name: str) -> Iterator[str]:
    """Yields the values of a flag, which stand behind "=" or in the next argument."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            yield value if equals else following


def parse(argv: Sequence[str]) -> Command:
    """Returns the command that a command line gives.

    Args:
      argv: the command line, the program's name first.

    Raises:
      UserError: a mistake in the flags, in the config file, in its arguments or in an override.
    """
    values = _flags()
    try:
        rest, overrides = _split(values.read_flags_from_files(list(argv), force_gnu=False))
        rest = values(rest)
    except (flags.Error, OSError) as error:
        raise UserError(config_files.one_line(error)) from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; options are written --name=value, see --help")
    if values.config is None or (values.workdir is None and not values.plan):
        raise UserError("needs --config=FILE[:name=value,...] and --workdir=DIRECTORY; see --help")
    if not values.plan and (values.devices or values.accelerator):
        raise UserError("--devices and --accelerator are for --plan; a run takes the devices that are there")
    workdir = None if values.workdir is None else paths.canonical(values.workdir, name="--workdir")
    config = config_files.load(values.config)
    for field, text in overrides:
        config_files.override(config, field, text)
    names = ("plan", "devices", "accelerator", "utilization", "distributed", "start_seconds", "lost_seconds")
    return Command(config, workdir, {name: values[name].value for name in names})


def _split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Returns a command line without overrides, and those as (field, value), None for a value that is left out."""
    rest, overrides = [], []
    arguments = iter(range(len(argv)))
    for i in arguments:
        match = _OVERRIDE.fullmatch(argv[i])
        if argv[i] == "--":
            rest += argv[i:]
            break
        if not match:
            rest.append(argv[i])
            continue
        following = argv[i + 1] if i + 1 < len(argv) else "-"
        value = match["value"] if match["equals"] else None
        if match["no"]:
            value = "false" if value is None else f"no{match[0]}"
        elif value is None and (not following.startswith("-") or _NUMBER.match(following)):
            value = following
            next(arguments)
        overrides.append((match["field"], value))
    return rest, overrides
