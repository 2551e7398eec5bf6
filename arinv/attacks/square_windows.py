"""The windows of the Square Attack: how large they are, and what is put into them for l1 and l2.

Source: Andriushchenko et al. 2020 (Square Attack), sections 3.2 to 3.4; Croce & Hein 2021 for l1.
"""

import math
from typing import NamedTuple

import numpy as np

# Query numbers up to which the area of the window, first 0.8 of the image, stays; then it is halved.
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
FIRST_AREA = 0.8
_POWERS = {"l1": 4, "l2": 2}


def stage(query: np.ndarray | int) -> np.ndarray | int:
    """Returns how often the area of the window has been halved.

    Args:
      query: its number, from 0; an integer or an array of such, which may be traced.

    Returns:
      Integer, of the shape of `query`, in 0..9.

    Source: Andriushchenko et al. 2020, section 4.1, for 10,000 queries; not rescaled for fewer.
    """
    is_after = [query > bound for bound in HALVED_AFTER]
    return sum(after.astype("int32") if hasattr(after, "astype") else int(after) for after in is_after)


def sides(*, height: int, width: int, norm: str) -> np.ndarray:
    """Returns the side of the window at each stage.

    Args:
      height: of the images, in pixels.
      width: likewise.
      norm: "l1", "l2" or "linf".

    Returns:
      int32 [10], at most the shorter side of the image; for l1 and l2 at least 3 and odd if that fits.
    """
    found = []
    for halvings in range(len(HALVED_AFTER) + 1):
        side = round(math.sqrt(FIRST_AREA / 2**halvings * height * width))
        side = max(side, 1) if norm == "linf" else max(side, 3) | 1
        found.append(min(side, height, width))
    return np.array(found, np.int32)


def patch(*, side: int, norm: str) -> np.ndarray:
    """Returns two hills side by side, one of them upside down, with a norm of one.

    Args:
      side: in pixels, at least 1.
      norm: "l1" or "l2".

    Returns:
      float32 [side, side].

    Source: Andriushchenko et al. 2020, section 3.4.
    """
    upper = side // 2
    parts = [_hill(upper, side, norm)] if upper else []
    return _unit(np.concatenate([*parts, -_hill(side - upper, side, norm)]), norm).astype(np.float32)


class Tiling(NamedTuple):
    """Where the tiles of the first perturbation lie.

    Attributes:
      side: of a tile, in pixels.
      rows: number of tiles from top to bottom.
      columns: number of tiles from left to right.
      offset: of the first tile from the top and from the left, in pixels.
    """

    side: int
    rows: int
    columns: int
    offset: int


def tiling(*, height: int, width: int) -> Tiling:
    """Returns the tiles of the first perturbation for l1 and l2, five by five in a square image, at least one.

    Args:
      height: of the images, in pixels.
      width: likewise.

    Returns:
      The tiles, all of them inside.
    """
    side = max(min(height // 5, width), 1)  # of the height, as in the authors' code, where the width holds that
    offset = min(max(height - 5 * side, 0) // 2, width - side)
    return Tiling(side, (height - offset) // side, (width - offset) // side, offset)


def _hill(rows: int, columns: int, norm: str) -> np.ndarray:
    """Returns the sum of nested rectangles around the middle, each less high than the one inside it."""
    centre = rows // 2, columns // 2
    count = max(centre) + 1
    heights = 1.0 / np.arange(1, count + 1) ** _POWERS[norm]
    outwards = np.cumsum(heights[::-1])[::-1]  # by the distance from the middle: of all that reach so far
    distance = np.maximum(np.abs(np.arange(rows) - centre[0])[:, None], np.abs(np.arange(columns) - centre[1])[None, :])
    return _unit(outwards[distance], norm)


def _unit(values: np.ndarray, norm: str) -> np.ndarray:
    return values / (np.abs(values).sum() if norm == "l1" else np.sqrt(np.square(values).sum()))
