"""Search for the weights of a network in an open checkpoint, and their conversion.

A checkpoint is a state dict or contains several, also in dictionaries of dictionaries; their names may have a prefix,
such as "module.model.". The state dict and the prefix with most of the network's names are chosen; of two that fit
equally well, the one nearest to the top, and there the one at a usual place.
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
from arinv.models.pytorch.files import TorchFile
from arinv.models.pytorch.names import (
    DEVIATIONS,
    ENTRIES,
    MEANS,
    NEIGHBORS,
    UNREAD_FIRST,
    UNREAD_LAST,
    Entry,
    is_normalization,
    to_ours,
)
from arinv.models.pytorch.pickles import Inert, Tensor
from arinv.types import Variables

_MAX_ITEMS, _MAX_LENGTH = 4, 120  # names of a kind in a message, and letters of a name
_MAX_DEPTH, _MAX_LIST, _MAX_PARTS = 4, 64, 100_000  # of nested dictionaries that are searched
ON_UNKNOWN = ("error", "report")


class StateDict(NamedTuple):
    """The state dict of one network in a file.

    Attributes:
      weights: name without prefix -> value.
      outside: name -> value of names of the same dictionary without the prefix.
      others: places of the other dictionaries in the file with at least half of these weights.
      place: place of the dictionary in the file, such as "state/model"; "" for the file itself.
      prefix: prefix of its names, such as "module.".
    """

    weights: Mapping[str, Any]
    outside: Mapping[str, Any]
    others: tuple[str, ...] = ()
    place: str = ""
    prefix: str = ""


def locate(file: TorchFile, entries: Sequence[Entry]) -> StateDict:
    """Returns the state dict with the most names of a network.

    Args:
      file: an open checkpoint, from `open_torch`.
      entries: one entry per array of the network.

    Returns:
      The state dict, with the prefix of its names removed.

    Raises:
      UserError: the file contains no state dict but whole objects, or two that fit equally well at unusual places.
    """
    names = [name for entry in entries for name in entry.names]
    states, objects = _dictionaries(file.content)
    fits = {place: _best_prefix(state, names) for place, state in states.items()}
    best = max((score for score, _ in fits.values()), default=0)
    usual = ["", *ENTRIES]
    if not best and objects and (not states or any(place.rpartition("/")[2] in usual for place in objects)):
        _refuse_objects(file.path, objects)
    if not states:
        content = file.content if isinstance(file.content, dict) else [type(file.content).__name__]
        raise UserError(f"{file.path} contains no weights, only {abbreviate(map(str, content)) or 'nothing'}")
    best_places = [place for place, (score, _) in fits.items() if score == best]
    place = best_places[0]
    if best and len([other for other in best_places if _order(other) == _order(place)]) > 1:
        keys = "".join(f"[{part!r}]" for part in place.split("/"))
        raise UserError(
            f"{file.path} contains several networks that fit equally well: {abbreviate(best_places)}; save one of them "
            f"by itself, torch.save(torch.load(PATH){keys}, NEW_PATH)"
        )
    state, prefix = states[place], fits[place][1]
    others = tuple(other for other, (score, _) in fits.items() if other not in ("", place) and 0 < best <= 2 * score)
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    return StateDict(inside, outside, others, place, prefix)


def _best_prefix(state: Mapping[str, Any], names: Sequence[str]) -> tuple[int, str]:
    """Returns the number of names under the prefix with the most of them, and that prefix."""
    scores = {prefix: sum(prefix + name in state for name in names) for prefix in _prefixes(state, names)}
    prefix = max(scores, key=scores.__getitem__)
    return scores[prefix], prefix


def _dictionaries(content: Any) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Returns the contents of a file by place, such as "state/model"; "" is the file itself.

    Returns:
      The dictionaries with tensors, those nearest to the top first and of these the usual ones; and the classes of
      objects without contents.
    """
    states: dict[str, dict[str, Any]] = {}
    objects: dict[str, str] = {}
    level = [("", content)] if isinstance(content, dict | list | tuple | Inert) else []
    seen = {id(content)}
    for _ in range(_MAX_DEPTH + 1):
        below = []
        for place, value in level:
            if isinstance(value, Inert):
                if not value.items:
                    objects[place] = value.name
                value = value.items
            elif isinstance(value, list | tuple):
                value = {str(i): part for i, part in enumerate(value[:_MAX_LIST])}
            parts = {name: part for name, part in value.items() if isinstance(name, str)}
            if any(isinstance(part, Tensor) for part in parts.values()):
                states[place] = parts
            for name, part in parts.items():
                if isinstance(part, dict | list | tuple | Inert) and id(part) not in seen:
                    seen.add(id(part))
                    below.append((f"{place}/{name}" if place else name, part))
        level = below
        if len(seen) > _MAX_PARTS:
            break
    return dict(sorted(states.items(), key=lambda pair: _order(pair[0]))), objects


