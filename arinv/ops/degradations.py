"""Degradations of images: additive white Gaussian noise by two protocols, whose results are not comparable.

Images are float32 [B, H, W, C] in [0, 1], noise levels in the same unit: 50/255 is fifty grey levels. Published tables
differ in whether the noisy image is clipped to [0, 1], which changes every result, so results record the name of the
protocol.

"clipped"    clip(x + sigma N(0, 1), 0, 1), as Rojas-Gomez et al. 2022, section 3.3
"unclipped"  x + sigma N(0, 1), as most tables of denoisers; values leave [0, 1]
"""

import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.types import Array

NOISE_PROTOCOLS = {
    "clipped": "clip(x + sigma N(0, 1), 0, 1), not rounded",
    "unclipped": "x + sigma N(0, 1), neither clipped nor rounded",
}


def check_noise(*, sigma: float, protocol: str) -> None:
    """Checks a noise level and the name of a protocol.

    Args:
      sigma: standard deviation of the noise, in units of [0, 1] images.
      protocol: "clipped" or "unclipped".

    Raises:
      UserError: a level outside [0, 1], such as one in grey levels, or an unknown protocol.
    """
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 <= sigma <= 1:
        raise UserError(f"sigma={sigma!r} must be 0 to 1, in units of [0, 1] images: fifty grey levels are 50/255")
    if protocol not in NOISE_PROTOCOLS:
        raise unknown("noise protocol", protocol, NOISE_PROTOCOLS)


def add_gaussian_noise(key: Array, images: Array, *, sigma: float, protocol: str = "clipped") -> Array:
    """Returns images with white Gaussian noise, independent for every pixel and channel.

    Args:
      key: PRNG key.
      images: floating point [B, H, W, C] in [0, 1].
      sigma: standard deviation of the noise, in units of the images.
      protocol: "clipped" or "unclipped", see the module.

    Returns:
      float32 [B, H, W, C]; in [0, 1] with "clipped".

    Raises:
      UserError: a level out of range, or an unknown protocol.

    Source: Rojas-Gomez et al. 2022, section 3.3, where sigma is 50/255.
    """
    check_noise(sigma=sigma, protocol=protocol)
    images = jnp.asarray(images).astype(jnp.float32)
    noisy = images + sigma * jax.random.normal(key, images.shape, jnp.float32)
    return jnp.clip(noisy, 0.0, 1.0) if protocol == "clipped" else noisy
