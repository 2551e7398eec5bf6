"""The one door to data: from "photos", "tfds:cifar10", "folder:/my/images" or "npz:/my.npz" to a source."""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from arinv.data import images
from arinv.data.folder import Folder
from arinv.data.npz import Npz
from arinv.data.photos import CLASS_NAMES, Photos
from arinv.data.source import Renumbered, Source, SourceInfo, Subset, class_labels
from arinv.data.tfds_source import Tfds
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
    if resize not in (*images.RESIZE_MODES, images.ORIGINAL):
        raise unknown("resize", resize, (*images.RESIZE_MODES, images.ORIGINAL))
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
