"""Folders of image files as datasets, with one subfolder a class, or all images in one place.

Images are uint8 RGB of a fixed size. Every file is decoded once when the folder is opened, so that a
damaged image raises at the start of a run and not in the middle of it.
"""

import collections
import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from arinv.data import decoding, image_files
from arinv.data.image_files import Tree, left_out_text, looked_for, read_tree
from arinv.data.source import SourceInfo, check_index, digest
from arinv.errors import UserError, unknown
from arinv.paths import expanded

# split -> names that its folder may have, see _split_of
_SPLITS = {
    "train": ("train", "training", "trainval", "tr", "trn"),
    "test": ("test", "testing", "tst", "te", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "dev", "devel", "development"),
}
_SPLIT_WORD = re.compile(r"(?<![a-z])(train|test|val|valid)(ing|idation)?(?![a-z])")  # as part of a longer name
_AMBIGUOUS = {"tr", "trn", "te", "tst", "dev"}  # beside other names possibly no splits, such as languages
_MAX_DEPTH = 4  # levels that are searched for classes
_TEST_FRACTION = 0.2


class Folder:
    """The images of a folder; `bad_files` are those that cannot be read and are skipped -> why."""

    def __init__(
        self,
        path: str | os.PathLike,
        split: str,
        *,
        image_size: int,
        resize: str,
        on_bad_image: str = "error",
        progress: Callable[[int, int], None] | None = None,
        window: tuple[int, ...] = (),
    ):
        """Lists the images and decodes each once.

        Args:
          path: the folder. Its subfolders `train` and `test` (or `val`; also Training, test_set, dev and the
            like) are the splits where they exist, and `val` replaces a missing `test`;
            otherwise a fifth of each class, chosen by a hash of the file names, is the test split. The
            subfolders of a split are the classes, sorted by name; without any there is one class. Entries
            that are no images are skipped, see `image_files`, and listed in `info.left_out`.
          split: "train", "test", "val", or "all".
          image_size: side of the images, in pixels.
          resize: see `decoding.resize_u8`.
          on_bad_image: "error" raises at a damaged image, "skip" skips and counts it.
          progress: called with (files checked, number of files).
          window: see `decoding.crop_window`; empty for whole images.

        Raises:
          UserError: folder missing or empty, unknown split, a split's folder without another one, folders
            that may be splits or classes, classes that only the test has, or a damaged image.
        """
        image_files.check_on_bad_image(on_bad_image)
        root = expanded(path)
        check_location(root)
        tree, left_out = read_tree(root)
        class_names, files, parts = _list_split(tree, split, left_out)
        self._size, self._resize, self._window = image_size, resize, window
        self._digests_of: dict[pathlib.Path, int] = {}
        self.bad_files = image_files.find_bad_files(
            [file for file, _ in files], self._check, on_bad_image=on_bad_image, progress=progress
        )
        self._files = [pair for pair in files if pair[0] not in self.bad_files]
        if not self._files:
            reason = next(iter(self.bad_files.values()))
            raise UserError(f"none of the {len(files)} images in {str(root)!r} can be read: {reason}")
        self._digests = np.array([self._digests_of[path] for path, _ in self._files], np.uint64)
        self._digests_of.clear()
        self.num_skipped = len(self.bad_files)
        self.info = SourceInfo(
            f"folder:{path}",
            split,
            len(self._files),
            len(class_names),
            class_names,
            image_size,
            left_out_text(left_out),
            parts=tuple((part, 0, len(self._files)) for part in parts),
            note=_nested_note(tree),
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self._files[check_index(index, len(self))]
        return {"image": self._read(path), "label": label}

    @property
    def files(self) -> list[pathlib.Path]:
        """The files of the images, in their order."""
        return [path for path, _ in self._files]

    def read_labels(self) -> np.ndarray:
        """Returns the label of every image, int32 [N]."""
        return np.array([label for _, label in self._files], np.int32)

    def read_digests(self) -> np.ndarray:
        """Returns a hash of each image's file, uint64 [N]."""
        return self._digests

    def _check(self, path: pathlib.Path) -> np.ndarray:
        image = self._read(path)
        self._digests_of[path] = digest(np.fromfile(path, np.uint8))  # of the file: images may have several sizes
        return image

    def _read(self, path: pathlib.Path) -> np.ndarray:
        # Large photographs decode faster this way.
        side = None if self._window else decoding.decoded_side(self._size, self._resize)
        image = decoding.read_image(path, min_side=side)
        if self._window:
            image = decoding.crop_window(image, self._window, name=str(path))
        return decoding.resize_u8(image, self._size, self._resize)


def check_location(location: str | os.PathLike) -> None:
    """Checks that the folder exists.

    Raises:
      UserError: there is no such folder.
    """
    path = expanded(location)
    if not path.is_dir():
        raise UserError(f"folder {str(path)!r} does not exist or is not a folder; give the path of one")


def _list_split(
    tree: Tree, split: str, left_out: collections.Counter[str]
) -> tuple[tuple[str, ...], list[tuple[pathlib.Path, int]], Sequence[str]]:
    """Returns the class names of the folder, the (file, label) pairs of one split, and what it shares with others."""
    root, folders = tree.path, _split_folders(tree)
    if folders:
        if split == "test" and "test" not in folders:
            split = "val"
        splits = [*folders, "all"]
        if split not in splits:
            raise unknown(f"split of folder {str(root)!r}", split, splits)
        for name in tree.folders.keys() - set(folders.values()):
            left_out[f"folder {name!r} beside {' and '.join(folders.values())}"] += 1
        left_out[f"image beside {' and '.join(folders.values())}"] += len(tree.files)
        listed = {kind: _list_classes(tree.folders[name], left_out) for kind, name in folders.items()}
        class_names = tuple(sorted({label for _, label in listed["train"]}))
        _check_same_classes(tree, folders, listed)
        pairs = [pair for kind in folders for pair in listed[kind]]
    else:
        if split not in ("train", "test", "all"):
            raise unknown(f"split of folder {str(root)!r}", split, ("train", "test", "all"))
        pairs = _list_classes(tree, left_out)
        class_names = tuple(sorted({name for _, name in pairs}))
        test = _test_files(root, pairs)
        listed = {kind: [pair for pair in pairs if (pair[0] in test) == (kind == "test")] for kind in ("train", "test")}
    kinds, files = (list(listed), pairs) if split == "all" else ([split], listed[split])
    if tree.has_links() and set(kinds) & _linked_splits(listed):
        kinds = [*kinds, "linked files"]
    if not files:
        raise UserError(
            f"folder {str(root)!r} has no image for split {split!r}; add images, or use the split 'all' "
            f"(data.{split}_split=all)"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    return class_names, [(path, numbers[name]) for path, name in files], kinds


def _linked_splits(listed: Mapping[str, list[tuple[pathlib.Path, str]]]) -> set[str]:
    """Returns the splits that have a file in common with the training split, through links, and that split itself."""
    numbers = {}
    for kind, pairs in listed.items():
        stats = (path.stat() for path, _ in pairs if path.exists())
        numbers[kind] = {(stat.st_dev, stat.st_ino) for stat in stats}
    others = {kind for kind in numbers.keys() - {"train"} if numbers[kind] & numbers["train"]}
    return others | {"train"} if others else others


def _split_folders(tree: Tree) -> dict[str, str]:
    """Returns split -> name of its folder; {} where the subfolders are classes.

    Raises:
      UserError: two folders of one split, a split that is a link to the training split, a single split, or names that
        may be splits or classes.
    """
    root = str(tree.path)
    kinds = {name: _split_of(name) for name in tree.folders}
    named = [name for name, kind in kinds.items() if kind]
    others = [name for name, kind in kinds.items() if not kind and tree.folders[name].images()]
    folders = {kind: name for kind in _SPLITS for name in named if kinds[name] == kind}
    if len(folders) < len(named):
        raise UserError(f"folder {root!r} has {' and '.join(named)}, two folders of one split; keep one of them")
    linked = [n for n in named if "train" in folders and n != folders["train"] and _are_one(tree, n, folders)]
    if linked:
        raise UserError(
            f"folder {root!r}: {linked[0]} is {folders['train']}, through a link, so that tests would be of training "
            "images; give each split images of its own"
        )
    if "train" in folders and len(folders) > 1 and not (others and _AMBIGUOUS & {name.lower() for name in named}):
        return folders
    if named and not others:  # never the names of classes
        raise UserError(
            f"folder {root!r} holds only {' and '.join(named)}; put train and test (or val) side by side, or name "
            f"{str(tree.path / named[0])!r}, of which a fifth is kept for the test"
        )
    # Such as my_test beside Train, or seg_train beside seg_test; and the folder of a class has no classes itself.
    split_words = [word[0] for name in others if (word := _SPLIT_WORD.search(name.lower()))]
    has_classes = any(inner.images() for name in named for inner in tree.folders[name].folders.values())
    if has_classes or len(named) > 1 or (named and split_words) or len(set(split_words)) > 1:
        raise UserError(
            f"folder {root!r} holds {', '.join([*named, *others][:6])}, which may be splits or classes; call the "
            "folders of splits train and test (or val), with nothing beside them, or rename those that are classes"
        )
    return {}


def _are_one(tree: Tree, name: str, folders: dict[str, str]) -> bool:
    """Returns whether a folder is that of the training split."""
    return os.path.samefile(tree.path / name, tree.path / folders["train"])


def _split_of(name: str) -> str | None:
    """Returns the split of a folder's name in any spelling, such as Training, test_set or val2017; None for others."""
    word = re.sub(r"[\W_]+", "", name.lower())
    word = re.sub(r"(?<=[a-z])(set|data|dataset|images?|imgs?|folder|split)?((19|20)\d\d)?$", "", word)
    return next((split for split, words in _SPLITS.items() if word in words), None)


def _check_same_classes(tree: Tree, folders: dict[str, str], listed: dict[str, list]) -> None:
    """Checks that the training split has every class of the others.

    Raises:
      UserError: it lacks a class.
    """
    names = {kind: {label for _, label in pairs} for kind, pairs in listed.items()}
    for kind in folders.keys() - {"train"}:
        if extra := sorted(names[kind] - names["train"]):
            train, other = folders["train"], folders[kind]
            flat = not tree.folders[other].folders or bool(tree.folders[other].files)
            problem = "images without classes" if flat else f"classes that {train} lacks: {', '.join(extra[:5])}"
            if alike := {_alike(name) for name in extra} & {_alike(name) for name in names["train"]}:
                problem += f" ({', '.join(sorted(alike)[:5])} there has another Unicode form or case)"
            raise UserError(
                f"folder {str(tree.path)!r}: {other} holds {problem}; {train} has the classes "
                f"{', '.join(sorted(names['train'])[:5])}. Sort its images into these, or name "
                f"{str(tree.path / train)!r}, of which a fifth is kept for the test"
            )


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _list_classes(tree: Tree, left_out: collections.Counter[str]) -> list[tuple[pathlib.Path, str]]:
    """Returns the (image file, class name) pairs of a folder, sorted."""
    nested = []
    for name, folder in tree.folders.items():
        paths = folder.images()
        nested += [(path, name) for path in paths]
        if not paths:
            left_out[f"folder {name!r} without images"] += 1
    if tree.files and nested:
        raise UserError(
            f"folder {str(tree.path)!r} holds images ({tree.files[0].name}) and also subfolders with "
            f"images ({nested[0][1]}); put each into the subfolder of its class, or all into one"
        )
    if not tree.files and not nested:
        reason = f"; found {text}" if (text := left_out_text(left_out)) else ""
        raise UserError(f"folder {str(tree.path)!r} holds no image; looked for {looked_for()}{reason}")
    return [(path, "image") for path in tree.files] or nested


def _nested_note(tree: Tree) -> str:
    """Returns a note on classes whose folders contain several folders of images; empty where there are none.

    A single folder in each, such as images/, is not ambiguous.
    """
    roots = [tree.folders[name] for name in _split_folders(tree).values()] or [tree]
    folders = {name: folder for root in roots for name, folder in root.folders.items()}
    inner = {name: [sub for sub, part in folder.folders.items() if part.images()] for name, folder in folders.items()}
    is_mixed = any(inner.values()) and any(folder.files for folder in folders.values())
    nested = {name: subs for name, subs in inner.items() if len(subs) > 1 or (subs and is_mixed)}
    if not nested:
        return ""
    listed = ", ".join(f"{name} ({', '.join(subs[:3])}{', ...' * (len(subs) > 3)})" for name, subs in nested.items())
    return (
        f"images in folders of these classes count to the class: {listed[:300]}; move them up if they are the classes"
    )


def class_advice(path: str | os.PathLike) -> str:
    """Returns advice for a folder with a single class: a level below with several, or how to sort the images."""
    root = expanded(path)
    level = [read_tree(root)[0]]
    for _ in range(_MAX_DEPTH):
        level = [folder for tree in level for folder in tree.folders.values()]
        for tree in level:
            names = [name for name, folder in tree.folders.items() if folder.images()]
            if len(names) > 1:
                return f"name folder:{tree.path}, whose subfolders are {', '.join(names[:5])}"
    return "put the images of each class into a subfolder of its name"


def _test_files(root: pathlib.Path, files: list[tuple[pathlib.Path, str]]) -> set[pathlib.Path]:
    """Returns a fifth of every class of two or more images, independent of where the folder is."""
    by_class: dict[str, list[pathlib.Path]] = {}
    for path, name in files:
        by_class.setdefault(name, []).append(path)
    chosen: set[pathlib.Path] = set()
    for paths in by_class.values():
        ranked = sorted(paths, key=lambda p: hashlib.sha256(os.fsencode(p.relative_to(root).as_posix())).digest())
        count = max(1, round(_TEST_FRACTION * len(paths))) if len(paths) > 1 else 0
        chosen.update(ranked[:count])
    return chosen
