"""Convolutions from or to an image, at the speed of those between features.

Three channels give a CPU's matrix product a side of three. Computing a block of positions at once, as channels of a
convolution whose stride and kernel are larger by as many, makes that several times three and divides what is gathered
for it: more multiplications, by zeros, in far better shape.

Layout: features [B, H, W, C], kernels [kh, kw, in, out]; any value range.

Source: the rearrangement of the result is the sub-pixel convolution of Shi et al. 2016.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from arinv.types import Array

LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC
_FEW_CHANNELS = 4  # read or written, and at most so many on the other side: beyond that the zeros cost more than is won
_MOST_OUTPUTS, _MOST_INPUTS = 32, 16

Pads = tuple[tuple[int, int], tuple[int, int]]


# Rows and columns that are computed at once, by stride; measured.
_BLOCKS = {(1, 1): (2, 2), (2, 2): (1, 2)}


def convolve(x: Array, w: Array, strides: tuple[int, int], pads: Pads, precision: Any = None) -> Array:
    """Returns the convolution of x, in blocks where that is faster on a CPU.

    Args:
      x: [B, H, W, in].
      w: [kh, kw, in, out].
      strides: of rows and columns.
      pads: ((top, bottom), (left, right)).
      precision: as in lax.

    Returns:
      [B, H', W', out].
    """
    axes = zip(x.shape[1:3], pads, w.shape[:2], strides, strict=True)
    outputs = [(n + sum(pair) - k) // stride + 1 for n, pair, k, stride in axes]
    block = _BLOCKS.get(strides)
    if block and _is_narrow(w) and all(n % size == 0 for n, size in zip(outputs, block, strict=True)):
        return _convolve_blocks(x, w, strides, pads, block, precision)
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=LAYOUT, precision=precision)


def _is_narrow(w):
    """Tells whether a kernel reads or writes an image, or has as few channels."""
    c_in, c_out = w.shape[2:]
    from_image, to_image = c_in <= _FEW_CHANNELS, c_out <= _FEW_CHANNELS
    return min(w.shape[:2]) > 1 and (from_image and c_out <= _MOST_OUTPUTS or to_image and c_in <= _MOST_INPUTS)


def _convolve_blocks(x, w, strides, pads, block, precision):
    """Returns the same, a block of rows and columns at a time."""
    sides = zip(strides, block, strict=True)
    rows, columns = ([(i * stride, (size - 1 - i) * stride) for i in range(size)] for stride, size in sides)
    w = jnp.stack([jnp.pad(w, (row, column, (0, 0), (0, 0))) for row in rows for column in columns], -2)
    w = w.reshape(*w.shape[:3], -1)
    steps = tuple(stride * size for stride, size in zip(strides, block, strict=True))
    y = lax.conv_general_dilated(x, w, steps, pads, dimension_numbers=LAYOUT, precision=precision)
    b, rows, columns, channels = y.shape
    y = y.reshape(b, rows, columns, *block, channels // math.prod(block)).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, block[0] * rows, block[1] * columns, -1)
