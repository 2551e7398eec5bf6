"""The convolutional autoencoder of the Generative Encoder: an encoder to a vector and a decoder from it.

Source: Generative Encoder, Table 1.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.ops import pooling
from arinv.types import Array

_WIDTHS = (32, 64, 128, 256, 512, 1024)


def stage_widths(image_size: int) -> tuple[int, ...]:
    """Returns the features of the stages, each of which halves the side: six, or fewer for images below 64 px.

    Raises:
      UserError: a side that six halvings, or those that it has, do not divide.
    """
    count = min(len(_WIDTHS), image_size.bit_length() - 1)
    if image_size < 2 or image_size % (1 << count):
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
      dtype: of the computation; parameters and codes stay float32.
    """

    latent_size: int = 256
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Returns the codes of square images.

        Raises:
          UserError: images that are not square, or of a size that cannot be halved.
        """
        if images.ndim != 4 or images.shape[1] != images.shape[2]:
            raise UserError(f"the autoencoder has square images [B, S, S, C]; got shape {images.shape}")
        x = (2 * images.astype(jnp.float32) - 1).astype(self.dtype)
        for i, width in enumerate(stage_widths(images.shape[1])):
            x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype, name=f"conv{i}")(x))
            x = pooling.max_pool(x, 2, 2)
        codes = nn.Dense(self.latent_size, dtype=self.dtype, name="dense")(x.reshape(x.shape[0], -1))
        return codes.astype(jnp.float32)


class ConvDecoder(nn.Module):
    """Codes [B, K] -> images [B, H, W, C] in [0, 1], the mirror of `ConvEncoder`.

    7,339,843 parameters at 128 px.

    Attributes:
      image_size: side of the images in pixels.
      channels: of the images.
      dtype: of the computation; parameters and images stay float32.
    """

    image_size: int = 128
    channels: int = 3
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, codes: Array, *, train: bool = False) -> Array:
        """Returns the images of codes [B, K].

        Raises:
          UserError: an image size that cannot be halved.
        """
        widths = stage_widths(self.image_size)
        side = self.image_size >> len(widths)
        x = nn.Dense(side * side * widths[-1], dtype=self.dtype, name="dense")(codes.astype(self.dtype))
        x = x.reshape(-1, side, side, widths[-1])
        for i, width in enumerate((*widths[-2::-1], self.channels)):
            x = nn.Conv(width, (3, 3), dtype=self.dtype, name=f"conv{i}")(pooling.upsample_nearest(x))
            x = nn.relu(x) if i < len(widths) - 1 else x
        return (jnp.tanh(x.astype(jnp.float32)) + 1) / 2