def _order(place: str) -> tuple[int, int]:
    """Returns the sort key of a dictionary's place: depth, then the usual names."""
    last, usual = place.rpartition("/")[2], ENTRIES
    return place.count("/") + bool(place), usual.index(last) if last in usual else len(usual)


def _refuse_objects(path: pathlib.Path, objects: Mapping[str, str]) -> None:
    """Raises an error that names the object most likely to be the network."""
    place = min(objects, key=_order)
    name = objects[place] if objects[place].isprintable() else repr(objects[place])
    raise UserError(
        f"{path} contains no weights: {place or 'it'} is an object of class {name[:_MAX_LENGTH]}, whose code "
        "would have to run; save its state_dict(), torch.save(model.state_dict(), PATH)"
    )


def _prefixes(state: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Returns the prefixes of names, shortest first, the empty one included."""
    prefixes = {""}
    for name in names:
        prefixes |= {key.removesuffix(name) for key in state if key.endswith(f".{name}")}
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))


def tensors(file: TorchFile) -> dict[str, Tensor]:
    """Returns all tensors of a file by their places and names.

    Args:
      file: an open checkpoint, from `open_torch`.

    Returns:
      "PLACE/NAME" -> tensor.
    """
    states, _ = _dictionaries(file.content)
    return {
        f"{place}/{name}".lstrip("/"): value
        for place, state in states.items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def shapes(state_dict: StateDict) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors of a state dict.

    Args:
      state_dict: state dict of a network, from `locate`.

    Returns:
      Name -> shape in PyTorch.
    """
    return {name: value.shape for name, value in state_dict.weights.items() if isinstance(value, Tensor)}


def fits(file: TorchFile, state_dict: StateDict, entries: Sequence[Entry]) -> bool:
    """Returns whether the names and shapes of a state dict are those of a network, as `convert` compares them.

    Args:
      file: an open checkpoint, from `open_torch`.
      state_dict: state dict of the network, from `locate`.
      entries: one entry per array of the network.
    """
    return not difference(file, state_dict, entries)


def difference(
    file: TorchFile,
    state_dict: StateDict,
    entries: Sequence[Entry],
    *,
    what: str = "it",
    on_unknown: str = "report",
) -> str:
    """Returns how the names and shapes of a state dict differ from those of a network; empty where it fits.

    Args:
      file: the open checkpoint.
      state_dict: state dict of the network, from `locate`.
      entries: one for each array of the network.
      what: description of the network in the text.
      on_unknown: as for `convert`.

    Returns:
      One line of text.
    """
    names = _names(state_dict, entries)
    missing = [entry.names[0] for entry, name in names.items() if name is None]
    tensors = {
        name for name, value in {**state_dict.weights, **state_dict.outside}.items() if isinstance(value, Tensor)
    }
    unexpected = tensors - set(names.values()) - _extras(state_dict)
    # Tensors of a block that the network does not have are part of another network, not beside it.
    own = {name.split(".")[0] for entry in names for name in entry.names}
    beside = {name for name in unexpected if name in state_dict.outside or name.split(".")[0] not in own}
    if on_unknown == "report":
        unexpected -= beside
    placeholders, shapes = [], []
    for entry, name in names.items():
        value = state_dict.weights.get(name)
        if name is not None and not isinstance(value, Tensor):
            placeholders.append(f"{name} ({value.name if isinstance(value, Inert) else type(value).__name__})")
        elif name is not None and value.shape != entry.torch_shape:
            shapes.append(f"{name} is {value.shape} in the file, {entry.torch_shape} in the network")
    kinds = {
        "missing in the file": missing,
        "only in the file": sorted(unexpected),
        "not a tensor": placeholders,
        "other shapes": shapes,
    }
    parts = [f"{kind}: {abbreviate(items)}" for kind, items in kinds.items() if items]
    if not parts:
        return ""
    advice = "; on_unknown=report skips these" if len(parts) == 1 and beside and beside == unexpected else ""
    return f"{file.path} does not fit {what}; {'; '.join(parts)}{advice}"


def _names(state_dict: StateDict, entries: Sequence[Entry]) -> dict[Entry, str | None]:
    """Returns the name in a state dict of each array of a network; None where it has none."""
    return {entry: next((name for name in entry.names if name in state_dict.weights), None) for entry in entries}


def convert(
    file: TorchFile, state_dict: StateDict, entries: Sequence[Entry], *, what: str, on_unknown: str = "error"
) -> Variables:
    """Returns the variables of a network, NumPy arrays in float32.

    Args:
      file: the open checkpoint.
      state_dict: state dict of the network, from `locate`.
      entries: one for each array of the network.
      what: description of the network in messages.
      on_unknown: "error" raises for names that are neither in the network nor on the list of extras; "report" skips
        them unless they belong to parts of the network, such as the blocks of a deeper one.

    Returns:
      {"params": ..., ...}, nested by the paths of the entries.

    Raises:
      UserError: names or shapes differ, a weight is not a tensor of real, finite numbers, or a variance is negative.
    """
    if on_unknown not in ON_UNKNOWN:
        raise unknown("on_unknown", on_unknown, ON_UNKNOWN)
    if text := difference(file, state_dict, entries, what=what, on_unknown=on_unknown):
        raise UserError(text)
    flat = {}
    for entry, name in _names(state_dict, entries).items():
        array = file.array(state_dict.weights[name])
        if array.dtype.kind not in "fV":  # V: bfloat16
            raise UserError(f"{file.path} has {name} in {array.dtype}; expected float16, bfloat16, float32 or float64")
        with np.errstate(over="ignore"):  # reported below
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{file.path} has NaN or infinity in {name} (in float32); take another checkpoint")
        if entry.path[-1] == "var" and (array < 0).any():
            raise UserError(f"{file.path} has negative variances in {name}; take another checkpoint")
        flat[entry.path] = np.ascontiguousarray(to_ours(entry, array))
    return traverse_util.unflatten_dict(flat)


def abbreviate(items: Iterable[str], *, separator: str = ", ") -> str:
    """Returns the first items and the number of the others, on one line.

    Args:
      items: text, one line each.
      separator: text between two items.
    """
    items = [item if item.isprintable() else repr(item) for item in items]
    more = len(items) - _MAX_ITEMS
    return separator.join(item[:_MAX_LENGTH] for item in items[:_MAX_ITEMS]) + (f" and {more} more" if more > 0 else "")


def unread(state_dict: StateDict, entries: Sequence[Entry]) -> list[str]:
    """Returns the names in a state dict that are not read, except those of a normalization.

    Args:
      state_dict: state dict of the network, from `locate`.
      entries: one entry per array of the network.
    """
    read = {name for entry in entries for name in entry.names}
    inside = {name for name in state_dict.weights if name not in read}
    return sorted(name for name in inside | state_dict.outside.keys() if not is_normalization(name))


def _extras(state_dict: StateDict) -> set[str]:
    """Returns the names in a state dict that may be skipped, those of a normalization included."""
    extras = {name for name in (*state_dict.weights, *state_dict.outside) if is_normalization(name) or _is_unread(name)}
    return extras | {name for name in state_dict.outside if name.removeprefix("module.").split(".")[0] in NEIGHBORS}


def _is_unread(name: str) -> bool:
    first, last = name.removeprefix("module.").split(".")[0], name.rpartition(".")[2]
    return last in UNREAD_LAST or bool(UNREAD_FIRST.fullmatch(first))


_TOLERANCE = 1e-4  # of means and deviations


class FileNormalization(NamedTuple):
    """The pixel normalization of a file, for RGB in [0, 1].

    Attributes:
      mean: mean of red, green and blue, in [0, 1].
      std: standard deviation of red, green and blue.
      precision: relative precision of their type in the file.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: float

    def is_close(self, other: Sequence[Sequence[float]]) -> bool:
        """Returns whether these are the same numbers up to the precision of their type.

        Args:
          other: (mean, standard deviation), three numbers each.
        """
        return np.allclose([self.mean, self.std], other, rtol=self.precision, atol=_TOLERANCE)


def read_normalization(file: TorchFile, state_dict: StateDict) -> FileNormalization | None:
    """Returns mean and standard deviation of RGB in a file, or None.

    Args:
      file: an open checkpoint, from `open_torch`.
      state_dict: state dict of the network, from `locate`.
    """
    if "mean" in file.metadata and "std" in file.metadata:
        with contextlib.suppress(ValueError, TypeError):
            mean, std = (tuple(map(float, json.loads(file.metadata[name]))) for name in ("mean", "std"))
            if len(mean) == len(std) == 3:
                return FileNormalization(mean, std, 0.0)
    values: dict[tuple[str, ...], np.ndarray] = {}
    for name, value in {**state_dict.outside, **state_dict.weights}.items():
        for kind in (MEANS, DEVIATIONS):
            matches = name.rpartition(".")[2] in kind and "attacker." not in name
            if matches and isinstance(value, Tensor) and math.prod(value.shape) == 3:
                values[kind] = file.array(value).reshape(-1)
    if len(values) != 2 or any(part.dtype.kind not in "fViu" for part in values.values()):  # V: bfloat16
        return None
    mean, std = values[MEANS], values[DEVIATIONS]
    # The shortest text of a number restores its value before rounding: .2471 of float32's .24709999561.
    numbers = [tuple(float(str(x)) for x in part) for part in (mean, std)]
    return FileNormalization(*numbers, max(_precision(mean.dtype), _precision(std.dtype)))


def _precision(dtype: np.dtype) -> float:
    return float(jnp.finfo(dtype).eps) if dtype.kind in "fV" else 0.0


def name_normalization(normalization: FileNormalization) -> Normalization:
    """Returns the name of a normalization, or its numbers if it has no name.

    Args:
      normalization: pixel normalization of a file.

    Returns:
      A key of NORMALIZATIONS, or (mean, standard deviation).
    """
    for name, numbers in NORMALIZATIONS.items():
        if normalization.is_close(numbers):
            return name
    return normalization.mean, normalization.std


def check_normalization(file: TorchFile, state_dict: StateDict, normalization: Normalization) -> None:
    """Checks that the normalization of a file, if it has one, is the encoder's.

    Args:
      file: an open checkpoint, from `open_torch`.
      state_dict: state dict of the network, from `locate`.
      normalization: pixel normalization of the encoder, a name or (mean, standard deviation).

    Raises:
      UserError: they differ.
    """
    in_file = read_normalization(file, state_dict)
    if in_file is None or in_file.is_close(mean_std(normalization)):
        return
    mean, std = ([round(x, 4) for x in numbers] for numbers in (in_file.mean, in_file.std))
    right = name_normalization(in_file)
    in_config = "" if isinstance(right, str) else f" (in a config mean={_joined(right[0])},std={_joined(right[1])})"
    raise UserError(
        f"{file.path} was trained with mean {mean} and standard deviation {std}, the encoder is built with "
        f"normalization={normalization!r}; pass normalization={right!r}{in_config}, or check_normalization=False to "
        "keep the encoder's"
    )


def _joined(numbers: Sequence[float]) -> str:
    return "+".join(f"{x:g}" for x in numbers)
