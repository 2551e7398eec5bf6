"""Ranges and checks of images, and grids of them for pictures.

Images are float32 [B, H, W, C] in [0, 1]; `images_u8` are uint8 in 0..255, `images_pm1` in [-1, 1].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.types import Array, ArrayLike

_TOLERANCE = 1e-6  # what float32 arithmetic may leave outside of [0, 1]


def to_float(images_u8: ArrayLike) -> Array:
    """Returns uint8 images as float32 in [0, 1]; floating-point images keep their values.

    Args:
      images_u8: uint8 [...] in 0..255, or floating point [...] in [0, 1].

    Returns:
      float32 [...] in [0, 1].
    """
    images = jnp.asarray(images_u8)
    if images.dtype == jnp.uint8:
        # A product: XLA turns the division into one where it can, and then results would differ
        # in the last bit between compiled and plain calls.
        return images.astype(jnp.float32) * np.float32(1 / 255)
    return images.astype(jnp.float32)


def from_pm1(images_pm1: ArrayLike) -> Array:
    """Returns images in [-1, 1] (such as the output of a tanh) as images in [0, 1], clipped.

    Args:
      images_pm1: floating point [...] in [-1, 1].

    Returns:
      Floating point [...] in [0, 1].
    """
    return jnp.clip((jnp.asarray(images_pm1) + 1.0) * 0.5, 0.0, 1.0)


def to_uint8(images: ArrayLike) -> Array:
    """Returns images in [0, 1] as uint8: clipped, then rounded, halves upwards.

    Args:
      images: floating point [...] in [0, 1]; values outside are clipped.

    Returns:
      uint8 [...] in 0..255; `to_uint8(to_float(x))` is x.
    """
    levels = jnp.clip(jnp.asarray(images).astype(jnp.float32), 0.0, 1.0) * 255.0
    return jnp.floor(levels + 0.5).astype(jnp.uint8)


def check_images(images: ArrayLike, name: str = "images") -> None:
    """Raises unless these are finite floating-point images [B, H, W, C] in [0, 1].

    Values are looked at where they are known: inside jit, and for arrays spread over several
    processes, only shape and dtype are checked.

    Args:
      images: what a caller handed in.
      name: what to call it in the error.

    Raises:
      UserError: another rank, layout, dtype or range; the message gives what was found.
    """
    shape, dtype = tuple(images.shape), images.dtype
    if len(shape) != 4:
        raise UserError(f"{name} have shape {shape}; must be [batch, height, width, channels]")
    if shape[-1] not in (1, 3):
        hint = "; transpose them with (0, 2, 3, 1)" if shape[1] in (1, 3) else ""
        raise UserError(f"{name} have shape {shape}; the last axis must be 1 or 3 channels{hint}")
    if not jnp.issubdtype(dtype, jnp.floating):
        hint = "; use arinv.ops.images.to_float" if dtype == np.uint8 else ""
        raise UserError(f"{name} have dtype {dtype}; must be floating point in [0, 1]{hint}")
    if isinstance(images, jax.core.Tracer) or 0 in shape:
        return
    if isinstance(images, jax.Array) and not images.is_fully_addressable:
        return
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise UserError(f"{name} hold values that are not finite (NaN or infinity); must be in [0, 1]")
    if low < -_TOLERANCE or high > 1.0 + _TOLERANCE:
        fix = "divide by 255" if high > 1.5 else "map them from [-1, 1] with arinv.ops.images.from_pm1"
        if high <= 1.5 and low >= -0.5:
            fix = "clip them"
        raise UserError(f"{name} range from {low:.6g} to {high:.6g}; must be in [0, 1]: {fix}")


def image_grid(rows: Sequence[ArrayLike], *, gap: int = 2) -> np.ndarray:
    """Returns one picture of several rows of images, on white.

    Args:
      rows: each [N, H, W, C], floating point in [0, 1] or uint8, of one H and W; N may differ, C is
        1 or 3.
      gap: white pixels between images and around them.

    Returns:
      uint8 [H', W', 3].

    Raises:
      UserError: no row, or images of different sizes.
    """
    rows = [np.asarray(row) for row in rows]
    sizes = {row.shape[1:3] for row in rows}
    if len(sizes) != 1:
        raise UserError(f"image_grid needs rows of images of one size; got {sorted(sizes)}")
    height, width = sizes.pop()
    columns = max(len(row) for row in rows)
    shape = (len(rows) * (height + gap) + gap, columns * (width + gap) + gap, 3)
    picture = np.full(shape, 255, np.uint8)
    for i, row in enumerate(rows):
        top = gap + i * (height + gap)
        for j, image in enumerate(row if row.dtype == np.uint8 else np.asarray(to_uint8(row))):
            left = gap + j * (width + gap)
            picture[top : top + height, left : left + width] = image
    return picture
