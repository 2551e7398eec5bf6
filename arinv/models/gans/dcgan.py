"""DCGAN: a generator of transposed convolutions and a discriminator of strided ones.

The generator doubles the side of a first map of at most 7 px until it is the image's. The last map before the image has
`width` channels and each smaller one twice as many, up to 8 * width: at 64 px with width 64, 512, 256, 128 and 64
channels at 4, 8, 16 and 32 px.

Source: Radford et al. 2016, "Unsupervised representation learning with deep convolutional generative adversarial
networks", figure 1 and section 3: batch normalization in all layers but the generator's last and the discriminator's
first and last, ReLU and leaky ReLU of slope 0.2, weights from N(0, 0.02).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.layers import Conv, ConvTranspose, Dense, ShapeChecked, batch_norm, normal_002
from arinv.ops.channels import flatten_rows
from arinv.types import Array

_LARGEST_BASE = 7  # px, of the first map
_MAX_WIDTHS = 8


def base_side(image_size: int) -> tuple[int, int]:
    """Returns the side of the generator's first map, in pixels, and how often it is doubled.

    Args:
      image_size: side of the images, in pixels.

    Raises:
      UserError: an image size that is not 4, 5, 6 or 7 px times 2, 4, 8, ...
    """
    side, doublings = image_size, 0
    while side > _LARGEST_BASE and side % 2 == 0:
        side, doublings = side // 2, doublings + 1
    if not 2 <= side <= _LARGEST_BASE or not doublings:
        raise UserError(f"a DCGAN has no images of {image_size} px; set image_size to 16, 32, 64, 128 or 224")
    return side, doublings


def _widths(image_size: int, width: int) -> list[int]:
    """Returns the channels of the maps from the first to the last but one."""
    return [min(_MAX_WIDTHS, 2**i) * width for i in reversed(range(base_side(image_size)[1]))]


class DcganGenerator(ShapeChecked):
    """Latents [B, K] -> images [B, S, S, C] in [0, 1].

    Attributes:
      image_size: side S of the images, in pixels.
      channels: number of channels C of the images, 1 or 3.
      latent_size: K of the latents.
      width: channels of the last map before the image.
      dtype: type of the computation; parameters, statistics and images stay float32.
    """

    image_size: int = 32
    channels: int = 3
    latent_size: int = 256
    width: int = 64
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latents: Array, *, train: bool = False) -> Array:
        """Returns images [B, S, S, C] in [0, 1] of latents [B, K].

        Raises:
          UserError: latents of another shape.
        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_size:
            raise UserError(f"latents must be [B, {self.latent_size}]; got shape {latents.shape}")
        options = {"spectral_norm": False, "kernel_init": normal_002, "dtype": self.dtype}
        side, widths = base_side(self.image_size)[0], _widths(self.image_size, self.width)
        dense = Dense(side * side * widths[0], use_bias=False, name="dense", **options)
        x = dense(latents.astype(self.dtype), train=train).reshape(latents.shape[0], side, side, widths[0])
        x = nn.relu(batch_norm("bn0", train=train, dtype=self.dtype)(x))
        for i, width in enumerate(widths[1:], start=1):
            x = ConvTranspose(width, 2, name=f"up{i}", **options)(x, train=train)
            x = nn.relu(batch_norm(f"bn{i}", train=train, dtype=self.dtype)(x))
        x = ConvTranspose(self.channels, 2, use_bias=True, name="rgb", **options)(x, train=train)
        return jnp.clip((jnp.tanh(x.astype(jnp.float32)) + 1) / 2, 0, 1)


class DcganDiscriminator(ShapeChecked):
    """Images [B, S, S, C] in [0, 1] -> logits [B], positive for real ones.

    Attributes:
      image_size: side S of the images, in pixels.
      channels: number of channels C of the images, 1 or 3.
      latent_size: no effect; both networks of a GAN are built with the same attributes.
      width: channels of the first map.
      dtype: type of the computation; parameters, statistics and logits stay float32.
    """

    image_size: int = 32
    channels: int = 3
    latent_size: int = 256
    width: int = 64
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Returns logits [B] of images [B, S, S, C] in [0, 1]."""
        options = {"spectral_norm": False, "kernel_init": normal_002, "dtype": self.dtype}
        x = (2 * images - 1).astype(self.dtype)
        for i, width in enumerate(reversed(_widths(self.image_size, self.width))):
            x = Conv(width, 4, 2, 1, use_bias=i == 0, name=f"conv{i}", **options)(x, train=train)
            x = batch_norm(f"bn{i}", train=train, dtype=self.dtype)(x) if i else x
            x = nn.leaky_relu(x, 0.2)
        x = flatten_rows(x)
        return Dense(1, name="logit", **options)(x, train=train).astype(jnp.float32)[:, 0]
