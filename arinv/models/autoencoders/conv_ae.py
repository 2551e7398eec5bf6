"""The convolutional autoencoder of the Generative Encoder, and the same encoder with a distribution of codes.

The latter is that of AEGAN, whose decoder is the generator of a GAN.

Source: Generative Encoder, Table 1 and section 4.5.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.layers import LinenConv
from arinv.ops import pooling
from arinv.ops.channels import flatten_rows
from arinv.ops.inputs import LOOSE_BOUNDS, as_images
from arinv.types import Array

_WIDTHS = (32, 64, 128, 256, 512, 1024)


def stage_widths(image_size: int) -> tuple[int, ...]:
    """Returns the features of the stages, each of which halves the side: six, or fewer for images below 64 px.

    Args:
      image_size: side of the images, in pixels.

    Returns:
      Numbers of features, one per stage.

    Raises:
      UserError: a side that six halvings, or those that it has, do not divide.
    """
    if image_size < 2:
        raise UserError(f"the autoencoder halves the side of its images, which must be 2 px or more; got {image_size}")
    count = min(len(_WIDTHS), image_size.bit_length() - 1)
    if image_size % (1 << count):
        raise UserError(
            f"the autoencoder halves the side of its images {count} times; {image_size} px is not a multiple of "
            f"{1 << count}"
        )
    return _WIDTHS[:count]


class ConvEncoder(nn.Module):
    """Images [B, H, W, C] in [0, 1] -> codes [B, K]: 3x3 convolutions, ReLU and 2x2 max-pools, then a dense layer.

    7,337,024 parameters at 128 px.

    Attributes:
      latent_size: K of the codes.
      dtype: type of the computation; parameters and codes stay float32.
    """

    latent_size: int = 256
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Returns the codes of square images.

        Raises:
          UserError: images that are not square, of a size that cannot be halved, or far from [0, 1].
        """
        images = as_images(images, bounds=LOOSE_BOUNDS)
        if images.ndim != 4 or images.shape[1] != images.shape[2]:
            raise UserError(f"images must be square [B, S, S, C]; got shape {images.shape}")
        x = (2 * images.astype(jnp.float32) - 1).astype(self.dtype)
        for i, width in enumerate(stage_widths(images.shape[1])):
            x = nn.relu(LinenConv(width, (3, 3), dtype=self.dtype, name=f"conv{i}")(x))
            x = pooling.max_pool(x, 2, 2)
        codes = nn.Dense(self.latent_size, dtype=self.dtype, name="dense")(flatten_rows(x))
        return codes.astype(jnp.float32)


class ConvDecoder(nn.Module):
    """Codes [B, K] -> images [B, H, W, C] in [0, 1], the mirror of `ConvEncoder`.

    7,339,843 parameters at 128 px.

    Attributes:
      image_size: side of the images in pixels.
      channels: number of channels of the images, 1 or 3.
      dtype: type of the computation; parameters and images stay float32.
    """

    image_size: int = 128
    channels: int = 3
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, codes: Array, *, train: bool = False) -> Array:
        """Returns the images of codes [B, K].

        Raises:
          UserError: codes of another rank, or an image size that cannot be halved.
        """
        if getattr(codes, "ndim", 0) != 2:
            raise UserError(f"codes must be [B, K]; got {getattr(codes, 'shape', type(codes).__name__)}")
        widths = stage_widths(self.image_size)
        side = self.image_size >> len(widths)
        x = nn.Dense(side * side * widths[-1], dtype=self.dtype, name="dense")(codes.astype(self.dtype))
        x = x.reshape(x.shape[0], side, side, widths[-1])
        for i, width in enumerate((*widths[-2::-1], self.channels)):
            x = LinenConv(width, (3, 3), dtype=self.dtype, name=f"conv{i}")(pooling.upsample_nearest(x))
            x = nn.relu(x) if i < len(widths) - 1 else x
        return (jnp.tanh(x.astype(jnp.float32)) + 1) / 2


class GaussianEncoder(nn.Module):
    """Images [B, H, W, C] in [0, 1] -> the means [B, K] of normal distributions of codes, by `ConvEncoder`.

    10,483,520 parameters at 128 px with 512 means and their variances; 8,385,856 with means alone. The paper states a
    divergence and not its variances: means and variances are those of a variational autoencoder, which it cites.

    Attributes:
      latent_size: K of the codes.
      learned_variance: whether the variances are outputs; else they are 1.
      dtype: type of the computation; parameters and outputs stay float32.
    """

    latent_size: int = 512
    learned_variance: bool = True
    dtype: jax.typing.DTypeLike = jnp.float32

    def setup(self):
        """Builds the network."""
        self.conv = ConvEncoder(self.latent_size * (2 if self.learned_variance else 1), dtype=self.dtype)

    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Returns the means of square images."""
        return self.moments(images)[0]

    def moments(self, images: Array) -> tuple[Array, Array]:
        """Returns the means of square images, and the logarithms of their variances, each [B, K].

        Args:
          images: float [B, S, S, C] in [0, 1].

        Returns:
          Means and log-variances, each float32 [B, K]; the latter are zeros unless `learned_variance`.
        """
        outputs = self.conv(images)
        if not self.learned_variance:
            return outputs, jnp.zeros_like(outputs)
        means, log_variances = jnp.split(outputs, 2, axis=1)
        return means, log_variances
