"""Pictures with names: grids of images whose rows and columns say what they are."""

import io
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arinv.experiment.writer import write_atomically
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


_LONGEST_NAME = 18


def centre_window(picture: np.ndarray, size: int) -> np.ndarray:
    """Returns the middle of a picture; what a smaller one does not fill is white.

    Args:
      picture: uint8 [H, W, 3].
      size: side of the window, in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    window = np.full((size, size, 3), 255, np.uint8)
    here, there = zip(*(_overlap(side, size) for side in picture.shape[:2]), strict=True)
    window[there] = picture[here]
    return window


def _overlap(side: int, size: int) -> tuple[slice, slice]:
    """Returns what of a side is in the middle window, and where in the window it is."""
    length = min(side, size)
    return tuple(slice((n - length) // 2, (n - length) // 2 + length) for n in (side, size))


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names that fit above a window: without folders and ending, their end where they are long."""
    stems = [file.rpartition(".")[0] or file for file in (name.rpartition("/")[2] for name in names)]
    return tuple(stem if len(stem) <= _LONGEST_NAME else f"...{stem[3 - _LONGEST_NAME :]}" for stem in stems)


def evenly(count: int, total: int) -> list[int]:
    """Returns `count` numbers, or fewer where there are not so many, spread evenly over 0 to total - 1."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def fit(picture: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Returns a picture brought to a tile, its proportions kept, on white.

    Smaller pictures are enlarged by a whole factor, each pixel a square; larger ones are shrunk with antialiasing.

    Args:
      picture: uint8 [H, W, 3].
      height: of the tile, in pixels.
      width: of the tile, in pixels.

    Returns:
      uint8 [height, width, 3].
    """
    factor = min(height / picture.shape[0], width / picture.shape[1])
    if factor >= 1:
        picture = np.repeat(np.repeat(picture, int(factor), axis=0), int(factor), axis=1)
    else:
        size = tuple(max(1, round(side * factor)) for side in (picture.shape[1], picture.shape[0]))
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    tile = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    tile[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return tile


def zoom(picture: np.ndarray, side: int) -> np.ndarray:
    """Returns a square picture with the given side, by bilinear interpolation with antialiasing.

    Args:
      picture: uint8 [S, S, 3].
      side: in pixels.

    Returns:
      uint8 [side, side, 3].
    """
    if picture.shape[0] == side:
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR))


_PANEL = (4.6, 3.6)  # inches
_DOTS_PER_INCH = 120


def write_curves(
    path: pathlib.Path,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    x: Sequence[float],
    x_label: str,
    title: str,
) -> None:
    """Draws one panel for each quantity, in it one curve for each name, and writes a PNG atomically.

    Args:
      path: of the picture.
      panels: quantity -> {name: its values at `x`}; a name has the same colour in every panel.
      x: whole numbers, where the values are.
      x_label: what they are.
      title: above the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PANEL[0] * len(panels), _PANEL[1] + 0.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (quantity, curves) in zip(axes, panels.items(), strict=True):
        for name, values in curves.items():
            axis.plot(x, values, marker="o", markersize=4, label=name)
        axis.set(xlabel=x_label, ylabel=quantity, xticks=list(x))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=_DOTS_PER_INCH)
    write_atomically(path, buffer.getvalue())
