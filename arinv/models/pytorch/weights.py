"""Finds a network's weights in an open checkpoint and takes them over, or says on one line what does not fit.

A checkpoint is a dictionary of weights or holds one or several such dictionaries, also in dictionaries of dictionaries;
the names may have a prefix, such as "module.model.". The dictionary and the prefix are those under which most of the
names that are looked for stand; of two that fit alike, the one nearest to the top, and there the one at a usual place.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from arinv.errors import UserError, unknown
from arinv.models.encoders.base import NORMALIZATIONS, Normalization, mean_std
from arinv.models.pytorch import names as layout
from arinv.models.pytorch import names as torch_names
from arinv.models.pytorch.files import TorchFile
from arinv.models.pytorch.names import Entry
from arinv.models.pytorch.pickles import Inert, Tensor
from arinv.types import Variables

_SHOWN, _LONGEST = 4, 120  # names of a kind in a message, and letters of a name
_DEEPEST, _LONGEST_LIST, _MOST_PARTS = 4, 64, 100_000  # of dictionaries in dictionaries that are looked into
ON_UNKNOWN = ("error", "report")


class Found(NamedTuple):
    """The weights of one network in a file.

    Attributes:
      weights: name without prefix -> what stands there.
      outside: name in the file -> what stands there, of the same dictionary but without the prefix.
      others: names of other dictionaries in the file that hold the half of these weights or more.
      place: of the dictionary in the file, "" where the file is one.
      prefix: that the names have there.
    """

    weights: Mapping[str, Any]
    outside: Mapping[str, Any]
    others: tuple[str, ...] = ()
    place: str = ""
    prefix: str = ""


def locate(file: TorchFile, wanted: Sequence[Entry]) -> Found:
    """Returns the weights under the prefix that fits best.

    Raises:
      UserError: the file holds no dictionary of weights but whole objects, or two that fit alike at unusual places.
    """
    names = [name for entry in wanted for name in entry.names]
    states, objects = _dictionaries(file.content)
    fits = {place: _best_prefix(state, names) for place, state in states.items()}
    best = max((score for score, _ in fits.values()), default=0)
    usual = ["", *torch_names.ENTRIES]
    if not best and objects and (not states or any(place.rpartition("/")[2] in usual for place in objects)):
        _refuse_objects(file.path, objects)
    if not states:
        content = file.content if isinstance(file.content, dict) else [type(file.content).__name__]
        raise UserError(f"{file.path} holds no weights, only {abbreviate(map(str, content)) or 'nothing'}")
    alike = [place for place, (score, _) in fits.items() if score == best]
    place = alike[0]
    if best and len([other for other in alike if _order(other) == _order(place)]) > 1:
        keys = "".join(f"[{part!r}]" for part in place.split("/"))
        raise UserError(
            f"{file.path} holds several networks that fit alike: {abbreviate(alike)}; save the one that is meant by "
            f"itself, torch.save(torch.load(PATH){keys}, NEW_PATH)"
        )
    state, prefix = states[place], fits[place][1]
    others = tuple(other for other, (score, _) in fits.items() if other not in ("", place) and 0 < best <= 2 * score)
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    return Found(inside, outside, others, place, prefix)


def _best_prefix(state: Mapping[str, Any], names: Sequence[str]) -> tuple[int, str]:
    """Returns how many of the names stand under the prefix with the most of them, and that prefix."""
    scores = {prefix: sum(prefix + name in state for name in names) for prefix in _prefixes(state, names)}
    prefix = max(scores, key=scores.__getitem__)
    return scores[prefix], prefix


def _dictionaries(content: Any) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Returns what a file holds at its places, such as "state/model"; "" is the file itself.

    Returns:
      The dictionaries with tensors, those nearest to the top first and of these the usual ones; and the classes of
      objects that were not made.
    """
    states: dict[str, dict[str, Any]] = {}
    objects: dict[str, str] = {}
    level = [("", content)] if isinstance(content, dict | list | tuple | Inert) else []
    seen = {id(content)}
    for _ in range(_DEEPEST + 1):
        below = []
        for place, value in level:
            if isinstance(value, Inert):
                if not value.items:
                    objects[place] = value.name
                value = value.items
            elif isinstance(value, list | tuple):
                value = {str(i): part for i, part in enumerate(value[:_LONGEST_LIST])}
            parts = {name: part for name, part in value.items() if isinstance(name, str)}
            if any(isinstance(part, Tensor) for part in parts.values()):
                states[place] = parts
            for name, part in parts.items():
                if isinstance(part, dict | list | tuple | Inert) and id(part) not in seen:
                    seen.add(id(part))
                    below.append((f"{place}/{name}" if place else name, part))
        level = below
        if len(seen) > _MOST_PARTS:
            break
    return dict(sorted(states.items(), key=lambda pair: _order(pair[0]))), objects


