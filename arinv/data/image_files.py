"""Image files of a folder: finding them, checking that each can be read, and reading them on access.

The images of a folder are its visible files with the ending of a format that Pillow decodes, in any case, also through
links. Hidden files, folders that file servers, archives and desktops create, such as @eaDir, broken links, and files
with other endings are skipped and counted.
"""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures

import numpy as np
from PIL import Image, features

from arinv.data.cores import num_cores
from arinv.data.decoding import limit_side, read_image
from arinv.errors import UserError, unknown
from arinv.paths import expanded

ON_BAD_IMAGE = ("error", "skip")
_SUFFIXES = {
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf"),
    *(".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
}
_CODECS = {  # of Pillow, which may have been built without them
    "avif": {".avif"},
    "jpg_2000": {".j2k", ".jp2", ".jpf", ".jpx"},
    "webp": {".webp"},
}
# Of Synology, QNAP, macOS, Windows, Linux and Android; names beginning with a dot are hidden anyway.
_SYSTEM_NAMES = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "@__thumb", "@sharebin"),
    *("__macosx", "network trash folder", "temporary items", "resource.frk"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "thumbs.db", "ehthumbs.db"),
    *("desktop.ini", "lost+found", "lost.dir", "__pycache__"),
}
_SYSTEM_PREFIXES = (".", "@syno", "._")
_MAX_KINDS = 12  # in a text about skipped entries


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the endings of image files that are read, lower case: those that this build of Pillow decodes."""
    missing = [endings for codec, endings in _CODECS.items() if not features.check(codec)]
    return frozenset((_SUFFIXES & Image.registered_extensions().keys()).difference(*missing))


def _is_system_entry(name: str) -> bool:
    return name.casefold() in _SYSTEM_NAMES or name.casefold().startswith(_SYSTEM_PREFIXES)


@dataclasses.dataclass
class Tree:
    """The images of a folder.

    Attributes:
      path: the folder.
      files: images in the folder itself, sorted.
      folders: name -> its visible subfolders, sorted.
      num_links: number of links among both.
    """

    path: pathlib.Path
    files: list[pathlib.Path] = dataclasses.field(default_factory=list)
    folders: dict[str, "Tree"] = dataclasses.field(default_factory=dict)
    num_links: int = 0

    def has_links(self) -> bool:
        """Returns whether a file or a folder in it is a link."""
        return self.num_links > 0 or any(tree.has_links() for tree in self.folders.values())

    def images(self) -> list[pathlib.Path]:
        """Returns the images of the folder and its subfolders, sorted."""
        nested = [path for tree in self.folders.values() for path in tree.images()]
        return sorted([*self.files, *nested])


def read_tree(folder: pathlib.Path) -> tuple[Tree, collections.Counter[str]]:
    """Returns the images of a folder, and how many entries of each other kind it has.

    Args:
      folder: the folder.

    Returns:
      The tree of images, and kind of entry -> number of entries.

    Raises:
      UserError: a folder that cannot be read.
    """
    left_out: collections.Counter[str] = collections.Counter()
    return _read_tree(folder, left_out, ()), left_out


def _read_tree(folder: pathlib.Path, left_out: collections.Counter[str], outer: tuple[tuple[int, int], ...]) -> Tree:
    tree = Tree(folder)
    try:
        own = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"folder {str(folder)!r} cannot be read: {error.strerror or error}") from None
    outer = (*outer, (own.st_dev, own.st_ino))
    for entry in entries:
        path = folder / entry.name
        tree.num_links += entry.is_symlink()
        is_folder, looks_like_image = os.path.isdir(path), path.suffix.lower() in suffixes()
        if _is_system_entry(entry.name):
            if is_folder or looks_like_image:
                left_out[f"folder {entry.name!r}" if is_folder else "hidden file"] += 1
        elif is_folder:
            inner = entry.stat()
            if (inner.st_dev, inner.st_ino) in outer:
                left_out["link to an outer folder"] += 1
            else:
                tree.folders[entry.name] = _read_tree(path, left_out, outer)
        elif os.path.islink(path) and not os.path.exists(path):
            left_out["broken link"] += 1
        elif looks_like_image and os.path.isfile(path):
            tree.files.append(path)
        else:
            left_out[path.suffix.lower() or "file without an ending"] += 1
    return tree


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Returns kinds of entries as text, such as ".heic (3), broken link (1)"; empty for none."""
    ranked = sorted(((kind, count) for kind, count in left_out.items() if count), key=lambda pair: (-pair[1], pair[0]))
    more = sum(count for _, count in ranked[_MAX_KINDS:])
    text = ", ".join(f"{kind} ({count})" for kind, count in ranked[:_MAX_KINDS])
    return text + (f" and {more} others" if more else "")


def looked_for() -> str:
    """Returns the endings that are read, for messages."""
    return " ".join(sorted(suffixes()))


