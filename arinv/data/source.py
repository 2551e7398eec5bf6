"""The protocol of datasets: random access to examples of one size, subsets of them, and arrays of all of them.

An example is {"image": uint8 [S, S, C], "label": int}, read on access, with C 3 or 1 for grey images; a source that was
opened with resize="original" returns images [H, W, C] as they are stored.
"""

import dataclasses
import hashlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from arinv.data.cores import num_cores
from arinv.data.decoding import to_grey
from arinv.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """The facts of one split of a dataset.

    Attributes:
      name: name given to `open_source`, such as "photos" or "tfds:cifar10".
      split: name of the split, such as "train" or "train[:80%]".
      num_examples: length of the source.
      num_classes: number of classes of the dataset, including those that `classes=` excludes.
      class_names: one name per class, in the order of the labels.
      image_size: side S of the images, in pixels.
      left_out: entries of a folder that are not readable images, as text; empty for none.
      note: what is unusual about the classes of a folder, as text; empty for nothing.
      channels: C of the images, 3 or 1 for grey ones.
      parts: ranges of the stored splits that the split consists of, (name, first example, end); empty for all of the
        split of this name.
    """

    name: str
    split: str
    num_examples: int
    num_classes: int
    class_names: tuple[str, ...]
    image_size: int
    left_out: str = ""
    channels: int = 3
    parts: tuple[tuple[str, int, int], ...] = ()
    note: str = ""


class Published(NamedTuple):
    """The facts of a public dataset.

    Attributes:
      num_classes: number of classes.
      num_examples: split -> number of examples.
      side: side of the images as they are stored, in pixels; 0 for photographs of any size.
    """

    num_classes: int
    num_examples: Mapping[str, int]
    side: int = 0


@runtime_checkable
class Source(Protocol):
    """Random access to the examples of one split, without `num_skipped` unreadable images."""

    info: SourceInfo
    num_skipped: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def read_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 [N], without decoding an image."""
        ...


class View:
    """The examples of a source, converted one by one by a subclass.

    Attributes:
      info: facts of the source, with those that differ replaced.
      num_skipped: number of unreadable images that the source has skipped.
    """

    def __init__(self, source: Source, **facts: Any):
        """Stores the source, and the fields of its info that differ."""
        self._source = source
        self.info = dataclasses.replace(source.info, **facts)
        self.num_skipped = source.num_skipped

    def __len__(self) -> int:
        return self.info.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns several examples."""
        return [self._convert(example) for example in read_examples(self._source, indices)]

    def _convert(self, example: dict[str, Any]) -> dict[str, Any]:
        return example

    def read_labels(self) -> np.ndarray:
        """Returns the labels of all examples, int32 [N]."""
        return self._source.read_labels()

    def read_digests(self) -> np.ndarray | None:
        """Returns a hash of each example as it is stored, uint64 [N]; None where that is not quick."""
        return self._source.read_digests() if hasattr(self._source, "read_digests") else None


