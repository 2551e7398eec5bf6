"""Finds a network's weights in an open checkpoint and takes them over, or says on one line what does not fit.

A checkpoint is a dictionary of weights or holds one or several such dictionaries; the names may have a prefix, such as
"module.model.". The dictionary and the prefix are those under which most of the names that are looked for stand; of
two that fit alike, the one at a usual place.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from arinv.errors import UserError
from arinv.models.normalization import NORMALIZATIONS
from arinv.models.pytorch import layout
from arinv.models.pytorch import names as torch_names
from arinv.models.pytorch.file import TorchFile
from arinv.models.pytorch.layout import Entry
from arinv.models.pytorch.objects import Inert, Tensor
from arinv.types import Variables

_SHOWN, _LONGEST = 4, 120  # names of a kind in a message, and letters of a name
_SAME = 1e-4  # means and deviations closer than this are the same


class Found(NamedTuple):
    """The weights of one network in a file.

    Attributes:
      weights: name without prefix -> what stands there.
      outside: name in the file -> what stands there, of the same dictionary but without the prefix.
      others: names of other dictionaries in the file that hold the half of these weights or more.
    """

    weights: Mapping[str, Any]
    outside: Mapping[str, Any]
    others: tuple[str, ...] = ()


def locate(file: TorchFile, wanted: Sequence[Entry]) -> Found:
    """Returns the weights under the prefix that fits best.

    Raises:
      UserError: the file holds no dictionary of weights, or two that fit alike at unusual places.
    """
    names = [name for entry in wanted for name in entry.names]
    states = _dictionaries(file)
    fits = {place: _best_prefix(state, names) for place, state in states.items()}
    place = max(fits, key=lambda place: fits[place][0])  # the first of those that fit alike
    best, prefix = fits[place]
    alike = [other for other, (score, _) in fits.items() if score == best]
    if best and len(alike) > 1 and place not in ("", *torch_names.ENTRIES):
        raise UserError(
            f"{file.path} holds several networks that fit alike: {abbreviate(alike)}; save the one that is meant by "
            f"itself, torch.save(torch.load(PATH)[{place!r}], NEW_PATH)"
        )
    state = states[place]
    others = tuple(other for other, (score, _) in fits.items() if other not in ("", place) and 0 < best <= 2 * score)
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return Found(inside, {name: value for name, value in state.items() if not name.startswith(prefix)}, others)


def _best_prefix(state: Mapping[str, Any], names: Sequence[str]) -> tuple[int, str]:
    """Returns how many of the names stand under the prefix with the most of them, and that prefix."""
    scores = {prefix: sum(prefix + name in state for name in names) for prefix in _prefixes(state, names)}
    prefix = max(scores, key=scores.__getitem__)
    return scores[prefix], prefix


def _dictionaries(file: TorchFile) -> dict[str, Mapping[str, Any]]:
    """Returns the dictionaries with tensors by their place in the file ("" is the file itself), the usual first."""
    content = file.content
    if isinstance(content, Inert):
        raise UserError(
            f"{file.path} holds a whole object of class {content.name}, which would have to be executed; "
            "save its weights, torch.save(model.state_dict(), PATH)"
        )
    if not isinstance(content, dict):
        raise UserError(f"{file.path} holds a {type(content).__name__}; expected a dictionary of weights")
    content = {name: value for name, value in content.items() if isinstance(name, str)}
    order = (*(name for name in torch_names.ENTRIES if name in content), *content)
    candidates = {"": content, **{name: content[name] for name in order if name}}
    found = {
        place: {name: value for name, value in state.items() if isinstance(name, str)}
        for place, state in candidates.items()
        if isinstance(state, dict) and any(isinstance(value, Tensor) for value in state.values())
    }
    if not found:
        raise UserError(f"{file.path} holds no weights, only {abbreviate(content) or 'nothing'}")
    return found


def _prefixes(state: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Returns the prefixes that some name has, shortest first; the empty one is always there."""
    found = {""}
    for name in names:
        found |= {key.removesuffix(name) for key in state if key.endswith(f".{name}")}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def convert(file: TorchFile, found: Found, wanted: Sequence[Entry], *, what: str) -> Variables:
    """Returns the variables of a network, numpy arrays in float32.

    Args:
      file: the open checkpoint.
      found: its weights, from `locate`.
      wanted: every array of the network.
      what: names the network in messages.

    Raises:
      UserError: names or shapes differ, or a weight is no tensor of real, finite numbers.
    """
    names = {entry: next((name for name in entry.names if name in found.weights), None) for entry in wanted}
    _compare(file.path, found, names, what)
    flat = {}
    for entry, name in names.items():
        array = file.array(found.weights[name])
        if array.dtype.kind not in "fV":  # V: bfloat16
            raise UserError(f"{file.path} has {name} in {array.dtype}; expected float16, bfloat16, float32 or float64")
        with np.errstate(over="ignore"):  # it is told
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{file.path} has NaN or infinity in {name} (in float32); take another checkpoint")
        flat[entry.path] = np.ascontiguousarray(layout.to_ours(entry, array))
    return traverse_util.unflatten_dict(flat)


