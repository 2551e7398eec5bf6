"""The command line: flags, the config file and overrides of its fields, and help.

Nothing here imports JAX, so that help and error messages appear at once.
"""

import ast
import contextlib
import dataclasses
import difflib
import fnmatch
import importlib.machinery
import importlib.util
import inspect
import itertools
import math
import pathlib
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

import arinv
from arinv import paths
from arinv.errors import UserError

_PACKAGE = pathlib.Path(__file__).resolve().parent
# The configs of the package: arinv/configs where it is installed, configs/ in a clone.
SHIPPED = next((path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir()), _PACKAGE)
_WORDS = {"true": True, "t": True, "1": True, "yes": True, "false": False, "f": False, "0": False, "no": False}


def shipped() -> dict[str, pathlib.Path]:
    """Returns the config files of the package, by name."""
    files = {}
    for path in sorted(SHIPPED.rglob("*.py")):
        if "def get_config(" in path.read_text(encoding="utf-8"):
            files[path.relative_to(SHIPPED).with_suffix("").as_posix()] = path
    return files


def docstring(path: pathlib.Path) -> str:
    """Returns the docstring of a config file, empty where it has none.

    Args:
      path: a config file.
    """
    try:
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError):
        return ""


def find(spec: str) -> tuple[pathlib.Path, str | None]:
    """Returns the file of a config and its arguments, None without a colon.

    Args:
      spec: FILE or FILE:ARGUMENTS; instead of a file also the name of a config of the package, such as quickstart.

    Returns:
      Path of the file; text after the colon, or None.

    Raises:
      UserError: there is no such config.
    """
    # A colon may also be part of a file name.
    colons = [match.start() for match in re.finditer(":", spec)]
    for end in (*colons, len(spec)):
        if path := _find_file(spec[:end]):
            return path, spec[end + 1 :] if end < len(spec) else None
    name = spec[: colons[0]] if colons else spec
    if not name:
        raise UserError("--config is empty; name a config file, see --help")
    path = paths.canonical(name, name="--config")
    if path.is_dir():
        children = ", ".join(sorted(child.stem for child in path.glob("[!_]*.py")))
        raise UserError(f"--config={name} is a folder; name a config file{f' in it: {children}' if children else ''}")
    if path.is_file():
        raise UserError(f"--config={name} is not a config: name a Python file (.py) with a function get_config")
    known = shipped()
    close = difflib.get_close_matches(pathlib.PurePath(name).stem, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    known_names = f"; known: {', '.join(known)}.{hint}" if known else ""
    raise UserError(f"config file {name} does not exist{known_names}")


def _find_file(name: str) -> pathlib.Path | None:
    if not name or paths.is_url(name):
        return None
    plain = paths.canonical(name, name="--config") if name.startswith("~") else pathlib.Path(name)
    for path in (plain, SHIPPED / name, SHIPPED.parent / name):
        for file in (path, path.with_name(f"{path.name}.py")) if path.name else ():
            try:
                if file.suffix == ".py" and file.is_file():
                    return file.absolute()
            except (OSError, ValueError):
                continue
    return None


def load(spec: str) -> ConfigDict:
    """Returns the config of a file, locked.

    Args:
      spec: FILE or FILE:ARGUMENTS, see `find`.

    Raises:
      UserError: no such file, a wrong argument, or an error in the file itself, with file and line.
    """
    path, arguments = find(spec)
    # Configs import each other as `configs.NAME`, and those of a user modules beside them, as scripts do, wherever the
    # program was started.
    own = []
    if SHIPPED in path.resolve().parents:
        root = SHIPPED.parent
    else:
        packages = list(itertools.takewhile(lambda folder: (folder / "__init__.py").exists(), path.parents))
        root, own = (packages[-1] if packages else path.parent).parent, [str(path.parent)]
    before = sys.path[:]
    sys.path[:] = [*own, str(root), *before, str(SHIPPED.parent)]
    try:
        loader = importlib.machinery.SourceFileLoader("arinv_config", str(path))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise UserError(f"{path} has no function get_config")
        values = () if arguments is None else (arguments,)
        try:
            inspect.signature(get_config).bind(*values)
        except TypeError:
            raise UserError(f"get_config of {path} takes {'no arguments' if values else 'arguments'}") from None
        config = get_config(*values)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(_fault(path, error)) from error
    finally:
        sys.path[:] = before
    config = ConfigDict(config) if isinstance(config, dict) else config
    if not isinstance(config, ConfigDict) or not ("task" in config or {"stages", "order"} <= {*config}):
        raise UserError(f"get_config of {path} must return a ConfigDict with the field task, or stages and order")
    return config.lock()


def _fault(path: pathlib.Path, error: BaseException) -> str:
    """Returns one line on an error in a config file, with its place unless arinv's own config rejects an argument."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = []  # of config files, not of the libraries that they call
    for frame in traceback.extract_tb(error.__traceback__):
        folders = pathlib.Path(frame.filename).parents
        if SHIPPED in folders or path.parent == folders[0]:
            frames.append(frame)
    text = one_line(error)
    if not frames:
        return f"{path}: {type(error).__name__}: {text}"
    if isinstance(error, ValueError) and SHIPPED in pathlib.Path(frames[-1].filename).resolve().parents:
        return text
    return f"{frames[-1].filename}:{frames[-1].lineno}: {type(error).__name__}: {text}"


def one_line(error: BaseException) -> str:
    """Returns the text of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def override(config: ConfigDict, field: str, text: str | None) -> None:
    """Sets a field of a config, or every field that a pattern matches, to a value of the type of the field.

    Args:
      config: the config, changed in place.
      field: path of the field, such as "attack.eps"; in each of its names "*" stands for any characters, as in
        "stages.*_encoder.num_epochs".
      text: the value; None stands for true.

    Raises:
      UserError: no such field, or a value of another type.
    """
    if "*" in field:
        fields = [name for name in flat(config) if _matches(name, field)]
        if not fields:
            known = f"; stages: {', '.join(config.order)}" if "stages" in config else ""
            raise UserError(f"--config.{field} matches no field of the config{known}")
        for name in fields:
            override(config, name, text)
        return
    *parents, last = field.split(".")
    holder = config
    for depth, name in enumerate([*parents, last]):
        if not isinstance(holder, ConfigDict):
            raise UserError(f"--config.{'.'.join(parents[:depth])} is a value ({holder!r}), not a group of fields")
        if name not in holder:
            raise _unknown_field(config, field, ".".join(parents[:depth]), holder)
        holder, parent = holder[name], holder
    if last == "task":
        raise UserError(f"--config.{field} cannot be changed: the task decides the fields; choose another config")
    if text is None and not isinstance(holder, bool):
        example = "VALUE" if isinstance(holder, ConfigDict) else holder
        raise UserError(f"--config.{field} needs a value: --config.{field}={example}")
    if isinstance(holder, ConfigDict):
        for name, value in _dictionary(field, text).items():
            override(config, f"{field}.{name}", value if isinstance(value, str) else repr(value))
        return
    value = _convert(f"--config.{field}", "true" if text is None else text, holder)
    if last == "order" and isinstance(holder, tuple) and not (value and {*value} <= {*holder}):
        raise UserError(f"--config.{field}={text!r} must be some of {holder!r}")
    try:
        parent[last] = value
    except (TypeError, ValueError) as error:
        raise UserError(f"--config.{field}={text!r}: {one_line(error)}") from error


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("."), pattern.split(".")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def _unknown_field(config: ConfigDict, field: str, place: str, holder: ConfigDict) -> UserError:
    fields = list(flat(config))
    last = field.rpartition(".")[2].replace("-", "_")
    same = [name for name in fields if name.rpartition(".")[2] == last]
    siblings = [f"{place}.{name}".lstrip(".") for name in holder]
    others = [name for name in fields if not field.startswith(f"{name}.")]
    near = same[:3]
    for names in (siblings, others):
        near = near or difflib.get_close_matches(field, names, n=1, cutoff=0.7)
    hint = f" Arguments follow the file: --config=FILE:{field}=VALUE." if field.isidentifier() else ""
    if near:
        hint = f" Did you mean {' or '.join(f'--config.{name}' for name in near)}?"
    where = f"config.{place}" if place else "the config"
    known = f"{where} has {', '.join(sorted(holder))}." if len(holder) else f"{where} has no fields."
    if place.rpartition(".")[2] == "options":
        hint = " Options are set by an argument of the config file: options=NAME:VALUE."
    return UserError(f"unknown field --config.{field}; {known}{hint}")


def flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the values of all fields and groups of fields by their paths, such as "attack.eps".

    Args:
      config: the config.
      prefix: path of the config in a larger one, ending in ".".

    Returns:
      Path -> value.
    """
    fields = {}
    for name in config:
        fields[prefix + name] = config[name]
        if isinstance(config[name], ConfigDict):
            fields |= flat(config[name], f"{prefix}{name}.")
    return fields


def _dictionary(field: str, text: str) -> dict:
    value = _literal(text)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"--config.{field}={text!r} must name one of its fields, such as --config.{field}.NAME=VALUE")
    return value


def _literal(text: str) -> Any:
    """Returns the value of a Python literal, and any other text unchanged."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def _convert(name: str, text: str, old: Any) -> Any:
    """Returns a text converted to the type of an old value."""
    try:
        if isinstance(old, bool):
            return _WORDS[text.strip().lower()]
        if isinstance(old, int):
            value = int(text)
            if abs(value) >= 2**63:
                raise ValueError
            return value
        if isinstance(old, float):
            return _number(text)
        if isinstance(old, (tuple, list)):
            return type(old)(_elements(text, old))
    except (KeyError, ValueError, ZeroDivisionError, OverflowError):
        raise UserError(f"{name}={text!r} must be {_allowed(old)}") from None
    return text if isinstance(old, str) else _literal(text)


def _number(text: str) -> float:
    """Returns the number of a text such as 0.03 or 8/255.

    Raises:
      ValueError, ZeroDivisionError: not a number, or not finite.
    """
    numerator, slash, denominator = text.partition("/")
    value = int(numerator) / int(denominator) if slash else float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _elements(text: str, old: Sequence) -> list:
    value = _literal(text)
    if isinstance(value, str):  # words without quotes
        value = [_literal(part) for part in filter(None, re.split(r"[\s,+]+", value.strip("()[] ")))]
    value = list(value) if isinstance(value, (tuple, list)) else [value]
    kinds = {type(element) for element in old} or {str, int, float, bool}
    if kinds == {float}:
        value = [float(x) if type(x) is int else x for x in value]
    if not all(type(x) in kinds and (not isinstance(x, float) or math.isfinite(x)) for x in value):
        raise ValueError
    return value


def _allowed(old: Any) -> str:
    if isinstance(old, bool):
        return "true or false"
    if isinstance(old, int):
        return "a whole number"
    if isinstance(old, float):
        return "a number or a fraction such as 8/255"
    return f"values joined by commas, as in {old!r}" if old else "values joined by commas, such as (1,2)"


_HELP = {"--help", "-help", "-h", "--h", "-?", "--helpshort", "--helpfull", "--helpxml"}
_VERSION = {"--version", "-version", "-V"}
_OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<field>[^=]*)(?P<equals>=)?(?P<value>.*)", re.DOTALL)
_NUMBER = re.compile(r"-[\d.]")
_USAGE = "python -m arinv --config=FILE[:name=value,...] --workdir=DIRECTORY [--config.FIELD=VALUE ...] [--plan]"
# name -> module with main(argv) -> exit code, and what it does.
SUBCOMMANDS = {
    "info": (
        "arinv.apps.weights.info",
        "PATH ...: describes weight files and workdirs, and prints the command that imports a file.",
    ),
    "resize": (
        "arinv.apps.datasets.resize",
        "SOURCE NAME: writes a copy of a dataset with smaller images, as record files (arinv resize --help).",
    ),
    "zoo": ("arinv.zoo.cards", "[NAME]: lists the trained networks that come with arinv, or prints the card of one."),
}
_OVERRIDE_HELP = """\
  --config.FIELD   Sets a field of the config, such as --config.seed=1; * stands for any characters in
                   a name, as in '--config.stages.*_encoder.num_epochs=5'. --config.FIELD alone is true,
                   --noconfig.FIELD false; a group of fields takes a dictionary."""
