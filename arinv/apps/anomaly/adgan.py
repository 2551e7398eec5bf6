"""ADGAN: anomaly scores by descent on a GAN's latent and on a copy of its generator's weights.

Images are float32 [B, H, W, C] in [0, 1]. Each image has its own copy of the weights, shared by its starts: the result
of an image does not depend on its batch, and no image changes the generator that the next one starts from.

Source: Deecke et al. 2018, "Image anomaly detection with generative adversarial networks"; Rojas-Gomez et al. 2022,
section 5.1, compares with its published figures.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from arinv.errors import UserError
from arinv.ops.descent import descend
from arinv.ops.inputs import as_floats, as_images, as_indices, check_callable, check_count, check_number
from arinv.ops.keys import fold_in, single_key
from arinv.types import Array, ArrayLike


class AdganResult(NamedTuple):
    """The result of a search for N images.

    Attributes:
      scores: float32 [N], the mean over the starts of the last squared error, a mean over pixels and channels.
      reconstructions: float32 [N, H, W, C] in [0, 1], of each image's best start.
      errors: float32 [N, starts], the last squared errors.
    """

    scores: Array
    reconstructions: Array
    errors: Array


def adgan_search(
    key: Array,
    generate_fn: Callable[[Any, Array], Array],
    weights: Any,
    images: ArrayLike,
    *,
    sample_fn: Callable[[Array, int], Array],
    num_seeds: int = 64,
    num_steps: int = 5,
    latent_rate: float = 0.25,
    weight_rate: float = 5e-5,
    chunk_size: int = 1,
    indices: ArrayLike | None = None,
) -> AdganResult:
    """Returns how well a generator, adapted to each image by a few steps, reconstructs it from random starts.

    Args:
      key: PRNG key of the starts.
      generate_fn: (weights, latents [S, K]) -> images [S, H, W, C] in [0, 1], in evaluation mode, rows independent.
      weights: a tree of float32 arrays, the generator's; not changed.
      images: [B, H, W, C] in [0, 1].
      sample_fn: (key, count) -> latents [count, K] of the generator's prior.
      num_seeds: starts of each image.
      num_steps: updates.
      latent_rate: learning rate of the latents, of Adam.
      weight_rate: learning rate of the weights, of Adam; 0 leaves them as they are.
      chunk_size: images that are searched for together; each holds a copy of the weights with its gradient and moments.
      indices: integer [B]; an image's starts follow from `key` and its index. None for 0, 1, ..., B - 1.

    Returns:
      An `AdganResult` with a row for each image.

    Raises:
      UserError: images outside [0, 1], counts below 1, negative rates, or `indices` that are not one per image.

    Source: Deecke et al. 2018, algorithm 1. There each start has a copy of the weights; here an image's starts share
    one, whose loss is their mean.
    """
    images = jax.lax.stop_gradient(as_images(images))
    for name, value in (("num_seeds", num_seeds), ("num_steps", num_steps), ("chunk_size", chunk_size)):
        check_count(value, name)
    for name, value in (("latent_rate", latent_rate), ("weight_rate", weight_rate)):
        check_number(value, name, minimum=0.0)
    for name, function in (("generate_fn", generate_fn), ("sample_fn", sample_fn)):
        check_callable(function, name)
    weights = jax.tree.map(lambda leaf: as_floats(leaf, "weights"), weights)
    count = images.shape[0]
    indices = as_indices(indices, count)
    optimizer = optax.partition(
        {"latents": optax.adam(latent_rate), "weights": optax.adam(weight_rate)},
        {"latents": "latents", "weights": "weights"},
    )

    def search(query):
        image, key = query

        def errors_of(variables):
            generated = generate_fn(variables["weights"], variables["latents"])
            if getattr(generated, "shape", None) != (num_seeds, *image.shape):
                raise UserError(
                    f"generate_fn must return images of the shape {(num_seeds, *image.shape)}; got "
                    f"{getattr(generated, 'shape', type(generated).__name__)}"
                )
            return jnp.mean(jnp.square(generated - image[None]), axis=(1, 2, 3)), generated

        def loss(variables):
            errors, _ = errors_of(variables)
            # Adam is invariant to the scale: the sum gives each latent its own gradient, the weights that of the mean.
            return jnp.sum(errors), errors

        start = {"latents": sample_fn(key, num_seeds), "weights": weights}
        variables, _ = descend(loss, start, optimizer, num_steps=num_steps)
        errors, generated = errors_of(variables)
        return errors, generated[jnp.argmin(errors)]

    keys = fold_in(single_key(key), indices)
    errors, reconstructions = jax.lax.map(search, (images, keys), batch_size=min(chunk_size, count))
    return AdganResult(jnp.mean(errors, axis=1), reconstructions, errors)
