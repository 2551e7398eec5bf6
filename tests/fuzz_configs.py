"""Endless random command lines: config files with odd arguments and overrides, up to the checks before a run.

Each case succeeds or raises UserError with one line; anything else is a fault.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from arinv import command_line, main
from arinv.errors import UserError

_NOWHERE = pathlib.Path(tempfile.gettempdir()) / "arinv_fuzz_configs" / "none"
_NUMBERS = "0 1 2 3 -1 0.5 8/255 1e-3 1e9 -0.0 1e999 nan inf 1/0 0x10 1_0".split()
_HUGE = ("4294967296", "9223372036854775807", "-9223372036854775808", "123456789012345678901234567890")
_WORDS = ("", *"none None True false yes auto conv5 block3 fc6 l2 linf l1 pgd gan discrete switch luminance".split())
_NAMES = "alexnet_small resnet18 vgg16_bn photos cifar10 tfds:none step cosine sgd adam area crop squash".split()
_TUPLES = ("()", "(1,)", "(1, 2)", "[1, 'a']", "1,2", "(", "{'a': 1}", "{1: 2}", "('a', 'b')", "a+b", "((1, 2), 3)")
_PATHS = ("/none/a", "~/none", "~nobody_here/x", "../x", "a b", "a,b/c", "a=b", "it's", '"', "gs://bucket/x", "stage:x")
_SOURCES = ("folder:/none", "npz:/none.npz", "volume:/none", "folder:", "stage:encoder", "photos:coffee", "\u00fc")
_POOLS = (_NUMBERS, _WORDS, _NAMES, _TUPLES, _PATHS, _SOURCES, _HUGE)
_FITTING = {
    "encoder": ("alexnet_small", "resnet18", "vgg16_bn"),
    "encoders": ("alexnet_small", "alexnet_small+resnet18", "+"),
    "dataset": ("photos", "cifar10", "folder:/none", "npz:/none"),
    "recipe": ("pgd", "fgsm", "n_fgsm", "trades", "gairat", "gair_rst"),
    "norm": ("l2", "linf", "l1"),
    "layer": ("", "conv5", "conv1", "block4", "fc6"),
    "loss": ("pixel", "feature", "gan", "pixel_balanced"),
    "options": ("width:2", "width:two", "head_side:1+dropout:0.1", "depth:16", "normalization:none"),
    "metrics": ("psnr", "psnr+ssim", "fid", "lpips_alex", "psnr+"),
    "classes": ("0", "1-2", "3+5", "0-9"),
    "dtype": ("float32", "bfloat16"),
}


def cases(rng: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields (command line, what tries it) for ever.

    Args:
      rng: with a method random(), as random.Random and numpy's Generator have.
    """
    names = list(command_line.shipped())
    while True:
        name = _pick(rng, names)
        known = _arguments(name)
        parts = ["smoke=True"] if "smoke" in known and rng.random() < 0.7 else []
        parts += [_argument(rng, known) for _ in range(int(rng.random() * 4))]
        overrides = [_override(rng, name) for _ in range(int(rng.random() * 4))]
        spec = f"{name}:{','.join(parts)}" if parts else name
        argv = ["arinv", f"--config={spec}", f"--workdir={_NOWHERE}", *overrides]
        yield " ".join(argv[1:2] + overrides), functools.partial(_try, argv)


def _try(argv: list[str]) -> None:
    try:
        command = command_line.parse(argv)
        main.check(command.config, command.workdir)
    except UserError as error:
        if not str(error).strip() or "\n" in str(error):
            raise AssertionError(f"not one line: {error}") from error
        raise


def _pick(rng: Any, options: Any) -> Any:
    return options[int(rng.random() * len(options))]


def _value(rng: Any, name: str, old: Any = None) -> str:
    fitting = _FITTING.get(name)
    if isinstance(old, (bool, int, float)) and rng.random() < 0.7:
        pool = ("true", "no") if isinstance(old, bool) else _NUMBERS[: 5 if isinstance(old, int) else 10]
        return _pick(rng, pool if rng.random() < 0.9 else _HUGE)
    return _pick(rng, fitting if fitting and rng.random() < 0.7 else _pick(rng, _POOLS))


def _argument(rng: Any, known: dict[str, Any]) -> str:
    name = _pick(rng, list(known))
    odd = rng.random()
    if odd < 0.03:
        return name
    if odd < 0.06:
        return f"{_misspell(rng, name)}={_value(rng, name)}"
    return f"{name}={_value(rng, name, known[name])}"


def _override(rng: Any, name: str) -> str:
    fields = _fields(name)
    field = _pick(rng, list(fields))
    if isinstance(fields[field], ConfigDict) and rng.random() < 0.9:
        return _override(rng, name)
    odd = rng.random()
    if odd < 0.03:
        return _pick(rng, (f"--config.{field}", f"--noconfig.{field}"))
    value = _value(rng, field.rpartition(".")[2], fields[field]) if rng.random() < 0.8 else f"{fields[field]}"
    return f"--config.{_misspell(rng, field) if odd < 0.06 else field}={value}"


def _misspell(rng: Any, name: str) -> str:
    place = int(rng.random() * (len(name) + 1))
    return name[:place] + _pick(rng, ("x", ".", "-", " ", "", "..", "\u00fc")) + name[place + int(rng.random() * 2) :]


@functools.cache
def _arguments(name: str) -> dict[str, Any]:
    """Returns the arguments of a config with values of their types, by what its errors say of them."""
    message = _error(name, "no_such_argument=1")
    known = message.partition("known: ")[2].partition(".")[0].split(", ")
    values = {"a whole number": 1, "a number": 1.0, "true or false": True}
    return {a: next((v for text, v in values.items() if text in _error(name, f"{a}=no number")), "") for a in known}


def _error(name: str, arguments: str) -> str:
    try:
        command_line.load(f"{name}:{arguments}")
    except UserError as error:
        return str(error)
    return ""


@functools.cache
def _fields(name: str) -> dict[str, Any]:
    return command_line.flat(command_line.load(f"{name}:smoke=True"))
