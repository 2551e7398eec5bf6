"""Padding of images to sides that networks take, and cropping to the sides that they had."""

import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops.inputs import check_count
from arinv.types import ArrayLike


def padded_size(size: tuple[int, int], *, multiple: int, edge: int = 0) -> tuple[int, int]:
    """Returns the height and width that `pad_images` gives.

    Args:
      size: height and width, in pixels, each 1 or more.
      multiple: as for `invert_padded`.
      edge: likewise.

    Returns:
      Height and width, in pixels.

    Raises:
      UserError: a multiple below 1, or a negative edge.
    """
    check_count(multiple, "multiple")
    check_count(edge, "edge", least=0)
    return tuple(-(-(side + 2 * edge) // multiple) * multiple for side in size)


def pad_images(images: ArrayLike, *, multiple: int, edge: int = 0) -> ArrayLike:
    """Returns images reflected beyond all four sides, then continued to the right and downwards by their last pixels.

    Args:
      images: [B, H, W, C], of any dtype.
      multiple: what both sides become a multiple of.
      edge: pixels of reflection on each side; images smaller than that are reflected again and again.

    Returns:
      [B, H', W', C] of the same dtype; a NumPy array stays one.

    Raises:
      UserError: a multiple below 1, or a negative edge.

    Source: the released code of Rojas-Gomez et al. 2022 (there 224 and, optionally, 224).
    """
    if getattr(images, "ndim", None) != 4 or 0 in images.shape[1:]:
        raise UserError(
            f"images of shape {np.shape(images)} cannot be padded; must be [batch, height, width, channels]"
        )
    numpy = np if isinstance(images, np.ndarray) else jnp
    height, width = images.shape[1:3]
    sides = padded_size((height, width), multiple=multiple, edge=edge)
    if edge:
        images = numpy.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="reflect")
    missing = (sides[0] - height - 2 * edge, sides[1] - width - 2 * edge)
    return numpy.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def crop_images(images: ArrayLike, size: tuple[int, int], *, edge: int = 0) -> ArrayLike:
    """Returns what of padded images lies where the images were.

    Args:
      images: [B, H', W', C].
      size: height and width before the padding, in pixels.
      edge: that they were padded with.

    Returns:
      [B, H, W, C].
    """
    return images[:, edge : edge + size[0], edge : edge + size[1]]