_EXAMPLE = "python -m arinv --config=configs/quickstart.py:smoke=True --workdir=runs/smoke"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
      config: the config with all overrides, locked.
      workdir: directory of the run; None where --plan needs none.
      options: the other flags by name: plan, devices, accelerator, utilization, distributed, initialization_timeout,
        heartbeat_timeout.
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
        "One run in several processes. auto: those given by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
        "JAX_PROCESS_ID, SLURM, Open MPI, a TPU pod or Kubernetes; on: fail where none is found; off: one process.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "initialization_timeout",
        300.0,
        "Seconds to wait for the other processes to connect.",
        1.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "heartbeat_timeout",
        60.0,
        "Seconds without a message after which a process counts as lost.",
        4.0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "plan",
        False,
        "Prints memory, FLOPs, collectives and time of every training, without training.",
        flag_values=values,
    )
    flags.DEFINE_integer("devices", None, "Number of virtual devices for --plan.", 1, 65_536, flag_values=values)
    flags.DEFINE_string(
        "accelerator", None, "Accelerator whose step time --plan estimates, such as h100.", flag_values=values
    )
    flags.DEFINE_float(
        "utilization", 0.3, "Share of the peak FLOP/s that --plan assumes.", 0.01, 1.0, flag_values=values
    )
    return values


