"""The table of dataset schemes, and the function that opens a dataset by its name, such as "tfds:cifar10"."""

import contextlib
import dataclasses
import difflib
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from arinv.data import decoding, folder, npz, photos, slices, tfds
from arinv.data.source import Published, Recolored, Renumbered, Source, SourceInfo, Subset, class_labels
from arinv.errors import UserError, unknown
from arinv.ops.inputs import check_count, check_flag
from arinv.paths import expanded

LARGEST_SIDE = 2**16  # of images, in pixels


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One kind of dataset.

    Attributes:
      open: (location, split, *, image_size, resize, and the `options` below) -> Source.
      location: what follows "SCHEME:" in a dataset's name, such as "PATH"; empty for a scheme that is one dataset.
      options: further arguments of `open_source` that `open` takes. With "num_examples" and "classes" among them,
        `open` selects the examples itself and can return any number of them.
      check: location -> None; raises UserError where nothing can be opened, without reading data.
      published: location -> facts of a dataset that are available without opening it.
      computed: images are computed, so that opening a dataset reads nothing.
      class_advice: location -> what to do about a dataset with a single class; None: nothing special.
      sorted_by_class: examples are stored class by class, so that `num_examples` takes evenly spread ones.
      user_data: splits come from a user's own files, so that one of them may lack a class of the other.
      slow_labels: reading the labels reads every record.
      numbered_classes: classes are named after the labels that are stored, not after what they show.
      extra_split: the split to take as additional training data.
      decoded: images are stored as arrays, at about the size they are used at.
      reduces_large_images: large JPEG files are decoded at a reduced size.
      splits: names of all splits that any of its datasets may have; empty for those of each dataset.
    """

    open: Callable[..., Source]
    location: str = ""
    options: tuple[str, ...] = ()
    check: Callable[[str], None] = lambda location: None
    published: Mapping[str, Published] = dataclasses.field(default_factory=dict)
    computed: bool = False
    class_advice: Callable[[str], str] | None = None
    sorted_by_class: bool = False
    user_data: bool = False
    slow_labels: bool = False
    numbered_classes: bool = False
    extra_split: str = "train"
    decoded: bool = False
    reduces_large_images: bool = False
    splits: tuple[str, ...] = ()

    @property
    def selects_examples(self) -> bool:
        """Whether `open` returns as many examples as requested."""
        return "num_examples" in self.options


SCHEMES: dict[str, Scheme] = {
    "photos": Scheme(
        photos.open_photos,
        options=("num_examples", "classes"),
        published=photos.PUBLISHED,
        splits=("train", "test"),
    ),
    "tfds": Scheme(
        tfds.Tfds,
        "NAME",
        options=("data_dir", "window", "label"),
        published=tfds.PUBLISHED,
        class_advice=tfds.class_advice,
        slow_labels=True,
        reduces_large_images=True,
    ),
    "folder": Scheme(
        folder.Folder,
        "PATH",
        options=("on_bad_image", "progress", "window"),
        check=folder.check_location,
        class_advice=folder.class_advice,
        sorted_by_class=True,
        user_data=True,
        reduces_large_images=True,
        splits=("train", "test", "val", "all"),
    ),
    "npz": Scheme(
        npz.Npz,
        "PATH",
        check=npz.check_location,
        user_data=True,
        numbered_classes=True,
        extra_split="all",
        decoded=True,
        splits=("train", "test", "all"),
    ),
    "blobs": Scheme(slices.open_blobs, computed=True, decoded=True, splits=("train", "test")),
    "volume": Scheme(
        slices.open_volume,
        "PATH",
        options=("window",),
        check=slices.check_location,
        decoded=True,
        splits=("train", "test"),
    ),
}


def split_name(name: str) -> tuple[Scheme, str]:
    """Returns the scheme and the location of a dataset's name.

    Args:
      name: name of a dataset, such as "photos", "tfds:cifar10" or "folder:PATH".

    Returns:
      The scheme, and what follows its colon in the name; empty for a scheme that is one dataset.

    Raises:
      UserError: no scheme of that name, a location that is missing, or one that the scheme does not have.
    """
    if not isinstance(name, str):
        raise UserError(f"the name of a dataset must be text such as 'photos'; got {name!r}")
    scheme_name, _, location = name.partition(":")
    scheme = SCHEMES.get(scheme_name)
    if scheme is None or (not location if scheme.location else name != scheme_name):
        raise _unknown_dataset(name)
    return scheme, location


def _unknown_dataset(name: str) -> UserError:
    """Returns the error for a name without a scheme, with the likely name, that of a path or of TFDS."""
    forms = [f"{key}:{row.location}" if row.location else key for key, row in SCHEMES.items()]
    is_close = difflib.get_close_matches(name.lower(), forms, n=1)
    meant = "" if is_close or not re.fullmatch(r"\w+", name, re.ASCII) else f"tfds:{name.lower()}"
    with contextlib.suppress(UserError, OSError):
        path = expanded(name)
        schemes = {".npz": "npz", ".npy": "volume"}
        scheme = "folder" if path.is_dir() else schemes.get(path.suffix.lower()) if path.is_file() else None
        meant = f"{scheme}:{name}" if scheme else meant
    return unknown("dataset", name, forms, meant=meant)


def check_name(name: str) -> None:
    """Checks the name of a dataset without reading its data.

    Args:
      name: name of a dataset, see `open_source`.

    Raises:
      UserError: an unknown name, or a folder or file that does not exist.
    """
    scheme, location = split_name(name)
    scheme.check(location)


def same_dataset(first: str, second: str) -> bool:
    """Returns whether two names stand for the same dataset, however its path is written.

    Args:
      first: name of a dataset, see `open_source`.
      second: name of a dataset, see `open_source`.
    """
    schemes, locations = zip(*(name.partition(":")[::2] for name in (first, second)), strict=True)
    if first == second or schemes[0] != schemes[1] or not all(locations):
        return first == second
    with contextlib.suppress(OSError):
        scheme = SCHEMES.get(schemes[0])
        return scheme is not None and scheme.user_data and os.path.samefile(*map(expanded, locations))
    return False


def check_split(name: str, split: str, *, field: str = "split") -> None:
    """Checks the name of a split where it follows from the kind of dataset, without reading data.

    Args:
      name: name of the dataset, such as "tfds:cifar10".
      split: name of a split, see `open_source`.
      field: name of the split in errors.

    Raises:
      UserError: no such split.
    """
    scheme = SCHEMES.get(name.partition(":")[0])
    if scheme and scheme.splits and split not in scheme.splits:
        raise unknown(f"{field} of {name}", split, scheme.splits)


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
    channels: int = 0,
    window: Sequence[int] = (),
    label: str = "",
) -> Source:
    """Returns random access to one split of a dataset, as images of a fixed size.

    Args:
      name: "photos" (built in), "tfds:NAME" (prepared array_record files), "folder:PATH" (a folder of
        images), "npz:PATH" (arrays "image" and "label"), "blobs" (slices of synthetic porous volumes), or
        "volume:PATH" (slices of a volume).
      split: "train" or "test"; with tfds also slices such as "train[:80%]"; with a folder or an npz
        file also "all". Where these have no splits of their own, a fifth of each class is the test split.
      image_size: side S of the images, in pixels.
      resize: "squash" (the whole image, ignoring the aspect ratio), "crop" (short side to S, then the center),
        "crop_7_8" (short side to 8/7 of S, then the center: torchvision's Resize(256) and CenterCrop(224)), or
        "original" (the image as it is stored, for `train_batches(resized_crop=...)`).
      data_dir: the directory of TFDS datasets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      on_bad_image: "error" raises at a damaged image of a folder, "skip" skips it (`source.num_skipped` counts
        them).
      num_examples: largest number of examples: the first ones of a TFDS dataset, evenly spread ones of a folder (whose
        files are sorted by class). For `photos`, which can be cut into any number, the number of patches.
      classes: labels or class names to keep; labels keep their numbers. None: all.
      renumber: whether to number `classes` from 0, as if the dataset had no others.
      progress: called with (done, total) while the files of a folder are checked.
      channels: number of channels C of the images, 3 or 1 (grey); 0 for the dataset's own.
      window: x and y of the center and the side of the window that is cropped before images are resized, in pixels,
        of tfds, folder and volume; empty for whole images.
      label: name of the feature of a TFDS dataset that has the label, such as "attributes/Eyeglasses", or "none" for
        images without labels; empty for "label" or "labels".

    Returns:
      A source: `source.info`, `len(source)`, and `source[i]` -> {"image": uint8 [S, S, C], "label":
      int}; "original": images of any height and width.

    Raises:
      UserError: unknown name, split, class or mode; a number out of range; missing files; damaged images.
    """
    if check_count(image_size, "image_size") > LARGEST_SIDE:
        raise UserError(f"image_size must be 1 to {LARGEST_SIDE} px; got {image_size}")
    check_flag(renumber, "renumber")
    if num_examples is not None:  # all
        check_count(num_examples, "num_examples")
    if channels not in (0, 1, 3):
        raise UserError(f"channels must be 3, 1 for grey images, or 0 for those of the dataset; got {channels!r}")
    if resize not in (*decoding.RESIZE_MODES, decoding.ORIGINAL):
        raise unknown("resize", resize, (*decoding.RESIZE_MODES, decoding.ORIGINAL))
    if data_dir is not None and not isinstance(data_dir, str | os.PathLike):
        raise UserError(f"data_dir must be a directory, or None for the default one; got {data_dir!r}")
    check_name(name)
    scheme, location = split_name(name)
    for option, value in (("window", window), ("label", label)):
        if value and option not in scheme.options:
            raise UserError(f"{name} has no {option}; leave data.{option} empty")
    if window:
        decoding.check_window(window)
    options = {
        "data_dir": data_dir,
        "on_bad_image": on_bad_image,
        "num_examples": num_examples,
        "classes": classes,
        "progress": progress,
        "window": tuple(window),
        "label": label,
    }
    options = {option: options[option] for option in scheme.options}
    source = scheme.open(location, split, image_size=image_size, resize=resize, **options)
    if not scheme.selects_examples:
        source = _select(source, num_examples, classes, spread=scheme.sorted_by_class)
    if channels and channels != source.info.channels:
        source = Recolored(source, channels)
    return _renumber(source, classes) if renumber and classes else source


def _renumber(source: Source, classes: Sequence[int | str]) -> Source:
    labels = class_labels(classes, source.info)
    numbers = {label: number for number, label in enumerate(labels)}
    return Renumbered(source, numbers, [source.info.class_names[label] for label in labels])


def _select(source: Source, num_examples: int | None, classes: Sequence[int | str] | None, *, spread: bool) -> Source:
    """Returns the examples of some classes, at most `num_examples` of them: the first, or evenly spread ones."""
    indices = np.arange(len(source))
    if classes is not None:
        indices = indices[np.isin(source.read_labels(), class_labels(classes, source.info))]
        if not len(indices):
            raise UserError(f"{source.info.name} {source.info.split} has no example of classes {list(classes)}")
    if num_examples is not None and num_examples < len(indices):
        keep = np.arange(num_examples)
        indices = indices[keep * len(indices) // num_examples if spread else keep]
    return source if len(indices) == len(source) else Subset(source, indices)


def published(name: str, split: str, *, image_size: int) -> SourceInfo | None:
    """Returns the facts of one split of a dataset without reading it; None where they are unknown.

    Args:
      name: name of the dataset, see `open_source`; a version after a second colon is ignored.
      split: a split, or a slice such as "train[:80%]".
      image_size: side of the images, in pixels.

    Returns:
      Facts; published ones are without class names.
    """
    scheme, location, facts = _published(name)
    if scheme in SCHEMES and SCHEMES[scheme].computed:
        return open_source(name, split=split, image_size=image_size).info
    base, _, bounds = split.partition("[")
    if facts is None or base not in facts.num_examples:
        return None
    num_examples = facts.num_examples[base]
    ends = _slice(num_examples, bounds) if bounds else (0, num_examples)
    name = f"{scheme}:{location}" if location else scheme
    return None if ends is None else SourceInfo(name, split, ends[1] - ends[0], facts.num_classes, (), image_size)


def share_images(first: SourceInfo, second: SourceInfo) -> bool:
    """Returns whether two splits of a dataset, or slices of splits joined by "+", have images in common.

    Args:
      first: facts of one split.
      second: facts of another split of the same dataset.
    """
    pairs = itertools.product(*(info.parts or ((info.split, 0, info.num_examples),) for info in (first, second)))
    return any(a[0] == b[0] and max(a[1], b[1]) < min(a[2], b[2]) for a, b in pairs)


def report_absent(source: Source) -> str:
    """Returns a line on classes of a user's dataset without an example; empty where there is none, or one class.

    Args:
      source: examples of a user's own data, such as a folder; public datasets give an empty line.
    """
    names = source.info.class_names
    if not split_name(source.info.name)[0].user_data:
        return ""
    absent = [names[label] for label in np.setdiff1d(np.arange(len(names)), source.read_labels())]
    if not absent or len(names) < 2:
        return ""
    return (
        f"warning: {len(absent)} of the {len(names)} classes have no image in split {source.info.split!r} of "
        f"{source.info.name}: {', '.join(absent[:6])}; accuracies are of the others"
    )


def stored_side(name: str, image_size: int) -> int:
    """Returns the side of the images of a dataset as they are stored, in pixels; 0 for photographs of any size.

    Args:
      name: name of the dataset, see `open_source`.
      image_size: side of the images as they are used, in pixels.
    """
    scheme, _, facts = _published(name)
    if facts is not None:
        return facts.side
    return image_size if scheme in SCHEMES and SCHEMES[scheme].decoded else 0


def _published(name: str) -> tuple[str, str, Published | None]:
    """Returns the scheme's name, the location without a version, and the published facts."""
    scheme, _, location = name.partition(":")
    location = location.partition(":")[0]
    return scheme, location, SCHEMES[scheme].published.get(location) if scheme in SCHEMES else None


def _slice(total: int, bounds: str) -> tuple[int, int] | None:
    """Returns start and end of a slice such as "20%:80%]"; None for text that TFDS would not read as a slice."""
    match = re.fullmatch(r"(-?\d+%?)?:(-?\d+%?)?\]", bounds)
    if not match:
        return None
    texts = [text for text in match.groups() if text]
    if len({text.endswith("%") for text in texts}) != 1:  # no bound, or a percentage and a number
        return None
    first, last = match.groups()
    start, end = _bound(first, total) if first else 0, _bound(last, total) if last else total
    return None if start is None or end is None or end <= start else (start, end)


def _bound(text: str, total: int) -> int | None:
    """Returns the index that a bound of a slice stands for; None for one out of range."""
    index = round(total * int(text.removesuffix("%")) / 100) if text.endswith("%") else int(text)
    return None if abs(index) > total else index % total if index < 0 else index
