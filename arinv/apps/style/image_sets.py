"""The contents and styles of a style transfer: pictures of any size with names, brought to sizes that networks take.

config.data   {"content", "style": an image file, a folder, or "photos:NAME+NAME" for photographs that come along,
               "num_content", "num_style": how many of them, 0 for all,
               "content_labels", "style_labels": folders of label maps (tasks/label_maps.py), empty for none,
               "size": side that pictures are brought to, 0 for their own size, "resize": "squash" or "crop",
               "max_side": larger pictures are reduced until their longer side has it, 0 for no limit,
               "border": pixels of its mirror image that are put around a picture and cut off in the end,
               "on_bad_image": "error" or "skip"}
"""

import pathlib
import textwrap
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from arinv import data
from arinv.data.image_files import looked_for, read_tree
from arinv.data.photos import CLASS_NAMES
from arinv.errors import UserError, unknown
from arinv.experiment.cache import cache_key
from arinv.experiment.figures import fit, labelled_grid
from arinv.experiment.run import open_image_files

_PHOTOS = "photos:"
_RESIZE_MODES = ("squash", "crop")


class Collection:
    """Pictures with short names, read and resized when they are asked for.

    Attributes:
      names: one a picture, fit to be part of a file's name, no two alike.
      reduced: names of the pictures read so far that were larger than data.max_side.
    """

    def __init__(self, fields: ConfigDict, which: str):
        """Opens the pictures of a file, a folder or "photos:".

        Args:
          fields: config.data.
          which: "content" or "style".

        Raises:
          UserError: nothing there, no image in it, or a damaged one.
        """
        self._fields, reference = fields, fields[which]
        self.reduced: set[str] = set()
        self._files: tuple[pathlib.Path, ...] = ()  # none of photographs
        if reference.startswith(_PHOTOS):
            chosen = _photographs(reference)
            self._pictures = [data.read_photograph(name) for name in chosen]
            self.names = tuple(chosen)
        else:
            self._pictures = open_image_files(reference, on_bad_image=fields.on_bad_image)
            self.names = _short_names(self._pictures.names)
            self._files = self._pictures.paths
        if count := fields[f"num_{which}"]:
            self.names, self._files = self.names[:count], self._files[:count]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns a picture, uint8 [H, W, 3], at the size that the config asks for."""
        fields, picture = self._fields, self._pictures[index]
        if fields.size:
            return data.resize_u8(picture, fields.size, fields.resize)
        height, width = picture.shape[:2]
        factor = fields.max_side / max(height, width) if fields.max_side else 1.0
        if factor >= 1:
            return picture
        self.reduced.add(self.names[index])
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))

    def identity(self) -> str:
        """Returns a text that differs where there are other pictures, or files that were written again."""
        return cache_key(*self.names, files=self._files)


def check(fields: ConfigDict) -> None:
    """Checks config.data before anything is decoded.

    Raises:
      UserError: pictures that are not named or not there, or a number out of range.
    """
    for which in ("content", "style"):
        reference = fields[which]
        if not reference:
            raise UserError(f"data.{which} is empty; name an image file or a folder of images")
        if reference.startswith(_PHOTOS):
            _photographs(reference)
            continue
        path = pathlib.Path(reference).expanduser()
        if not path.exists():
            raise UserError(f"data.{which}={reference!r} does not exist; name an image file or a folder of images")
        if path.is_dir() and not read_tree(path)[0].images():
            raise UserError(f"folder {reference!r} holds no image; looked for {looked_for()}")
    if fields.resize not in _RESIZE_MODES:
        raise unknown("resize", fields.resize, _RESIZE_MODES)
    for name in ("size", "max_side", "border", "num_content", "num_style"):
        if fields[name] < 0:
            raise UserError(f"data.{name} must be 0 or more; got {fields[name]}")
    if bool(fields.content_labels) != bool(fields.style_labels):
        raise UserError("label maps need both data.content_labels and data.style_labels, a folder each")


def pad(picture: np.ndarray, *, multiple: int, smallest: int, border: int = 0) -> np.ndarray:
    """Returns a picture or label map continued by its mirror image to sides that networks take.

    A mirror image leaves the statistics of the features, which are the style, nearly as they were; a repeated border
    would add flat stripes to them.

    Args:
      picture: [H, W, ...].
      multiple: of the sides.
      smallest: least length of a side.
      border: pixels to add above and on the left, and at least as many below and on the right, so that the frame that
        the convolutions' zero padding draws is cut off again.
    """
    lengths = [side + 2 * border for side in picture.shape[:2]]
    wanted = (max(smallest, -(-length // multiple) * multiple) for length in lengths)
    missing = [(border, border + side - length) for side, length in zip(wanted, lengths, strict=True)]
    return np.pad(picture, missing + [(0, 0)] * (picture.ndim - 2), mode="symmetric")


def _photographs(reference: str) -> list[str]:
    names = list(dict.fromkeys(filter(None, reference.removeprefix(_PHOTOS).split("+")))) or list(CLASS_NAMES)
    for name in names:
        if name not in CLASS_NAMES:
            raise unknown("photograph", name, CLASS_NAMES)
    return names


def _short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names without endings where those are not needed to tell them apart, folders joined by "_"."""
    flat = [name.replace("/", "_") for name in names]
    stems = [name.rpartition(".")[0] or name for name in flat]
    short = [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, flat, strict=True)]
    if len(set(short)) < len(short):  # such as "a/b.png" beside "a_b.png"
        short = [f"{i:04d}_{name}" for i, name in enumerate(short)]
    return tuple(short)


_LONGEST_SIDE = 12_000  # px of a sheet, above which its tiles become smaller
_SMALLEST_TILE = 48
_LINES = 3  # of a column's title


def contact_sheet(
    contents: Sequence[np.ndarray],
    content_names: Sequence[str],
    styles: Sequence[np.ndarray],
    titles: Sequence[str],
    cell: Callable[[int, int], np.ndarray],
    *,
    tile: int,
) -> np.ndarray:
    """Returns one picture of all contents in all styles.

    Args:
      contents: uint8 [H, W, 3] of any sizes.
      content_names: one a content.
      styles: uint8 [H, W, 3] of any sizes, one a column.
      titles: one a column.
      cell: (content, column) -> uint8 [H, W, 3].
      tile: side of a cell in pixels; less where the sheet would be too large.

    Returns:
      uint8 [H', W', 3].
    """
    tile = max(_SMALLEST_TILE, min(tile, _LONGEST_SIDE // (1 + max(len(contents), len(styles)))))
    rows = {"": np.stack([square(np.full((1, 1, 3), 255, np.uint8), tile), *(square(style, tile) for style in styles)])}
    for i, name in enumerate(content_names):
        cells = [square(cell(i, j), tile) for j in range(len(styles))]
        rows[name] = np.stack([square(contents[i], tile), *cells])
    font_size = 14 if tile >= 128 else 11
    headings = ["", *(_wrap(title, tile, font_size) for title in titles)]
    return labelled_grid(rows, columns=headings, min_tile=tile, font_size=font_size)


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """Returns a picture uint8 [H, W, 3] in the middle of a square of that side, its proportions kept."""
    return fit(picture, height=side, width=side)


def _wrap(title: str, tile: int, font_size: int) -> str:
    """Returns a title in lines that fit above a tile."""
    letters = max(4, int(tile / (0.58 * font_size)))
    lines = [line for part in title.replace("_", " ").split("\n") for line in textwrap.wrap(part, letters)]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"{lines[_LINES - 1][: letters - 2]}.."]
    return "\n".join(lines)
