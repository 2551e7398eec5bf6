"""Sparse SIFT features of images on a grid of cells of 4 px, computed on the host.

Each cell holds one of its keypoints: descriptor (128 values of Euclidean norm 1), place inside of the cell, sine and
cosine of the orientation, logarithm of the scale; zeros where there is none. Networks for the features of one library
cannot read those of another, whose orientations differ by half a bin, so a checkpoint must name the library. Few cells
have a keypoint: images come with the filled cells only, and the device spreads them on the grid.

Source: Lowe 2004 as in VLFeat 0.9.21 (`vlsift`); Dosovitskiy & Brox 2016a, section 4.
"""

import functools
import hashlib
import importlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError, unknown
from arinv.ops.colors import REC_601
from arinv.types import Array, ArrayLike

CELL = 4
DIMENSIONS = 133
_SMALLEST_SIDE = 16
# First octave -> cells of the grid for each keypoint, at least. At 256 px photographs fill 6% of them from octave 0
# and have four times as many keypoints from octave -1.
_CELLS_PER_KEYPOINT = {0: 4, -1: 2}


class Keypoints(NamedTuple):
    """Keypoints of one image.

    Attributes:
      rows: [K], row of each center, in pixels.
      columns: [K], column of each center, in pixels.
      scales: [K], in pixels.
      angles: [K], in radians, as the library counts them.
      descriptors: [K, 128], of Euclidean norm 1.
    """

    rows: np.ndarray
    columns: np.ndarray
    scales: np.ndarray
    angles: np.ndarray
    descriptors: np.ndarray


class SiftGrid(NamedTuple):
    """Features of images.

    Attributes:
      features: float32 [N, H / 4, W / 4, 133].
      num_keypoints: int [N], before those that share a cell are dropped.
      library: name of the library that computed them.
    """

    features: np.ndarray
    num_keypoints: np.ndarray
    library: str


def _vlsift(grey: np.ndarray, first_octave: int) -> Keypoints:
    find = _import("vlsift.sift.sift").sift
    frames, descriptors = find(grey, first_octave=first_octave, compute_descriptor=True, float_descriptors=True)
    return Keypoints(*frames.T, descriptors)


def _skimage(grey: np.ndarray, first_octave: int) -> Keypoints:
    detector = _import("skimage.feature").SIFT(upsampling=2 if first_octave < 0 else 1, c_dog=0)
    try:
        detector.detect_and_extract(grey)
    except RuntimeError:  # no keypoints
        return Keypoints(*(np.zeros(0),) * 4, np.zeros((0, 128)))
    rows, columns = detector.positions.T
    return Keypoints(rows, columns, detector.sigmas, detector.orientations, detector.descriptors)


LIBRARIES: dict[str, Callable[[np.ndarray, int], Keypoints]] = {"vlsift": _vlsift, "skimage": _skimage}


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(
            f"SIFT features by {package} need that package: pip install 'arinv[sift]', or choose encoder=sift_skimage"
        ) from error


def keypoints(image: ArrayLike, *, library: str, first_octave: int = 0) -> Keypoints:
    """Returns the keypoints of one image.

    Args:
      image: float [H, W, 3] in [0, 1], sides of 16 px or more.
      library: a key of LIBRARIES.
      first_octave: 0 for the image itself, -1 for twice its size, which finds smaller keypoints.

    Returns:
      All keypoints, also several of one place with different orientations.

    Raises:
      UserError: an unknown library, one that is not installed, another octave, or an image that is too small.
    """
    if library not in LIBRARIES:
        raise unknown("library of SIFT features", library, LIBRARIES)
    _check_octave(first_octave)
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < _SMALLEST_SIDE:
        raise UserError(f"SIFT features need an image [H, W, 3] of {_SMALLEST_SIDE} px or more; got {image.shape}")
    points = LIBRARIES[library](np.ascontiguousarray(image @ np.array(REC_601, np.float32)), first_octave)
    descriptors = np.asarray(points.descriptors, np.float32).reshape(-1, 128)
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return points._replace(descriptors=descriptors / np.maximum(lengths, 1e-12))


class SiftCells(NamedTuple):
    """Features of images without the empty cells.

    Attributes:
      places: int32 [N, C], indices of the cells, row by row; H / 4 x W / 4 where an image has fewer than C.
      vectors: float32 [N, C, 133].
      num_keypoints: int [N], before those that share a cell are dropped.
      library: name of the library that computed them.
    """

    places: np.ndarray
    vectors: np.ndarray
    num_keypoints: np.ndarray
    library: str


