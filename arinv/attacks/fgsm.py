"""Single-step attacks: FGSM, with a random start or from noise larger than the ball (N-FGSM).

Images are float32 [B, H, W, C] in [0, 1] and radii are in the same unit. One gradient makes robust training about
as cheap as two standard steps, at the danger of catastrophic overfitting: a network that withstands exactly this
step and nothing else.

Source: Goodfellow et al. 2015; Wong et al. 2020 (random start); de Jorge et al. 2022 (N-FGSM).
"""

import jax
import jax.numpy as jnp

from arinv.attacks.objectives import cross_entropy
from arinv.attacks.rows import prepare, select, single_key
from arinv.ops import norms
from arinv.ops.inputs import as_radius, check_number
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
      UserError: what `attacks.rows.prepare` refuses (images outside [0, 1], labels that the model does not have, a
        model that does not return [B, K]), or a negative step or noise where values are known.

    Source: Wong et al. 2020, algorithm 3; de Jorge et al. 2022, algorithm 1, here clipped to [0, 1].
    """
    rows = prepare(logits_fn, images, labels, eps=eps, norm=norm)
    images = rows.images
    step_size = rows.eps if step_size is None else as_radius(step_size, batch_size=len(images), name="step_size")
    noise = check_number(noise, "noise", least=0.0, most=1e6)

    def loss(x):
        losses = cross_entropy(rows.logits_fn(x), rows.labels)
        return jnp.sum(jnp.where(rows.real, losses, 0.0))

    start = images
    if noise > 0:
        radius = noise * rows.eps
        perturbation = norms.random_perturbation(single_key(key), images.shape, eps=radius, norm=norm)
        start = jnp.clip(images + perturbation, 0.0, 1.0)
    step = norms.per_example(step_size, images.shape) * norms.steepest_ascent(jax.grad(loss)(start), norm=norm)
    delta = start + step - images
    if project:
        delta = norms.project(delta, eps=rows.eps, norm=norm)
    adversarial = jnp.clip(images + delta, 0.0, 1.0)
    return jax.lax.stop_gradient(select(rows.real, adversarial, images))
