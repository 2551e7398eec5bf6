"""Label maps beside pictures: which of its regions belongs to which region of another picture.

A map is a PNG with the name of its picture, in a folder of its own: a palette, greys or RGB colours, one value a label.
The values of all maps together are numbered 0, 1, ... from the smallest; a region of a content takes on the style of
the regions with the same value.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from arinv.errors import UserError

_MAX_LABELS = 32
_MODES = ("P", "L", "1", "I", "I;16")


class LabelMaps(NamedTuple):
    """Label maps of contents and styles with common labels.

    Attributes:
      content: int32 [H, W] in 0..num_labels-1, one a content, at the size of its file.
      style: likewise.
      num_labels: 0 where there are no maps.
    """

    content: tuple[np.ndarray, ...] = ()
    style: tuple[np.ndarray, ...] = ()
    num_labels: int = 0


def read(content_folder: str, content: Sequence[str], style_folder: str, style: Sequence[str]) -> LabelMaps:
    """Returns the label maps of all contents and styles.

    Args:
      content_folder: where the contents' maps are; empty for none.
      content: names of the contents.
      style_folder: where the styles' maps are.
      style: names of the styles.

    Raises:
      UserError: a map that is missing, damaged or not one of labels, or more labels than can be meant.
    """
    if not content_folder:
        return LabelMaps()
    pairs = (content_folder, content), (style_folder, style)
    maps = [[_read(pathlib.Path(folder).expanduser(), name) for name in names] for folder, names in pairs]
    values = np.unique(np.concatenate([np.unique(one) for side in maps for one in side]))
    if len(values) > _MAX_LABELS:
        raise UserError(
            f"the label maps hold {len(values)} values, more than {_MAX_LABELS}: save them as PNG without smoothing, "
            "one palette entry, grey or colour a label"
        )
    numbered = [tuple(np.searchsorted(values, one).astype(np.int32) for one in side) for side in maps]
    return LabelMaps(*numbered, len(values))


def resize(labels: np.ndarray, height: int, width: int, *, crop: bool = False) -> np.ndarray:
    """Returns a label map at the size of its picture, by the nearest label.

    Args:
      labels: int32 [H, W].
      height: of the picture, in pixels.
      width: of the picture, in pixels.
      crop: the picture is the square in the middle of its file.
    """
    image = Image.fromarray(labels)
    box = (0.0, 0.0, float(image.width), float(image.height))
    if crop:
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST, box=box))


def _read(folder: pathlib.Path, name: str) -> np.ndarray:
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r} does not exist; it should hold a label map for each picture")
    places = folder / f"{name}.png", folder / f"{name.rpartition('.')[0]}.png"
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"{str(folder)!r} holds no label map {name}.png; every picture needs one")
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image).astype(np.int32)
    except Exception as error:  # Pillow's decoders raise many kinds; each means a broken file
        raise UserError(f"{path} is damaged or cut short ({' '.join(str(error).split())})") from None
    if mode == "RGB":
        return values[..., 0] * 65536 + values[..., 1] * 256 + values[..., 2]
    if mode not in _MODES:
        raise UserError(f"{path} has mode {mode}; label maps are palettes, greys or RGB colours")
    return values
