"""Latent search: gradient descent on a generator's input until its output resembles an image.

All images of a batch are searched at once. The loss is a sum over images and each image's loss depends on its own
latent only, so that the gradient of the sum holds every image's own, and results do not depend on the batch.
Images are float32 [B, H, W, C] in [0, 1].

Only the latents have a gradient. Weights that belong to the callables should be arguments of the function that is
compiled, or they are embedded in it as constants:

    @jax.jit
    def search(key, generator_variables, encoder_variables, images):
        decode_fn = lambda z: generator.apply(generator_variables, z, train=False)
        features_fn = lambda x: encoder.apply(encoder_variables, x, train=False)[1]
        return latent_search(key, decode_fn, features_fn, images, latent_shape=(6, 6, 256), layer="conv5",
                             pixel_weight=2e-6, feature_weight=1e-2)

Source: Rojas-Gomez et al. 2022, sections 3.3 and A2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from arinv.apps.anomaly.scores import reconstruction_terms
from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.descent import descend
from arinv.ops.inputs import (
    LOOSE_BOUNDS,
    as_finite,
    as_images,
    as_indices,
    check_count,
    check_flag,
    check_number,
    check_shape,
    decode,
    layer_features,
)
from arinv.ops.keys import single_key
from arinv.types import Array, ArrayLike, DecodeFn, FeaturesFn


class SearchResult(NamedTuple):
    """The result of a latent search for N images.

    Attributes:
      latents: float32 [N, ...], those of the last iteration.
      reconstructions: float32 [N, H, W, C] in [0, 1], the generator's images of the latents.
      scores: float32 [N], pixel + feature.
      pixel: float32 [N], the weighted pixel term of the reconstructions.
      feature: float32 [N], the weighted feature term.
      history: float32 [T, N], the scores of all iterations.
      pixel_history: float32 [T, N], their weighted pixel term.
      feature_history: float32 [T, N], their weighted feature term.
    """

    latents: Array
    reconstructions: Array
    scores: Array
    pixel: Array
    feature: Array
    history: Array
    pixel_history: Array
    feature_history: Array


def latent_search(
    key: Array,
    decode_fn: DecodeFn,
    features_fn: FeaturesFn,
    images: ArrayLike,
    *,
    latent_shape: tuple[int, ...],
    layer: str,
    pixel_weight: float,
    feature_weight: float,
    num_steps: int = 100,
    learning_rate: float = 0.1,
    end_learning_rate: float = 0.001,
    end_inclusive: bool = True,
    momentum: float = 0.9,
    num_restarts: int = 1,
    indices: ArrayLike | None = None,
    init: ArrayLike | None = None,
) -> SearchResult:
    """Returns the latents that gradient descent from Gaussian noise reaches, and the scores of their images.

    The score of an image is its loss in the last iteration, which makes no update.

    Args:
      key: PRNG key of the starts.
      decode_fn: latents [B, ...] -> images [B, H, W, C] in [0, 1]; rows independent.
      features_fn: images [B, H, W, C] in [0, 1] -> named features; rows independent.
      images: [B, H, W, C] in [0, 1].
      latent_shape: shape of one latent.
      layer: the feature that is compared.
      pixel_weight: weight of the sum of absolute differences between pixels; may be traced.
      feature_weight: weight of the sum of squared differences between features; may be traced.
      num_steps: iterations T, at least 1.
      learning_rate: learning rate of the first iteration; from there it falls on a straight line.
      end_learning_rate: learning rate at which the line ends.
      end_inclusive: True: it ends at the last of the T iterations (Rojas-Gomez et al. 2022, section A2). False: at the
        one that would follow, as in the released code, which has 0.1 (1 - 0.95 j / 100): `end_learning_rate=0.005`,
        and 0.00595 at the last.
      momentum: momentum of the velocity v in v = momentum v + gradient, z = z - rate v.
      num_restarts: starts of each image; the one with the lowest score is kept.
      indices: integer [B]; an image's starts follow from `key` and its index, so that it gets the same ones in
        every batch. None for 0, 1, ..., B - 1.
      init: [B, *latent_shape], the first start of each image, such as its own feature; noise as the others if None.

    Returns:
      The result for each image; of its best start where there are several.

    Raises:
      UserError: images outside [0, 1], an unknown layer, counts below 1, a rate or weight that is negative, a momentum
        outside 0 to 1, `indices` that are not one per image, `init` of another shape, or `end_inclusive` that is
        neither true nor false.

    Source: Rojas-Gomez et al. 2022, section A2: 100 iterations of SGD with momentum 0.9 at a rate that falls from
    0.1 to 0.001. The released code ends at 0.005 and takes the last loss before its update; the rate follows the
    paper, the score the code.
    """
    images = jax.lax.stop_gradient(as_images(images))
    check_count(num_steps, "num_steps")
    check_count(num_restarts, "num_restarts")
    for name, value in (("pixel_weight", pixel_weight), ("feature_weight", feature_weight)):
        check_number(value, name, minimum=0.0)
    for name, value in (("learning_rate", learning_rate), ("end_learning_rate", end_learning_rate)):
        check_number(value, name, minimum=0.0)
    check_number(momentum, "momentum", minimum=0.0, maximum=1.0)
    latent_shape = check_shape(latent_shape, "latent_shape")
    starts = _starts(key, indices, init, images.shape[0], num_restarts=num_restarts, latent_shape=latent_shape)
    features = jax.lax.stop_gradient(layer_features(features_fn, images, (layer,))[0])
    # An image's restarts are neighbors, so that the restarts of a sharded batch need no communication.
    images, features = (jnp.repeat(x, num_restarts, axis=0) for x in (images, features))

    def evaluate(latents):
        reconstructions = decode(decode_fn, latents, bounds=LOOSE_BOUNDS)
        (reconstructed,) = layer_features(features_fn, reconstructions, (layer,))
        weights = {"pixel_weight": pixel_weight, "feature_weight": feature_weight}
        return reconstructions, *reconstruction_terms(reconstructions, reconstructed, images, features, **weights)

    def total(latents):
        _, pixel, feature = evaluate(latents)
        return jnp.sum(pixel + feature), jnp.stack([pixel, feature])

    intervals = max(1, num_steps - 1) if check_flag(end_inclusive, "end_inclusive") else num_steps
    rates = optax.linear_schedule(learning_rate, end_learning_rate, intervals)
    optimizer = optax.sgd(rates, momentum=momentum)
    latents, terms = descend(total, starts, optimizer, num_steps=num_steps - 1, repair=norms.finite_gradient)
    reconstructions, pixel, feature = evaluate(latents)
    terms = jnp.concatenate([terms, jnp.stack([pixel, feature])[None]])
    best = _best_restart(pixel + feature, num_restarts)
    latents, reconstructions, pixel, feature = (x[best] for x in (latents, reconstructions, pixel, feature))
    pixels, features = terms[:, 0, best], terms[:, 1, best]
    return SearchResult(latents, reconstructions, pixel + feature, pixel, feature, pixels + features, pixels, features)


def _starts(key, indices, init, batch_size: int, *, num_restarts: int, latent_shape: tuple[int, ...]) -> Array:
    """Returns latents [batch_size * num_restarts, ...], an image's restarts one after the other: N(0, 1), or `init`."""
    key = single_key(key)
    indices = as_indices(indices, batch_size)

    def draw(index, restart):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, index), restart), latent_shape, jnp.float32)

    restarts = jnp.tile(jnp.arange(num_restarts), batch_size)
    starts = jax.vmap(draw)(jnp.repeat(indices, num_restarts), restarts)
    if init is None:
        return starts
    init = as_finite(init, "init")
    if init.shape != (batch_size, *latent_shape):
        raise UserError(f"init must have the shape {(batch_size, *latent_shape)}; got {init.shape}")
    init = jax.lax.stop_gradient(jnp.repeat(init, num_restarts, axis=0))
    return jnp.where((restarts == 0).reshape(-1, *[1] * len(latent_shape)), init, starts)


def _best_restart(scores: Array, num_restarts: int) -> Array:
    """Returns the row of the lowest score among each image's restarts; NaN counts as infinity."""
    rows = scores.reshape(-1, num_restarts)
    rows = jnp.where(jnp.isnan(rows), jnp.inf, rows)
    return jnp.arange(rows.shape[0]) * num_restarts + jnp.argmin(rows, axis=1)