def information(argv: Sequence[str]) -> str | None:
    """Returns the text of --help, -h or --version, None without any of them.

    Args:
      argv: the command line, the program's name first.
    """
    arguments = set(argv[1:])
    if arguments & _VERSION:
        return f"arinv {arinv.__version__}"
    if not arguments & _HELP:
        return None
    specs = []  # values of --config, after "=" or in the next argument
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            specs.append(value if equals else following)
    if specs:
        with contextlib.suppress(UserError):
            path, _ = find(specs[-1])
            return f"{path}\n\n{inspect.cleandoc(docstring(path))}"
    return _help()


def _help() -> str:
    summary = docstring(_PACKAGE / "__init__.py").splitlines()[0]  # `python -OO` has no arinv.__doc__
    lines = [f"arinv {arinv.__version__}: {summary}", "", f"usage: {_USAGE}", "", f"example: {_EXAMPLE}", "", "flags:"]
    values = _flags()
    first = ("config", "workdir", "plan")
    for name in (*first, *sorted({*values} - {*first, "flagfile", "undefok"})):
        flag = values[name]
        default = f" ({flag.default})" if flag.default not in (None, False) else ""
        lines.append(f"  --{name:14} {flag.help}{default}")
    lines += [_OVERRIDE_HELP, "  --version        Prints the version."]
    lines += ["", *(f"arinv {name} {text}" for name, (_, text) in SUBCOMMANDS.items())]
    if configs := shipped():
        lines += ["", "configs (arguments of one: --config=NAME --help):"]
        for name, path in configs.items():
            lines.append(f"  {name:28} {docstring(path).strip().splitlines()[0]}")
    return "\n".join(lines)


