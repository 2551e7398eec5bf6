"""Files of a run, written atomically: text, JSON, CSV, PNG and arrays.

Process 0 alone writes. In the other processes the functions that write do nothing, so that a task may call them in all.
"""

import collections
import contextlib
import csv
import io
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from arinv import distributed, paths
from arinv.errors import UserError, first_line

TEMPORARY = ".tmp-"  # prefix of the names of files that are being written


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that after a kill at any moment it is the old or the new one."""
    if distributed.index() != 0:
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # before it gets its name, for a machine that loses its power


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes UTF-8 atomically; file names in the text that are not UTF-8 keep their bytes."""
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path, which replaces `path` on success and is deleted on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.urandom(6).hex()}")  # short, whatever the name
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporary(folder: pathlib.Path) -> None:
    """Removes the temporary files of writes that a kill has cut short, but not those of other runs inside the folder.

    Args:
      folder: the workdir of a run that no other process writes to.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not os.path.exists(os.path.join(place, name, "config.json"))]
        for name in files:
            if re.fullmatch(f"{re.escape(TEMPORARY)}[0-9a-f]{{12}}", name):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(place, name))


def write_csv(path: pathlib.Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows of cells as CSV, the heading first, atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_png(path: pathlib.Path, image_u8: np.ndarray) -> None:
    """Writes a uint8 [H, W, 3] image as PNG, atomically."""
    if distributed.index() != 0:
        return
    buffer = io.BytesIO()
    Image.fromarray(image_u8).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def check_overwrites_none(workdir: pathlib.Path, outputs: Iterable[str], *, images: str) -> None:
    """Checks that no file of a run would overwrite an image that it reads.

    Args:
      workdir: the run's directory.
      outputs: names of the folders and files in it that are written.
      images: path of the file or folder of images that is read.

    Raises:
      UserError: the images are where files would be written.
    """
    root = paths.expanded(images).resolve()
    if any(root.is_relative_to(workdir.resolve() / name) for name in outputs):
        raise UserError(f"workdir {workdir} would overwrite the images {images}; name another --workdir")


def png_names(names: Sequence[str]) -> list[str]:
    """Returns a relative path of a PNG file for each image of a folder, no two equal.

    The ending of an image is replaced, unless images differ by it alone.

    Args:
      names: paths of the images relative to the folder, with "/".
    """
    stems = [str(pathlib.PurePosixPath(name).with_suffix("")) for name in names]
    counts = collections.Counter(stems)
    short = [stem if counts[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]
    if len(set(short)) == len(names):  # unlike those of x.jpg and x.png beside x.jpg.jpg
        names = short
    used_paths = {str(folder) for name in names for folder in pathlib.PurePosixPath(name).parents}.union(names)
    files = []
    for name in names:
        file = name
        while not file.endswith(".png") or (file != name and file in used_paths):
            file += ".png"
        folder, slash, stem = file.removesuffix(".png").rpartition("/")
        files.append(f"{folder}{slash}{paths.shortened(stem)}.png")
    return files


def is_image(path: pathlib.Path) -> bool:
    """Returns whether a file exists and holds a complete image, as those do that `write_png` wrote."""
    try:
        with Image.open(path) as image:
            image.load()
    except Exception:  # Pillow's decoders raise many kinds of errors
        return False
    return True


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = True) -> None:
    """Writes named arrays, atomically.

    Args:
      path: path of the file.
      arrays: arrays of numbers or texts, not of Python objects.
      compressed: False for files that are written often.
    """
    if distributed.index() != 0:
        return
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file.

    Raises:
      UserError: missing or damaged file.
    """
    try:
        content = io.BytesIO(path.read_bytes())  # np.load leaves a damaged file open
        with np.load(content, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # zip, deflate and NumPy's headers raise many kinds
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path} cannot be read ({reason}); delete it to compute it again") from None
