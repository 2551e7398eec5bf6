"""Sparse SIFT features of images on a grid of cells of 4 px, computed on the host.

Each cell holds one of its keypoints: descriptor (128 values of Euclidean norm 1), place inside of the cell, sine and
cosine of the orientation, logarithm of the scale; zeros where there is none. Networks for the features of one library
cannot read those of another, whose orientations differ by half a bin, so a checkpoint must name the library.

Source: Lowe 2004 as in VLFeat 0.9.21 (`vlsift`); Dosovitskiy & Brox 2016a, section 4.
"""

import hashlib
import importlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError, unknown
from arinv.types import Array, ArrayLike

CELL = 4
DIMENSIONS = 133
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
_SMALLEST_SIDE = 16


class Keypoints(NamedTuple):
    """Keypoints of one image.

    Attributes:
      rows: [K], of the centres, in pixels.
      columns: [K].
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
      num_keypoints: int [N], before those that share a cell are left out.
      library: that computed them.
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
    if first_octave not in (0, -1):
        raise UserError(f"first_octave={first_octave!r} must be 0 or -1")
    image = np.asarray(image, np.float32)
    if image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < _SMALLEST_SIDE:
        raise UserError(f"SIFT features need an image [H, W, 3] of {_SMALLEST_SIDE} px or more; got {image.shape}")
    points = LIBRARIES[library](np.ascontiguousarray(image @ _GREY), first_octave)
    descriptors = np.asarray(points.descriptors, np.float32).reshape(-1, 128)
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return points._replace(descriptors=descriptors / np.maximum(lengths, 1e-12))


def sift_grid(images: ArrayLike, *, library: str, first_octave: int = 0) -> SiftGrid:
    """Returns the features of images on the grid.

    Args:
      images: float [N, H, W, 3] in [0, 1], sides of 16 px or more; what is beyond a multiple of 4 has no cell.
      library: a key of LIBRARIES.
      first_octave: as of `keypoints`.

    Returns:
      Of keypoints that share a cell, one at random; the same one whenever the same image comes.

    Raises:
      UserError: as `keypoints`, or another layout.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4:
        raise UserError(f"images must be [N, H, W, 3]; got {images.shape}")
    size = images.shape[1] // CELL, images.shape[2] // CELL
    features, counts = np.zeros((len(images), *size, DIMENSIONS), np.float32), np.zeros(len(images), np.int64)
    for i, image in enumerate(images):
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        key = (digest, image.shape, library, first_octave)
        if key not in _cells:
            points = keypoints(image, library=library, first_octave=first_octave)
            cells = _choose(points, size, np.random.default_rng(int.from_bytes(digest, "little")))
            while len(_cells) >= _MOST_CACHED:
                _cells.pop(next(iter(_cells)), None)
            _cells[key] = (*cells, len(points.rows))
        rows, columns, vectors, counts[i] = _cells[key]
        features[i, rows, columns] = vectors
    return SiftGrid(features, counts, library)


# (digest of an image, shape, library, first octave) -> rows, columns and vectors of its cells, number of keypoints.
_cells: dict[tuple, tuple] = {}
_MOST_CACHED = 4096  # images, of about 150 kB each at 256 px


def _choose(points: Keypoints, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Returns rows [C], columns [C] and vectors [C, 133] of the cells of one image that have a keypoint."""
    order = rng.permutation(len(points.rows))
    rows, columns, scales, angles = (np.asarray(x, np.float64)[order] for x in points[:4])
    cells = [np.maximum(0, np.floor(x / CELL).astype(int)) for x in (rows, columns)]
    places = (columns - CELL * cells[1], rows - CELL * cells[0])
    extra = np.stack([*places, np.sin(angles), np.cos(angles), np.log(scales)], axis=-1)
    vectors = np.concatenate([points.descriptors[order], extra], axis=-1).astype(np.float32)
    inside = (cells[0] < size[0]) & (cells[1] < size[1])
    _, first = np.unique((cells[0] * size[1] + cells[1])[inside], return_index=True)
    chosen = np.flatnonzero(inside)[first]
    return cells[0][chosen], cells[1][chosen], vectors[chosen]


def check_library(library: str) -> None:
    """Checks that a library of SIFT features is installed.

    Args:
      library: a key of LIBRARIES.

    Raises:
      UserError: it is not.
    """
    _import(library)


def sift(images: Array, *, library: str) -> Array:
    """Returns the features of images, also inside of a compiled function, which calls the host for them.

    Args:
      images: float [B, H, W, 3] in [0, 1], sides of 16 px or more.
      library: a key of LIBRARIES.

    Returns:
      float32 [B, H / 4, W / 4, 133], without a gradient.
    """
    batch, height, width = images.shape[:3]
    shape = jax.ShapeDtypeStruct((batch, height // CELL, width // CELL, DIMENSIONS), jnp.float32)
    return jax.pure_callback(
        lambda x: sift_grid(x, library=library).features, shape, jax.lax.stop_gradient(images.astype(jnp.float32))
    )
