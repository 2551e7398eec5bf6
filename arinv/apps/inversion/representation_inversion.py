"""Representation inversion (RI): gradient descent on the pixels of an image until its features equal the targets.

There is no generator: from grey with noise, each image takes normalized-gradient steps towards its target features.
With a robust encoder the result resembles the image; with a standard one it does not. Images are float32 [B, H, W, C]
in [0, 1], rows independent. The iteration has no state but the images, so that it can be split anywhere into calls with
the same result.

Source: Engstrom et al. 2019, "Adversarial Robustness as a Prior for Learned Representations", and their released code;
a baseline in Rojas-Gomez et al. 2022, section 4.4.
"""

import math

import jax
import jax.numpy as jnp

from arinv.attacks.pgd import projected_ascent
from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.inputs import as_array, as_finite, as_floats, as_images, as_radius, check_count, layer_features
from arinv.ops.keys import single_key
from arinv.types import Array, ArrayLike, FeaturesFn

_NOISE = 1 / 20  # standard deviation around grey


def start_images(key: Array, numbers: ArrayLike, *, shape: tuple[int, int, int]) -> Array:
    """Returns the starting images of a search: grey with noise.

    Args:
      key: PRNG key.
      numbers: int [B], of the images in their set; the noise depends on them and not on the batch.
      shape: height, width and channels.

    Returns:
      float32 [B, H, W, C] in [0, 1].

    Raises:
      UserError: no key, or numbers that are not integers [B].

    Source: the released code of Engstrom et al. 2019: 0.5 + N(0, 1) / 20.
    """
    key, numbers = single_key(key), jnp.asarray(as_array(numbers, "numbers"))
    if numbers.ndim != 1 or not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise UserError(f"numbers must be integers [B]; got {numbers.dtype} of shape {numbers.shape}")
    noise = jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), shape, jnp.float32))(numbers)
    return jnp.clip(0.5 + _NOISE * noise, 0.0, 1.0)


def relative_distance(features: ArrayLike, targets: ArrayLike) -> Array:
    """Returns ||features - targets|| / ||targets|| over all but the first axis.

    Args:
      features: [B, ...].
      targets: [B, ...]; the length of one that is zero counts as 1.

    Returns:
      float32 [B].

    Raises:
      UserError: different shapes.

    Source: Engstrom et al. 2019; divided by the length of the target as in their released code.
    """
    features, targets = as_floats(features, "features"), as_floats(targets, "targets")
    if features.shape != targets.shape or features.ndim < 2:
        raise UserError(f"features {features.shape} and targets {targets.shape} must be [B, ...] of the same shape")
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
    """Returns images after `num_steps` steps towards target features.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features; rows independent.
      start: float32 [B, H, W, C] in [0, 1], from `start_images` or from an earlier call.
      targets: [B, ...], the features to reach.
      layer: layer of the targets.
      num_steps: number of steps, which may be traced; each costs one forward and backward pass.
      step_size: l2 length of a step, in units of the images.

    Returns:
      float32 [B, H, W, C] in [0, 1], the last iterate.

    Raises:
      UserError: images outside [0, 1], an unknown layer, targets that are not finite or of another shape, or a negative
        step size.

    Source: Engstrom et al. 2019; 10,000 steps of length 1 and the last iterate as in their released code. Its radius of
    1,000 restricts nothing at 224 px, nor does the one here.
    """
    start, targets = (
        jnp.clip(as_images(start, "start"), 0.0, 1.0),
        jax.lax.stop_gradient(as_finite(targets, "targets")),
    )
    if not isinstance(num_steps, jax.core.Tracer):
        check_count(num_steps, "num_steps", minimum=0)
    step_size = as_radius(step_size, batch_size=start.shape[0], name="step_size")

    def closeness(images):
        (features,) = layer_features(features_fn, images, (layer,))
        return -relative_distance(features, targets)

    # A ball around black that contains all images and a step beyond: only the limits of [0, 1] restrict.
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
