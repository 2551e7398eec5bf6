"""What every data set looks like to the rest of the program: a list of examples of one size.

An example is {"image": uint8 [S, S, 3], "label": int}, read when it is asked for; a source that was opened with
resize="original" gives images [H, W, 3] as they are stored. `Subset` keeps
some of the examples of a source, `Renumbered` gives them other labels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from arinv.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """The facts of one split of a data set.

    Attributes:
      name: as given to `open_source`, such as "photos" or "tfds:cifar10".
      split: such as "train" or "train[:80%]".
      num_examples: length of the source.
      num_classes: number of classes of the data set (also those that `classes=` left out).
      class_names: one name a class, in the order of the labels.
      image_size: side S of the images, in pixels.
      left_out: of a folder, what in it is no image that can be read, as text; empty for nothing.
    """

    name: str
    split: str
    num_examples: int
    num_classes: int
    class_names: tuple[str, ...]
    image_size: int
    left_out: str = ""


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of one split, less `num_skipped` unreadable images."""

    info: SourceInfo
    num_skipped: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def read_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 [N], without decoding an image."""
        ...


class Subset:
    """The examples of `source` at `indices`, in that order; labels keep their numbers."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source = source
        self._indices = np.asarray(indices, np.int64)
        self.info = dataclasses.replace(source.info, num_examples=len(self._indices))
        self.num_skipped = source.num_skipped

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[int(self._indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns several examples."""
        return read_examples(self._source, [int(self._indices[index]) for index in indices])

    def read_labels(self) -> np.ndarray:
        """Returns the labels of the kept examples, int32 [N]."""
        return self._source.read_labels()[self._indices]


class Renumbered:
    """The examples of `source` with other labels.

    Attributes:
      info: of the source, with the new classes.
      num_skipped: of the source.
    """

    def __init__(self, source: Source, numbers: Mapping[int, int], class_names: Sequence[str]):
        """Takes the new label of every label that occurs, and the names of the new classes."""
        self._source, self._numbers = source, dict(numbers)
        names = tuple(class_names)
        self.info = dataclasses.replace(source.info, num_classes=len(names), class_names=names)
        self.num_skipped = source.num_skipped

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns several examples."""
        examples = read_examples(self._source, indices)
        return [{**example, "label": self._numbers[int(example["label"])]} for example in examples]

    def read_labels(self) -> np.ndarray:
        """Returns the new labels, int32 [N]."""
        return np.array([self._numbers[int(label)] for label in self._source.read_labels()], np.int32)


def class_labels(classes: Sequence[int | str], info: SourceInfo) -> list[int]:
    """Returns the label numbers of `classes`, given as labels or as class names.

    Raises:
      UserError: a name or a label that the data set does not have, or no class at all.
    """
    labels = []
    for item in classes:
        if isinstance(item, str) and item in info.class_names:
            item = info.class_names.index(item)
        if isinstance(item, str):
            raise unknown(f"class of {info.name}", item, info.class_names)
        if not 0 <= item < info.num_classes:
            names = ", ".join(info.class_names[:10]) + (", ..." if info.num_classes > 10 else "")
            raise UserError(
                f"classes: label {item} is not in {info.name}; its labels are 0 to {info.num_classes - 1}, of {names}"
            )
        labels.append(int(item))
    if not labels:
        raise UserError("classes is empty; name at least one class, or leave it out to keep all")
    return sorted(set(labels))


def read_examples(source: Source, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Returns several examples, in one go where the source has a faster way for that."""
    if hasattr(source, "__getitems__"):
        return source.__getitems__(indices)
    return [source[index] for index in indices]


def check_index(index: int, length: int) -> int:
    """Returns `index` counted from the start; an IndexError ends a plain `for` over a source."""
    if not -length <= index < length:
        raise IndexError(f"example {index} of {length}")
    return index % length


def number_classes(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels numbered from 0 without gaps, and the names of the classes: the labels that they had.

    Args:
      labels: [N] integers or text.

    Returns:
      int32 [N], and a name for each class, in the order of the numbers or of the alphabet.
    """
    values, numbers = np.unique(labels, return_inverse=True)
    return numbers.reshape(-1).astype(np.int32), tuple(str(value) for value in values.tolist())
