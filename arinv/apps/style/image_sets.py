"""Contents and styles of a style transfer: named images of any size, padding, and contact sheets.

config.data   {"content", "style": an image file, a folder, or "photos:NAME+NAME" for built-in photographs,
               "num_content", "num_style": number of images, 0 for all,
               "content_labels", "style_labels": folders of label maps (apps/style/label_maps.py), empty for none,
               "size": side to resize images to, 0 for their own size, "resize": "squash" or "crop",
               "max_side": larger images are reduced until their longer side has it, 0 for no limit,
               "border": pixels of its mirror image around an image, removed from the result,
               "on_bad_image": "error" or "skip"}
"""

import pathlib
import textwrap
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from arinv import data
from arinv.data.image_files import list_images
from arinv.errors import UserError, unknown
from arinv.experiment.cache import cache_key
from arinv.experiment.figures import fit, labeled_grid
from arinv.experiment.run import open_image_files
from arinv.ops.inputs import check_count
from arinv.paths import expanded, shortened

_RESIZE_MODES = ("squash", "crop")
_LONGEST_SIDE = 12_000  # px, of a contact sheet
_SMALLEST_TILE = 48
_WIDEST_BORDER = 1024  # px; wider ones exceed the memory
_LINES = 3  # of a column's title


class Collection:
    """Images with short names, read and resized by indexing.

    Attributes:
      names: names of the images, no two equal, valid in file names.
      reduced: names of the images read so far that were larger than data.max_side.
    """

    def __init__(self, fields: ConfigDict, which: str):
        """Opens the images of a file, a folder or "photos:".

        Args:
          fields: config.data.
          which: "content" or "style".

        Raises:
          UserError: a path that does not exist, without an image, or with a damaged one.
        """
        self._fields, reference = fields, fields[which]
        self.reduced: set[str] = set()
        self._files: tuple[pathlib.Path, ...] = ()  # empty for "photos:"
        if data.is_photographs(reference):
            self.names = data.photograph_names(reference)
            self._images = [data.read_photograph(name) for name in self.names]
        else:
            self._images = open_image_files(reference, on_bad_image=fields.on_bad_image)
            self.names = _short_names(self._images.names)
            self._files = self._images.paths
        if count := fields[f"num_{which}"]:
            self.names, self._files = self.names[:count], self._files[:count]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns an image, uint8 [H, W, 3], at the size of the config."""
        fields, image = self._fields, self._images[index]
        if fields.size:
            return data.resize_u8(image, fields.size, fields.resize)
        if fields.max_side and max(image.shape[:2]) > fields.max_side:
            self.reduced.add(self.names[index])
        return data.limit_side(image, fields.max_side)

    def originals(self) -> Iterator[np.ndarray]:
        """Yields the images at the size of their files, uint8 [H, W, 3]."""
        return (self._images[i] for i in range(len(self)))

    def identity(self) -> str:
        """Returns a text that differs for other images, or files of another size or time."""
        return cache_key(*self.names, files=self._files)


def check(fields: ConfigDict) -> None:
    """Checks config.data without decoding images.

    Raises:
      UserError: images that are not named or do not exist, or a number out of range.
    """
    for which in ("content", "style"):
        reference = fields[which]
        if not reference:
            raise UserError(f"data.{which} is empty; name an image file or a folder of images")
        if data.is_photographs(reference):
            data.photograph_names(reference)
            continue
        path = expanded(reference)
        if not path.exists():
            raise UserError(f"data.{which}={reference!r} does not exist; name an image file or a folder of images")
        if path.is_dir():
            list_images(path)  # raises where it holds none
    if fields.resize not in _RESIZE_MODES:
        raise unknown("resize", fields.resize, _RESIZE_MODES)
    for name in ("size", "max_side", "border", "num_content", "num_style"):
        check_count(fields[name], f"data.{name}", minimum=0)
    if fields.border > _WIDEST_BORDER:
        raise UserError(f"data.border={fields.border} must be at most {_WIDEST_BORDER} px")
    if bool(fields.content_labels) != bool(fields.style_labels):
        raise UserError("label maps need both data.content_labels and data.style_labels, a folder each")


def pad(image: np.ndarray, *, multiple: int, smallest: int, border: int = 0) -> np.ndarray:
    """Returns an image or label map padded by reflection to sides that networks take.

    Reflection hardly changes the statistics of the features, which are the style; a repeated edge would add flat
    stripes.

    Args:
      image: [H, W, ...].
      multiple: of the sides.
      smallest: least length of a side.
      border: pixels to add above and on the left, and at least as many below and on the right, against the frame that
        the zero padding of convolutions causes; to be removed from the result.
    """
    lengths = [side + 2 * border for side in image.shape[:2]]
    sides = (max(smallest, -(-length // multiple) * multiple) for length in lengths)
    widths = [(border, border + side - length) for side, length in zip(sides, lengths, strict=True)]
    return np.pad(image, widths + [(0, 0)] * (image.ndim - 2), mode="symmetric")


def contact_sheet(
    contents: Sequence[np.ndarray],
    content_names: Sequence[str],
    styles: Sequence[np.ndarray],
    titles: Sequence[str],
    cell: Callable[[int, int], np.ndarray],
    *,
    tile: int,
) -> np.ndarray:
    """Returns one image of all contents in all styles.

    Args:
      contents: uint8 [H, W, 3] of any sizes.
      content_names: names of the contents.
      styles: uint8 [H, W, 3] of any sizes, one a column.
      titles: titles of the columns.
      cell: (content, column) -> uint8 [H, W, 3].
      tile: side of a cell in pixels, reduced where the sheet would be larger than 12,000 px.

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
    return labeled_grid(rows, columns=headings, min_tile=tile, font_size=font_size)


def square(image: np.ndarray, side: int) -> np.ndarray:
    """Returns an image uint8 [H, W, 3] in the middle of a square of that side, its proportions kept."""
    return fit(image, height=side, width=side)


def _wrap(title: str, tile: int, font_size: int) -> str:
    """Returns a title in lines that fit above a tile."""
    letters = max(4, int(tile / (0.58 * font_size)))
    lines = [line for part in title.replace("_", " ").split("\n") for line in textwrap.wrap(part, letters)]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"{lines[_LINES - 1][: letters - 2]}.."]
    return "\n".join(lines)


def _short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names with "_" for "/", without suffixes unless two names differ by their suffix only."""
    flat = [name.replace("/", "_") for name in names]
    stems = [name.rpartition(".")[0] or name for name in flat]
    short = [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, flat, strict=True)]
    if len(set(short)) < len(short):  # such as "a/b.png" beside "a_b.png"
        short = [f"{i:04d}_{name}" for i, name in enumerate(short)]
    return tuple(map(shortened, short))
