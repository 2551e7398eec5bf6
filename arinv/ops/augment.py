"""Random augmentation of training images, drawn for each image independently, inside the jitted step.

Images are float32 [B, H, W, C] in [0, 1] and stay in that range; crops and flips also take uint8. A change of
strength 0 is the identity.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy import ndimage

from arinv.errors import UserError
from arinv.ops.colors import grey_values, shift_hue
from arinv.ops.images import to_float
from arinv.ops.inputs import check_count, check_number
from arinv.types import Array

# Principal components of the RGB values of ImageNet, in units of [0, 1].
_PCA_VALUES = (0.2175, 0.0188, 0.0045)
_PCA_VECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def augment(
    key: Array,
    images: Array,
    *,
    crop_padding: int = 0,
    flip: bool = False,
    color_jitter: float = 0.0,
    hue: float = 0.0,
    rotate_degrees: float = 0.0,
    lighting: float = 0.0,
    window: int = 0,
) -> Array:
    """Returns augmented training images: the window first, then the other changes in the order of the arguments.

    The randomness of one change does not depend on which others are applied.

    Args:
      key: PRNG key.
      images: uint8 in 0..255 or float in [0, 1], [B, H, W, C].
      crop_padding: `padding` of `random_crop`, in pixels; 0: off.
      flip: mirror half of the images.
      color_jitter: brightness, contrast and saturation of `random_color_jitter`.
      hue: `hue` of `random_color_jitter`, 0 to 0.5.
      rotate_degrees: largest angle of `random_rotate`.
      lighting: std of `random_lighting`.
      window: side of `random_window`, in pixels, for networks whose images are smaller than the source's; 0: off.

    Returns:
      float32 [B, H, W, C] in [0, 1]; [B, window, window, C] with a window.

    Raises:
      UserError: a strength out of range (see `check_strengths`), grey images with lighting, or images smaller than the
        window.
    """
    strengths = {
        "crop_padding": crop_padding,
        "color_jitter": color_jitter,
        "hue": hue,
        "rotate_degrees": rotate_degrees,
        "lighting": lighting,
        "window": window,
    }
    check_strengths(strengths, image_size=images.shape[1])
    keys = jax.random.split(key, 7)  # of each change; the first is of none, so that runs keep their draws
    if window:
        images = random_window(keys[6], images, size=window)
    if crop_padding:
        images = random_crop(keys[1], images, padding=crop_padding)
    if flip:
        images = random_flip(keys[2], images)
    images = jnp.clip(to_float(images), 0.0, 1.0)
    if color_jitter or hue:
        factors = dict.fromkeys(("brightness", "contrast", "saturation"), color_jitter)
        images = random_color_jitter(keys[3], images, **factors, hue=hue)
    if rotate_degrees:
        images = random_rotate(keys[4], images, degrees=rotate_degrees)
    if lighting:
        images = random_lighting(keys[5], images, std=lighting)
    return images.astype(jnp.float32)


def check_strengths(options: Mapping[str, Any], *, image_size: int, prefix: str = "") -> None:
    """Checks the strengths among options of `augment`.

    Args:
      options: name -> value.
      image_size: height of the images, in pixels.
      prefix: prefix of the names in errors, such as "augmentation.".

    Raises:
      UserError: one that is negative or too large, a padding of more than half of the image among them, or not a
        number; pixels that are not whole.
    """
    limits = {"crop_padding": image_size // 2, "color_jitter": math.inf, "hue": 0.5, "rotate_degrees": 180.0}
    for name, limit in {**limits, "lighting": math.inf, "window": math.inf}.items():
        value = options.get(name, 0)
        if name in ("crop_padding", "window"):
            check_count(value, f"{prefix}{name}", minimum=0)
        check_number(value, f"{prefix}{name}", minimum=0.0, maximum=limit)


def random_crop(key: Array, images: Array, *, padding: int) -> Array:
    """Returns images of the same size, shifted by up to `padding` pixels in each direction and padded with black.

    Args:
      key: PRNG key.
      images: [B, H, W, C], any dtype.
      padding: pixels of black added on every side before a window of the original size is cropped.

    Returns:
      [B, H, W, C] of the same dtype.
    """
    batch, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)
    # On a CPU this is two to ten times faster than take_along_axis, lax.map or one-hot products.
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), shape))(padded, corners)


def random_window(key: Array, images: Array, *, size: int) -> Array:
    """Returns a square window of each image, at a random position.

    Args:
      key: PRNG key.
      images: [B, H, W, C], any dtype, H and W at least `size`.
      size: side of the windows, in pixels.

    Returns:
      [B, size, size, C] of the same dtype.

    Raises:
      UserError: images smaller than the window.
    """
    batch, height, width, channels = images.shape
    if min(height, width) < size:
        raise UserError(f"cannot crop windows of {size} px from images of {height} x {width}; take larger images")
    corners = jax.random.randint(key, (batch, 2), 0, jnp.array([height, width])[None, :] - size + 1)
    window = (size, size, channels)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), window))(images, corners)


def random_flip(key: Array, images: Array) -> Array:
    """Returns images mirrored left to right with probability one half.

    Args:
      key: PRNG key.
      images: [B, H, W, C], any dtype.

    Returns:
      [B, H, W, C] of the same dtype.
    """
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def random_rotate(key: Array, images: Array, *, degrees: float) -> Array:
    """Returns images rotated about their center with bilinear interpolation, the corners filled with black.

    Args:
      key: PRNG key.
      images: float [B, H, W, C] in [0, 1].
      degrees: the angle is uniform in [-degrees, degrees].

    Returns:
      float32 [B, H, W, C] in [0, 1].
    """
    images = to_float(images)
    batch, height, width, _ = images.shape
    limit = jnp.deg2rad(degrees)
    angles = jax.random.uniform(key, (batch,), minval=-limit, maxval=limit)
    y = (jnp.arange(height) - (height - 1) / 2)[:, None]
    x = (jnp.arange(width) - (width - 1) / 2)[None, :]
    y, x = jnp.broadcast_arrays(y, x)

    def turn(image, angle):
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        rows = cosine * y - sine * x + (height - 1) / 2
        columns = sine * y + cosine * x + (width - 1) / 2
        sample = lambda channel: ndimage.map_coordinates(channel, [rows, columns], order=1)  # noqa: E731
        return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)

    return jnp.clip(jax.vmap(turn)(images, angles), 0.0, 1.0)


def random_color_jitter(
    key: Array,
    images: Array,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Array:
    """Returns images with random changes of brightness, contrast, saturation and hue, in this order.

    Args:
      key: PRNG key.
      images: float [B, H, W, 3] in [0, 1].
      brightness: the factor is uniform in [max(0, 1 - brightness), 1 + brightness].
      contrast: likewise, about the mean grey of the image.
      saturation: likewise, about the grey of each pixel.
      hue: the shift is uniform in [-hue, hue], as a fraction of the color circle; at most 0.5.

    Returns:
      float32 [B, H, W, 3] in [0, 1], clipped after every change.

    Source: torchvision ColorJitter, which also draws the order at random.
    """
    images = to_float(images)
    keys = jax.random.split(key, 4)
    if brightness:
        factor = _factor(keys[0], images, brightness)
        images = jnp.clip(factor * images, 0.0, 1.0)
    if contrast:
        factor = _factor(keys[1], images, contrast)
        mean = grey_values(images).mean(axis=(1, 2, 3), keepdims=True)
        images = jnp.clip(mean + factor * (images - mean), 0.0, 1.0)
    if saturation:
        factor = _factor(keys[2], images, saturation)
        grey = grey_values(images)
        images = jnp.clip(grey + factor * (images - grey), 0.0, 1.0)
    if hue:
        shift = jax.random.uniform(keys[3], (images.shape[0], 1, 1), minval=-hue, maxval=hue)
        images = shift_hue(images, shift)
    return images


def _factor(key: Array, images: Array, strength: float) -> Array:
    shape = (images.shape[0], 1, 1, 1)
    return jax.random.uniform(key, shape, minval=max(0.0, 1.0 - strength), maxval=1.0 + strength)


def random_lighting(key: Array, images: Array, *, std: float) -> Array:
    """Returns images with a random color added, along the principal components of ImageNet's colors.

    Args:
      key: PRNG key.
      images: float [B, H, W, 3] in [0, 1].
      std: standard deviation of the three coefficients (0.1 in the paper).

    Returns:
      float32 [B, H, W, 3] in [0, 1], clipped.

    Raises:
      UserError: grey images.

    Source: Krizhevsky et al. 2012, section 4.1.
    """
    images = to_float(images)
    if images.shape[-1] != 3:
        raise UserError(f"lighting adds colors: images must have 3 channels; got shape {images.shape}")
    alpha = std * jax.random.normal(key, (images.shape[0], 3))
    color = (alpha * jnp.array(_PCA_VALUES)[None, :]) @ jnp.array(_PCA_VECTORS).T
    return jnp.clip(images + color[:, None, None, :], 0.0, 1.0)
