"""Contact sheets: contents down the side, styles across the top, results in the cells."""

import textwrap
from collections.abc import Callable, Sequence

import numpy as np

from arinv.tasks.pictures import labelled_grid
from arinv.tasks.thumbnails import fit

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
