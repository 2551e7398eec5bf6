"""Figures: labeled grids of images, images of several sizes fitted into equal tiles, and curves."""

import io
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arinv.experiment.output_files import write_atomically
from arinv.ops.images import image_grid
from arinv.types import ArrayLike

_FONT_SIZE = 18
_CAPTION_SIZE = 13  # px
_GAP = 12  # pixels around a label
_MIN_LABEL_WIDTH = 160
_GRID_GAP = 2
_MAX_NAME = 18  # characters
_PANEL = (4.6, 3.6)  # inches
_DOTS_PER_INCH = 120


def labeled_grid(
    rows: Mapping[str, ArrayLike], *, columns: Sequence[str] = (), min_tile: int = 96, font_size: int = _FONT_SIZE
) -> np.ndarray:
    """Returns rows of images with the name of each row on its left and of each column above it.

    Args:
      rows: name -> [N, H, W, C], floating point in [0, 1] or uint8, of one H and W.
      columns: text above each column, with newlines between lines; empty for none.
      min_tile: shortest side of an image in the grid, in pixels; smaller images are enlarged by whole factors.
      font_size: font size of the labels, in pixels.

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


def caption(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Returns images with a text on a white strip below each.

    Args:
      images: uint8 [N, H, W, 3].
      texts: texts of the images; empty for strips without text.

    Returns:
      uint8 [N, H + a strip, W, 3].
    """
    strip = round(1.5 * _CAPTION_SIZE)
    results = np.pad(images, ((0, 0), (0, strip), (0, 0), (0, 0)), constant_values=255)
    font, (height, width) = ImageFont.load_default(size=_CAPTION_SIZE), images.shape[1:3]
    for i, text in enumerate(texts):
        canvas = Image.fromarray(results[i])
        ImageDraw.Draw(canvas).text((width / 2, height + strip / 2), text, fill="black", font=font, anchor="mm")
        results[i] = np.asarray(canvas)
    return results


def center_window(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the center of an image, padded with white where it is smaller.

    Args:
      image: uint8 [H, W, 3].
      size: side of the window, in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    window = np.full((size, size, 3), 255, np.uint8)
    source, target = zip(*(_overlap(side, size) for side in image.shape[:2]), strict=True)
    window[target] = image[source]
    return window


def _overlap(side: int, size: int) -> tuple[slice, slice]:
    """Returns the slices of an image's side and of the centered window's that coincide."""
    length = min(side, size)
    return tuple(slice((n - length) // 2, (n - length) // 2 + length) for n in (side, size))


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns file names without folder and extension, and of long ones only the end."""
    stems = [file.rpartition(".")[0] or file for file in (name.rpartition("/")[2] for name in names)]
    return tuple(keep_end(stem, _MAX_NAME) for stem in stems)


def keep_end(text: str, limit: int) -> str:
    """Returns a text of at most `limit` characters: of a longer one the end, in which file names differ."""
    return text if len(text) <= limit else f"...{text[3 - limit :]}"


def evenly(count: int, total: int) -> list[int]:
    """Returns `count` different indices, at most `total`, spread evenly over 0 to total - 1."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def fit(image: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Returns an image resized to fit a white tile, with its aspect ratio kept.

    Smaller images are enlarged by a whole factor without interpolation; larger ones are reduced with antialiasing.

    Args:
      image: uint8 [H, W, 3].
      height: height of the tile, in pixels.
      width: width of the tile, in pixels.

    Returns:
      uint8 [height, width, 3].
    """
    factor = min(height / image.shape[0], width / image.shape[1])
    if factor >= 1:
        image = np.repeat(np.repeat(image, int(factor), axis=0), int(factor), axis=1)
    else:
        size = tuple(max(1, round(side * factor)) for side in (image.shape[1], image.shape[0]))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    tile = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    tile[top : top + image.shape[0], left : left + image.shape[1]] = image
    return tile


def zoom(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a square image resized by bilinear interpolation with antialiasing.

    Args:
      image: uint8 [S, S, 3].
      side: in pixels.

    Returns:
      uint8 [side, side, 3].
    """
    if image.shape[0] == side:
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def write_curves(
    path: pathlib.Path,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    x: Sequence[float],
    x_label: str,
    title: str,
    y_label: str = "",
    ticks: Sequence[str] = (),
) -> None:
    """Draws a panel for each quantity with a curve for each name, and writes a PNG atomically.

    Args:
      path: path of the file.
      panels: quantity -> {name: values at `x`}.
      x: whole numbers, the positions of the values.
      x_label: label of the x axes.
      title: above the panels.
      y_label: label of the y axes, which the panels then share; empty for the panels' own names.
      ticks: names of the positions; empty for their numbers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PANEL[0] * len(panels), _PANEL[1] + 0.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=bool(y_label))[0]
    for axis, (quantity, curves) in zip(axes, panels.items(), strict=True):
        for name, values in curves.items():
            axis.plot(x, values, marker="o", markersize=4, label=name)
        axis.set(xlabel=x_label, ylabel=y_label or quantity, title=quantity if y_label else "")
        axis.set_xticks(list(x), labels=ticks or None)
        axis.grid(alpha=0.3)
    if len({tuple(curves) for curves in panels.values()}) == 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(panels) + 1))
    else:
        for axis in axes:
            axis.legend()
    figure.suptitle(title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=_DOTS_PER_INCH)
    write_atomically(path, buffer.getvalue())
