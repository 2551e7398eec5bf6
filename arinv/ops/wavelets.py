"""One level of the orthonormal Haar transform of each channel: pooling that can be inverted.

Layout [B, H, W, C], any value range. The low band of each 2x2 block [[a, b], [c, d]] is (a + b + c + d) / 2, twice the
mean, and three detail bands hold the rest, so that energy is preserved and `haar_synthesis` returns the block.

Source: Yoo et al. 2019 (WCT2), section 3.2; Rojas-Gomez et al. 2022, section 3.3.
"""

import jax.numpy as jnp

from arinv.errors import UserError
from arinv.types import Array

Details = tuple[Array, Array, Array]


def haar_analysis(inputs: Array) -> tuple[Array, Details]:
    """Returns the low band and the details of every 2x2 block.

    Args:
      inputs: floating point [B, H, W, C]; an odd last row or column is dropped.

    Returns:
      LL [B, H // 2, W // 2, C] and (LH, HL, HH) of the same shape: right minus left, bottom minus top, and the
      diagonal.
    """
    b, h, w, c = inputs.shape
    blocks = inputs[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    top, bottom = blocks[:, :, 0], blocks[:, :, 1]
    tl, tr, bl, br = top[:, :, :, 0], top[:, :, :, 1], bottom[:, :, :, 0], bottom[:, :, :, 1]
    low = (tl + tr + bl + br) / 2
    horizontal = (-tl + tr - bl + br) / 2
    vertical = (-tl - tr + bl + br) / 2
    diagonal = (tl - tr - bl + br) / 2
    return low, (horizontal, vertical, diagonal)


def haar_synthesis(low: Array, details: Details) -> Array:
    """Returns the inverse of `haar_analysis`.

    Args:
      low: LL, floating point [B, h, w, C].
      details: (LH, HL, HH), each of the same shape.

    Returns:
      [B, 2 h, 2 w, C].

    Raises:
      UserError: bands of different shapes.
    """
    horizontal, vertical, diagonal = details
    shapes = [band.shape for band in (low, *details)]
    if len(set(shapes)) != 1:
        raise UserError(f"the four bands must have one shape; got {', '.join(map(str, shapes))}")
    tl = (low - horizontal - vertical + diagonal) / 2
    tr = (low + horizontal - vertical - diagonal) / 2
    bl = (low - horizontal + vertical - diagonal) / 2
    br = (low + horizontal + vertical + diagonal) / 2
    b, h, w, c = low.shape
    rows = [jnp.stack(pair, axis=3) for pair in ((tl, tr), (bl, br))]  # [B, h, w, 2, C]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, c)
