"""Random windows of training images, drawn for each image on its own, inside the jitted step.

Images are [B, H, W, C], float32 in [0, 1]; where a window is only moved, uint8 too.
"""

import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.ops.images import to_float
from arinv.types import Array


def random_crop(key: Array, images: Array, *, padding: int) -> Array:
    """Returns images of the same size, shifted by up to `padding` pixels each way, black moving in.

    Args:
      key: PRNG key.
      images: [B, H, W, C], any dtype.
      padding: pixels of black added on every side before a window of the old size is cut.

    Returns:
      [B, H, W, C] of the same dtype.
    """
    batch, *shape = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)
    # On a CPU this is two to ten times faster than take_along_axis, lax.map or one-hot products.
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), shape))(padded, corners)


def random_window(key: Array, images: Array, *, size: int) -> Array:
    """Returns a square window of each image, cut at a random place.

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
        raise UserError(f"cannot cut windows of {size} px from images of {height} x {width}; take larger images")
    corners = jax.random.randint(key, (batch, 2), 0, jnp.array([height, width])[None, :] - size + 1)
    cut = (size, size, channels)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), cut))(images, corners)


def random_resized_crop(
    key: Array,
    images: Array,
    *,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Array:
    """Returns a window of random area and shape, brought to `size` with antialiasing.

    Args:
      key: PRNG key.
      images: float [B, H, W, C] in [0, 1].
      size: side of the result, in pixels.
      scale: least and greatest area of the window, as a fraction of the image's.
      ratio: least and greatest width / height of the window, drawn on a log scale.

    Returns:
      float32 [B, size, size, C] in [0, 1].

    Source: Szegedy et al. 2015, section 6; a window too long for the image is cut to its side.
    """
    images = to_float(images)
    batch, height, width, channels = images.shape
    keys = jax.random.split(key, 3)
    area = jax.random.uniform(keys[0], (batch,), minval=scale[0], maxval=scale[1]) * height * width
    low, high = jnp.log(jnp.array(ratio))
    aspect = jnp.exp(jax.random.uniform(keys[1], (batch,), minval=low, maxval=high))
    sides = jnp.stack(
        [
            jnp.clip(jnp.sqrt(area / aspect), 1.0, height),
            jnp.clip(jnp.sqrt(area * aspect), 1.0, width),
        ],
        axis=1,
    )
    room = jnp.array([height, width], jnp.float32)[None, :] - sides
    corners = jax.random.uniform(keys[2], (batch, 2)) * room

    def cut(image, corner, side):
        zoom = size / side
        return jax.image.scale_and_translate(
            image, (size, size, channels), (0, 1), zoom, -corner * zoom, method="linear"
        )

    return jnp.clip(jax.vmap(cut)(images, corners, sides), 0.0, 1.0)
