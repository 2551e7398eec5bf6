"""Losses of the games between a generator and a discriminator whose scores are not logits.

Source: Gulrajani et al. 2017 (WGAN-GP), Karras et al. 2018 (its drift), Berthelot et al. 2017 (BEGAN).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.ops.channels import flatten_rows
from arinv.ops.inputs import as_array, as_scalar, as_vector, call, check_number
from arinv.types import Array, ArrayLike


def wasserstein_loss(real_scores: ArrayLike, fake_scores: ArrayLike, *, drift: float = 1e-3) -> Array:
    """Returns the discriminator's loss without its gradient penalty, fake - real + drift real^2.

    Args:
      real_scores: [B], scores of images.
      fake_scores: [B], scores of generated images; their negatives are the generator's loss.
      drift: weight that keeps the scores near 0.

    Returns:
      float32 [B].

    Raises:
      UserError: shapes that do not match, or a negative weight.

    Source: Karras et al. 2018, section A.1, with drift 1e-3.
    """
    check_number(drift, "drift", minimum=0.0)
    real, fake = _pair(real_scores, fake_scores, "scores")
    return fake - real + drift * jnp.square(real)


def gradient_penalty(
    scores_fn: Callable[[Array], Array], images: ArrayLike, fakes: ArrayLike, shares: ArrayLike, *, target: float = 1.0
) -> Array:
    """Returns the penalty on the discriminator's gradient between images and generated images, ((|g| - t) / t)^2.

    Args:
      scores_fn: images [B, H, W, C] -> scores [B].
      images: [B, H, W, C].
      fakes: [B, H, W, C], generated images.
      shares: [B] in 0 to 1, weight of the generated image in the mixture at which the gradient is taken.
      target: t, length of the gradient of the sum of scores with respect to one image.

    Returns:
      float32 [B]; it is differentiable in what scores_fn depends on.

    Raises:
      UserError: images and fakes of different shapes or not floating point, scores that are not one for each image,
        shares that are not, or a target that is not positive.

    Source: Gulrajani et al. 2017, eq. 3; weight 10 and target 1 in Karras et al. 2018, with images in [-1, 1]: a
    gradient with respect to images in [0, 1] is twice as long, so that target 2 is theirs here.
    """
    check_number(target, "target", minimum=1e-6)
    images, fakes = as_array(images, "images"), as_array(fakes, "fakes")
    if images.shape != fakes.shape or not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (images, fakes)):
        raise UserError(
            f"images {images.dtype} {images.shape} and fakes {fakes.dtype} {fakes.shape} must be floating point of one "
            "shape [B, H, W, C]"
        )
    images, fakes = jnp.asarray(images, jnp.float32), jnp.asarray(fakes, jnp.float32)
    shares = as_vector(shares, images.shape[0], "shares").reshape(-1, *[1] * (images.ndim - 1))
    mixtures = images + shares * (fakes - images)

    def total(x):
        return jnp.sum(as_vector(call(scores_fn, x, "scores_fn"), x.shape[0], "what scores_fn returns"))

    gradients = jax.grad(total)(mixtures)
    squares = jnp.sum(jnp.square(flatten_rows(gradients)), axis=1)
    lengths = jnp.sqrt(jnp.maximum(squares, 1e-16))  # the root has no gradient at 0
    return jnp.square((lengths - target) / target)


def equilibrium_loss(real_errors: ArrayLike, fake_errors: ArrayLike, balance: ArrayLike) -> Array:
    """Returns the loss of a discriminator that is an autoencoder, real - balance fake.

    Args:
      real_errors: [B], mean absolute errors of its reconstructions of images.
      fake_errors: [B], those of generated images, which are the generator's loss.
      balance: k, scalar.

    Returns:
      float32 [B].

    Raises:
      UserError: shapes that do not match, or a balance that is not a scalar.

    Source: Berthelot et al. 2017, section 3.4.
    """
    real, fake = _pair(real_errors, fake_errors, "errors")
    return real - as_scalar(balance, "balance") * fake


def update_balance(
    balance: ArrayLike, real_error: ArrayLike, fake_error: ArrayLike, *, ratio: float, rate: float
) -> Array:
    """Returns k of the next step, k + rate (ratio real - fake), between 0 and 1.

    Args:
      balance: k of this step, scalar; 0 at the first.
      real_error: scalar, mean error of images.
      fake_error: scalar, mean error of generated images.
      ratio: gamma, error of generated images over that of images in equilibrium, 0 to 1; lower values give less
        diverse images.
      rate: step size of k, 0 or more; 1e-3 in the paper.

    Returns:
      float32 scalar.

    Raises:
      UserError: values that are not scalars, or a ratio or rate out of range.

    Source: Berthelot et al. 2017, section 3.4.
    """
    check_number(ratio, "ratio", minimum=0.0, maximum=1.0)
    check_number(rate, "rate", minimum=0.0)
    balance, real, fake = (
        as_scalar(value, name)
        for name, value in (("balance", balance), ("real_error", real_error), ("fake_error", fake_error))
    )
    return jnp.clip(balance + rate * (ratio * real - fake), 0.0, 1.0)


def _pair(real: ArrayLike, fake: ArrayLike, name: str) -> tuple[Array, Array]:
    real = as_array(real, f"real_{name}")
    real = as_vector(real, real.size, f"real_{name}")
    return real, as_vector(fake, real.shape[0], f"fake_{name}")
