"""Inversion of images of other sizes than a generator was trained on: enlarged ones, and images of any size.

Encoder and generator are fully convolutional: a reconstruction has the size of its image if its sides are multiples of
the encoder's stride. Images of other sizes are padded, and their reconstructions cropped.
Images are float32 [B, H, W, C] in [0, 1]; padding and cropping take uint8 as well.

Source: Rojas-Gomez et al. 2022, sections 4.3 and A1.2, and the padding of the released code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.ops.images import crop_images, pad_images
from arinv.ops.inputs import as_images, check_count, decode, layer_features
from arinv.types import Array, ArrayLike, DecodeFn, FeaturesFn

COMPARISONS = ("enlarged", "original")  # sizes at which an enlarged image is compared with its reconstruction


class ScaledInversion(NamedTuple):
    """Images and reconstructions to compare after an inversion of enlarged images.

    Attributes:
      targets: [B, S, S, C] in [0, 1].
      reconstructions: [B, S, S, C] in [0, 1].
    """

    targets: Array
    reconstructions: Array


def invert(decode_fn: DecodeFn, features_fn: FeaturesFn, images: ArrayLike, *, layer: str) -> Array:
    """Returns the reconstructions of images from their features.

    Args:
      decode_fn: features [B, h, w, c] -> images [B, H, W, C] in [0, 1].
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images: float32 [B, H, W, C] in [0, 1], with sides that are multiples of the encoder's stride.
      layer: the feature that is inverted.

    Returns:
      [B, H, W, C] in [0, 1].

    Raises:
      UserError: images or reconstructions outside [0, 1], an unknown layer, or reconstructions of another size than the
        images.

    Source: Rojas-Gomez et al. 2022, section 3.1.
    """
    images = as_images(images)
    (features,) = layer_features(features_fn, images, (layer,))
    reconstructions = decode(decode_fn, features)
    if reconstructions.shape != images.shape:
        sizes = (f"{x.shape[1]} x {x.shape[2]} px" for x in (images, reconstructions))
        raise UserError("inverting {} of images of {} gives {}; pad them first".format(layer, *sizes))
    return reconstructions


def invert_scaled(
    decode_fn: DecodeFn,
    features_fn: FeaturesFn,
    images: ArrayLike,
    *,
    layer: str,
    scale: int,
    compare: str = "enlarged",
) -> ScaledInversion:
    """Enlarges images, inverts them, and returns both for comparison.

    Args:
      decode_fn: features -> images in [0, 1].
      features_fn: images in [0, 1] -> named features.
      images: float32 [B, H, W, C] in [0, 1], with sides that are multiples of the encoder's stride.
      layer: the feature that is inverted.
      scale: whole factor on both sides, 1 or more.
      compare: "enlarged" keeps both at `scale` times the size; "original" reduces the reconstructions to the size of
        `images`, bilinearly with antialiasing.

    Returns:
      Targets and reconstructions of one size.

    Raises:
      UserError: a scale below 1, an unknown comparison or layer, or images of unsuitable size.

    Source: Rojas-Gomez et al. 2022, section 4.3, scenario 1, and Table A1, which state neither the interpolation
    (bilinear here) nor the size of the comparison (enlarged by default here).
    """
    if compare not in COMPARISONS:
        raise unknown("comparison", compare, COMPARISONS)
    images = as_images(images)
    enlarged = enlarge(images, scale=scale)
    reconstructions = invert(decode_fn, features_fn, enlarged, layer=layer)
    if compare == "enlarged":
        return ScaledInversion(enlarged, reconstructions)
    return ScaledInversion(images, jax.image.resize(reconstructions, images.shape, "linear", antialias=True))


def enlarge(images: ArrayLike, *, scale: int) -> Array:
    """Returns images with both sides multiplied by a whole number, by bilinear interpolation.

    Args:
      images: [B, H, W, C].
      scale: the factor, 1 or more.

    Returns:
      [B, scale H, scale W, C]; `images` themselves for 1.

    Raises:
      UserError: a factor that is not a whole number of 1 or more.
    """
    factor = check_count(scale, "scale")
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise UserError(f"images have shape {images.shape}; must be [batch, height, width, channels]")
    b, h, w, c = images.shape
    return images if factor == 1 else jax.image.resize(images, (b, factor * h, factor * w, c), "linear")


def invert_padded(
    decode_fn: DecodeFn, features_fn: FeaturesFn, images: ArrayLike, *, layer: str, multiple: int, edge: int = 0
) -> Array:
    """Returns the reconstructions of images of any size, which are padded and then cropped.

    Under jit each size of images is compiled. For many sizes, pad on the host (`ops.images` takes NumPy arrays), so
    that each padded size is compiled once.

    Args:
      decode_fn: features -> images in [0, 1].
      features_fn: images in [0, 1] -> named features.
      images: float32 [B, H, W, C] in [0, 1].
      layer: the feature that is inverted.
      multiple: both sides are padded to multiples of it; itself a multiple of the encoder's stride.
      edge: pixels of reflection added on all four sides before, against artefacts at the border; 0 for none.

    Returns:
      [B, H, W, C] in [0, 1].

    Raises:
      UserError: as `pad_images` and `invert`.

    Source: Rojas-Gomez et al. 2022, section 4.3, scenario 2; multiples of 224 and the optional edge of 224 as in the
    released code.
    """
    images = as_images(images)
    padded = pad_images(images, multiple=multiple, edge=edge)
    return crop_images(invert(decode_fn, features_fn, padded, layer=layer), images.shape[1:3], edge=edge)