def _compare(path: pathlib.Path, found: Found, names: Mapping[Entry, str | None], what: str) -> None:
    missing = [entry.names[0] for entry, name in names.items() if name is None]
    unexpected = (found.weights.keys() | found.outside.keys()) - set(names.values()) - unread(found)
    placeholders, shapes = [], []
    for entry, name in names.items():
        value = found.weights.get(name)
        if name is not None and not isinstance(value, Tensor):
            placeholders.append(f"{name} ({value.name if isinstance(value, Inert) else type(value).__name__})")
        elif name is not None and value.shape != entry.torch_shape:
            shapes.append(f"{name} is {value.shape} there, {entry.torch_shape} here")
    kinds = {
        "missing in the file": missing,
        "only in the file": sorted(unexpected),
        "no tensor": placeholders,
        "other shapes": shapes,
    }
    parts = [f"{kind}: {abbreviate(items)}" for kind, items in kinds.items() if items]
    if parts:
        raise UserError(f"{path} does not fit {what}; {'; '.join(parts)}")


def abbreviate(items: Iterable[str], *, separator: str = ", ") -> str:
    """Returns the first of some items and the number of the others, on one line."""
    items = [item if item.isprintable() else repr(item) for item in items]
    more = len(items) - _SHOWN
    return separator.join(item[:_LONGEST] for item in items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def unread(found: Found) -> set[str]:
    """Returns the names in a file that are known and not read, normalisation aside."""
    inside = {
        name
        for name in found.weights
        if name.endswith(torch_names.UNREAD_ENDINGS)
        or name.startswith(torch_names.UNREAD_STARTS)
        or _is_normalization(name)
    }
    outside = {
        name
        for name in found.outside
        if name.removeprefix("module.").split(".")[0] in torch_names.NEIGHBOURS or _is_normalization(name)
    }
    return inside | outside


def _is_normalization(name: str) -> bool:
    return name.rpartition(".")[2] in (*torch_names.MEANS, *torch_names.DEVIATIONS)


def read_normalization(file: TorchFile, found: Found) -> tuple[list[float], list[float]] | None:
    """Returns mean and standard deviation of RGB that a file carries, or None."""
    if "mean" in file.metadata and "std" in file.metadata:
        with contextlib.suppress(ValueError):
            carried = json.loads(file.metadata["mean"]), json.loads(file.metadata["std"])
            if np.asarray(carried, np.float32).shape == (2, 3):
                return carried
    values: dict[tuple[str, ...], list[float]] = {}
    for name, value in {**found.outside, **found.weights}.items():
        for kind in (torch_names.MEANS, torch_names.DEVIATIONS):
            stands_here = name.rpartition(".")[2] in kind and "attacker." not in name
            if stands_here and isinstance(value, Tensor) and math.prod(value.shape) == 3:
                values[kind] = [float(x) for x in file.array(value).reshape(-1)]
    if len(values) != 2:
        return None
    return values[torch_names.MEANS], values[torch_names.DEVIATIONS]


def normalization_name(mean: Sequence[float], std: Sequence[float]) -> str | None:
    """Returns the name of the normalisation with these numbers, or None."""
    for name, known in NORMALIZATIONS.items():
        if np.allclose([mean, std], known, rtol=0, atol=_SAME):
            return name
    return None


def check_normalization(file: TorchFile, found: Found, name: str) -> None:
    """Compares the normalisation that a file carries with the encoder's.

    Raises:
      UserError: they differ.
    """
    carried = read_normalization(file, found)
    if carried is None or np.allclose(carried, NORMALIZATIONS[name], rtol=0, atol=_SAME):
        return
    right = normalization_name(*carried)
    advice = f"pass normalization={right!r}" if right else f"none of {', '.join(NORMALIZATIONS)} has these numbers"
    advice += ", or check_normalization=False to keep what the encoder has"
    mean, std = ([round(x, 4) for x in numbers] for numbers in carried)
    raise UserError(
        f"{file.path} was trained with mean {mean} and standard deviation {std}, the encoder is built with "
        f"normalization={name!r}; {advice}"
    )
