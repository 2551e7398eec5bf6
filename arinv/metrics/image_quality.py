"""Distances between reconstructions and images: MSE, PSNR, SSIM and Euclidean distances, one number per image.

Images are float [B, H, W, C] in [0, 1]; an image that is not finite gives NaN. Implementations of these metrics differ
in ways that change the numbers, so results files state the exact variant.
"""

import math

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.inputs import as_image_pair, as_numbers, check_images, check_number, on_host
from arinv.types import Array, ArrayLike

MSE_VARIANT = "mse: mean over H, W and RGB in [0, 1], per image"
PSNR_VARIANT = "psnr: 10 log10(1 / (mse + 1e-8)), RGB in [0, 1], per image"
SSIM_VARIANT = (
    "ssim: 11-tap Gaussian sigma 1.5, no padding, k1 0.01, k2 0.03, population moments, "
    "mean over positions and RGB in [0, 1], per image"
)
SSIM_UNIFORM7_VARIANT = (
    "ssim_uniform7: 7x7 windows of equal weights, no padding, k1 0.01, k2 0.03, sample moments, "
    "mean over positions and RGB in [0, 1], per image"
)
NORMALIZED_ERROR_VARIANT = (
    "normalized_error: ||reconstruction - image||_2 / mean distance over all pairs of test images, "
    "RGB in [0, 1], per image"
)

_PSNR_FLOOR = 1e-8  # makes the PSNR of equal images finite, 80 dB
SSIM_WINDOW, UNIFORM_WINDOW = 11, 7  # px: images must be as large
# Float64 pixels in memory at a time: at most 64 MiB in each of two blocks.
_BLOCK_VALUES = 2**23
_BLOCK_ROWS = 1024


def mean_squared_error(reconstructions: ArrayLike, images: ArrayLike) -> Array:
    """Returns the mean squared difference over pixels and channels, for each image.

    Args:
      reconstructions: [B, H, W, C] in [0, 1].
      images: [B, H, W, C] in [0, 1].

    Returns:
      float32 [B] in [0, 1]; lower is better.

    Raises:
      UserError: different shapes, or images outside [0, 1].
    """
    reconstructions, images = as_image_pair(reconstructions, images)
    return jnp.mean(jnp.square(reconstructions - images), axis=(1, 2, 3))


def psnr(reconstructions: ArrayLike, images: ArrayLike) -> Array:
    """Returns the peak signal-to-noise ratio 10 log10(1 / (mse + 1e-8)), for each image.

    Args:
      reconstructions: [B, H, W, C] in [0, 1].
      images: [B, H, W, C] in [0, 1].

    Returns:
      float32 [B] in decibels, at most 80 (equal images); higher is better.

    Raises:
      UserError: different shapes, or images outside [0, 1].

    Source: the metric of Rojas-Gomez et al. 2022, section 4.1, with the floor of their code.
    """
    return -10.0 * jnp.log10(mean_squared_error(reconstructions, images) + _PSNR_FLOOR)


def _check_window(images: Array, window: int, name: str) -> None:
    """Checks that images have room for the window of a metric.

    Raises:
      UserError: they are smaller.
    """
    height, width = images.shape[1:3]
    if min(height, width) < window:
        raise UserError(
            f"{name} needs images of at least {window} x {window} pixels; got {height} x {width}: enlarge them or omit "
            f"{name}"
        )


def ssim(reconstructions: ArrayLike, images: ArrayLike) -> Array:
    """Returns the structural similarity, for each image.

    11-tap Gaussian window of sigma 1.5 without padding, k1 = 0.01, k2 = 0.03, per channel, mean over
    channels and positions.

    Args:
      reconstructions: [B, H, W, C] in [0, 1].
      images: [B, H, W, C] in [0, 1], at least 11 pixels high and wide.

    Returns:
      float32 [B] in [-1, 1]; higher is better, equal images give 1. Its gradient omits the covariance in windows
      where an image is constant.

    Raises:
      UserError: different shapes, images outside [0, 1], or an image smaller than the window.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
    similarity".
    """
    reconstructions, images = as_image_pair(reconstructions, images)
    _check_window(images, SSIM_WINDOW, "SSIM")
    if not images.shape[0]:
        return jnp.zeros((0,), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):  # its window has integers and, with jax_enable_x64, float64
        values = dm_pix.ssim(
            reconstructions,
            images,
            max_val=1.0,
            filter_size=SSIM_WINDOW,
            filter_sigma=1.5,
            k1=0.01,
            k2=0.03,
        )
    return values.astype(jnp.float32)