def sift_cells(images: ArrayLike, *, library: str, first_octave: int = 0) -> SiftCells:
    """Returns the features of images without the empty cells.

    Args:
      images: float [N, H, W, 3] in [0, 1], sides of 16 px or more; pixels beyond a multiple of 4 are in no cell.
      library: a key of LIBRARIES.
      first_octave: see `keypoints`.

    Returns:
      One keypoint per cell, random where several share it, for at most a quarter of an image's cells (half of them with
      first_octave=-1). The choice depends on the image alone.

    Raises:
      UserError: as `keypoints`, or another layout.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4:
        raise UserError(f"images must be [N, H, W, 3]; got {images.shape}")
    size = images.shape[1] // CELL, images.shape[2] // CELL
    _check_octave(first_octave)
    most = max(1, size[0] * size[1] // _CELLS_PER_KEYPOINT[first_octave])
    places = np.full((len(images), most), size[0] * size[1], np.int32)
    vectors, counts = np.zeros((len(images), most, DIMENSIONS), np.float32), np.zeros(len(images), np.int64)
    for i, image in enumerate(images):
        key = (_digest(image.tobytes()), image.shape, library, first_octave)
        compute = functools.partial(_cells_of, image, size, most, library, first_octave)
        own, own_vectors, counts[i] = _CACHE.get(key, compute)
        places[i, : len(own)], vectors[i, : len(own)] = own, own_vectors
    return SiftCells(places, vectors, counts, library)


def spread(places: Array, vectors: Array, *, height: int, width: int) -> Array:
    """Returns the features of `sift_cells` on their grid, on the device.

    Args:
      places: int [B, C], indices of the cells, row by row; height * width for none.
      vectors: float [B, C, 133], features of these cells.
      height: rows of the grid.
      width: columns of the grid.

    Returns:
      float32 [B, height, width, 133], zeros in other cells.
    """
    grid = jnp.zeros((vectors.shape[0], height * width, vectors.shape[2]), jnp.float32)
    rows = jnp.arange(vectors.shape[0])[:, None]
    grid = grid.at[rows, places].set(vectors.astype(jnp.float32), mode="drop")
    return grid.reshape(vectors.shape[0], height, width, vectors.shape[2])


def sift_grid(images: ArrayLike, *, library: str, first_octave: int = 0) -> SiftGrid:
    """Returns the features of images on the grid.

    Args:
      images: see `sift_cells`.
      library: a key of LIBRARIES.
      first_octave: see `keypoints`.

    Returns:
      Those of `sift_cells`, and zeros in the other cells.

    Raises:
      UserError: as `sift_cells`.
    """
    cells = sift_cells(images, library=library, first_octave=first_octave)
    height, width = (side // CELL for side in np.shape(images)[1:3])
    features = np.zeros((len(cells.places), height * width + 1, DIMENSIONS), np.float32)
    features[np.arange(len(features))[:, None], cells.places] = cells.vectors
    features = features[:, :-1].reshape(-1, height, width, DIMENSIONS)
    return SiftGrid(features, cells.num_keypoints, library)


class _Cache:
    """A cache of images' cells that drops the oldest entries above its limit of memory."""

    def __init__(self, max_bytes: int):
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._values: dict[tuple, tuple[np.ndarray, np.ndarray, int]] = {}

    def get(self, key: tuple, compute: Callable[[], tuple[np.ndarray, np.ndarray, int]]) -> tuple:
        """Returns the places and vectors of an image's cells, and its number of keypoints."""
        if key not in self._values:
            value = self._values[key] = compute()
            self._num_bytes += value[1].nbytes
            while self._num_bytes > self._max_bytes and len(self._values) > 1:
                self._num_bytes -= self._values.pop(next(iter(self._values)))[1].nbytes
            return value
        return self._values[key]


_CACHE = _Cache(1_000_000_000)  # bytes: about 7,000 images at 256 px, 100,000 at 64 px


def _cells_of(image: np.ndarray, size: tuple[int, int], most: int, library: str, first_octave: int) -> tuple:
    """Returns places [C], vectors [C, 133] and the number of keypoints of an image."""
    points = keypoints(image, library=library, first_octave=first_octave)
    rounded = np.rint(255 * image).astype(np.uint8).tobytes()  # devices round the last bit of 1 / 255 differently
    rng = np.random.default_rng(int.from_bytes(_digest(rounded), "little"))
    rows, columns, vectors = _choose(points, size, rng)
    chosen = np.sort(rng.permutation(len(rows))[:most])
    return (rows * size[1] + columns)[chosen].astype(np.int32), vectors[chosen], len(points.rows)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _choose(points: Keypoints, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Returns rows [C], columns [C] and vectors [C, 133] of the cells of one image that have a keypoint."""
    order = rng.permutation(len(points.rows))
    rows, columns, scales, angles = (np.asarray(x, np.float64)[order] for x in points[:4])
    cells = [np.maximum(0, np.floor(x / CELL).astype(int)) for x in (rows, columns)]
    places = (columns - CELL * cells[1], rows - CELL * cells[0])
    geometry = np.stack([*places, np.sin(angles), np.cos(angles), np.log(scales)], axis=-1)
    vectors = np.concatenate([points.descriptors[order], geometry], axis=-1).astype(np.float32)
    inside = (cells[0] < size[0]) & (cells[1] < size[1])
    _, first = np.unique((cells[0] * size[1] + cells[1])[inside], return_index=True)
    chosen = np.flatnonzero(inside)[first]
    return cells[0][chosen], cells[1][chosen], vectors[chosen]


def check_library(library: str, first_octave: int = 0) -> None:
    """Checks that a library of SIFT features is installed.

    Args:
      library: a key of LIBRARIES.
      first_octave: see `keypoints`.

    Raises:
      UserError: it is not, or another octave.
    """
    _import(library)
    _check_octave(first_octave)


def _check_octave(first_octave: int) -> None:
    if first_octave not in (0, -1):
        raise UserError(f"first_octave must be 0 or -1; got {first_octave!r}")


def sift(images: Array, *, library: str, first_octave: int = 0) -> Array:
    """Returns the features of images on the grid; a compiled function calls the host for them.

    Args:
      images: float [B, H, W, 3] in [0, 1], sides of 16 px or more.
      library: a key of LIBRARIES.
      first_octave: see `keypoints`.

    Returns:
      float32 [B, H / 4, W / 4, 133], without a gradient.
    """
    batch, height, width = images.shape[:3]
    shape = jax.ShapeDtypeStruct((batch, height // CELL, width // CELL, DIMENSIONS), jnp.float32)

    def compute(x: np.ndarray) -> np.ndarray:
        return sift_grid(x, library=library, first_octave=first_octave).features

    return jax.pure_callback(compute, shape, jax.lax.stop_gradient(images.astype(jnp.float32)))
