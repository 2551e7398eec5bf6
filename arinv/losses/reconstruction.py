"""Losses of generators: distances in pixels and features, and adversarial losses, per image in float32.

Distances are sums over elements, as in the papers: with their weights (2e-6 for pixels, 1e-2 for features) means would
be too small. The caller takes the mean over the batch.
"""

import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.ops.inputs import LOOSE_BOUNDS, as_array, as_floats, as_image_pair
from arinv.types import Array, ArrayLike

_LOG_FLOOR = -100.0


def pixel_loss(reconstructions: ArrayLike, images: ArrayLike, *, order: int = 1) -> Array:
    """Returns the sum over pixels and channels of |difference| ** order, for each image.

    Args:
      reconstructions: [B, H, W, C], near [0, 1].
      images: [B, H, W, C] in [0, 1].
      order: 1 for the l1 distance, 2 for the squared l2 distance.

    Returns:
      float32 [B].

    Raises:
      UserError: different shapes, integers, values far outside [0, 1] (if concrete), or another order.

    Source: Rojas-Gomez et al. 2022, eq. 4 (order 1); Dosovitskiy & Brox 2016, eq. 1 (order 2).
    """
    if order not in (1, 2):
        raise UserError(f"order must be 1 (absolute) or 2 (squared); got {order!r}")
    reconstructions, images = as_image_pair(reconstructions, images, bounds=LOOSE_BOUNDS)
    return _sum_per_example(reconstructions, images, jnp.abs if order == 1 else jnp.square)


def feature_loss(features: ArrayLike, target_features: ArrayLike) -> Array:
    """Returns the squared Euclidean distance between features, for each image (without a 1/2).

    Gradients flow into both; pass `jax.lax.stop_gradient(target_features)` where they must not.

    Args:
      features: [B, ...], the encoder's features of the reconstructions.
      target_features: [B, ...], the inverted features.

    Returns:
      float32 [B].

    Raises:
      UserError: different shapes.

    Source: Rojas-Gomez et al. 2022, eq. 5.
    """
    return _sum_per_example(features, target_features, jnp.square)


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
      fake_logits: [B], those of their reconstructions, with the generator detached by the caller.

    Returns:
      float32 [B] in [0, 200].

    Raises:
      UserError: logits that are not one number per image, or of different shapes.

    Source: Rojas-Gomez et al. 2022, eq. 7.
    """
    real, fake = as_array(real_logits, "real_logits"), as_array(fake_logits, "fake_logits")
    if real.shape != fake.shape:
        raise UserError(f"real logits {real.shape} and fake logits {fake.shape} must have the same shape [B]")
    return -_log_sigmoid(real) - _log_sigmoid(fake, -1.0)


def gaussian_divergence(means: ArrayLike, log_variances: ArrayLike) -> Array:
    """Returns the KL divergence of normal distributions from N(0, I), the sum of (m^2 + v - 1 - log v) / 2.

    Args:
      means: m, [B, K].
      log_variances: log v, [B, K]; zeros for variances of 1.

    Returns:
      float32 [B] of 0 or more.

    Raises:
      UserError: different shapes.

    Source: Kingma and Welling 2014, appendix B; of a code in AEGAN, Generative Encoder, section 4.5.
    """
    log_variances = as_floats(log_variances, "log_variances")

    def per_element(differences):
        return (jnp.square(differences) + jnp.expm1(log_variances) - log_variances) / 2

    return _sum_per_example(means, jnp.zeros_like(log_variances), per_element)


def _sum_per_example(predictions, targets, function) -> Array:
    predictions, targets = as_floats(predictions, "predictions"), as_floats(targets, "targets")
    if predictions.shape != targets.shape or not predictions.ndim:
        raise UserError(f"cannot compare the shapes {predictions.shape} and {targets.shape}: make them equal")
    differences = predictions - targets
    return jnp.sum(function(differences), axis=tuple(range(1, differences.ndim)))


def _log_sigmoid(logits: ArrayLike, sign: float = 1.0) -> Array:
    logits = as_array(logits, "discriminator logits")
    if logits.ndim != 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(
            f"discriminator logits must have the shape [B], one per image; got {logits.shape} of {logits.dtype}"
        )
    return jnp.maximum(jax.nn.log_sigmoid(sign * jnp.asarray(logits, jnp.float32)), _LOG_FLOOR)
