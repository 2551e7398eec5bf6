"""A user's own pictures, one or a folder of them, each at the size it has: uint8 RGB [H, W, 3]."""

import os
import pathlib
from collections.abc import Callable, Iterator
from concurrent import futures

import numpy as np

from arinv.data.folder import ON_BAD_IMAGE
from arinv.data.image_files import left_out_text, looked_for, read_tree
from arinv.data.images import read_image
from arinv.errors import UserError, unknown


class Pictures:
    """Pictures in the order of their paths, read when they are asked for.

    Attributes:
      paths: of the files that can be read.
      names: of the pictures: paths relative to the folder, with "/".
      bad_files: files that could not be read and were left out.
      left_out: what else in the folder is no image that can be read, as text; empty for nothing.
    """

    def __init__(
        self, root: pathlib.Path, paths: list[pathlib.Path], bad_files: list[pathlib.Path], *, left_out: str = ""
    ):
        """Takes files that are known to decode."""
        self.left_out = left_out
        base = root if root.is_dir() else root.parent
        self.paths, self.bad_files = tuple(paths), tuple(bad_files)
        self.names = tuple(path.relative_to(base).as_posix() for path in paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (read_image(path) for path in self.paths)


def open_pictures(
    path: str | os.PathLike,
    *,
    on_bad_image: str = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Pictures:
    """Returns the picture of a file, or all in a folder and its visible subfolders, after decoding each once.

    Args:
      path: an image file or a folder.
      on_bad_image: "error" stops at a damaged image, "skip" leaves it out.
      progress: called with (files checked, number of files).

    Raises:
      UserError: nothing there, no image in it, a damaged image, or none that can be read.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise unknown("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    root = pathlib.Path(path).expanduser()
    if not root.exists():
        raise UserError(f"{str(path)!r} does not exist; give an image file or a folder of images")
    files, left_out = [root], ""
    if not root.is_file():
        tree, others = read_tree(root)
        files, left_out = tree.images(), left_out_text(others)
    if not files:
        found = f"; found {left_out}" if left_out else ""
        raise UserError(f"folder {str(path)!r} holds no image; looked for {looked_for()}{found}")
    good, bad = [], []
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (file, error) in enumerate(zip(files, pool.map(_error_of, files), strict=True), 1):
            if error is None:
                good.append(file)
            elif on_bad_image == "skip":
                bad.append(file)
            else:
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(f"{error}; repair or remove it, or set on_bad_image='skip'")
            if progress:
                progress(done, len(files))
    if not good:
        raise UserError(f"none of the {len(files)} images in {str(path)!r} can be read")
    return Pictures(root, good, bad, left_out=left_out)


def _error_of(path: pathlib.Path) -> UserError | None:
    try:
        read_image(path)
    except UserError as error:
        return error
    return None
