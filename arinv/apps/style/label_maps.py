"""Label maps of images, which assign regions of contents to regions of styles.

A map is a PNG with the name of its image, in a folder of its own: a palette, greys or RGB colors, one a label. Maps of
different kinds are compared by the visible color: a palette's entry is its color, a grey v is the color (v, v, v), a
pixel of 1 bit is 0 or 255; greys of 16 bits above 255 equal no color. The colors of all maps together are numbered 0,
1, ... from the smallest; a region of a content gets the style of the regions with the same color.
"""

import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from arinv.data.decoding import fits
from arinv.data.image_files import suffixes
from arinv.errors import UserError
from arinv.paths import expanded

_MAX_LABELS = 32
_GREYS = ("L", "1", "I", "I;16")


class LabelMaps(NamedTuple):
    """Label maps of contents and styles with common labels.

    Attributes:
      content: int32 [H, W] in 0..num_labels-1, one a content, at the size of its file.
      style: likewise.
      num_labels: 0 without maps.
      files: files of all maps.
    """

    content: tuple[np.ndarray, ...] = ()
    style: tuple[np.ndarray, ...] = ()
    num_labels: int = 0
    files: tuple[pathlib.Path, ...] = ()


def read(content_folder: str, content: Sequence[str], style_folder: str, style: Sequence[str]) -> LabelMaps:
    """Returns the label maps of all contents and styles.

    Args:
      content_folder: folder of the contents' maps; empty for none.
      content: names of the contents.
      style_folder: folder of the styles' maps.
      style: names of the styles.

    Raises:
      UserError: a map that is missing, damaged or of another kind, more than 32 labels, or a content and a style
        without a label in common.
    """
    if not content_folder:
        return LabelMaps()
    pairs = (content_folder, content), (style_folder, style)
    files = [[_find(expanded(folder), name) for name in names] for folder, names in pairs]
    maps = [[_read(path) for path in paths] for paths in files]
    labels = [[np.unique(one) for one in side] for side in maps]
    values = np.unique(np.concatenate([*labels[0], *labels[1]]))
    if len(values) > _MAX_LABELS:
        raise UserError(
            f"the label maps hold {len(values)} values, more than {_MAX_LABELS}: save them as PNG without smoothing, "
            "one palette entry, grey or color a label"
        )
    _check_common(content, style, labels)
    numbered = [tuple(np.searchsorted(values, one).astype(np.int32) for one in side) for side in maps]
    return LabelMaps(*numbered, len(values), (*files[0], *files[1]))


def fit(
    maps: Sequence[np.ndarray], names: Sequence[str], images: Iterable[np.ndarray], *, crop: bool = False
) -> tuple[np.ndarray, ...]:
    """Returns the parts of label maps that belong to the parts of their images that are read.

    Args:
      maps: [H, W], one an image, of its aspect ratio; a square one is of the whole image, squashed.
      names: names of the images.
      images: [H, W, 3] of any size, upright.
      crop: whether only the square in the middle of an image is read.

    Returns:
      The maps, with `crop` the part of each that the square covers.

    Raises:
      UserError: one has another aspect ratio, as the map of an image whose file says that it is shown rotated.
    """
    fitted = []
    for labels, name, image in zip(maps, names, images, strict=True):
        (height, width), (image_height, image_width) = labels.shape, image.shape[:2]
        if not fits(labels.shape, image.shape):
            raise UserError(
                f"the label map of {name!r} has {width}x{height} px and its image, as it is shown, "
                f"{image_width}x{image_height} px; draw it on the image as it is shown, or give a square one of all"
            )
        fitted.append(labels)
        if crop:
            rows, columns = (
                _middle(length, min(image_height, image_width) / side)
                for length, side in ((height, image_height), (width, image_width))
            )
            fitted[-1] = labels[rows, columns]
    return tuple(fitted)


def _middle(length: int, share: float) -> slice:
    """Returns the slice of the middle `share` of a side."""
    size = max(1, round(share * length))
    return slice((length - size) // 2, (length - size) // 2 + size)


def resize(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a label map at the size of its image, by the nearest label.

    Args:
      labels: int32 [H, W].
      height: height of the image, in pixels.
      width: width of the image, in pixels.
    """
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def _check_common(content: Sequence[str], style: Sequence[str], labels: Sequence[Sequence[np.ndarray]]) -> None:
    """Raises a UserError for a pair without a common label; `labels` are those of each content and of each style."""
    sides = (zip(names, own, strict=True) for names, own in zip((content, style), labels, strict=True))
    for (name, own), (other, others) in itertools.product(*sides):
        if not np.isin(own, others).any():
            raise UserError(
                f"the label maps of content {name!r} and style {other!r} have no label in common, so that no region "
                "would get a style: give regions that belong together the same grey or color in both"
            )


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file of an image's map: NAME.png, also for an image that is called NAME.jpg beside a NAME.png."""
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r} does not exist; it should hold a label map for each image")
    stem, dot, ending = name.rpartition(".")
    names = (name, stem) if dot + ending.lower() in suffixes() else (name,)
    path = next((place for place in (folder / f"{name}.png" for name in names) if place.is_file()), None)
    if path is None:
        raise UserError(f"{str(folder)!r} holds no label map {name}.png; every image needs one")
    return path


def _read(path: pathlib.Path) -> np.ndarray:
    """Returns the visible color of each pixel as a number: R * 65536 + G * 256 + B."""
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
        raise UserError(f"{path} has mode {mode}; label maps are palettes, greys or RGB colors")
    values = 255 * values if mode == "1" else values
    return np.where(values < 256, values * 0x010101, values + 0x1000000)


def _look_up(entries: np.ndarray, colors: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Returns the colors of a palette's entries, after checking that no two are equal."""
    first: dict[int, int] = {}
    for entry in np.unique(entries).tolist():
        if entry >= len(colors):
            raise UserError(f"{path} has no color for entry {entry} of its palette; give each label a color")
        color = int(colors[entry])
        if color in first:
            raise UserError(
                f"{path} has the color #{color:06x} twice in its palette, as entries {first[color]} and {entry}: "
                "labels differ by their visible color, so give each a color of its own"
            )
        first[color] = entry
    return colors[entries]


def _number(colors: np.ndarray) -> np.ndarray:
    return colors[..., 0] * 65536 + colors[..., 1] * 256 + colors[..., 2]
