"""Pictures of what a detector saw: images, reconstructions and heat maps, the most anomalous first."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arinv.tasks.anomaly.scoring import Explanation
from arinv.tasks.pictures import labelled_grid

_PER_BAND = 8  # images side by side
_FONT_SIZE = 12
_TITLE_SIZE = 18
_MAX_TEXT = 15  # letters that fit above an image


def extremes(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of the highest and the lowest scores, highest first: `count` at most, half of them each.

    Args:
      scores: [N].
      count: of places; all where there are no more.
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) <= count:
        return order
    half = count // 2
    return np.concatenate([order[: count - half], order[len(order) - half :]])


def heat(explanation: Explanation, scales: tuple[float, float]) -> np.ndarray:
    """Returns one map of each image, the pixel map and the feature map in units of their scales, added.

    Args:
      explanation: of the images.
      scales: a usual value of the pixel map and one of the feature map.

    Returns:
      float32 [N, H, W].
    """
    maps = explanation.maps
    return sum(values / scale for values, scale in zip(maps, scales, strict=True) if scale > 0)


def map_scales(explanation: Explanation) -> tuple[float, float]:
    """Returns the means of the pixel maps and of the feature maps."""
    return tuple(float(np.mean(values)) for values in explanation.maps)


def overview(
    explanation: Explanation, texts: Sequence[str], *, scales: tuple[float, float], min_tile: int = 96
) -> np.ndarray:
    """Returns a picture of images, reconstructions and heat maps, in bands one below the other.

    Args:
      explanation: of the images, in their order.
      texts: what stands above each; lines are parted by newlines.
      scales: see `heat`; the brightest point of the picture is white, black is no difference.
      min_tile: images with shorter sides are enlarged, in pixels.

    Returns:
      uint8 [H', W', 3].
    """
    values = heat(explanation, scales)
    colours = _colours(values / max(float(np.max(values)), 1e-12))
    bands = []
    for first in range(0, len(texts), _PER_BAND):
        part = slice(first, first + _PER_BAND)
        rows = {
            "image": explanation.images[part],
            "reconstruction": explanation.reconstructions[part],
            "difference": colours[part],
        }
        columns = ["\n".join(shorten(line) for line in text.split("\n")) for text in texts[part]]
        bands.append(labelled_grid(rows, columns=columns, min_tile=min_tile, font_size=_FONT_SIZE))
    return stack(bands)


def stack(pictures: Sequence[np.ndarray], *, gap: int = 16) -> np.ndarray:
    """Returns uint8 pictures one below the other, left-aligned on white."""
    height = sum(len(picture) for picture in pictures) + gap * (len(pictures) - 1)
    canvas = np.full((height, max(picture.shape[1] for picture in pictures), 3), 255, np.uint8)
    top = 0
    for picture in pictures:
        canvas[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return canvas


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """Returns a uint8 picture with a line of text above it."""
    font = ImageFont.load_default(size=_TITLE_SIZE)
    line = Image.new("RGB", (max(picture.shape[1], math.ceil(font.getlength(title)) + 24), 2 * _TITLE_SIZE), "white")
    ImageDraw.Draw(line).text((12, _TITLE_SIZE), title, fill="black", font=font, anchor="lm")
    return stack([np.asarray(line), picture], gap=0)


def shorten(text: str) -> str:
    """Returns a text with its beginning left out where it is too long to stand above an image."""
    return text if len(text) <= _MAX_TEXT else "\N{HORIZONTAL ELLIPSIS}" + text[1 - _MAX_TEXT :]


def _colours(values: np.ndarray) -> np.ndarray:
    """Returns 0 to 1 as black, red, yellow, white."""
    return np.clip(3 * values[..., None] - np.arange(3, dtype=np.float32)[None, None, None, :], 0, 1)
