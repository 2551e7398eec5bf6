"""Keeping the colours of a picture while its style changes.

Images are float [B, H, W, 3] in [0, 1].

Source: Gatys et al. 2016, "Preserving Color in Neural Artistic Style Transfer".
"""

import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops.inputs import as_image_pair, as_images
from arinv.ops.wct import StyleMoments, style_moments, transfer
from arinv.types import Array, ArrayLike

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of Rec. 601, as in YIQ and YCbCr


def keep_chroma(images: ArrayLike, colored: ArrayLike) -> Array:
    """Returns the luminance of images with the chroma of others.

    Args:
      images: [B, H, W, 3] in [0, 1], whose luminance is taken, such as stylised ones.
      colored: [B, H, W, 3] in [0, 1], whose chroma is taken, such as the contents.

    Returns:
      float32 [B, H, W, 3], clipped to [0, 1].

    Raises:
      UserError: images outside [0, 1], of different shapes, or grey.

    Source: Gatys et al. 2016, section 4 (luminance-only transfer).
    """
    images, colored = as_image_pair(images, colored, ("images", "colored"))
    if images.shape[-1] != 3:
        raise UserError(f"images have shape {images.shape}; chroma needs 3 channels")
    luminance = jnp.sum((images - colored) * _LUMA[None, None, None], axis=-1, keepdims=True)
    return jnp.clip(colored + luminance, 0.0, 1.0)


def color_moments(images: ArrayLike) -> StyleMoments:
    """Returns the mean and the root of the covariance of the colours of each image.

    Args:
      images: [B, H, W, 3] in [0, 1].

    Returns:
      Moments with C = 3.

    Raises:
      UserError: images outside [0, 1].
    """
    return style_moments(as_images(images), variant="ust")


def match_colors(images: ArrayLike, colors: StyleMoments) -> Array:
    """Returns images, such as styles, whose colours have the mean and covariance of others, such as the contents'.

    Args:
      images: [B, H, W, 3] in [0, 1].
      colors: of B other images, from `color_moments`.

    Returns:
      float32 [B, H, W, 3], clipped to [0, 1].

    Raises:
      UserError: images outside [0, 1], or not as many of them as there are colours.

    Source: Gatys et al. 2016, section 3 (linear transform of the colours, with the symmetric roots).
    """
    return jnp.clip(transfer(as_images(images), (colors,), variant="ust"), 0.0, 1.0)
