"""The built-in dataset `photos`: labeled patches of ten photographs, without a download.

The photographs are part of scikit-image and scikit-learn. The class of a patch is the photograph it
is cropped from. Every photograph is divided into 4 x 4 cells, of which 4 are for testing, one in each
row and column; a patch lies in cells of one split alone, so no test pixel is used in training.
Patches are uint8 RGB.
"""

import bisect
import functools
import importlib.util
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from arinv.data import decoding, image_files
from arinv.data.source import Published, Source, SourceInfo, Subset, check_index, class_labels
from arinv.errors import UserError, unknown

_PHOTOGRAPHS = {  # class name: (package, path inside it)
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "motorcycle_left": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
CLASS_NAMES = tuple(_PHOTOGRAPHS)
_PREFIX = "photos:"
_DISTRIBUTION = {"skimage": "scikit-image", "sklearn": "scikit-learn"}

_DEFAULT_SIZE = {"train": 10_000, "test": 1_000}
PUBLISHED = {"": Published(len(CLASS_NAMES), _DEFAULT_SIZE)}
_GRID = 4
_TEST_COLUMN = (1, 3, 0, 2)  # in row r; no two test cells touch, not even at a corner
_MIN_SIDE = 24
_MIN_FRACTION = 0.45  # of the largest window: smaller ones show texture rather than objects
_MIN_DETAIL = 8.0  # grey levels between neighboring samples; below it a patch is nearly uniform
_MAX_TRIES = 12


class Photos:
    """Patches of the built-in photographs; example i depends on (split, i, image_size) only.

    Classes alternate (label = i mod 10), so every ten consecutive examples are balanced.
    """

    def __init__(self, split: str, *, image_size: int, resize: str = "squash", num_examples: int | None = None):
        """Opens the photographs.

        Args:
          split: "train" or "test".
          image_size: side of the patches, in pixels.
          resize: see `decoding.resize_u8`; patches are square, so "squash" and "crop" are the same. Interpolation is
            bicubic.
          num_examples: number of patches; None: 10,000 for training, 1,000 for testing.

        Raises:
          UserError: unknown split, or a photograph missing from its package.
        """
        if split not in _DEFAULT_SIZE:
            raise unknown("split of photos", split, _DEFAULT_SIZE)
        size = _DEFAULT_SIZE[split] if num_examples is None else num_examples
        self.info = SourceInfo("photos", split, size, len(CLASS_NAMES), CLASS_NAMES, image_size)
        self.num_skipped = 0
        self._resize = resize
        arrays = [read_photograph(name) for name in CLASS_NAMES]
        self._photographs = [(array, Image.fromarray(array)) for array in arrays]

    def __len__(self) -> int:
        return self.info.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = check_index(index, len(self)) % len(CLASS_NAMES)
        size = self.info.image_size
        top, left, side = self.window(index)
        # Cropped before resizing: the filter must not reach pixels outside of the window.
        patch = self._photographs[label][1].crop((left, top, left + side, top + side))
        if self._resize != decoding.ORIGINAL:
            box = decoding.crop_box(side, side, size, self._resize)
            patch = patch.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        return {"image": np.asarray(patch), "label": label}

    def read_labels(self) -> np.ndarray:
        """Returns the label of every patch, int32 [N]."""
        return np.arange(len(self), dtype=np.int32) % len(CLASS_NAMES)

    def window(self, index: int) -> tuple[int, int, int]:
        """Returns (top, left, side) of patch `index` in its photograph, in pixels."""
        index = check_index(index, len(self))
        split, size = self.info.split, self.info.image_size
        rng = np.random.default_rng([list(_DEFAULT_SIZE).index(split), index, size])
        return _choose_window(rng, self._photographs[index % len(CLASS_NAMES)][0], split, size)


def open_photos(
    location: str,
    split: str,
    *,
    image_size: int,
    resize: str = "squash",
    num_examples: int | None = None,
    classes: Sequence[int | str] | None = None,
) -> Source:
    """Returns patches of all photographs, or as many of some of them.

    Args:
      location: empty; the dataset has no location.
      split: see `Photos`.
      image_size: see `Photos`.
      resize: see `Photos`.
      num_examples: number of patches, of `classes` alone where these are named; None: the default of the split.
      classes: labels or names of photographs; None: all.

    Returns:
      Examples {"image": uint8 [S, S, 3], "label": int}.

    Raises:
      UserError: unknown split or class, or a photograph missing from its package.
    """
    if classes is None:
        return Photos(split, image_size=image_size, resize=resize, num_examples=num_examples)
    labels = class_labels(classes, SourceInfo("photos", split, 0, len(CLASS_NAMES), CLASS_NAMES, image_size))
    total = None if num_examples is None else -(-num_examples // len(labels)) * len(CLASS_NAMES)
    source = Photos(split, image_size=image_size, resize=resize, num_examples=total)
    return Subset(source, np.flatnonzero(np.isin(source.read_labels(), labels))[:num_examples])


@functools.cache
def read_photograph(name: str) -> np.ndarray:
    """Returns one of the built-in photographs, uint8 [H, W, 3], read-only.

    Args:
      name: one of `CLASS_NAMES`.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: unknown name, or the package or its file is missing.
    """
    if name not in _PHOTOGRAPHS:
        raise unknown("photograph", name, _PHOTOGRAPHS)
    photograph = decoding.read_image(_path(name))
    photograph.flags.writeable = False
    return photograph


def is_photographs(reference: str) -> bool:
    """Returns whether a reference to images names built-in photographs, "photos" or "photos:NAME+NAME".

    A file or folder called photos comes first.

    Args:
      reference: a reference to images, such as a path.
    """
    return reference.startswith(_PREFIX) or (reference == "photos" and not pathlib.Path(reference).exists())


def photograph_names(reference: str) -> tuple[str, ...]:
    """Returns the names in a reference to built-in photographs; all of them where it names none.

    Args:
      reference: "photos", or "photos:NAME+NAME".

    Raises:
      UserError: unknown name, or no text.
    """
    if not isinstance(reference, str):
        raise UserError(f"photographs are named by text such as 'photos' or 'photos:chelsea'; got {reference!r}")
    names = reference.removeprefix("photos").removeprefix(":").split("+")
    names = tuple(dict.fromkeys(filter(None, names))) or CLASS_NAMES
    for name in names:
        if name not in _PHOTOGRAPHS:
            raise unknown("photograph", name, _PHOTOGRAPHS)
    return names


def open_photographs(reference: str, *, max_side: int = 0) -> image_files.ImageFiles:
    """Returns built-in photographs, whole.

    Args:
      reference: "photos" for all of them, or "photos:NAME+NAME".
      max_side: largest length of the longer side, in pixels: larger ones are reduced; 0 for no limit.

    Returns:
      A sequence of images, uint8 [H, W, 3].

    Raises:
      UserError: unknown name, or a photograph missing from its package.
    """
    names = photograph_names(reference)
    return image_files.ImageFiles(
        pathlib.Path(reference), [_path(name) for name in names], (), names=names, max_side=max_side
    )


def _path(name: str) -> pathlib.Path:
    """Returns the file of a photograph.

    Raises:
      UserError: the package or its file is missing.
    """
    package, relative = _PHOTOGRAPHS[name]
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = pathlib.Path(folder) / relative
        if path.is_file():
            return path
    distribution = _DISTRIBUTION[package]
    problem = f"{relative} is not in {folders[0]}" if folders else "it is not installed"
    raise UserError(
        f"dataset photos needs the photograph {name!r} of {distribution}, but {problem}; "
        f"run `pip install --force-reinstall {distribution}`"
    )


def test_cells(shape: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Returns (top, left, bottom, right) of the test cells of a photograph of (height, width)."""
    return [_pixels(shape, (row, column, row + 1, column + 1)) for row, column in enumerate(_TEST_COLUMN)]


test_cells.__test__ = False  # not a test, whatever pytest infers from its name


def _pixels(shape: tuple[int, int], cells: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    height, width = shape
    top, left, bottom, right = cells
    return (
        top * height // _GRID,
        left * width // _GRID,
        bottom * height // _GRID,
        right * width // _GRID,
    )


@functools.cache
def _regions(split: str) -> tuple[list[tuple[int, int, int, int]], list[float]]:
    """Returns the rectangles of cells that a window may lie in, and their cumulative probabilities.

    They are the largest rectangles without a cell of the other split, so a window may cross cell
    borders.
    """
    is_test = np.zeros((_GRID, _GRID), bool)
    is_test[np.arange(_GRID), list(_TEST_COLUMN)] = True
    allowed = is_test if split == "test" else ~is_test
    spans = list(itertools.combinations(range(_GRID + 1), 2))
    free = [
        (top, left, bottom, right)
        for (top, bottom), (left, right) in itertools.product(spans, spans)
        if allowed[top:bottom, left:right].all()
    ]
    largest = [a for a in free if not any(a != b and _inside(a, b) for b in free)]
    areas = np.array([(bottom - top) * (right - left) for top, left, bottom, right in largest])
    return largest, (np.cumsum(areas) / areas.sum()).tolist()


def _inside(inner: tuple[int, int, int, int], outer: tuple[int, int, int, int]) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def _choose_window(rng: np.random.Generator, photograph: np.ndarray, split: str, size: int) -> tuple[int, int, int]:
    """Returns (top, left, side) of the first draw with enough detail, else of the most detailed one."""
    best = (-1.0, (0, 0, 0))
    for draw in rng.random((_MAX_TRIES, 4)).tolist():
        window = _place_window(draw, photograph.shape[:2], split, size)
        best = max(best, (_detail(photograph, *window), window))
        if best[0] >= _MIN_DETAIL:
            break
    return best[1]


def _detail(photograph: np.ndarray, top: int, left: int, side: int) -> float:
    """Returns the mean difference of neighbors among about 16 x 16 samples of a window."""
    step = max(1, side // 16)
    samples = photograph[top : top + side : step, left : left + side : step].astype(np.int16)
    return float(np.abs(np.diff(samples, axis=0)).mean() + np.abs(np.diff(samples, axis=1)).mean())


def _place_window(draw: list[float], shape: tuple[int, int], split: str, size: int) -> tuple[int, int, int]:
    """Returns (top, left, side) for four numbers in [0, 1); the side does not depend on the split."""
    regions, probabilities = _regions(split)
    top, left, bottom, right = _pixels(shape, regions[bisect.bisect_right(probabilities, draw[0])])
    longest = min(shape) // _GRID
    shortest = min(longest, max(_MIN_SIDE, size // 2, int(_MIN_FRACTION * longest)))
    side = shortest + int(draw[1] * (longest - shortest + 1))
    return (
        top + int(draw[2] * (bottom - top - side + 1)),
        left + int(draw[3] * (right - left - side + 1)),
        side,
    )