def parse(argv: Sequence[str]) -> Command:
    """Parses a command line.

    Args:
      argv: the command line, the program's name first.

    Returns:
      The config, the workdir and the other flags.

    Raises:
      UserError: an error in the flags, in the config file, in its arguments or in an override.
    """
    values = _flags()
    try:
        rest, overrides = _split(values.read_flags_from_files(list(argv), force_gnu=False))
        rest = values(rest)
    except (flags.Error, OSError) as error:
        raise UserError(one_line(error)) from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; options are written --name=value, see --help")
    if values.config is None or (values.workdir is None and not values.plan):
        raise UserError("needs --config=FILE[:name=value,...] and --workdir=DIRECTORY; see --help")
    for name in ("initialization_timeout", "heartbeat_timeout", "utilization"):
        if not math.isfinite(values[name].value):
            raise UserError(f"--{name}={values[name].value} must be a finite number")
    if not values.plan and (values.devices or values.accelerator):
        raise UserError("--devices and --accelerator are for --plan; a run uses the devices of the machine")
    workdir = None if values.workdir is None else paths.canonical(values.workdir, name="--workdir")
    config = load(values.config)
    for field, text in overrides:
        override(config, field, text)
    others = {*values} - {"config", "workdir", "flagfile", "undefok"}
    return Command(config, workdir, {name: values[name].value for name in others})


def _split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Returns a command line without its overrides, and the overrides as (field, value), None for a missing value."""
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
