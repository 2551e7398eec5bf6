"""Colors of images: grey values, and shifts of the hue.

Images are float [B, H, W, 3] in [0, 1].
"""

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
      shift: in turns of the color wheel: 1/3 makes red green, green blue and blue red; a number or [B, 1, 1].

    Returns:
      [B, H, W, 3] in [0, 1], clipped.
    """
    if images.shape[-1] == 1:
        return images
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value = images.max(axis=-1)
    chroma = value - images.min(axis=-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sextant = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + sextant + 6.0 * shift) % 6.0
        channels.append(value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0))
    return jnp.clip(jnp.stack(channels, axis=-1), 0.0, 1.0)