def ssim_uniform7(reconstructions: ArrayLike, images: ArrayLike) -> Array:
    """Returns the structural similarity over 7x7 windows of equal weights, scikit-image's default, for each image.

    Args:
      reconstructions: [B, H, W, C] in [0, 1].
      images: [B, H, W, C] in [0, 1], at least 7 pixels high and wide.

    Returns:
      float32 [B] in [-1, 1]; higher is better, equal images give 1.

    Raises:
      UserError: different shapes, images outside [0, 1], or an image smaller than the window.

    Source: `skimage.metrics.structural_similarity`, the implementation that the Generative Encoder paper names.
    """
    x, y = as_image_pair(reconstructions, images)
    _check_window(y, UNIFORM_WINDOW, "ssim_uniform7")
    count = UNIFORM_WINDOW**2

    def means(values):
        window = (1, UNIFORM_WINDOW, UNIFORM_WINDOW, 1)
        return jax.lax.reduce_window(values, 0.0, jax.lax.add, window, (1, 1, 1, 1), "VALID") / count

    mean_x, mean_y = means(x), means(y)
    sample = count / (count - 1)
    covariance = sample * (means(x * y) - mean_x * mean_y)
    variances = sample * (means(x * x) - jnp.square(mean_x) + means(y * y) - jnp.square(mean_y))
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    values /= (jnp.square(mean_x) + jnp.square(mean_y) + c1) * (variances + c2)
    return jnp.mean(values, axis=(1, 2, 3))


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
    """Returns the exact mean Euclidean distance over all pairs of images, the paper's N.

    Computed on the host in float64, in blocks of bounded memory; the time is quadratic in the number of
    images.

    Args:
      images: float [N, H, W, C] in [0, 1], at least two, such as the whole test set.

    Returns:
      The distance, in units of the pixels.

    Raises:
      UserError: fewer than two images, or values outside [0, 1].
    """
    rows = on_host(check_images(images), "images")
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
    count = len(rows)
    if count < 2:
        raise UserError(f"a mean distance between images needs at least two images; got {count}")
    block = max(1, min(_BLOCK_ROWS, _BLOCK_VALUES // rows.shape[1]))
    total = 0.0
    center = rows[:1].astype(np.float64)  # subtracted, so that nearly equal images keep their digits
    for start in range(0, count, block):
        left = rows[start : start + block] - center
        total += _sum_of_distances(left, left) / 2  # each pair of the block appears twice
        for other in range(start + block, count, block):
            total += _sum_of_distances(left, rows[other : other + block] - center)
    return float(total / (count * (count - 1) / 2))


def normalized_error(distances: ArrayLike, mean_pairwise: float) -> np.ndarray:
    """Returns the reconstruction error of each image, relative to the distance between images.

    Args:
      distances: [N], Euclidean distances, as `euclidean_distance` returns them.
      mean_pairwise: mean distance between the test images, above 0, as `mean_pairwise_distance` returns it.

    Returns:
      float64 [N]; lower is better, and another image of the set has 1 on average.

    Raises:
      UserError: a mean distance that is not above 0, as that of equal images.
    """
    if not check_number(mean_pairwise, "the mean distance between images") > 0:
        raise UserError(
            f"the mean distance between images must be above 0; got {mean_pairwise}: are all images of the set equal?"
        )
    return as_numbers(distances, "distances") / mean_pairwise


def _sum_of_distances(left: np.ndarray, right: np.ndarray) -> float:
    left_squares, right_squares = (np.einsum("ij,ij->i", rows, rows) for rows in (left, right))
    squared_distances = left_squares[:, None] + right_squares[None, :] - 2.0 * (left @ right.T)
    if left is right:
        np.fill_diagonal(squared_distances, 0.0)  # instead of rounding errors
    return float(np.sum(np.sqrt(np.maximum(squared_distances, 0.0))))
