"""Colors of images: grey values, and shifts of the hue.

Images are float [B, H, W, 3] in [0, 1].
"""

import dm_pix as pix
import jax.numpy as jnp

from arinv.types import Array, ArrayLike

REC_601 = (0.299, 0.587, 0.114)  # weights of red, green and blue in the luminance


def grey_values(images: ArrayLike) -> Array:
    """Returns the grey value of each pixel, by the weights of Rec. 601.

    Args:
      images: [B, H, W, 3] in [0, 1]; [B, H, W, 1] is returned unchanged.

    Returns:
      [B, H, W, 1] in [0, 1].
    """
    if images.shape[-1] == 1:
        return images
    # Elementwise: a product with a matrix may have a lower precision on an accelerator.
    return sum(weight * images[..., i : i + 1] for i, weight in enumerate(REC_601))


def shift_hue(images: ArrayLike, shift: ArrayLike | float) -> Array:
    """Returns images with the hue of each pixel shifted; saturation and value (HSV) are kept.

    Args:
      images: [B, H, W, 3] in [0, 1]; [B, H, W, 1], which has no hue, is returned unchanged.
      shift: turns of the color wheel, a number or [B, 1, 1]; 1/3 maps red to green, green to blue and blue to red.

    Returns:
      [B, H, W, 3] in [0, 1], clipped.
    """
    if images.shape[-1] == 1:
        return images
    return jnp.clip(pix.adjust_hue(images, shift), 0.0, 1.0)
