"""Conversions between ranges of images, grids of images, and padding to sides that networks take.

Images are float32 [B, H, W, C] in [0, 1]; `images_u8` are uint8 in 0..255, `images_pm1` in [-1, 1].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops.inputs import as_array, check_count
from arinv.types import Array, ArrayLike


def to_float(images_u8: ArrayLike) -> Array:
    """Returns uint8 images as float32 in [0, 1]; floating-point images keep their values.

    Args:
      images_u8: uint8 [...] in 0..255, or floating point [...] in [0, 1].

    Returns:
      float32 [...] in [0, 1].

    Raises:
      UserError: integers other than uint8, whose range is unspecified.
    """
    images = jnp.asarray(as_array(images_u8, "images"))
    if images.dtype == jnp.uint8:
        # A product, because XLA may replace a division by one, and compiled and eager calls would then
        # differ in the last bit.
        return images.astype(jnp.float32) * np.float32(1 / 255)
    return _floating(images).astype(jnp.float32)


def from_pm1(images_pm1: ArrayLike) -> Array:
    """Returns images in [-1, 1] (such as the output of a tanh) as images in [0, 1], clipped.

    Args:
      images_pm1: floating point [...] in [-1, 1].

    Returns:
      Floating point [...] in [0, 1].

    Raises:
      UserError: integers.
    """
    return jnp.clip((_floating(as_array(images_pm1, "images")) + 1.0) * 0.5, 0.0, 1.0)


def to_uint8(images: ArrayLike) -> Array:
    """Returns images in [0, 1] as uint8: clipped, then rounded, halves upwards.

    Args:
      images: floating point [...] in [0, 1]; values outside are clipped.

    Returns:
      uint8 [...] in 0..255; `to_uint8(to_float(x))` is x. NaN becomes 0.

    Raises:
      UserError: integers.
    """
    levels = jnp.clip(_floating(as_array(images, "images")).astype(jnp.float32), 0.0, 1.0) * 255.0
    return jnp.nan_to_num(jnp.floor(levels + 0.5)).astype(jnp.uint8)


def _floating(images: Array) -> Array:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images must be uint8 in 0..255 or floating point in [0, 1]; got {images.dtype}")
    return jnp.asarray(images)


def to_rgb(images: Array) -> Array:
    """Returns images with three channels, equal ones where the images are grey.

    Args:
      images: [B, H, W, C], C 1 or 3.

    Returns:
      [B, H, W, 3].
    """
    return jnp.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def resize_images(images: Array, side: int) -> Array:
    """Returns square images by bilinear interpolation, with antialiasing where they become smaller.

    Args:
      images: float [B, H, W, C], any value range.
      side: side of the result, in pixels.

    Returns:
      [B, side, side, C], of the same range.
    """
    if images.shape[1:3] == (side, side):
        return images
    return jax.image.resize(images, (images.shape[0], side, side, images.shape[3]), "linear", antialias=True)


def image_grid(rows: Sequence[ArrayLike], *, gap: int = 2) -> np.ndarray:
    """Returns one image that shows several rows of images on white.

    Args:
      rows: each [N, H, W, C], floating point in [0, 1] or uint8, of one H and W; N may differ, C is
        1 or 3.
      gap: width of the white border around each image, in pixels.

    Returns:
      uint8 [H', W', 3].

    Raises:
      UserError: no rows, or images of different sizes.
    """
    rows = [np.asarray(row) for row in rows]
    sizes = {row.shape[1:3] for row in rows}
    if len(sizes) != 1:
        raise UserError(f"image_grid needs rows of images of one size; got {sorted(sizes)}")
    height, width = sizes.pop()
    columns = max(len(row) for row in rows)
    shape = (len(rows) * (height + gap) + gap, columns * (width + gap) + gap, 3)
    grid = np.full(shape, 255, np.uint8)
    for i, row in enumerate(rows):
        top = gap + i * (height + gap)
        for j, image in enumerate(row if row.dtype == np.uint8 else np.asarray(to_uint8(row))):
            left = gap + j * (width + gap)
            grid[top : top + height, left : left + width] = image
    return grid


def padded_size(size: tuple[int, int], *, multiple: int, edge: int = 0) -> tuple[int, int]:
    """Returns the height and width that `pad_images` gives.

    Args:
      size: height and width, in pixels, each 1 or more.
      multiple: divisor of both sides of the result, 1 or more.
      edge: pixels of reflection on each side, 0 or more.

    Returns:
      Height and width, in pixels.

    Raises:
      UserError: a multiple below 1, or a negative edge.
    """
    check_count(multiple, "multiple")
    check_count(edge, "edge", minimum=0)
    return tuple(-(-(side + 2 * edge) // multiple) * multiple for side in size)


def pad_images(images: ArrayLike, *, multiple: int, edge: int = 0) -> ArrayLike:
    """Returns images padded by reflection on all four sides, then by edge replication at the right and bottom.

    Args:
      images: [B, H, W, C], of any dtype.
      multiple: divisor of both sides of the result, 1 or more.
      edge: pixels of reflection on each side, 0 or more; images smaller than that are reflected repeatedly.

    Returns:
      [B, H', W', C] of the same dtype; a NumPy array stays one.

    Raises:
      UserError: a multiple below 1, or a negative edge.

    Source: the released code of Rojas-Gomez et al. 2022 (there 224 and, optionally, 224).
    """
    if getattr(images, "ndim", None) != 4 or 0 in images.shape[1:]:
        raise UserError(f"images must be [batch, height, width, channels]; got shape {np.shape(images)}")
    numpy = np if isinstance(images, np.ndarray) else jnp
    height, width = images.shape[1:3]
    sides = padded_size((height, width), multiple=multiple, edge=edge)
    if edge:
        images = numpy.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="reflect")
    missing = (sides[0] - height - 2 * edge, sides[1] - width - 2 * edge)
    return numpy.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def crop_images(images: ArrayLike, size: tuple[int, int], *, edge: int = 0) -> ArrayLike:
    """Returns images without the padding that `pad_images` added.

    Args:
      images: padded images [B, H', W', C].
      size: height and width before the padding, in pixels.
      edge: pixels of reflection on each side, as passed to `pad_images`.

    Returns:
      [B, H, W, C].
    """
    return images[:, edge : edge + size[0], edge : edge + size[1]]
