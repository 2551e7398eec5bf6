"""A user's own images: a folder of them, with one subfolder a class, or all in one place.

Images come out as uint8 RGB of a fixed size. Every file is decoded once when the folder is opened,
so that a damaged image stops the run at its start and not in the middle of the night.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np

from arinv.data import images
from arinv.data.source import SourceInfo, check_index
from arinv.errors import UserError, unknown

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_SPLIT_FOLDERS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_TEST_FRACTION = 0.2
ON_BAD_IMAGE = ("error", "skip")


class Folder:
    """The images of a folder; `bad_files` names those that could not be read and were left out."""

    def __init__(
        self,
        path: str | os.PathLike,
        split: str,
        *,
        image_size: int,
        resize: str,
        on_bad_image: str = "error",
        progress: Callable[[int, int], None] | None = None,
    ):
        """Lists the images and decodes each of them once.

        Args:
          path: the folder. Its subfolders `train` and `test` (or `val`, `valid`, `validation`) are the
            splits where they exist, and `val` stands in for a `test` that is not there; otherwise a
            fifth of each class, chosen by a hash of the file names, is the test split. The subfolders
            of a split are the classes, sorted by name; without any there is one class.
          split: "train", "test", "val", or "all".
          image_size: side of the images, in pixels.
          resize: "squash" or "crop", see `images.resize_u8`.
          on_bad_image: "error" stops at a damaged image, "skip" leaves it out and counts it.
          progress: called with (files checked, number of files).

        Raises:
          UserError: folder missing or empty, unknown split, a split's folder without another one, or a
            damaged image.
        """
        if on_bad_image not in ON_BAD_IMAGE:
            raise unknown("on_bad_image", on_bad_image, ON_BAD_IMAGE)
        root = pathlib.Path(path).expanduser()
        if not root.is_dir():
            raise UserError(f"folder {str(root)!r} does not exist or is not a folder; give the path of one")
        class_names, files = _list_split(root, split)
        self._size, self._resize = image_size, resize
        self.bad_files: list[pathlib.Path] = []
        self._files = self._readable(files, on_bad_image, progress)
        if not self._files:
            raise UserError(f"none of the {len(files)} images in {str(root)!r} can be read")
        self.num_skipped = len(self.bad_files)
        self.info = SourceInfo(f"folder:{path}", split, len(self._files), len(class_names), class_names, image_size)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self._files[check_index(index, len(self))]
        return {"image": self._read(path), "label": label}

    def read_labels(self) -> np.ndarray:
        """Returns the label of every image, int32 [N]."""
        return np.array([label for _, label in self._files], np.int32)

    def _read(self, path: pathlib.Path) -> np.ndarray:
        # Large photographs decode faster this way.
        image = images.read_image(path, min_side=images.decoded_side(self._size, self._resize))
        return images.resize_u8(image, self._size, self._resize)

    def _readable(self, files, on_bad_image, progress):
        """Returns the files that decode, in order."""
        good = []
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(self._error_of, [path for path, _ in files])
            for done, ((path, label), error) in enumerate(zip(files, results, strict=True), 1):
                if error is None:
                    good.append((path, label))
                elif on_bad_image == "skip":
                    self.bad_files.append(path)
                else:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise UserError(f"{error}; repair or remove it, or set on_bad_image='skip'")
                if progress:
                    progress(done, len(files))
        return good

    def _error_of(self, path: pathlib.Path) -> UserError | None:
        try:
            self._read(path)
        except UserError as error:
            return error
        return None


def _list_split(root: pathlib.Path, split: str) -> tuple[tuple[str, ...], list[tuple[pathlib.Path, int]]]:
    """Returns the class names of the folder and the (file, label) pairs of one split."""
    folders = _split_folders(root)
    if folders:
        if split == "test" and "test" not in folders:
            split = "val"
        known = [*folders, "all"]
        if split not in known:
            raise unknown(f"split of folder {str(root)!r}", split, known)
        listed = {name: _list_classes(folder) for name, folder in folders.items()}
        class_names = tuple(sorted({label for files in listed.values() for _, label in files}))
        wanted = folders if split == "all" else [split]
        files = [pair for name in wanted for pair in listed[name]]
    else:
        if split not in ("train", "test", "all"):
            raise unknown(f"split of folder {str(root)!r}", split, ("train", "test", "all"))
        files = _list_classes(root)
        class_names = tuple(sorted({name for _, name in files}))
        if split != "all":
            test = _test_files(root, files)
            files = [pair for pair in files if (pair[0] in test) == (split == "test")]
    if not files:
        raise UserError(f"folder {str(root)!r} leaves no image for split {split!r}; add images, or take split='all'")
    numbers = {name: number for number, name in enumerate(class_names)}
    return class_names, [(path, numbers[name]) for path, name in files]


def _split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folders of the splits by name; none where the subfolders are classes."""
    subfolders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    found = [name for name in _SPLIT_FOLDERS if name in subfolders]
    folders = {_SPLIT_FOLDERS[name]: root / name for name in found}
    if len(folders) < len(found):
        raise UserError(f"folder {str(root)!r} has {' and '.join(found)}, two folders of one split; keep one of them")
    if "train" in folders and len(folders) > 1:
        return folders
    if found and len(found) == len(subfolders):  # never the names of classes
        raise UserError(
            f"folder {str(root)!r} holds only {' and '.join(found)}; put train and test (or val) side by side, or name "
            f"{str(root / found[0])!r}, of which a fifth is kept for the test"
        )
    return {}


def _list_classes(folder: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Returns the (image file, class name) pairs of a folder, sorted."""
    flat = [(path, "image") for path in sorted(folder.iterdir()) if is_image(path)]
    nested = []
    for subfolder in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        nested += [(path, subfolder.name) for path in list_images(subfolder)]
    if flat and nested:
        raise UserError(
            f"folder {str(folder)!r} holds images ({flat[0][0].name}) and also subfolders with "
            f"images ({nested[0][1]}); put each into the subfolder of its class, or all into one"
        )
    if not flat and not nested:
        raise UserError(f"folder {str(folder)!r} holds no image; looked for {' '.join(sorted(SUFFIXES))}")
    return flat or nested


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images of a folder and its subfolders, sorted, but those of hidden ones (.thumbnails and such)."""
    found = (path for path in folder.rglob("*") if is_image(path))
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def is_image(path: pathlib.Path) -> bool:
    """Returns whether a path is a visible file with the name of an image."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _test_files(root: pathlib.Path, files: list[tuple[pathlib.Path, str]]) -> set[pathlib.Path]:
    """Returns a fifth of every class of two images or more, wherever the folder lies."""
    by_class: dict[str, list[pathlib.Path]] = {}
    for path, name in files:
        by_class.setdefault(name, []).append(path)
    chosen: set[pathlib.Path] = set()
    for paths in by_class.values():
        ranked = sorted(paths, key=lambda p: hashlib.sha256(os.fsencode(p.relative_to(root).as_posix())).digest())
        count = max(1, round(_TEST_FRACTION * len(paths))) if len(paths) > 1 else 0
        chosen.update(ranked[:count])
    return chosen
