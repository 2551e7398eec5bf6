"""Arrays in a NumPy archive as a source: images and labels that were prepared elsewhere, such as pseudo-labels.

The archive holds "image", uint8 [N, H, W, 3], and "label", integers [N]. Pickled objects in it are refused.
"""

import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from arinv.data import images
from arinv.data.source import SourceInfo, check_index
from arinv.errors import UserError


class Npz:
    """One archive; it has a single split, whatever name that goes by."""

    def __init__(self, path: str | os.PathLike, split: str, *, image_size: int, resize: str):
        """Reads the archive into memory.

        Args:
          path: of the .npz file.
          split: kept in `info`, the same examples for each.
          image_size: side of the images, in pixels.
          resize: "squash" or "crop", see `images.resize_u8`.

        Raises:
          UserError: no such file, a damaged one, or other arrays than described above.
        """
        path = pathlib.Path(path).expanduser()
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                missing = {"image", "label"} - set(arrays.files)
                if missing:
                    raise UserError(f"{path} has no array {sorted(missing)}; it has: {', '.join(arrays.files)}")
                self._images, self._labels = arrays["image"], arrays["label"]
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; give the path of a .npz file") from None
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} cannot be read as a .npz file ({error}); write it with numpy.savez") from None
        self._check(path)
        self._resize = resize
        count = int(self._labels.max()) + 1
        names = tuple(str(i) for i in range(count))
        self.info = SourceInfo(f"npz:{path}", split, len(self._labels), count, names, image_size)
        self.num_skipped = 0

    def _check(self, path: pathlib.Path) -> None:
        shape, labels = self._images.shape, self._labels
        if self._images.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
            raise UserError(f"{path}: image must be uint8 [N, H, W, 3]; got {self._images.dtype} {shape}")
        if labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"{path}: label must be integers [{shape[0]}]; got {labels.dtype} {labels.shape}")
        if not len(labels) or labels.min() < 0:
            raise UserError(f"{path}: needs at least one example, and labels of 0 or more")

    def __len__(self) -> int:
        return self.info.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = check_index(index, len(self))
        image = images.resize_u8(self._images[index], self.info.image_size, self._resize)
        return {"image": image, "label": int(self._labels[index])}

    def read_labels(self) -> np.ndarray:
        """Returns all labels, int32 [N]."""
        return self._labels.astype(np.int32)
