"""Generators of images from noise, and the discriminators they are trained against.

A GAN is a row of the table GANS: its two networks, the prior of its latents, and the game in which they are trained.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.models.gans.began import BeganDiscriminator, BeganGenerator
from arinv.models.gans.dcgan import DcganDiscriminator, DcganGenerator
from arinv.models.gans.progressive import ProgressiveDiscriminator, ProgressiveGenerator
from arinv.ops.inputs import as_dtype, check_count
from arinv.ops.latents import draw_latents
from arinv.types import Array


class _Row(NamedTuple):
    generator: type[nn.Module]
    discriminator: type[nn.Module]
    prior: str
    latent_size: int
    game: str
    grows: bool


GANS = {
    "began": _Row(BeganGenerator, BeganDiscriminator, "uniform", 64, "equilibrium", False),
    "dcgan": _Row(DcganGenerator, DcganDiscriminator, "normal", 256, "logistic", False),
    "progressive": _Row(ProgressiveGenerator, ProgressiveDiscriminator, "normal", 512, "wasserstein_gp", True),
}


class Gan(NamedTuple):
    """A generator, its discriminator, and what they are trained with.

    Attributes:
      generator: latents [B, K] -> images [B, H, W, C], near [0, 1]; of a network that grows (latents, fade) -> images.
      discriminator: images -> scores or logits [B], or of the equilibrium game their reconstructions; with the fade as
        a second input where it grows.
      latent_size: K, length of the latents.
      prior: prior of the latents, "normal" for N(0, I) or "uniform" in (-1, 1).
      game: name of the game it was published with, a row of `GAMES` in `arinv.train.games`.
      grows: whether its networks hold those of half the size.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent_size: int
    prior: str
    game: str
    grows: bool

    def draw(self, key: Array, count: int) -> Array:
        """Returns random latents of the prior.

        Args:
          key: PRNG key.
          count: number of latents.

        Returns:
          float32 [count, K].
        """
        return draw_latents(key, (count, self.latent_size), prior=self.prior)


def build_gan(
    networks: str,
    *,
    image_size: int,
    channels: int = 3,
    latent_size: int = 0,
    dtype: jax.typing.DTypeLike = jnp.float32,
    **options: Any,
) -> Gan:
    """Returns the networks of a GAN.

    Args:
      networks: name of the networks, a key of GANS.
      image_size: side S of the images, in pixels.
      channels: number of channels C of the images, 1 or 3.
      latent_size: K of the latents; 0 for the published one.
      dtype: floating-point type of the computation, such as "bfloat16"; parameters stay float32.
      **options: attributes that both networks have, such as their widths.

    Returns:
      A `Gan`: two Flax modules, the length and the prior of the latents.

    Raises:
      UserError: unknown networks or option, or a size that they do not have.
    """
    if networks not in GANS:
        raise unknown("networks of a GAN", networks, GANS)
    row = GANS[networks]
    own = {"image_size", "channels", "latent_size", "dtype", "parent", "name"}
    allowed = row.generator.__dataclass_fields__.keys() & row.discriminator.__dataclass_fields__.keys()
    for option in options:
        if option in own or option not in allowed:
            raise unknown(f"option of {networks!r}", option, sorted(allowed - own))
        check_count(options[option], f"{option} of {networks!r}")
    as_dtype(dtype)
    image_size = check_count(image_size, "image_size")
    if channels not in (1, 3):
        raise UserError(f"channels must be 1 or 3; got {channels}")
    latent_size = check_count(latent_size, "latent_size", minimum=0) or row.latent_size
    shared = {**options, "image_size": image_size, "channels": channels, "latent_size": latent_size, "dtype": dtype}
    gan = Gan(row.generator(**shared), row.discriminator(**shared), latent_size, row.prior, row.game, row.grows)
    jax.eval_shape(lambda: gan.generator.init(jax.random.key(0), jnp.zeros((1, latent_size))))  # raises for its size
    return gan
