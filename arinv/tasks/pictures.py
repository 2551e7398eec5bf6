"""Pictures with names: grids of images whose rows and columns say what they are."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arinv.ops.images import image_grid
from arinv.types import ArrayLike

_FONT_SIZE = 18
_GAP = 12  # pixels around a label
_MIN_LABEL_WIDTH = 160
_GRID_GAP = 2


def labelled_grid(
    rows: Mapping[str, ArrayLike], *, columns: Sequence[str] = (), min_tile: int = 96, font_size: int = _FONT_SIZE
) -> np.ndarray:
    """Returns a picture of rows of images with the name of each row on its left and of each column above it.

    Args:
      rows: name -> [N, H, W, C], floating point in [0, 1] or uint8, of one H and W.
      columns: a text above each column; lines are parted by newlines. Empty for none.
      min_tile: images with shorter sides are enlarged by whole factors, in pixels.
      font_size: of the labels, in pixels.

    Returns:
      uint8 [H', W', 3].

    Raises:
      UserError: no row, or images of different sizes.
    """
    height, width = next(iter(rows.values())).shape[1:3] if rows else (1, 1)
    factor = max(1, -(-min_tile // min(height, width)))
    grid = image_grid(
        [np.repeat(np.repeat(np.asarray(row), factor, axis=1), factor, axis=2) for row in rows.values()], gap=_GRID_GAP
    )
    font = ImageFont.load_default(size=font_size)
    left = 0
    if any(rows):
        left = max(_MIN_LABEL_WIDTH, *(math.ceil(font.getlength(name)) + 2 * _GAP for name in rows))
    top = max((text.count("\n") + 1 for text in columns), default=0) * round(1.3 * font_size) + (_GAP if columns else 0)
    canvas = Image.new("RGB", (grid.shape[1] + left, grid.shape[0] + top), "white")
    canvas.paste(Image.fromarray(grid), (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, name in enumerate(rows):
        y = top + round((i + 0.5) * grid.shape[0] / len(rows))
        draw.text((left - _GAP, y), name, fill="black", font=font, anchor="rm")
    for j, text in enumerate(columns):
        x = left + _GRID_GAP + (j + 0.5) * (width * factor + _GRID_GAP)
        draw.multiline_text((x, top - _GAP // 2), text, fill="black", font=font, anchor="md", align="center")
    return np.asarray(canvas)
