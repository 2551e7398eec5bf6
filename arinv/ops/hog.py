"""Histograms of oriented gradients in the form of UoCTTI: 31 values for each cell of 8 x 8 pixels.

Source: Felzenszwalb et al. 2010, as in VLFeat 0.9.21 (`vl_hog`, UoCTTI variant), which Dosovitskiy & Brox 2016 invert.
Nothing is interpolated between orientations; the number of cells is rounded, so that the last one may have 4 pixels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops.colors import grey_values
from arinv.ops.inputs import as_images
from arinv.types import Array, ArrayLike

CELL = 8
DIMENSIONS = 31
_ORIENTATIONS = 9  # undirected; 18 directed
_EPSILON = 1e-4  # of the block norms, for grey images in [0, 1]
_CLIP = 0.2


def _spread(num_pixels: int, num_cells: int, cell: int) -> np.ndarray:
    """Returns the bilinear weights [num_cells, num_pixels] of pixels in cells along one side.

    A pixel lies at (x + 1/2) / cell - 1/2 in units of cells; weights of cells outside are lost.
    """
    position = (np.arange(num_pixels) + 0.5) / cell - 0.5
    return np.maximum(0, 1 - np.abs(position[None, :] - np.arange(num_cells)[:, None])).astype(np.float32)


def sum_cells(values: Array, cells: tuple[int, int], cell: int) -> Array:
    """Returns the sums of values over cells, spread bilinearly.

    Args:
      values: float [B, H, W, K].
      cells: (h, w), the number of cells.
      cell: side of a cell in pixels.

    Returns:
      [B, h, w, K].
    """
    rows, columns = (
        jnp.asarray(_spread(size, count, cell)) for size, count in zip(values.shape[1:3], cells, strict=True)
    )
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("hy,wx,byxk->bhwk", rows, columns, values, precision=exact)


def nan_where_not_finite(features: Array, images: Array) -> Array:
    """Returns features, with NaN for images that are not finite: comparisons with NaN would give finite features.

    Args:
      features: float [B, h, w, K].
      images: float [B, H, W], the images of the features.

    Returns:
      [B, h, w, K].
    """
    finite = jnp.all(jnp.isfinite(images), axis=(1, 2))
    return jnp.where(finite[:, None, None, None], features, jnp.nan)


def grey_maps(images: ArrayLike, *, minimum: int) -> Array:
    """Returns the grey values of images.

    Args:
      images: float [B, H, W, 3] or [B, H, W, 1] in [0, 1], finite or not.
      minimum: smallest side, in pixels.

    Returns:
      float32 [B, H, W].

    Raises:
      UserError: images of another layout, dtype or (where values are known) range, or too small.
    """
    x = grey_values(as_images(images, finite=False).astype(jnp.float32))[..., 0]
    if min(x.shape[1:]) < minimum:
        raise UserError(f"image sides must be {minimum} px or more for these features; got {x.shape[2]}x{x.shape[1]}")
    return x


def _num_cells(side: int) -> int:
    """Returns the number of cells along a side in pixels."""
    return (side + CELL // 2) // CELL


def hog(images: ArrayLike) -> Array:
    """Returns the HOG features of images.

    Args:
      images: float [B, H, W, 3] or [B, H, W, 1] in [0, 1], sides of 4 px or more.

    Returns:
      float32 [B, h, w, 31], h = (H + 4) // 8: 18 directed orientations (k at an angle of 20 k degrees, y downwards), 9
      undirected ones (k and k + 9), and the texture energies of the blocks up left, up right, down left, down right;
      NaN for an image that is not finite.

    Raises:
      UserError: images of another layout, dtype or (where values are known) range, or too small.
    """
    x = grey_maps(images, minimum=CELL // 2)
    magnitude, bins = _gradients(x)
    cells = _num_cells(x.shape[1]), _num_cells(x.shape[2])
    directed = sum_cells(magnitude[..., None] * jax.nn.one_hot(bins, 2 * _ORIENTATIONS), cells, CELL)
    undirected = directed[..., :_ORIENTATIONS] + directed[..., _ORIENTATIONS:]
    # Clipped values of the four blocks that a cell is in: [B, h, w, 4, K].
    scales = _block_scales(jnp.sum(jnp.square(undirected), axis=-1))[..., None]
    clipped_directed = jnp.minimum(_CLIP, directed[..., None, :] * scales)
    clipped_undirected = jnp.minimum(_CLIP, undirected[..., None, :] * scales)
    texture = jnp.sum(clipped_undirected, axis=-1) / math.sqrt(2 * _ORIENTATIONS)
    halves = (0.5 * jnp.sum(x, axis=-2) for x in (clipped_directed, clipped_undirected))
    return nan_where_not_finite(jnp.concatenate([*halves, texture], axis=-1), x).astype(jnp.float32)


def _gradients(x: Array) -> tuple[Array, Array]:
    """Returns magnitude and directed bin [B, H, W] of central differences; 0 at the border, which has none."""
    inner = (slice(None), slice(1, -1), slice(1, -1))
    dx = (x[:, :, 2:] - x[:, :, :-2])[:, 1:-1]
    dy = (x[:, 2:] - x[:, :-2])[:, :, 1:-1]
    angles = np.arange(_ORIENTATIONS) * np.pi / _ORIENTATIONS
    projections = [dx * np.float32(np.cos(a)) + dy * np.float32(np.sin(a)) for a in angles]
    projections = jnp.stack(projections, axis=-1)
    best = jnp.argmax(jnp.abs(projections), axis=-1)
    signs = jnp.take_along_axis(projections, best[..., None], axis=-1)[..., 0]
    square = jnp.square(dx) + jnp.square(dy)
    # The root has no gradient at 0.
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    magnitude = jnp.zeros_like(x).at[inner].set(length)
    bins = jnp.zeros(x.shape, jnp.int32).at[inner].set(jnp.where(signs >= 0, best, best + _ORIENTATIONS))
    return magnitude, bins


def _block_scales(energy: Array) -> Array:
    """Returns 1 / norm of the blocks up left, up right, down left and down right of each cell: [B, h, w, 4]."""
    padded = jnp.pad(energy, ((0, 0), (1, 1), (1, 1)), mode="edge")
    blocks = padded[:, :-1, :-1] + padded[:, 1:, :-1] + padded[:, :-1, 1:] + padded[:, 1:, 1:]  # [B, h + 1, w + 1]
    corners = (blocks[:, :-1, :-1], blocks[:, :-1, 1:], blocks[:, 1:, :-1], blocks[:, 1:, 1:])
    return jax.lax.rsqrt(jnp.stack(corners, axis=-1) + _EPSILON)
