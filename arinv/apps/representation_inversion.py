"""Inversion by optimisation (RI): images whose features are those of an image, found by gradient descent on pixels.

There is no generator: from grey with noise, each image takes normalised-gradient steps towards its target features.
Through a robust encoder the outcome resembles the image; through a standard one it does not. Images are float32
[B, H, W, C] in [0, 1], rows independent. The iteration has no state but the images, so that it can be cut anywhere: so
many steps and then the rest are the same as all at once.

Source: Engstrom et al. 2019, "Adversarial Robustness as a Prior for Learned Representations", and their released code;
compared with in Rojas-Gomez et al. 2022, section 4.4.
"""

import math

import jax
import jax.numpy as jnp

from arinv.attacks.pgd import projected_ascent
from arinv.errors import unknown
from arinv.ops import norms
from arinv.types import Array, ArrayLike, FeaturesFn

_NOISE = 1 / 20  # standard deviation around grey


def start_images(key: Array, numbers: ArrayLike, *, shape: tuple[int, int, int]) -> Array:
    """Returns the images that a search starts from: grey with noise.

    Args:
      key: PRNG key.
      numbers: int [B], of the images in their set: noise depends on them, not on the batch they are in.
      shape: height, width and channels.

    Returns:
      float32 [B, H, W, C] in [0, 1].

    Source: the released code of Engstrom et al. 2019: 0.5 + N(0, 1) / 20.
    """
    noise = jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), shape))(jnp.asarray(numbers))
    return jnp.clip(0.5 + _NOISE * noise, 0.0, 1.0)


def relative_distance(features: ArrayLike, targets: ArrayLike) -> Array:
    """Returns ||features - targets|| / ||targets|| over all but the first axis.

    Args:
      features: [B, ...].
      targets: [B, ...]; those that are zero are taken to have the length 1.

    Returns:
      float32 [B].

    Source: Engstrom et al. 2019; divided by the length of the target as in their released code.
    """
    features, targets = jnp.asarray(features, jnp.float32), jnp.asarray(targets, jnp.float32)
    length = norms.norm(targets, "l2")
    return norms.norm(features - targets, "l2") / jnp.where(length > 0, length, 1.0)


def invert_by_optimization(
    features_fn: FeaturesFn,
    start: ArrayLike,
    targets: ArrayLike,
    *,
    layer: str,
    num_steps: int,
    step_size: float = 1.0,
) -> Array:
    """Returns images after so many steps towards target features.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features; rows independent.
      start: float32 [B, H, W, C] in [0, 1]: from `start_images`, or from an earlier call, to go on.
      targets: [B, ...], the features to reach.
      layer: whose features they are.
      num_steps: number of steps, which may be traced; each costs one forward and backward pass.
      step_size: l2 length of a step, in units of the images.

    Returns:
      float32 [B, H, W, C] in [0, 1], the last iterate.

    Raises:
      UserError: a layer that is not there, or a negative step size.

    Source: Engstrom et al. 2019; 10,000 steps of length 1 and the last iterate as in their released code, whose radius
    of 1,000 is as far beyond reach at 224 px as the one here.
    """
    start, targets = jnp.asarray(start, jnp.float32), jax.lax.stop_gradient(jnp.asarray(targets))

    def closeness(images):
        features = features_fn(images)
        if layer not in features:
            raise unknown("layer", layer, features)
        return -relative_distance(features[layer], targets)

    # A ball around black that holds all images and a step beyond: only the limits of [0, 1] are felt.
    radius = math.sqrt(math.prod(start.shape[1:])) + step_size
    return projected_ascent(
        closeness,
        start,
        jnp.zeros_like(start),
        eps=radius,
        step_size=step_size,
        num_steps=num_steps,
        norm="l2",
        use_best=False,
    )