def _order(place: str) -> tuple[int, int]:
    """Returns what the places of dictionaries are sorted by: depth, then the usual names."""
    last, usual = place.rpartition("/")[2], torch_names.ENTRIES
    return place.count("/") + bool(place), usual.index(last) if last in usual else len(usual)


def _refuse_objects(path: pathlib.Path, objects: Mapping[str, str]) -> None:
    """Raises, naming the object that is the network most likely."""
    place = min(objects, key=_order)
    name = objects[place] if objects[place].isprintable() else repr(objects[place])
    raise UserError(
        f"{path} holds no weights: {place or 'it'} is a whole object of class {name[:_LONGEST]}, which would have to "
        "be executed; save its state_dict(), torch.save(model.state_dict(), PATH)"
    )


def _prefixes(state: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Returns the prefixes that some name has, shortest first; the empty one is always there."""
    found = {""}
    for name in names:
        found |= {key.removesuffix(name) for key in state if key.endswith(f".{name}")}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def convert(
    file: TorchFile, found: Found, wanted: Sequence[Entry], *, what: str, on_unknown: str = "error"
) -> Variables:
    """Returns the variables of a network, numpy arrays in float32.

    Args:
      file: the open checkpoint.
      found: its weights, from `locate`.
      wanted: every array of the network.
      what: names the network in messages.
      on_unknown: "error" refuses names that neither the network has nor are known not to matter, "report" leaves them
        to `unread`, unless they belong to parts of the network, as the blocks of a deeper one do.

    Raises:
      UserError: names or shapes differ, or a weight is no tensor of real, finite numbers.
    """
    if on_unknown not in ON_UNKNOWN:
        raise unknown("on_unknown", on_unknown, ON_UNKNOWN)
    names = {entry: next((name for name in entry.names if name in found.weights), None) for entry in wanted}
    _compare(file.path, found, names, what, on_unknown)
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


def _compare(path: pathlib.Path, found: Found, names: Mapping[Entry, str | None], what: str, on_unknown: str) -> None:
    missing = [entry.names[0] for entry, name in names.items() if name is None]
    tensors = {name for name, value in {**found.weights, **found.outside}.items() if isinstance(value, Tensor)}
    unexpected = tensors - set(names.values()) - _known_extras(found)
    # A block that the network lacks is a part of another network, not something beside it.
    own = {name.split(".")[0] for entry in names for name in entry.names}
    beside = {name for name in unexpected if name in found.outside or name.split(".")[0] not in own}
    if on_unknown == "report":
        unexpected -= beside
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
        advice = "; on_unknown=report leaves those out" if len(parts) == 1 and beside and beside == unexpected else ""
        raise UserError(f"{path} does not fit {what}; {'; '.join(parts)}{advice}")


def abbreviate(items: Iterable[str], *, separator: str = ", ") -> str:
    """Returns the first of some items and the number of the others, on one line."""
    items = [item if item.isprintable() else repr(item) for item in items]
    more = len(items) - _SHOWN
    return separator.join(item[:_LONGEST] for item in items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def unread(found: Found, wanted: Sequence[Entry]) -> list[str]:
    """Returns the names in a file that are not read, normalisation aside."""
    read = {name for entry in wanted for name in entry.names}
    inside = {name for name in found.weights if name not in read}
    return sorted(name for name in inside | found.outside.keys() if not torch_names.is_normalization(name))


def _known_extras(found: Found) -> set[str]:
    """Returns the names in a file that are known and not read, normalisation among them."""
    extras = {
        name for name in (*found.weights, *found.outside) if torch_names.is_normalization(name) or _is_unread(name)
    }
    return extras | {
        name for name in found.outside if name.removeprefix("module.").split(".")[0] in torch_names.NEIGHBOURS
    }


def _is_unread(name: str) -> bool:
    first, last = name.removeprefix("module.").split(".")[0], name.rpartition(".")[2]
    return last in torch_names.UNREAD_LAST or bool(torch_names.UNREAD_FIRST.fullmatch(first))


_SAME = 1e-4  # means and deviations closer than this are the same


class Carried(NamedTuple):
    """The pixel normalisation that a file carries, for RGB in [0, 1].

    Attributes:
      mean: three numbers.
      std: likewise.
      precision: relative, of the type in which the file holds them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: float

    def is_close(self, known: Sequence[Sequence[float]]) -> bool:
        """Returns whether these are the same numbers as far as their type can hold them."""
        return np.allclose([self.mean, self.std], known, rtol=self.precision, atol=_SAME)


def read_normalization(file: TorchFile, found: Found) -> Carried | None:
    """Returns mean and standard deviation of RGB that a file carries, or None."""
    if "mean" in file.metadata and "std" in file.metadata:
        with contextlib.suppress(ValueError, TypeError):
            mean, std = (tuple(map(float, json.loads(file.metadata[name]))) for name in ("mean", "std"))
            if len(mean) == len(std) == 3:
                return Carried(mean, std, 0.0)
    values: dict[tuple[str, ...], np.ndarray] = {}
    for name, value in {**found.outside, **found.weights}.items():
        for kind in (torch_names.MEANS, torch_names.DEVIATIONS):
            stands_here = name.rpartition(".")[2] in kind and "attacker." not in name
            if stands_here and isinstance(value, Tensor) and math.prod(value.shape) == 3:
                values[kind] = file.array(value).reshape(-1)
    if len(values) != 2 or any(part.dtype.kind not in "fViu" for part in values.values()):  # V: bfloat16
        return None
    mean, std = values[torch_names.MEANS], values[torch_names.DEVIATIONS]
    # The shortest text of a number is what it was rounded from: .2471 of float32's .24709999561.
    numbers = [tuple(float(str(x)) for x in part) for part in (mean, std)]
    return Carried(*numbers, max(_precision(mean.dtype), _precision(std.dtype)))


def _precision(dtype: np.dtype) -> float:
    return float(jnp.finfo(dtype).eps) if dtype.kind in "fV" else 0.0


def normalization_of(carried: Carried) -> Normalization:
    """Returns the normalisation that a file carries: its name, or the numbers of one that has none here."""
    for name, known in NORMALIZATIONS.items():
        if carried.is_close(known):
            return name
    return carried.mean, carried.std


def check_normalization(file: TorchFile, found: Found, normalization: Normalization) -> None:
    """Compares the normalisation that a file carries with the encoder's.

    Raises:
      UserError: they differ.
    """
    carried = read_normalization(file, found)
    if carried is None or carried.is_close(mean_std(normalization)):
        return
    mean, std = ([round(x, 4) for x in numbers] for numbers in (carried.mean, carried.std))
    right = normalization_of(carried)
    in_config = "" if isinstance(right, str) else f" (in a config mean={_joined(right[0])},std={_joined(right[1])})"
    raise UserError(
        f"{file.path} was trained with mean {mean} and standard deviation {std}, the encoder is built with "
        f"normalization={normalization!r}; pass normalization={right!r}{in_config}, or check_normalization=False to "
        "keep what the encoder has"
    )


def _joined(numbers: Sequence[float]) -> str:
    return "+".join(f"{x:g}" for x in numbers)
