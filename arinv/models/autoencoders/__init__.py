"""Autoencoders: an encoder to a vector and a decoder from it; and those of an encoder's layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import unknown
from arinv.models.autoencoders.conv_ae import ConvDecoder, ConvEncoder, stage_widths
from arinv.models.autoencoders.layer import (
    LATENT,
    Gaussian,
    LayerAutoencoder,
    VariationalAutoencoder,
    VariationalEncoder,
    variational_encoder,
)
from arinv.ops.inputs import check_count
from arinv.types import Array

__all__ = [
    "AUTOENCODERS",
    "LATENT",
    "Autoencoder",
    "Gaussian",
    "LayerAutoencoder",
    "VariationalAutoencoder",
    "VariationalEncoder",
    "build_autoencoder",
    "variational_encoder",
]


class Autoencoder(nn.Module):
    """An encoder and a decoder, whose variables are under their names.

    Attributes:
      encoder: images [B, H, W, C] in [0, 1] -> codes [B, K].
      decoder: codes -> images of the same shape.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Returns the reconstructions of images."""
        return self.decoder(self.encoder(images, train=train), train=train)

    def encode(self, images: Array) -> Array:
        """Returns the codes of images, in evaluation mode."""
        return self.encoder(images)

    def decode(self, codes: Array) -> Array:
        """Returns the images of codes, in evaluation mode."""
        return self.decoder(codes)


# name -> (encoder, decoder, length of the codes in the paper)
AUTOENCODERS = {"conv": (ConvEncoder, ConvDecoder, 256)}


def build_autoencoder(
    networks: str,
    *,
    image_size: int,
    channels: int = 3,
    latent_size: int = 0,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Autoencoder:
    """Returns an autoencoder.

    Args:
      networks: a key of AUTOENCODERS; "conv" is the Generative Encoder's ConvAE.
      image_size: side of the images, in pixels.
      channels: of the images.
      latent_size: K of the codes; 0 for the published one.
      dtype: of the computation.

    Raises:
      UserError: unknown networks, or a size that they do not have.
    """
    if networks not in AUTOENCODERS:
        raise unknown("networks of an autoencoder", networks, AUTOENCODERS)
    encoder, decoder, published = AUTOENCODERS[networks]
    stage_widths(image_size)
    latent_size = check_count(latent_size or published, "latent_size")
    return Autoencoder(encoder(latent_size, dtype=dtype), decoder(image_size, channels, dtype=dtype))
