"""The two sides of a generative adversarial network, on the logits of its discriminator.

D = sigmoid(logit) is the probability that an image is real. Each logarithm is cut off at -100 as in
PyTorch's binary cross-entropy, so one image adds at most 100, and no gradient beyond that.
"""

import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.types import Array, ArrayLike

_LOG_FLOOR = -100.0


def generator_loss(fake_logits: ArrayLike) -> Array:
    """Returns -log D(reconstruction) for each image.

    Args:
      fake_logits: [B], the discriminator's logits of the reconstructions.

    Returns:
      float32 [B] in [0, 100].

    Raises:
      UserError: logits that are not one number per image.

    Source: Rojas-Gomez et al. 2022, eq. 6.
    """
    return -_log_sigmoid(fake_logits)


def discriminator_loss(real_logits: ArrayLike, fake_logits: ArrayLike) -> Array:
    """Returns -log D(image) - log(1 - D(reconstruction)) for each pair.

    Args:
      real_logits: [B], the discriminator's logits of the images.
      fake_logits: [B], those of their reconstructions, detached from the generator by the
        caller.

    Returns:
      float32 [B] in [0, 200].

    Raises:
      UserError: logits that are not one number per image, or as many real as fake ones.

    Source: Rojas-Gomez et al. 2022, eq. 7.
    """
    real, fake = jnp.asarray(real_logits), jnp.asarray(fake_logits)
    if real.shape != fake.shape:
        raise UserError(f"real logits {real.shape} and fake logits {fake.shape} must have the same shape [B].")
    return -_log_sigmoid(real) - _log_sigmoid(-fake)


def _log_sigmoid(logits: ArrayLike) -> Array:
    logits = jnp.asarray(logits)
    if logits.ndim != 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(
            f"discriminator logits must have the shape [B], one per image, got {logits.shape} of {logits.dtype}."
        )
    logits = logits.astype(jnp.float32)
    return jnp.maximum(jax.nn.log_sigmoid(logits), _LOG_FLOOR)
