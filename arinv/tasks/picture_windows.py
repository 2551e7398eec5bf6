"""Windows of pictures of any size, all of one size, to be laid side by side in one picture."""

from collections.abc import Sequence

import numpy as np

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
