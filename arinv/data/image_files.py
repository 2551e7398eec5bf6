"""Which files in a folder are images, by their names, and what was left out.

Read: visible files with the ending of an image that Pillow decodes here, whatever its case, also through links. Left
out and counted: hidden files, folders that file servers, archives and desktops leave behind, such as @eaDir, links that
lead nowhere, and files with other endings.
"""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping

from PIL import Image, features

from arinv.errors import UserError

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
_LEFT_BEHIND = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "@__thumb", "@sharebin"),
    *("__macosx", "network trash folder", "temporary items", "resource.frk"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "thumbs.db", "ehthumbs.db"),
    *("desktop.ini", "lost+found", "lost.dir", "__pycache__"),
}
_LEFT_BEHIND_STARTS = (".", "@syno", "._")
_SHOWN = 12  # kinds of what was left out in a text


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the endings of image files that are read, lower case: those of which Pillow has the decoder here."""
    missing = [endings for codec, endings in _CODECS.items() if not features.check(codec)]
    return frozenset((_SUFFIXES & Image.registered_extensions().keys()).difference(*missing))


def _is_left_behind(name: str) -> bool:
    return name.casefold() in _LEFT_BEHIND or name.casefold().startswith(_LEFT_BEHIND_STARTS)


@dataclasses.dataclass
class Tree:
    """The images of a folder.

    Attributes:
      path: of the folder.
      files: images in the folder itself, sorted.
      folders: name -> its visible subfolders, sorted.
    """

    path: pathlib.Path
    files: list[pathlib.Path] = dataclasses.field(default_factory=list)
    folders: dict[str, "Tree"] = dataclasses.field(default_factory=dict)

    def images(self) -> list[pathlib.Path]:
        """Returns the images of the folder and its subfolders, sorted."""
        found = list(self.files)
        for tree in self.folders.values():
            found += tree.images()
        return sorted(found)


def read_tree(folder: pathlib.Path) -> tuple[Tree, collections.Counter[str]]:
    """Returns the images of a folder, and how often what was left out.

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
        is_folder, looks_like_image = os.path.isdir(path), path.suffix.lower() in suffixes()
        if _is_left_behind(entry.name):
            if is_folder or looks_like_image:
                left_out[f"folder {entry.name!r}" if is_folder else "hidden file"] += 1
        elif is_folder:
            inner = entry.stat()
            if (inner.st_dev, inner.st_ino) in outer:
                left_out["link to a folder around it"] += 1
            else:
                tree.folders[entry.name] = _read_tree(path, left_out, outer)
        elif os.path.islink(path) and not os.path.exists(path):
            left_out["link that leads nowhere"] += 1
        elif looks_like_image and os.path.isfile(path):
            tree.files.append(path)
        else:
            left_out[path.suffix.lower() or "file without an ending"] += 1
    return tree


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Returns what was left out as text, such as ".heic (3), link that leads nowhere (1)"; empty for nothing."""
    ranked = sorted(((kind, count) for kind, count in left_out.items() if count), key=lambda pair: (-pair[1], pair[0]))
    more = sum(count for _, count in ranked[_SHOWN:])
    shown = ", ".join(f"{kind} ({count})" for kind, count in ranked[:_SHOWN])
    return shown + (f" and {more} others" if more else "")


def looked_for() -> str:
    """Returns the endings that are read, for messages."""
    return " ".join(sorted(suffixes()))
