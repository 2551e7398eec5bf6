"""Typed `name=value` arguments of a config: `--config=configs/inverter.py:encoder=resnet18,eps=8/255`."""

import difflib
import math
import re
from collections.abc import Collection

from ml_collections import ConfigDict

_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_QUOTED = re.compile(r"""(?P<quote>['"])(?P<text>.*?)(?P=quote)\s*(?=,|$)""", re.DOTALL)
_NAME = re.compile(r"\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?P<equals>=)?")


def parse(arg: str | None, *, refused: dict[str, str] | None = None, **defaults) -> ConfigDict:
    """Returns the arguments, each of its default's type.

    Args:
      arg: "name=value,name=value", or None. Numbers may be fractions such as 8/255. A string may contain commas, as
        paths do: what follows a comma belongs to it unless it is another argument. A quoted string may contain
        anything. Of an argument that is given twice the last value counts, as with flags.
      refused: argument that has no effect -> why.
      **defaults: every argument with its default.

    Raises:
      ValueError: an unknown name, one that is refused, or a value of another type; one line that lists what is allowed.
    """
    values, before, refused = dict(defaults), "", refused or {}
    for name, text in _pairs(arg or "", defaults):
        if name in refused:
            raise ValueError(f"{name} has no effect: {refused[name]}; leave it out")
        if name not in defaults:
            allowed = sorted(defaults.keys() - refused.keys())
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            if "/" in str(values.get(before)):
                hint += f" If it belongs to the value before, quote that: {before}='...'."
            fields = "Other settings are fields: --config.FIELD=VALUE."
            raise ValueError(f"unknown config argument {name!r}; known: {', '.join(allowed)}. {fields}{hint}")
        if text is None:
            raise ValueError(f"config argument {name!r} needs a value: {name}=...")
        values[name], before = _convert(name, text, defaults[name]), name
    return ConfigDict(values)


def _pairs(arg: str, defaults: dict) -> list[tuple[str, str | None]]:
    """Returns the arguments as (name, text), with None for the text where there is no value.

    Raises:
      ValueError: a part that is neither an argument nor part of the value before it.
    """
    pairs: list[tuple[str, str | None]] = []
    commas = position = 0
    while position < len(arg):
        match = _NAME.match(arg, position)
        name = match and match["name"]
        end = arg.find(",", position)
        end = len(arg) if end < 0 else end
        part = arg[position:end]
        last, before = pairs[-1] if pairs else ("", None)
        # A quote or a known name starts an argument; "b/c.pth" in "path=a,b/c.pth" is part of the value before.
        is_argument = bool(match) and (match["equals"] or arg[match.end() : end].strip() == "")
        if is_argument and name not in defaults and isinstance(defaults.get(last), str) and not match["equals"]:
            is_argument = False
        if not part.strip():
            commas += 1
        elif is_argument:
            text = None
            if match["equals"]:
                quoted = _QUOTED.match(arg, match.end())
                text = quoted["text"] if quoted else arg[match.end() : end].strip()
                end = quoted.end() if quoted else end
            pairs.append((name, text))
            commas = 0
        elif before is not None and isinstance(defaults.get(last), str):
            pairs[-1] = (last, f"{before},{',' * commas}{part.rstrip()}")
            commas = 0
        else:
            raise ValueError(f"{part.strip()!r} is not a config argument; arguments are name=value, joined by commas")
        position = end + 1
    return pairs


def _convert(name: str, text: str, default):
    kind = type(default)
    try:
        if kind is bool:
            return _WORDS[text.lower()]
        if kind is int:
            return _whole(text)
        if kind is float:
            return _number(text)
    except (KeyError, ValueError, ZeroDivisionError, OverflowError):
        allowed = {bool: "true or false", int: "a whole number", float: "a number or a fraction such as 8/255"}
        raise ValueError(f"config argument {name}={text!r} must be {allowed[kind]}") from None
    return text


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) >= 2**63:
        raise ValueError
    return value


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    value = int(numerator) / int(denominator) if slash else float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def choice(name: str, value: str, known: Collection[str]) -> str:
    """Returns the value of an argument that has a fixed set of them.

    Args:
      name: name of the argument.
      value: its value.
      known: the allowed ones.

    Raises:
      ValueError: another value.
    """
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    return value


def choices(name: str, text: str, known: Collection[str]) -> list[str]:
    """Returns the values in an argument that takes several, each once.

    Args:
      name: name of the argument, in the plural.
      text: values joined by "+".
      known: the allowed ones.

    Raises:
      ValueError: none, or another value.
    """
    values = [choice(name.removesuffix("s"), value, known) for value in split(text)]
    if not values:
        raise ValueError(f"{name} is empty; name some of {', '.join(known)}")
    return values


def split(text: str) -> list[str]:
    """Returns the values that an argument joins by "+", each once."""
    return list(dict.fromkeys(filter(None, text.split("+"))))


def check_eps(eps: float) -> float:
    """Returns an attack radius.

    Raises:
      ValueError: negative.
    """
    if eps < 0:
        raise ValueError(f"eps={eps:g} must be 0 or more: a radius in units of [0, 1] images")
    return eps


def options(text: str, name: str = "options") -> dict:
    """Returns options that an argument gives as name:value pairs.

    Args:
      text: pairs joined by "+", such as "dense_width:512+head_side:1".
      name: name of the argument.

    Raises:
      ValueError: a part without a value.
    """
    values = {}
    for part in filter(None, text.split("+")):
        option, colon, value = part.partition(":")
        if not (option and colon and value):
            raise ValueError(f"{name}={text!r} must be name:value pairs joined by +, such as width:16")
        values[option] = _option(value)
    return values


def _option(text: str):
    if text.lower() in ("true", "false"):
        return _WORDS[text.lower()]
    for kind in (int, _number):
        try:
            return kind(text)
        except (ValueError, ZeroDivisionError):
            pass
    return text


# The standard and the robust network of the zoo (`arinv zoo`) of configs that need some and train none.
ZOO = {"standard": "zoo:alexnet_small_standard", "robust": "zoo:alexnet_small_l2_1"}

# Arguments of every config that trains an encoder.
ENCODER = {
    "encoder": "alexnet_small",
    "options": "",
    "dataset": "photos",
    "classes": "",
    "extra": "",
    "data_dir": "",
    "on_bad_image": "error",
    "image_size": 0,
    "eps": 0.0,
    "norm": "",
    "recipe": "",
    "dtype": "float32",
    "smoke": False,
}
# Of every config that evaluates a trained encoder.
EVALUATION = {
    name: ENCODER[name]
    for name in ("encoder", "dataset", "data_dir", "on_bad_image", "image_size", "eps", "norm", "dtype", "smoke")
}
# Of every config that trains on images alone, without an encoder.
IMAGES = {
    name: ENCODER[name] for name in ("dataset", "classes", "data_dir", "on_bad_image", "image_size", "dtype", "smoke")
}