class Subset(View):
    """Some examples of a source, by their indices; labels keep their numbers."""

    def __init__(self, source: Source, indices: Sequence[int]):
        """Stores the source and the indices."""
        self._indices = np.asarray(indices, np.int64)
        super().__init__(source, num_examples=len(self._indices))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns several examples."""
        return super().__getitems__([int(self._indices[index]) for index in indices])

    def read_labels(self) -> np.ndarray:
        """Returns the labels of the kept examples, int32 [N]."""
        return super().read_labels()[self._indices]

    def read_digests(self) -> np.ndarray | None:
        """Returns a hash of each kept example as it is stored, uint64 [N]; None where that is not quick."""
        digests = super().read_digests()
        return None if digests is None else digests[self._indices]


class Renumbered(View):
    """The examples of a source with other labels."""

    def __init__(self, source: Source, numbers: Mapping[int, int], class_names: Sequence[str]):
        """Stores old label -> new label, for every label that occurs, and the names of the new classes."""
        names = tuple(class_names)
        super().__init__(source, num_classes=len(names), class_names=names)
        self._numbers = dict(numbers)

    def _convert(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "label": self._numbers[int(example["label"])]}

    def read_labels(self) -> np.ndarray:
        """Returns the new labels, int32 [N]."""
        return np.array([self._numbers[int(label)] for label in super().read_labels()], np.int32)


class Recolored(View):
    """The examples of a source in RGB with three equal channels, or in grey by Rec. 601."""

    def __init__(self, source: Source, channels: int):
        """Stores the source, and the channels of its images, 1 or 3."""
        super().__init__(source, channels=channels)

    def _convert(self, example: dict[str, Any]) -> dict[str, Any]:
        image = example["image"]
        if image.shape[-1] != self.info.channels:
            image = np.repeat(image, 3, axis=-1) if self.info.channels == 3 else to_grey(image)[..., None]
        return {**example, "image": image}


def class_labels(classes: Sequence[int | str], info: SourceInfo) -> list[int]:
    """Returns the label numbers of `classes`, given as labels or as class names.

    Args:
      classes: labels or class names.
      info: facts of the dataset.

    Returns:
      Labels, in the order of `classes`.

    Raises:
      UserError: a name or a label that the dataset does not have, or no class at all.
    """
    if isinstance(classes, str) or not np.ndim(classes):
        raise UserError(f"classes must be a list of labels or names, such as [1] or ['cat', 'dog']; got {classes!r}")
    labels = []
    for item in classes:
        if not isinstance(item, str):
            _check_unambiguous(item, info)
        elif item in info.class_names:
            item = info.class_names.index(item)
        if isinstance(item, str):
            raise unknown(f"class of {info.name}", item, info.class_names)
        if isinstance(item, bool) or not isinstance(item, int | np.integer):
            raise UserError(f"classes: {item!r} is neither a label, a whole number, nor the name of a class")
        if not 0 <= item < info.num_classes:
            names = ", ".join(info.class_names[:10]) + (", ..." if info.num_classes > 10 else "")
            raise UserError(
                f"classes: label {item} is not in {info.name}; its labels are 0 to {info.num_classes - 1}, of {names}"
            )
        labels.append(int(item))
    if not labels:
        raise UserError("classes is empty; name at least one class, or omit it to keep all")
    return sorted(set(labels))


def _check_unambiguous(label: Any, info: SourceInfo) -> None:
    """Raises a UserError for a label that is also the name of another class, as 10 of the folders 0, 1, 10, 2."""
    if str(label) not in info.class_names or (own := info.class_names.index(str(label))) == label:
        return
    if label < info.num_classes:
        raise UserError(
            f"classes: {label} is the label of class {info.class_names[label]!r} of {info.name}, and class {label} has "
            f"the label {own}: rename the classes so that both agree, such as folders 08, 09, 10"
        )


def digest(values: np.ndarray) -> int:
    """Returns a hash of an array's bytes, 64 bits.

    Args:
      values: an array of any shape and dtype.

    Returns:
      An integer in 0..2^64 - 1.
    """
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(values), digest_size=8).digest(), "little")


def count_copies(train: Source, test: Source) -> int:
    """Returns how many test images have the bytes of a training image; 0 for datasets whose bytes are slow to read.

    Args:
      train: examples of the training split.
      test: examples of the test split.

    Returns:
      The number, 0 or more.
    """
    train_digests, test_digests = (s.read_digests() if hasattr(s, "read_digests") else None for s in (train, test))
    return 0 if train_digests is None or test_digests is None else int(np.isin(test_digests, train_digests).sum())


def read_examples(source: Source, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Returns several examples, together where the source has a faster way for that.

    Args:
      source: examples, from `open_source`.
      indices: indices of the examples.

    Returns:
      One {"image": uint8 [S, S, C], "label": int} per index.
    """
    if hasattr(source, "__getitems__"):
        return source.__getitems__(indices)
    return [source[index] for index in indices]


def pixels(example: Mapping[str, Any], info: SourceInfo) -> np.ndarray:
    """Returns the image of an example, of the source's size.

    Args:
      example: an example of the source.
      info: description of the source.

    Returns:
      uint8 [S, S, C].

    Raises:
      UserError: an image of another size, as of a source that does not resize.
    """
    image, shape = example["image"], (info.image_size, info.image_size, info.channels)
    if image.shape != shape:
        raise UserError(
            f"{info.name} has an image of shape {image.shape}, batches have {shape}: open it with another resize than "
            '"original", or give train_batches resized_crop'
        )
    return image


