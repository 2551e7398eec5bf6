"""How close a reconstruction comes to its image: MSE, PSNR and SSIM, one number per image.

Images are float [B, H, W, C] in [0, 1]; an image that is not finite gives NaN. Implementations of these metrics differ
in ways that change the figures, so results files carry the exact variant, from `VARIANTS`.
"""

import dm_pix
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.ops.inputs import as_image_pair
from arinv.types import Array, ArrayLike

MSE_VARIANT = "mse: mean over H, W and RGB in [0, 1], per image"
PSNR_VARIANT = "psnr: 10 log10(1 / (mse + 1e-8)), RGB in [0, 1], per image"
SSIM_VARIANT = (
    "ssim: 11-tap Gaussian sigma 1.5, no padding, k1 0.01, k2 0.03, population moments, "
    "mean over positions and RGB in [0, 1], per image"
)
VARIANTS = {"mse": MSE_VARIANT, "psnr": PSNR_VARIANT, "ssim": SSIM_VARIANT}

_PSNR_FLOOR = 1e-8  # keeps equal images finite, at 80 dB
_SSIM_WINDOW = 11


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


def ssim(reconstructions: ArrayLike, images: ArrayLike) -> Array:
    """Returns the structural similarity, for each image.

    11-tap Gaussian window of sigma 1.5 without padding, k1 = 0.01, k2 = 0.03, each channel by
    itself, mean over channels and positions.

    Args:
      reconstructions: [B, H, W, C] in [0, 1].
      images: [B, H, W, C] in [0, 1], at least 11 pixels high and wide.

    Returns:
      float32 [B] in [-1, 1]; higher is better, equal images give 1.

    Raises:
      UserError: different shapes, images outside [0, 1], or an image smaller than the window.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
    similarity".
    """
    reconstructions, images = as_image_pair(reconstructions, images)
    if min(images.shape[1:3]) < _SSIM_WINDOW:
        raise UserError(
            f"SSIM needs images of at least {_SSIM_WINDOW} x {_SSIM_WINDOW} pixels, "
            f"got {images.shape[1]} x {images.shape[2]}; enlarge them or leave SSIM out."
        )
    with jax.numpy_dtype_promotion("standard"):  # its window is of integers and, with jax_enable_x64, float64
        values = dm_pix.ssim(
            reconstructions,
            images,
            max_val=1.0,
            filter_size=_SSIM_WINDOW,
            filter_sigma=1.5,
            k1=0.01,
            k2=0.03,
        )
    return values.astype(jnp.float32)
