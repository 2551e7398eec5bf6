"""The normalised reconstruction error: distance to the image, relative to that between two images.

Images are float [B, H, W, C] in [0, 1]. Reconstructions that are smaller than the images are
enlarged bilinearly by the caller before they are compared.

Source: Dosovitskiy & Brox 2016, section 4 ("Quantitative evaluation").
"""

import math

import numpy as np

from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.inputs import as_image_pair, check_images, check_number
from arinv.types import Array, ArrayLike

NORMALIZED_ERROR_VARIANT = (
    "normalized_error: ||reconstruction - image||_2 / mean distance over all pairs of test images, "
    "RGB in [0, 1], per image"
)

# Rows of float64 pixels held at once: at most 64 MiB in each of two blocks.
_BLOCK_VALUES = 2**23
_BLOCK_ROWS = 1024


def euclidean_distance(reconstructions: ArrayLike, images: ArrayLike) -> Array:
    """Returns the Euclidean distance over pixels and channels, for each image.

    Args:
      reconstructions: [B, H, W, C] in [0, 1].
      images: [B, H, W, C] in [0, 1].

    Returns:
      float32 [B], in units of the pixels; NaN for an image that is not finite.

    Raises:
      UserError: different shapes, or images outside [0, 1].
    """
    reconstructions, images = as_image_pair(reconstructions, images)
    return norms.norm(reconstructions - images, "l2")


def mean_pairwise_distance(images: ArrayLike) -> float:
    """Returns the mean Euclidean distance over all pairs of images, the paper's N, exactly.

    Computed on the host in float64, block by block, in bounded memory beyond the images themselves;
    the time grows as the square of their number.

    Args:
      images: float [N, H, W, C] in [0, 1], at least two: the whole test set.

    Returns:
      A number in units of the pixels.

    Raises:
      UserError: fewer than two images, or values outside [0, 1].
    """
    rows = np.asarray(check_images(images))
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
    count = len(rows)
    if count < 2:
        raise UserError(f"a mean distance between images needs at least two images, got {count}.")
    block = max(1, min(_BLOCK_ROWS, _BLOCK_VALUES // rows.shape[1]))
    total = 0.0
    centre = rows[:1].astype(np.float64)  # of images that are nearly equal, only the differences keep their digits
    for start in range(0, count, block):
        left = rows[start : start + block] - centre
        total += _sum_of_distances(left, left) / 2  # each pair of the block appears twice
        for other in range(start + block, count, block):
            total += _sum_of_distances(left, rows[other : other + block] - centre)
    return float(total / (count * (count - 1) / 2))


def normalized_error(distances: ArrayLike, mean_pairwise: float) -> np.ndarray:
    """Returns the reconstruction error of each image, relative to the distance between images.

    Args:
      distances: [N], from `euclidean_distance`.
      mean_pairwise: from `mean_pairwise_distance` of the test images, above 0.

    Returns:
      float64 [N]; lower is better, and 1 is no better than another image of the set.

    Raises:
      UserError: a mean distance that is not above 0 (all images equal).
    """
    if not check_number(mean_pairwise, "the mean distance between images") > 0:
        raise UserError(
            f"the mean distance between images must be above 0, got {mean_pairwise}; are all images of the set equal?"
        )
    return np.asarray(distances, np.float64) / mean_pairwise


def _sum_of_distances(left: np.ndarray, right: np.ndarray) -> float:
    left_squares, right_squares = (np.einsum("ij,ij->i", rows, rows) for rows in (left, right))
    squared_distances = left_squares[:, None] + right_squares[None, :] - 2.0 * (left @ right.T)
    if left is right:
        np.fill_diagonal(squared_distances, 0.0)  # rounding could leave it above zero
    return float(np.sum(np.sqrt(np.maximum(squared_distances, 0.0))))
