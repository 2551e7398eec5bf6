"""The table of GANs, and `Gan`: a generator with its discriminator and the law of its latents."""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.models.gans import dcgan
from arinv.types import Array

LAWS: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "normal": lambda key, shape: jax.random.normal(key, shape),
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0),
}


class Gan(NamedTuple):
    """A generator, its discriminator, and its latents.

    Attributes:
      generator: latents [B, latent_size] -> images [B, S, S, 3] in [0, 1].
      discriminator: images -> logits [B], positive for real ones.
      latent_size: length of a latent.
      law: of each of its entries, "normal", N(0, 1), or "uniform", U(-1, 1).
    """

    generator: nn.Module
    discriminator: nn.Module
    latent_size: int
    law: str

    def sample(self, key: Array, count: int) -> Array:
        """Returns latents float32 [count, latent_size] of the law."""
        return LAWS[self.law](key, (count, self.latent_size))


# name -> (generator, discriminator), each with the attributes image_size, width and dtype
GANS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {"dcgan": (dcgan.Generator, dcgan.Discriminator)}
_SIZES: dict[str, Callable[[int], Any]] = {"dcgan": dcgan.base_side}  # raise for image sizes that it has not


def build_gan(
    name: str = "dcgan",
    *,
    image_size: int,
    width: int = 64,
    latent_size: int = 256,
    law: str = "normal",
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Gan:
    """Returns a GAN.

    Args:
      name: a key of GANS.
      image_size: side of the images, in pixels.
      width: channels of the narrowest map.
      latent_size: length of a latent.
      law: of the latents' entries, a key of LAWS.
      dtype: of the computation.

    Raises:
      UserError: an unknown name, an image size that it has not, or a width or latent size below 1.
    """
    if name not in GANS:
        raise unknown("GAN", name, GANS)
    if law not in LAWS:
        raise unknown("law of latents", law, LAWS)
    for option, value in (("width", width), ("latent_size", latent_size)):
        if not isinstance(value, numbers.Integral) or value < 1:
            raise UserError(f"{option} of GAN {name!r} must be a whole number of 1 or more; got {value!r}")
    _SIZES[name](image_size)
    generator, discriminator = (module(image_size=image_size, width=width, dtype=dtype) for module in GANS[name])
    return Gan(generator, discriminator, latent_size, law)
