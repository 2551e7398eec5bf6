"""Single-step attacks: FGSM, with a random start or from noise larger than the ball (N-FGSM).

Images are float32 [B, H, W, C] in [0, 1] and radii are in the same unit. One gradient makes robust training about
as cheap as two standard steps, at the danger of catastrophic overfitting: a network that withstands exactly this
step and nothing else.

Source: Goodfellow et al. 2015; Wong et al. 2020 (random start); de Jorge et al. 2022 (N-FGSM).
"""

import jax
import jax.numpy as jnp

from arinv.attacks.objectives import cross_entropy
from arinv.attacks.rows import check_classes, select
from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.images import check_images
from arinv.types import Array, ArrayLike, LogitsFn


def fgsm(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: ArrayLike | float,
    step_size: ArrayLike | float | None = None,
    norm: str = "linf",
    noise: float = 0.0,
    project: bool = True,
) -> Array:
    """Returns images after noise and one step of steepest ascent of the cross-entropy.

    FGSM is `noise=0`; with a random start as Wong et al. recommend, `noise=1, step_size=1.25 * eps`; N-FGSM is
    `noise=2, step_size=eps, project=False`.

    Args:
      key: PRNG key of the noise.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K]; rows independent.
      images: float32 [B, H, W, C] in [0, 1].
      labels: int [B]; rows labelled -1 are padding and come back unchanged.
      eps: radius in units of `images`; a number or one per example [B], which may be traced.
      step_size: length of the step, likewise; eps if None.
      norm: "l2" or "linf".
      noise: radius of the noise before the step, as a multiple of eps.
      project: bring the result back into the ball of radius eps. Without it, it may leave the ball by the noise.

    Returns:
      float32 [B, H, W, C] in [0, 1], as a constant: no gradient flows through the attack.

    Raises:
      UserError: images outside [0, 1], labels that are not one integer per image, an unknown norm, or a
        negative radius, step or noise where values are known.

    Source: Wong et al. 2020, algorithm 3; de Jorge et al. 2022, algorithm 1, here clipped to [0, 1].
    """
    check_images(images)
    norms.check_norm(norm)
    eps = norms.check_radius(eps)
    step_size = eps if step_size is None else norms.check_radius(step_size, "step_size")
    if noise < 0:
        raise UserError(f"noise must be 0 or more, as a multiple of eps; got {noise}")
    images = jax.lax.stop_gradient(jnp.asarray(images, jnp.float32))
    labels = check_classes(labels, name="labels", batch_size=images.shape[0])
    real = labels >= 0

    def loss(x):
        losses = cross_entropy(logits_fn(x), jnp.where(real, labels, 0))
        return jnp.sum(jnp.where(real, losses, 0.0))

    start = images
    if noise > 0:
        radius = noise * jnp.asarray(eps, jnp.float32)
        start = jnp.clip(images + norms.random_perturbation(key, images.shape, eps=radius, norm=norm), 0.0, 1.0)
    step = norms.per_example(step_size, images.shape) * norms.steepest_ascent(jax.grad(loss)(start), norm=norm)
    delta = start + step - images
    if project:
        delta = norms.project(delta, eps=eps, norm=norm)
    adversarial = jnp.clip(images + delta, 0.0, 1.0)
    return jax.lax.stop_gradient(select(real, adversarial, images))
