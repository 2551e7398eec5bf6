"""Pictures of different sizes as equal tiles, to be shown side by side."""

import numpy as np
from PIL import Image


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
