"""Stride-1 convolutions from or to an image, at the speed of those between features.

Three channels give a CPU's matrix product a side of three. Computing a block of 2x2 positions at once, as channels of a
convolution of stride 2 whose kernel is a row and a column larger, makes that twelve and quarters what is gathered for
it: more multiplications, by zeros, in far better shape.

Layout: features [B, H, W, C], kernels [kh, kw, in, out]; any value range.

Source: the rearrangement of the result is the sub-pixel convolution of Shi et al. 2016.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from arinv.types import Array

LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC
_FEW_CHANNELS = 4  # read or written, and at most so many on the other side: beyond that the zeros cost more than is won
_MOST_OUTPUTS, _MOST_INPUTS = 32, 16

Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(x: Array, w: Array, pads: Pads, precision: Any = None) -> Array:
    """Returns the stride-1 convolution of x, in blocks where that is faster on a CPU.

    Args:
      x: [B, H, W, in].
      w: [kh, kw, in, out].
      pads: ((top, bottom), (left, right)).
      precision: as in lax.

    Returns:
      [B, H', W', out].
    """
    outputs = [n + sum(pair) - k + 1 for n, pair, k in zip(x.shape[1:3], pads, w.shape[:2], strict=True)]
    c_in, c_out = w.shape[2:]
    from_image, to_image = c_in <= _FEW_CHANNELS, c_out <= _FEW_CHANNELS
    narrow = from_image and c_out <= _MOST_OUTPUTS or to_image and c_in <= _MOST_INPUTS
    if narrow and min(w.shape[:2]) > 1 and all(n % 2 == 0 for n in outputs):
        return _convolve_blocks(x, w, pads, precision)
    return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=LAYOUT, precision=precision)


def _convolve_blocks(x, w, pads, precision):
    """Returns the same, computed two rows and two columns at a time."""
    starts = [(i, j) for i in (0, 1) for j in (0, 1)]
    w = jnp.stack([jnp.pad(w, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i, j in starts], axis=-2)
    w = w.reshape(*w.shape[:3], -1)
    y = lax.conv_general_dilated(x, w, (2, 2), pads, dimension_numbers=LAYOUT, precision=precision)
    b, rows, columns, channels = y.shape
    y = y.reshape(b, rows, columns, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * rows, 2 * columns, channels // 4)
