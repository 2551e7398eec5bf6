"""The one door to data: from "photos", "tfds:cifar10", "folder:/my/images" or "npz:/my.npz" to a source."""

import os
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from arinv.data import image_files
from arinv.data.folder import Folder
from arinv.data.npz import Npz
from arinv.data.photos import CLASS_NAMES, Photos
from arinv.data.source import Renumbered, Source, SourceInfo, Subset, class_labels
from arinv.data.tfds import Tfds
from arinv.errors import UserError, unknown

_KNOWN = ("photos", "tfds:NAME", "folder:PATH", "npz:PATH")


def check_name(name: str) -> None:
    """Checks the name of a data set without reading anything of it.

    Raises:
      UserError: unknown, or a folder or a file that is not there.
    """
    kind, _, rest = name.partition(":")
    if name != "photos" and not (kind in ("tfds", "folder", "npz") and rest):
        raise unknown("data set", name, _KNOWN)
    path = pathlib.Path(rest).expanduser()
    if kind == "folder" and not path.is_dir():
        raise UserError(f"folder {str(path)!r} does not exist or is not a folder; give the path of one")
    if kind == "npz" and not path.is_file():
        raise UserError(f"file {str(path)!r} does not exist; give the path of an .npz file")


def open_source(
    name: str,
    *,
    split: str = "train",
    image_size: int = 32,
    resize: str = "squash",
    data_dir: str | os.PathLike | None = None,
    on_bad_image: str = "error",
    num_examples: int | None = None,
    classes: Sequence[int | str] | None = None,
    renumber: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """Returns random access to one split of a data set, as images of a fixed size.

    Args:
      name: "photos" (built in), "tfds:NAME" (prepared array_record files), "folder:PATH" (own
        images), or "npz:PATH" (own arrays "image" and "label").
      split: "train" or "test"; with tfds also slices such as "train[:80%]"; with a folder or an npz
        file also "all". Where these have no splits of their own, a fifth of each class is the test's.
      image_size: side S of the images, in pixels.
      resize: "squash" (the whole image, aspect ratio given up), "crop" (short side to S, centre kept),
        "crop_7_8" (short side to 8/7 of S, centre kept: torchvision's Resize(256) and CenterCrop(224)), or
        "original" (the image as it is stored, for `train_batches(resized_crop=...)`).
      data_dir: where TFDS sets lie; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      on_bad_image: of a folder: "error" stops at a damaged image, "skip" leaves it out
        (`source.num_skipped` counts them).
      num_examples: at most so many: the first ones of a TFDS set, evenly spread ones of a folder
        (whose files are sorted by class). The number of patches of `photos`, which has as many as
        one wants.
      classes: keep only these labels or class names; labels keep their numbers.
      renumber: with `classes`, number those from 0, as if the data set had no others.
      progress: called with (done, total) while the files of a folder are checked.

    Returns:
      A source: `source.info`, `len(source)`, and `source[i]` -> {"image": uint8 [S, S, 3], "label":
      int}; "original": images of any height and width.

    Raises:
      UserError: unknown name, split, class or mode; missing files; damaged images.
    """
    if image_size < 1:
        raise UserError(f"image_size={image_size}; must be 1 or more pixels")
    if num_examples is not None and num_examples < 1:
        raise UserError(f"num_examples={num_examples}; must be 1 or more, or None for all")
    if resize not in (*image_files.RESIZE_MODES, image_files.ORIGINAL):
        raise unknown("resize", resize, (*image_files.RESIZE_MODES, image_files.ORIGINAL))
    check_name(name)
    kind, _, rest = name.partition(":")
    if name == "photos":
        source = _open_photos(split, image_size, resize, num_examples, classes)
        return _renumber(source, classes) if renumber and classes else source
    if kind == "tfds":
        source = Tfds(rest, split, image_size=image_size, resize=resize, data_dir=data_dir)
    elif kind == "folder":
        source = Folder(
            rest,
            split,
            image_size=image_size,
            resize=resize,
            on_bad_image=on_bad_image,
            progress=progress,
        )
    else:
        source = Npz(rest, split, image_size=image_size, resize=resize)
    source = _narrow(source, num_examples, classes, spread=kind == "folder")
    return _renumber(source, classes) if renumber and classes else source


def _open_photos(split: str, image_size: int, resize: str, num_examples: int | None, classes) -> Source:
    """Returns patches; with `classes`, as many patches of these as were asked for."""
    if classes is None:
        return Photos(split, image_size=image_size, resize=resize, num_examples=num_examples)
    info = SourceInfo("photos", split, 0, len(CLASS_NAMES), CLASS_NAMES, image_size)
    labels = class_labels(classes, info)
    rounds = None if num_examples is None else -(-num_examples // len(labels)) * len(CLASS_NAMES)
    source = Photos(split, image_size=image_size, resize=resize, num_examples=rounds)
    return _narrow(source, num_examples, labels, spread=False)


def _renumber(source: Source, classes: Sequence[int | str]) -> Source:
    labels = class_labels(classes, source.info)
    numbers = {label: number for number, label in enumerate(labels)}
    return Renumbered(source, numbers, [source.info.class_names[label] for label in labels])


def _narrow(source: Source, num_examples: int | None, classes, *, spread: bool) -> Source:
    """Returns the source less the classes not wanted, then less the examples above the cap."""
    indices = np.arange(len(source))
    if classes is not None:
        indices = indices[np.isin(source.read_labels(), class_labels(classes, source.info))]
        if not len(indices):
            raise UserError(f"{source.info.name} {source.info.split} has no example of classes {list(classes)}")
    if num_examples is not None and num_examples < len(indices):
        keep = np.arange(num_examples)
        indices = indices[keep * len(indices) // num_examples if spread else keep]
    return source if len(indices) == len(source) else Subset(source, indices)


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
