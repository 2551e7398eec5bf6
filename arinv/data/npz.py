"""NumPy archives as datasets, such as images with pseudo-labels.

The archive holds "image", uint8 [N, H, W, 3], and "label" [N]: whole numbers, text, or one-hot rows [N, K]. Classes are
the labels that occur, numbered from 0 without gaps and named after them. Pickled objects raise an error. A fifth of
every class is the test split.
"""

import os
import pathlib
from typing import Any

import numpy as np

from arinv.data import decoding
from arinv.data.source import SourceInfo, check_index, digest, number_classes
from arinv.errors import UserError, first_line, unknown
from arinv.paths import expanded

_SPLITS = ("train", "test", "all")
_TEST_EVERY = 5  # one example in five


class Npz:
    """The examples of one split of an archive, in its order."""

    def __init__(self, path: str | os.PathLike, split: str, *, image_size: int, resize: str):
        """Reads the archive into memory.

        Args:
          path: the .npz file.
          split: "test" (every fifth example of each class, and one of a class of two to four), "train" (the
            others) or "all".
          image_size: side of the images, in pixels.
          resize: see `decoding.resize_u8`.

        Raises:
          UserError: a missing or damaged file, other arrays than described above, or a split that is unknown
            or empty.
        """
        if split not in _SPLITS:
            raise unknown(f"split of npz:{path}", split, _SPLITS)
        path = expanded(path)
        self._read(path)
        self._resize = resize
        self._indices = _split_indices(self._labels, split)
        if not len(self._indices):
            raise UserError(
                f"{path} has no example for split {split!r}; add examples, or use the split 'all' "
                f"(data.{split}_split=all)"
            )
        names = self._class_names
        count = len(self._indices)
        parts = tuple((name, 0, count) for name in (("train", "test") if split == "all" else (split,)))
        self.info = SourceInfo(f"npz:{path}", split, count, len(names), names, image_size, parts=parts)
        self.num_skipped = 0

    def _read(self, path: pathlib.Path) -> None:
        try:
            with path.open("rb") as file, _archive(np.load(file, allow_pickle=False), path) as arrays:
                missing = {"image", "label"} - set(arrays.files)
                if missing:
                    raise UserError(f"{path} has no array {sorted(missing)}; it has: {', '.join(arrays.files)}")
                self._images, labels = arrays["image"], arrays["label"]
            self._check(path)
            self._labels, self._class_names = number_classes(_plain_labels(path, labels, len(self._images)))
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; give the path of a .npz file") from None
        except Exception as error:  # zip, deflate and NumPy's header parser raise many kinds of errors
            raise UserError(
                f"{path} cannot be read as a .npz file ({type(error).__name__}: {first_line(error)}); write "
                "arrays of numbers, not of objects, with numpy.savez"
            ) from None

    def _check(self, path: pathlib.Path) -> None:
        shape, dtype = self._images.shape, self._images.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or not min(shape[1:3]):
            raise UserError(f"{path}: image must be uint8 [N, H, W, 3]; got {dtype} {shape}")
        if not shape[0]:
            raise UserError(f"{path}: needs at least one example")
        if self._images.max() == 1:
            raise UserError(f"{path}: image has values of 0 and 1 only; uint8 images are in 0..255, so multiply by 255")

    def __len__(self) -> int:
        return self.info.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = check_index(index, len(self))
        image = decoding.resize_u8(self._images[self._indices[index]], self.info.image_size, self._resize)
        return {"image": image, "label": int(self._labels[self._indices[index]])}

    def read_labels(self) -> np.ndarray:
        """Returns all labels, int32 [N]."""
        return self._labels[self._indices]

    def read_digests(self) -> np.ndarray:
        """Returns a hash of the pixels of each image, uint64 [N]."""
        return np.array([digest(self._images[index]) for index in self._indices], np.uint64)


def check_location(location: str) -> None:
    """Checks that the archive exists.

    Raises:
      UserError: there is no such file.
    """
    path = expanded(location)
    if not path.is_file():
        raise UserError(f"file {str(path)!r} does not exist; give the path of an .npz file")


def _plain_labels(path: pathlib.Path, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns labels as integers or text [N].

    Raises:
      UserError: another shape, rows that are not one-hot, or numbers that are negative or no integers.
    """
    kind = f"{labels.dtype} {labels.shape}"
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.shape[0] == count and labels.dtype.kind in "biuf" and labels.shape[1]:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
            raise UserError(f"{path}: label has rows that are not one-hot; give class numbers [{count}]")
        labels = labels.argmax(1)
    if labels.shape != (count,) or labels.dtype.kind not in "biufU":
        raise UserError(f"{path}: label must be integers [{count}]; got {kind}")
    if labels.dtype.kind == "U":
        return labels
    if not (np.isfinite(labels).all() and (labels == np.floor(labels)).all() and labels.min() >= 0):
        raise UserError(f"{path}: labels must be whole numbers of 0 or more")
    if labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"{path}: label {labels.max()} is too large")
    return labels.astype(np.int64)


def _archive(loaded: Any, path: pathlib.Path) -> np.lib.npyio.NpzFile:
    """Returns what np.load gave.

    Raises:
      UserError: a single array.
    """
    if isinstance(loaded, np.ndarray):
        raise UserError(
            f"{path} cannot be read as a .npz file: it holds one array and no labels; write both with "
            "numpy.savez(file, image=..., label=...)"
        )
    return loaded


def _split_indices(labels: np.ndarray, split: str) -> np.ndarray:
    """Returns the indices of a split's examples in the archive, ascending."""
    if split == "all":
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    changes = np.flatnonzero(labels[order][1:] != labels[order][:-1]) + 1
    test = np.zeros(len(labels), bool)
    for indices in np.split(order, changes):
        test[indices[_TEST_EVERY - 1 :: _TEST_EVERY] if len(indices) >= _TEST_EVERY else indices[1:2]] = True
    return np.flatnonzero(test == (split == "test"))