class ImageFiles:
    """Image files in the order of their paths, each read on access.

    Attributes:
      paths: paths of the files that can be read.
      names: names of the images: paths relative to the folder, with "/".
      bad_files: files that cannot be read and were skipped -> why.
      bad_names: their names, as those of the images.
      left_out: other entries of the folder that are not readable images, as text; empty for none.
    """

    def __init__(
        self,
        root: pathlib.Path,
        paths: Sequence[pathlib.Path],
        bad_files: Mapping[pathlib.Path, str],
        *,
        left_out: str = "",
        names: Sequence[str] = (),
        max_side: int = 0,
    ):
        """Stores the paths and names.

        Args:
          root: the file or folder that was opened.
          paths: see the attributes.
          bad_files: see the attributes.
          left_out: see the attributes.
          names: see the attributes; empty for paths relative to the folder.
          max_side: largest length of the longer side, in pixels: larger images are reduced; 0 for no limit.
        """
        self.left_out, self._max_side = left_out, max_side
        base = root if root.is_dir() else root.parent
        self.paths, self.bad_files = tuple(paths), dict(bad_files)
        self.names = tuple(names) or tuple(path.relative_to(base).as_posix() for path in paths)
        self.bad_names = tuple(path.relative_to(base).as_posix() for path in bad_files)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return limit_side(read_image(self.paths[index]), self._max_side)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


def list_images(folder: pathlib.Path) -> tuple[list[pathlib.Path], str]:
    """Returns the images of a folder and its visible subfolders, and its other entries as text.

    Args:
      folder: the folder.

    Returns:
      Paths of images, sorted, at least one, with an ending that Pillow decodes; text such as ".heic (3), broken link
      (1)".

    Raises:
      UserError: a folder that cannot be read, or without an image.
    """
    tree, others = read_tree(folder)
    paths, left_out = tree.images(), left_out_text(others)
    if not paths:
        reason = f"; found {left_out}" if left_out else ""
        raise UserError(f"folder {str(folder)!r} holds no image; looked for {looked_for()}{reason}")
    return paths, left_out


def open_images(
    path: str | os.PathLike,
    *,
    on_bad_image: str = "error",
    max_side: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ImageFiles:
    """Returns the image of a file, or all images in a folder and its visible subfolders, after decoding each once.

    Args:
      path: an image file or a folder.
      on_bad_image: "error" raises at a damaged image, "skip" skips it.
      max_side: largest length of the longer side, in pixels: larger images are reduced; 0 for no limit.
      progress: called with (files checked, number of files).

    Returns:
      A sequence of images, uint8 [H, W, 3].

    Raises:
      UserError: no such path, no image in it, a damaged image, or none that can be read.
    """
    check_on_bad_image(on_bad_image)
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"cannot open images {path!r}: give an image file or a folder of images")
    root = expanded(path)
    if not root.exists():
        raise UserError(f"{str(path)!r} does not exist; give an image file or a folder of images")
    paths, left_out = ([root], "") if root.is_file() else list_images(root)
    bad_files = find_bad_files(paths, read_image, on_bad_image=on_bad_image, progress=progress)
    if len(bad_files) == len(paths):
        reason = next(iter(bad_files.values()))
        raise UserError(f"none of the {len(paths)} images in {str(path)!r} can be read: {reason}")
    readable = [file for file in paths if file not in bad_files]
    return ImageFiles(root, readable, bad_files, left_out=left_out, max_side=max_side)


def check_on_bad_image(on_bad_image: str) -> None:
    """Checks the name of a way to handle damaged images.

    Args:
      on_bad_image: "error" or "skip".

    Raises:
      UserError: an unknown one.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise unknown("on_bad_image", on_bad_image, ON_BAD_IMAGE)


def find_bad_files(
    paths: Sequence[pathlib.Path],
    read: Callable[[pathlib.Path], np.ndarray],
    *,
    on_bad_image: str,
    progress: Callable[[int, int], None] | None,
) -> dict[pathlib.Path, str]:
    """Reads every file once, in several threads, and returns those that cannot be read -> why, in order.

    Args:
      paths: the files to read.
      read: path -> image; raises UserError for a damaged one.
      on_bad_image: "error" raises at a damaged image, "skip" skips it.
      progress: called with (files read, number of files).

    Raises:
      UserError: a damaged image, with on_bad_image="error".
    """

    def error_of(path: pathlib.Path) -> UserError | None:
        try:
            read(path)
        except UserError as error:
            return error
        return None

    bad_files = {}
    with futures.ThreadPoolExecutor(num_cores()) as pool:
        for done, (path, error) in enumerate(zip(paths, pool.map(error_of, paths), strict=True), 1):
            if error is not None and on_bad_image == "error":
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(f"{error}; repair or remove it, or set on_bad_image='skip'")
            if error is not None:
                bad_files[path] = str(error)
            if progress:
                progress(done, len(paths))
    return bad_files
