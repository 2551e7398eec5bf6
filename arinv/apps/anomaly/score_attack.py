"""Adversarial attacks on anomaly scores: normal images get higher scores, anomalous ones lower.

Images are float32 [B, H, W, C] in [0, 1]; the score is a differentiable function of them. A latent search is too
expensive to differentiate at every step: attack `held_scores` or `amortized_scores` instead, and report that.

Source: Madry et al. 2018, section 2.1, with the score as the objective.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from arinv.attacks import projected_ascent
from arinv.attacks.rows import fold_in, select, single_key
from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.inputs import as_images, as_labels, as_radius, check_count
from arinv.types import Array, ArrayLike


def attack_scores(
    key: Array,
    score_fn: Callable[[Array], Array],
    images: ArrayLike,
    anomalous: ArrayLike,
    *,
    eps: float,
    num_steps: int,
    step_size: float | None = None,
    norm: str = "l2",
    random_start: bool = True,
    indices: ArrayLike | None = None,
) -> Array:
    """Returns images near `images` with higher scores where they are normal, lower where anomalous.

    Args:
      key: PRNG key of the random starts.
      score_fn: images [B, H, W, C] in [0, 1] -> scores [B], differentiable; rows independent.
      images: [B, H, W, C] in [0, 1].
      anomalous: [B], 1 or True for anomalous images, 0 or False for normal ones; -1 for padding, which is returned
        unchanged.
      eps: radius in units of `images`, for "l2" over H, W and C together; may be traced.
      num_steps: gradient steps, at least 1; the best of all iterates is returned, or the image where none is better.
      step_size: length of a step; None for 2.5 * eps / num_steps.
      norm: "l2" or "linf".
      random_start: start from a random point of the ball (for "l2", of its surface).
      indices: integer [B]; an image's random start follows from `key` and its index. None for 0, 1, ..., B - 1.

    Returns:
      float32 [B, H, W, C] in [0, 1], within `eps` of `images`, as a constant.

    Raises:
      UserError: images outside [0, 1], an unknown norm, a negative radius, no step, scores that are not [B], or
        `anomalous` and `indices` that are not one per image.

    Source: Madry et al. 2018, section 2.1.
    """
    norms.check_norm(norm)
    images = jnp.clip(jax.lax.stop_gradient(as_images(images)), 0.0, 1.0)
    count = images.shape[0]
    eps = as_radius(eps, batch_size=count, norm=norm)
    anomalous = jnp.asarray(anomalous)
    if anomalous.dtype == jnp.bool_:
        anomalous = anomalous.astype(jnp.int32)
    anomalous = as_labels(anomalous, batch_size=count, num_classes=2, name="anomalous")
    indices = jnp.arange(count) if indices is None else jnp.asarray(indices)
    if indices.shape != (count,) or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise UserError(
            f"indices must be integers, one per image ({count},), got {indices.dtype} of shape {indices.shape}."
        )
    check_count(num_steps, "num_steps")
    sign = jnp.where(anomalous == 0, 1.0, -1.0)
    radius = jnp.where(anomalous >= 0, eps, 0.0)  # padding stays
    step = radius * (2.5 / num_steps) if step_size is None else step_size
    start = images
    if random_start:
        keys = fold_in(single_key(key), indices)
        noise = jax.vmap(lambda k: norms.random_perturbation(k, (1, *images.shape[1:]), eps=1.0, norm=norm)[0])(keys)
        start = jnp.clip(images + noise * norms.per_example(radius, images.shape), 0.0, 1.0)
    options = {"eps": radius, "step_size": step, "num_steps": num_steps, "norm": norm}

    def gains_fn(x):
        return sign * score_fn(x)

    adversarial = projected_ascent(gains_fn, start, images, use_best=True, **options)
    if random_start:  # few steps may not reach the score of the image itself
        adversarial = select(gains_fn(adversarial) > gains_fn(images), adversarial, images)
    return jax.lax.stop_gradient(adversarial)
