"""Autoencoders with a vector as the code, and autoencoders of an encoder's layer."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.models.autoencoders.conv_ae import ConvDecoder, ConvEncoder, GaussianEncoder, stage_widths
from arinv.models.autoencoders.layer import (
    LATENT,
    Gaussian,
    LayerAutoencoder,
    VariationalAutoencoder,
    VariationalEncoder,
    variational_encoder,
)
from arinv.models.gans.progressive import ProgressiveGenerator, sizes
from arinv.models.layers import ShapeChecked
from arinv.ops.inputs import as_dtype, check_count, check_flag
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


class Autoencoder(ShapeChecked):
    """An encoder and a decoder; their variables are under "encoder" and "decoder".

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
        """Returns the codes of images, in evaluation mode.

        Args:
          images: float [B, H, W, C] in [0, 1], of the size that the network was built for.

        Returns:
          float32 [B, K].

        Raises:
          UserError: images of another size or far outside [0, 1].
        """
        return self.encoder(images)

    def decode(self, codes: Array) -> Array:
        """Returns the images of codes, in evaluation mode.

        Args:
          codes: float [B, K].

        Returns:
          float32 [B, H, W, C], in [0, 1] for "conv" and near it for "aegan".

        Raises:
          UserError: codes of another shape.
        """
        return self.decoder(codes)


class _Row(NamedTuple):
    encoder: type[nn.Module]
    decoder: type[nn.Module]
    latent_size: int
    options: tuple[str, ...] = ()


# "conv" is the Generative Encoder's ConvAE; "aegan" has a progressive GAN's generator as its decoder.
AUTOENCODERS = {
    "conv": _Row(ConvEncoder, ConvDecoder, 256),
    "aegan": _Row(GaussianEncoder, ProgressiveGenerator, 512, ("base_width", "learned_variance", "max_width")),
}


def build_autoencoder(
    networks: str,
    *,
    image_size: int,
    channels: int = 3,
    latent_size: int = 0,
    dtype: jax.typing.DTypeLike = jnp.float32,
    **options: Any,
) -> Autoencoder:
    """Returns an autoencoder.

    Args:
      networks: name of the networks, a key of AUTOENCODERS.
      image_size: side S of the images, in pixels.
      channels: number of channels C of the images, 1 or 3.
      latent_size: K of the codes; 0 for the published one.
      dtype: floating-point type of the computation, such as "bfloat16"; parameters stay float32.
      **options: options of "aegan": base_width and max_width of the generator, learned_variance of the encoder.

    Returns:
      A Flax module, images [B, S, S, C] -> reconstructions; its methods `encode` and `decode` are the halves.

    Raises:
      UserError: unknown networks or option, or a size that they do not have.
    """
    if networks not in AUTOENCODERS:
        raise unknown("networks of an autoencoder", networks, AUTOENCODERS)
    row = AUTOENCODERS[networks]
    for option in options:
        if option not in row.options:
            raise unknown(f"option of {networks!r}", option, row.options)
        if option == "learned_variance":
            check_flag(options[option], option)
        else:
            check_count(options[option], f"{option} of {networks!r}")
    as_dtype(dtype)
    image_size = check_count(image_size, "image_size")
    if channels not in (1, 3):
        raise UserError(f"channels must be 1 or 3; got {channels}")
    stage_widths(image_size)
    latent_size = check_count(latent_size or row.latent_size, "latent_size")
    shared = {
        "image_size": image_size, "channels": channels, "latent_size": latent_size, "dtype": dtype, **options
    }  # fmt: skip
    encoder, decoder = (
        module(**{name: value for name, value in shared.items() if name in module.__dataclass_fields__})
        for module in (row.encoder, row.decoder)
    )
    if networks == "aegan":
        decoder.width(max(sizes(image_size)))  # raises for a size or a width that it does not have
    return Autoencoder(encoder, decoder)
