"""The generator and the discriminator of a boundary equilibrium GAN; the latter is an autoencoder.

Images are in [0, 1]; inside the networks they are 2x - 1. No activation follows a dense layer.

Source: Berthelot et al. 2017 (BEGAN), section 3 and its Figure 1, as used by the Generative Encoder at 64 px.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.layers import LinenConv, ShapeChecked
from arinv.ops import pooling
from arinv.ops.channels import flatten_rows
from arinv.types import Array

_SIDE = 8  # of the smallest features


def num_scales(image_size: int) -> int:
    """Returns the number of sizes between 8 px and the image's.

    Args:
      image_size: side of the images, in pixels.

    Returns:
      The number, 1 or more; both ends count.

    Raises:
      UserError: a size that is not 8, 16, 32, ... px.
    """
    scales = image_size // _SIDE
    if scales < 1 or image_size % _SIDE or scales & (scales - 1):
        raise UserError(f"image_size of a BEGAN must be 8, 16, 32, ... px; got {image_size}")
    return scales.bit_length()


class BeganGenerator(ShapeChecked):
    """Latents [B, K], uniform in (-1, 1) -> images [B, H, W, C], near [0, 1]: its last layer is linear.

    1,716,611 parameters at 64 px.

    Attributes:
      image_size: side of the images in pixels, 8 or 8 times a power of two.
      channels: number of channels of the images, 1 or 3.
      latent_size: K of the latents.
      width: features of every convolution.
      dtype: type of the computation; parameters and outputs stay float32.
    """

    image_size: int = 64
    channels: int = 3
    latent_size: int = 64
    width: int = 128
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latents: Array, *, train: bool = False) -> Array:
        """Returns images of latents [B, K].

        Raises:
          UserError: latents of another shape, or an image size that is not 8 times a power of two.
        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_size:
            raise UserError(f"latents must be [B, {self.latent_size}]; got shape {latents.shape}")
        scales = num_scales(self.image_size)
        x = nn.Dense(_SIDE * _SIDE * self.width, dtype=self.dtype, name="dense")(latents.astype(self.dtype))
        x = x.reshape(x.shape[0], _SIDE, _SIDE, self.width)
        for scale in range(scales):
            for i in range(2):
                x = nn.elu(LinenConv(self.width, (3, 3), dtype=self.dtype, name=f"conv{scale}_{i}")(x))
            if scale < scales - 1:
                x = pooling.upsample_nearest(x)
        image = LinenConv(self.channels, (3, 3), dtype=self.dtype, name="rgb")(x)
        return (image.astype(jnp.float32) + 1) / 2


class BeganDiscriminator(ShapeChecked):
    """Images [B, H, W, C] in [0, 1] -> their reconstructions by an autoencoder, of the same shape.

    13,405,379 parameters at 64 px.

    Attributes:
      image_size: side of the images in pixels, 8 or 8 times a power of two.
      channels: number of channels of the images, 1 or 3.
      latent_size: K of the code.
      width: features n of the decoder; the encoder's are n, 2n, 3n, ...
      dtype: type of the computation; parameters and outputs stay float32.
    """

    image_size: int = 64
    channels: int = 3
    latent_size: int = 64
    width: int = 128
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Returns the reconstructions of images.

        Raises:
          UserError: images of another size.
        """
        expected = (self.image_size, self.image_size, self.channels)
        if images.shape[1:] != expected:
            raise UserError(f"images must be [B, {', '.join(map(str, expected))}]; got shape {images.shape}")
        scales = num_scales(self.image_size)
        x = (2 * images.astype(jnp.float32) - 1).astype(self.dtype)
        x = nn.elu(LinenConv(self.width, (3, 3), dtype=self.dtype, name="stem")(x))
        for scale in range(scales):
            width = (scale + 1) * self.width
            for i in range(2):
                x = nn.elu(LinenConv(width, (3, 3), dtype=self.dtype, name=f"conv{scale}_{i}")(x))
            if scale < scales - 1:
                x = nn.elu(LinenConv(width, (3, 3), strides=(2, 2), dtype=self.dtype, name=f"down{scale}")(x))
        code = nn.Dense(self.latent_size, dtype=self.dtype, name="dense")(flatten_rows(x))
        decoder = BeganGenerator(
            self.image_size, self.channels, self.latent_size, self.width, dtype=self.dtype, name="decoder"
        )
        return decoder(code)
