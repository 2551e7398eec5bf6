"""Pooling, upsampling and local response normalization, in the forms that XLA runs fast.

The form is chosen as in `arinv.ops.conv`. Layout: [B, H, W, C]; any value range.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arinv import _xla
from arinv.ops.conv import use_rewrites
from arinv.types import Array

_LARGEST_WINDOW = 4  # of the rewritten form, whose slice for each row of a larger window is slower than lax


def max_pool(inputs: Array, window: int, stride: int, *, padding: int = 0) -> Array:
    """Returns the maximum over square windows; incomplete windows are dropped.

    Where several entries of a window are its maximum, the first in reading order gets the gradient.

    Args:
      inputs: [B, H, W, C].
      window: side of the window, in positions.
      stride: distance between windows, in positions.
      padding: positions added on each side, which are never a maximum.

    Returns:
      [B, (H + 2 padding - window) // stride + 1, (W + 2 padding - window) // stride + 1, C], of the dtype of `inputs`.
    """
    if use_rewrites() and inputs.dtype in (jnp.bfloat16, jnp.float16):  # which CPUs compare a quarter as fast
        return max_pool(inputs.astype(jnp.float32), window, stride, padding=padding).astype(inputs.dtype)
    lowest = -jnp.inf if jnp.issubdtype(inputs.dtype, jnp.floating) else jnp.iinfo(inputs.dtype).min
    if padding:
        pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        inputs = jnp.pad(inputs, pads, constant_values=lowest)
    # lax's form has a gradient that does not compile where a GPU has to return the same bits each time.
    if (use_rewrites() or _xla.is_deterministic()) and window <= _LARGEST_WINDOW:
        # Columns before rows, so that of equal entries the first in reading order gets the gradient.
        return _max_along(1, window, stride, _max_along(2, window, stride, inputs))
    return _reduce_window(inputs, lowest, lax.max, window, stride)


def avg_pool(inputs: Array, window: int, stride: int) -> Array:
    """Returns the mean over square windows; incomplete windows are dropped.

    Args:
      inputs: floating point [B, H, W, C].
      window: side of the window, in positions.
      stride: distance between windows, in positions.

    Returns:
      [B, (H - window) // stride + 1, (W - window) // stride + 1, C], of the dtype of `inputs`.
    """
    if use_rewrites() and window == stride:
        return _tiles(inputs, window).mean((2, 4))
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))
    sums = _reduce_window(wide, 0.0, lax.add, window, stride)  # sums of bfloat16 lose digits
    return (sums / window**2).astype(inputs.dtype)


def adaptive_avg_pool(inputs: Array, side: int) -> Array:
    """Returns side x side means over windows that cover the input evenly, overlapping where necessary.

    Window i spans the rows floor(i H / side) to ceil((i + 1) H / side), columns likewise, as in PyTorch: inputs of
    that size are unchanged, smaller ones are repeated.

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


def upsample_nearest(inputs: Array, factor: int = 2) -> Array:
    """Returns every position repeated `factor` times along both axes.

    Args:
      inputs: [B, H, W, C].
      factor: number of copies.

    Returns:
      [B, H * factor, W * factor, C], of the dtype of `inputs`.
    """
    b, h, w, c = inputs.shape
    tiled = jnp.broadcast_to(inputs[:, :, None, :, None], (b, h, factor, w, factor, c))
    return tiled.reshape(b, h * factor, w * factor, c)


def local_response_normalization(
    inputs: Array, *, window: int = 5, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Array:
    """Returns inputs / (bias + alpha / window * sum of squares over neighboring channels) ** beta.

    Args:
      inputs: floating point [..., C].
      window: number of channels in the sum, odd, centered on the one that is divided and padded with zeros.
      alpha: weight of the mean square.
      beta: exponent.
      bias: added to the sum, so that the denominator is not zero.

    Returns:
      [..., C], of the dtype of `inputs`; the sum is taken in float32.

    Source: Krizhevsky et al. 2012, section 3.3, with alpha divided by the window as in Caffe.
    """
    half = window // 2
    squares = jnp.square(inputs.astype(jnp.float32))
    padded = jnp.pad(squares, [(0, 0)] * (inputs.ndim - 1) + [(half, half)])
    channels = inputs.shape[-1]
    total = sum(padded[..., i : i + channels] for i in range(window))
    return (inputs / (bias + alpha / window * total) ** beta).astype(inputs.dtype)


def _adaptive_windows(size: int, side: int) -> np.ndarray:
    """Returns [side, size], in each row the weights of one mean."""
    weights = np.zeros((side, size), np.float32)
    for i in range(side):
        first, stop = i * size // side, -((i + 1) * size // -side)
        weights[i, first:stop] = 1 / (stop - first)
    return weights


def _tiles(inputs, window):
    b, h, w, c = inputs.shape
    rows, columns = h // window, w // window
    inputs = inputs[:, : rows * window, : columns * window]
    return inputs.reshape(b, rows, window, columns, window, c)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _max_along(axis: int, window: int, stride: int, x: Array) -> Array:
    """Returns the maximum over windows along one axis."""
    return functools.reduce(jnp.maximum, _entries(x, axis, window, stride))


def _max_along_fwd(axis, window, stride, x):
    y = _max_along(axis, window, stride, x)
    return y, (x, y)


def _max_along_bwd(axis, window, stride, saved, gradient):
    x, y = saved
    shares, has_maximum = [], jnp.zeros(y.shape, bool)
    for entry in _entries(x, axis, window, stride):
        is_first = (entry == y) & ~has_maximum
        has_maximum = has_maximum | is_first
        shares.append(jnp.where(is_first, gradient, 0))
    # Row stride * q + r is entry r of window q, entry r + stride of window q - 1, and so on. Summing them for each
    # r and interleaving the sums takes a fifteenth of the time of a scatter.
    reach = (window - 1) // stride
    phases = []
    for r in range(stride):
        parts = [_pad(shares[i], axis, i // stride, reach - i // stride) for i in range(r, window, stride)]
        phases.append(sum(parts, jnp.zeros((), x.dtype)))
    phases = jnp.broadcast_arrays(*phases)
    rows = stride * phases[0].shape[axis]
    rows = jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], rows, *x.shape[axis + 1 :])
    rows = lax.slice_in_dim(rows, 0, min(rows.shape[axis], x.shape[axis]), axis=axis)
    return (_pad(rows, axis, 0, x.shape[axis] - rows.shape[axis]),)


_max_along.defvjp(_max_along_fwd, _max_along_bwd)


def _entries(x, axis, window, stride):
    """Returns, for each position in the window, the entries of all windows at that position."""
    last = (x.shape[axis] - window) // stride * stride
    return [lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(window)]


def _pad(x, axis, before, after):
    return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])


def _reduce_window(inputs, initial, reducer, window, stride):
    initial = np.array(initial, inputs.dtype)  # a constant, so that lax recognizes the reducer and differentiates it
    return lax.reduce_window(inputs, initial, reducer, (1, window, window, 1), (1, stride, stride, 1), "VALID")
