"""Local binary patterns: 58 values for each cell of 16 x 16 pixels.

Source: Ojala et al. 2002, in the quantization of VLFeat 0.9.21 (`vl_lbp`), which Dosovitskiy & Brox 2016 invert.
"""

import jax
import jax.numpy as jnp
import numpy as np

from arinv.ops.hog import grey_maps, nan_where_not_finite, sum_cells
from arinv.types import Array, ArrayLike

CELL = 16
DIMENSIONS = 58
# (row, column) of the neighbors, bit 0 first: east, then clockwise with y downwards.
_NEIGHBORS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


def codes() -> np.ndarray:
    """Returns the place in a histogram of each pattern.

    Returns:
      int32 [256]: 7 * start + run - 1 for a single run of 1 to 7 ones that begins at bit `start`; 56 for none or
      eight; 57 for others.
    """
    table = np.full(256, 57, np.int32)
    table[[0, 255]] = 56
    for start in range(8):
        for run in range(1, 8):
            table[sum(1 << (start + i) % 8 for i in range(run))] = 7 * start + run - 1
    return table


def lbp(images: ArrayLike) -> Array:
    """Returns the LBP features of images.

    Args:
      images: float [B, H, W, 3] or [B, H, W, 1] in [0, 1], sides of 16 px or more.

    Returns:
      float32 [B, H // 16, W // 16, 58], of Euclidean norm 1 in each cell; NaN for an image that is not finite. They
      have no gradient.

    Raises:
      UserError: images of another layout, dtype or (where values are known) range, or too small.
    """
    x = grey_maps(images, minimum=CELL)
    height, width = x.shape[1:]
    center = x[:, 1:-1, 1:-1]
    patterns = jnp.zeros(center.shape, jnp.int32)
    for bit, (row, column) in enumerate(_NEIGHBORS):
        neighbor = x[:, 1 + row : height - 1 + row, 1 + column : width - 1 + column]
        patterns += (neighbor > center).astype(jnp.int32) << bit
    inner = jax.nn.one_hot(jnp.asarray(codes())[patterns], DIMENSIONS)
    ones = jnp.pad(inner, ((0, 0), (1, 1), (1, 1), (0, 0)))  # a pixel at the border has no pattern
    histograms = sum_cells(ones, (height // CELL, width // CELL), CELL)
    features = jnp.sqrt(histograms / jnp.maximum(jnp.sum(histograms, axis=-1, keepdims=True), 1e-10))
    return nan_where_not_finite(features, x).astype(jnp.float32)
