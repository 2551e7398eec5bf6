"""Label maps beside pictures: which of its regions belongs to which region of another picture.

A map is a PNG with the name of its picture, in a folder of its own: a palette, greys or RGB colours, one a label. Maps
of different kinds are compared by what one sees: a palette's entry is its colour, a grey v is the colour (v, v, v), a
pixel of 1 bit is 0 or 255; greys of 16 bits above 255 equal no colour. The colours of all maps together are numbered 0,
1, ... from the smallest; a region of a content takes on the style of the regions with the same colour.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from arinv.data.image_files import suffixes
from arinv.errors import UserError

_MAX_LABELS = 32
_GREYS = ("L", "1", "I", "I;16")


class LabelMaps(NamedTuple):
    """Label maps of contents and styles with common labels.

    Attributes:
      content: int32 [H, W] in 0..num_labels-1, one a content, at the size of its file.
      style: likewise.
      num_labels: 0 where there are no maps.
      files: of all maps.
    """

    content: tuple[np.ndarray, ...] = ()
    style: tuple[np.ndarray, ...] = ()
    num_labels: int = 0
    files: tuple[pathlib.Path, ...] = ()


def read(content_folder: str, content: Sequence[str], style_folder: str, style: Sequence[str]) -> LabelMaps:
    """Returns the label maps of all contents and styles.

    Args:
      content_folder: where the contents' maps are; empty for none.
      content: names of the contents.
      style_folder: where the styles' maps are.
      style: names of the styles.

    Raises:
      UserError: a map that is missing, damaged or not one of labels, more labels than can be meant, or a content and a
        style without a label in common.
    """
    if not content_folder:
        return LabelMaps()
    pairs = (content_folder, content), (style_folder, style)
    files = [[_find(pathlib.Path(folder).expanduser(), name) for name in names] for folder, names in pairs]
    maps = [[_read(path) for path in paths] for paths in files]
    held = [[np.unique(one) for one in side] for side in maps]
    values = np.unique(np.concatenate([*held[0], *held[1]]))
    if len(values) > _MAX_LABELS:
        raise UserError(
            f"the label maps hold {len(values)} values, more than {_MAX_LABELS}: save them as PNG without smoothing, "
            "one palette entry, grey or colour a label"
        )
    _check_common(content, style, held)
    numbered = [tuple(np.searchsorted(values, one).astype(np.int32) for one in side) for side in maps]
    return LabelMaps(*numbered, len(values), (*files[0], *files[1]))


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


def _check_common(content: Sequence[str], style: Sequence[str], held: Sequence[Sequence[np.ndarray]]) -> None:
    """Refuses a pair of which no region would be stylised; `held` are the labels of each content and of each style."""
    sides = (zip(names, labels, strict=True) for names, labels in zip((content, style), held, strict=True))
    for (name, own), (other, others) in itertools.product(*sides):
        if not np.isin(own, others).any():
            raise UserError(
                f"the label maps of content {name!r} and style {other!r} have no label in common, so that no region "
                "would take on a style: give regions that belong together the same grey or colour in both"
            )


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file of a picture's map: NAME.png, also for a picture that is called NAME.jpg beside a NAME.png."""
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r} does not exist; it should hold a label map for each picture")
    stem, dot, ending = name.rpartition(".")
    names = (name, stem) if dot + ending.lower() in suffixes() else (name,)
    path = next((place for place in (folder / f"{name}.png" for name in names) if place.is_file()), None)
    if path is None:
        raise UserError(f"{str(folder)!r} holds no label map {name}.png; every picture needs one")
    return path


def _read(path: pathlib.Path) -> np.ndarray:
    """Returns what is seen at each pixel as a number: R * 65536 + G * 256 + B."""
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image).astype(np.int32)
            palette = image.getpalette("RGB") or []
    except Exception as error:  # Pillow's decoders raise many kinds; each means a broken file
        raise UserError(f"{path} is damaged or cut short ({' '.join(str(error).split())})") from None
    if mode == "RGB":
        return _number(values)
    if mode == "P":
        return _look_up(values, _number(np.array(palette, np.int32).reshape(-1, 3)), path)
    if mode not in _GREYS:
        raise UserError(f"{path} has mode {mode}; label maps are palettes, greys or RGB colours")
    values = 255 * values if mode == "1" else values
    return np.where(values < 256, values * 0x010101, values + 0x1000000)


def _look_up(entries: np.ndarray, colors: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Returns the colours of a palette's entries, after checking that they tell the labels apart."""
    first: dict[int, int] = {}
    for entry in np.unique(entries).tolist():
        if entry >= len(colors):
            raise UserError(f"{path} has no colour for entry {entry} of its palette; give each label a colour")
        color = int(colors[entry])
        if color in first:
            raise UserError(
                f"{path} has the colour #{color:06x} twice in its palette, as entries {first[color]} and {entry}: "
                "labels are told apart by what one sees, so give each a colour of its own"
            )
        first[color] = entry
    return colors[entries]


def _number(colors: np.ndarray) -> np.ndarray:
    return colors[..., 0] * 65536 + colors[..., 1] * 256 + colors[..., 2]