def check_index(index: int, length: int) -> int:
    """Returns `index` counted from the start; raises an IndexError out of range, which ends a `for` over a source.

    Args:
      index: an index; negative ones count from the end.
      length: number of examples.

    Returns:
      An integer in 0..length - 1.
    """
    if not -length <= index < length:
        raise IndexError(f"example {index} of {length}")
    return index % length


def number_classes(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels numbered from 0 without gaps, and the old labels as class names.

    Args:
      labels: [N] integers or text.

    Returns:
      int32 [N], and a name for each class, in numerical or alphabetical order.
    """
    values, numbers = np.unique(labels, return_inverse=True)
    return numbers.reshape(-1).astype(np.int32), tuple(str(value) for value in values.tolist())


Arrays = dict[str, np.ndarray]
_BLOCK = 64  # examples a task, so that submitting tasks costs little
_SAMPLES = 32  # examples that are decoded to estimate the size of all


class Originals:
    """The examples of a source in memory, images in their stored sizes."""

    def __init__(self, source: Source, *, progress: Callable[[int, int], None] | None = None):
        """Decodes all examples in a pool of threads; arguments as in `load_arrays`."""
        self.info, self.num_skipped = source.info, source.num_skipped
        self._examples: list[dict] = [{} for _ in range(len(source))]
        _decode_blocks(source, self._examples.__setitem__, progress)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict:
        return self._examples[index]

    def read_labels(self) -> np.ndarray:
        """Returns all labels, int32 [N]."""
        return np.array([example["label"] for example in self._examples], np.int32)


def estimate_bytes(source: Source) -> int:
    """Returns the approximate size of the images of a source in memory, in bytes, from evenly spread samples.

    Args:
      source: examples, from `open_source`.
    """
    count = min(_SAMPLES, len(source))
    samples = read_examples(source, [i * len(source) // count for i in range(count)])
    return round(len(source) * sum(example["image"].nbytes for example in samples) / count)


_ARRAYS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # source -> its arrays
_locks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # source -> the lock of its decoding
_guard = threading.Lock()  # of the locks


def load_arrays(source: Source, *, progress: Callable[[int, int], None] | None = None) -> Arrays:
    """Returns all examples of a source, decoded in a pool of threads.

    Args:
      source: examples, from `open_source`; they must fit into memory (N * S * S * C bytes).
      progress: called with (examples done, number of examples).

    Returns:
      {"image": uint8 [N, S, S, C], "label": int32 [N]}, in the order of the source, read-only; decoded once as long as
      the source is kept.

    Raises:
      UserError: not a source, or an image that cannot be decoded.
    """
    if not hasattr(source, "info"):
        raise UserError(f"examples must be a source, of open_source; got {type(source).__name__}")
    with _guard:
        lock = _locks.setdefault(source, threading.Lock())
    with lock:
        if source not in _ARRAYS:
            _ARRAYS[source] = _decode(source, progress)
        return _ARRAYS[source]


def _decode(source: Source, progress: Callable[[int, int], None] | None) -> Arrays:
    total, size = len(source), source.info.image_size
    image = np.empty((total, size, size, source.info.channels), np.uint8)
    label = np.empty(total, np.int32)

    def store(i: int, example: dict) -> None:
        image[i], label[i] = pixels(example, source.info), example["label"]

    _decode_blocks(source, store, progress)
    image.setflags(write=False)
    label.setflags(write=False)
    return {"image": image, "label": label}


def _decode_blocks(source: Source, store: Callable[[int, dict], None], progress) -> None:
    """Calls store(i, example) for each example, from several threads."""
    total = len(source)

    def decode(start: int) -> int:
        stop = min(start + _BLOCK, total)
        for i, example in enumerate(read_examples(source, range(start, stop)), start):
            store(i, example)
        return stop - start

    pool = futures.ThreadPoolExecutor(num_cores())
    try:
        done = 0
        for task in futures.as_completed([pool.submit(decode, i) for i in range(0, total, _BLOCK)]):
            done += task.result()
            if progress:
                progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)
