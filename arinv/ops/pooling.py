"""Pooling and upsampling in the forms that XLA runs fast, chosen as in `arinv.ops.conv`.

Layout: [B, H, W, C]; any value range.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from arinv.ops.conv import use_rewrites
from arinv.types import Array


def max_pool(inputs: Array, window: int, stride: int) -> Array:
    """Returns the maximum over square windows; rows and columns that fill no window are dropped.

    Where several entries of a window are its maximum, the rewritten forms divide the gradient among
    them and the plain form gives it to the first. After a ReLU such ties are common, but they are
    ties of zeros, and the gradient of the ReLU, zero there, makes the two forms equal again.

    Args:
      inputs: [B, H, W, C].
      window: side of the window, in pixels.
      stride: distance between windows, in pixels.

    Returns:
      [B, (H - window) // stride + 1, (W - window) // stride + 1, C], of the dtype of `inputs`.
    """
    if use_rewrites() and window == stride:
        return _tiles(inputs, window).max((2, 4))
    if use_rewrites() and window <= 3:
        return functools.reduce(jnp.maximum, _window_entries(inputs, window, stride))
    if jnp.issubdtype(inputs.dtype, jnp.floating):
        lowest = -jnp.inf
    else:
        lowest = jnp.iinfo(inputs.dtype).min
    return _reduce_window(inputs, lowest, lax.max, window, stride)


def avg_pool(inputs: Array, window: int, stride: int) -> Array:
    """Returns the mean over square windows; rows and columns that fill no window are dropped.

    Args:
      inputs: floating point [B, H, W, C].
      window: side of the window, in pixels.
      stride: distance between windows, in pixels.

    Returns:
      [B, (H - window) // stride + 1, (W - window) // stride + 1, C], of the dtype of `inputs`.
    """
    if use_rewrites() and window == stride:
        return _tiles(inputs, window).mean((2, 4))
    return _reduce_window(inputs, 0.0, lax.add, window, stride) / window**2


def adaptive_avg_pool(inputs: Array, side: int) -> Array:
    """Returns side x side means over windows that cover the input evenly, overlapping where they must.

    Window i spans the rows floor(i H / side) to ceil((i + 1) H / side), columns likewise, as in PyTorch: inputs of
    that size come back as they are, smaller ones are repeated.

    Args:
      inputs: floating point [B, H, W, C].
      side: rows and columns of the result.

    Returns:
      [B, side, side, C], of the dtype of `inputs`.
    """
    height, width = inputs.shape[1:3]
    if (height, width) == (side, side):
        return inputs
    rows, columns = (jnp.asarray(_adaptive_windows(size, side), inputs.dtype) for size in (height, width))
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, inputs)


def _adaptive_windows(size: int, side: int) -> np.ndarray:
    """Returns [side, size], in each row the weights of one mean."""
    weights = np.zeros((side, size), np.float32)
    for i in range(side):
        first, stop = i * size // side, -((i + 1) * size // -side)
        weights[i, first:stop] = 1 / (stop - first)
    return weights


def upsample_nearest(inputs: Array, factor: int = 2) -> Array:
    """Returns every pixel repeated `factor` times along both axes.

    Args:
      inputs: [B, H, W, C].
      factor: whole number of copies.

    Returns:
      [B, H * factor, W * factor, C], of the dtype of `inputs`.
    """
    b, h, w, c = inputs.shape
    tiled = jnp.broadcast_to(inputs[:, :, None, :, None], (b, h, factor, w, factor, c))
    return tiled.reshape(b, h * factor, w * factor, c)


def _tiles(inputs, window):
    b, h, w, c = inputs.shape
    rows, columns = h // window, w // window
    inputs = inputs[:, : rows * window, : columns * window]
    return inputs.reshape(b, rows, window, columns, window, c)


def _window_entries(inputs, window, stride):
    """Yields, for each place in the window, the entries of all windows at that place."""
    b, h, w, c = inputs.shape
    last_row, last_column = (h - window) // stride * stride, (w - window) // stride * stride
    for i in range(window):
        for j in range(window):
            stop = (b, i + last_row + 1, j + last_column + 1, c)
            yield lax.slice(inputs, (0, i, j, 0), stop, (1, stride, stride, 1))


def _reduce_window(inputs, initial, reducer, window, stride):
    initial = np.array(initial, inputs.dtype)  # a constant: lax then knows the derivative
    return lax.reduce_window(inputs, initial, reducer, (1, window, window, 1), (1, stride, stride, 1), "VALID")
