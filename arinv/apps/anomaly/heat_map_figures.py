"""Figures of images, their reconstructions and heat maps of where both differ."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arinv.apps.anomaly.scorer import Explanation
from arinv.experiment.figures import keep_end, labeled_grid

_PER_BAND = 8  # images side by side
_FONT_SIZE = 12
_TITLE_SIZE = 18
_MAX_TEXT = 15  # letters above an image


def extremes(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the highest and of the lowest scores, half of `count` each, highest first.

    Args:
      scores: [N].
      count: number of indices; all of them where there are no more scores.

    Returns:
      integer [min(N, count)].
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) <= count:
        return order
    half = count // 2
    return np.concatenate([order[: count - half], order[len(order) - half :]])


def map_scales(explanation: Explanation) -> tuple[float, float]:
    """Returns the mean of the pixel maps and the mean of the feature maps.

    Args:
      explanation: reconstructions and maps of normal images, or of those that are drawn.
    """
    return tuple(float(np.mean(values)) for values in explanation.maps)


def draw_overview(explanation: Explanation, texts: Sequence[str], *, scales: tuple[float, float]) -> np.ndarray:
    """Returns a figure of images, reconstructions and heat maps, in bands one below the other.

    Args:
      explanation: explanation of the images, in their order.
      texts: above each image, with newlines between lines.
      scales: units of the pixel map and of the feature map, see `map_scales`; the two are added. The highest value in
        the figure is white, 0 is black.

    Returns:
      uint8 [H', W', 3].
    """
    heat = sum(values / scale for values, scale in zip(explanation.maps, scales, strict=True) if scale > 0)
    colors = _colors(heat / max(float(np.max(heat)), 1e-12))
    bands = []
    for first in range(0, len(texts), _PER_BAND):
        part = slice(first, first + _PER_BAND)
        rows = {
            "image": explanation.images[part],
            "reconstruction": explanation.reconstructions[part],
            "difference": colors[part],
        }
        columns = ["\n".join(keep_end(line, _MAX_TEXT) for line in text.split("\n")) for text in texts[part]]
        bands.append(labeled_grid(rows, columns=columns, font_size=_FONT_SIZE))
    return stack(bands)


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """Returns an image with a line of text above it.

    Args:
      image: uint8 [H, W, 3].
      title: the text.

    Returns:
      uint8 [H', W', 3].
    """
    font = ImageFont.load_default(size=_TITLE_SIZE)
    line = Image.new("RGB", (max(image.shape[1], math.ceil(font.getlength(title)) + 24), 2 * _TITLE_SIZE), "white")
    ImageDraw.Draw(line).text((12, _TITLE_SIZE), title, fill="black", font=font, anchor="lm")
    return stack([np.asarray(line), image], gap=0)


def stack(images: Sequence[np.ndarray], *, gap: int = 16) -> np.ndarray:
    """Returns images one below the other, left-aligned on white.

    Args:
      images: uint8 [H, W, 3] each, of any sizes.
      gap: height of the white between two, in pixels.

    Returns:
      uint8 [H', W', 3].
    """
    height = sum(len(image) for image in images) + gap * (len(images) - 1)
    canvas = np.full((height, max(image.shape[1] for image in images), 3), 255, np.uint8)
    top = 0
    for image in images:
        canvas[top : top + image.shape[0], : image.shape[1]] = image
        top += image.shape[0] + gap
    return canvas


def _colors(values: np.ndarray) -> np.ndarray:
    """Returns 0 to 1 as black, red, yellow, white."""
    return np.clip(3 * values[..., None] - np.arange(3, dtype=np.float32)[None, None, None, :], 0, 1)
