"""The published sizes of well-known data sets, for whoever plans a run where the data is not at hand.

Source: the catalogue of TensorFlow Datasets, and of the built-in photographs this package.
"""

import re

from arinv.data.photos import CLASS_NAMES
from arinv.data.source import SourceInfo

# name -> (number of classes, examples of each split)
_PUBLISHED: dict[str, tuple[int, dict[str, int]]] = {
    "photos": (len(CLASS_NAMES), {"train": 10_000, "test": 1_000}),
    "tfds:cats_vs_dogs": (2, {"train": 23_262}),
    "tfds:cifar10": (10, {"train": 50_000, "test": 10_000}),
    "tfds:cifar100": (100, {"train": 50_000, "test": 10_000}),
    "tfds:food101": (101, {"train": 75_750, "validation": 25_250}),
    "tfds:imagenet2012": (1000, {"train": 1_281_167, "validation": 50_000}),
    "tfds:stl10": (10, {"train": 5_000, "test": 8_000}),
    "tfds:svhn_cropped": (10, {"train": 73_257, "test": 26_032}),
}


def published(name: str, split: str, *, image_size: int) -> SourceInfo | None:
    """Returns the facts of one split of a data set without opening it; None where they are not known or impossible.

    Args:
      name: as open_source takes it; a version behind a second colon does not matter.
      split: a split, or a slice such as "train[:80%]".
      image_size: side of the images, in pixels.

    Returns:
      Facts without names of classes.
    """
    kind, _, rest = name.partition(":")
    name = kind + (f":{rest.partition(':')[0]}" if rest else "")
    num_classes, splits = _PUBLISHED.get(name, (0, {}))
    base, _, slice_ = split.partition("[")
    if base not in splits:
        return None
    num_examples = _length(splits[base], slice_) if slice_ else splits[base]
    return None if num_examples is None else SourceInfo(name, split, num_examples, num_classes, (), image_size)


def _length(whole: int, slice_: str) -> int | None:
    """Returns the length of a slice such as "20%:80%]", None of what is no slice that TFDS would read."""
    found = re.fullmatch(r"(-?\d+%?)?:(-?\d+%?)?\]", slice_)
    if not found:
        return None
    given = [text for text in found.groups() if text]
    if len({text.endswith("%") for text in given}) != 1:  # no place, or two kinds of them
        return None
    first, last = found.groups()
    start, end = _place(first, whole) if first else 0, _place(last, whole) if last else whole
    return None if start is None or end is None or end <= start else end - start


def _place(text: str, whole: int) -> int | None:
    """Returns the place that is meant, None of one out of range."""
    place = round(whole * int(text.removesuffix("%")) / 100) if text.endswith("%") else int(text)
    return None if abs(place) > whole else place % whole if place < 0 else place
