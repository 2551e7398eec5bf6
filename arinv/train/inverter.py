"""Training steps of an inverter: a generator, with or without a discriminator, on a frozen encoder.

Source: Rojas-Gomez et al. 2022, section 3.2, and the order of the released code.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from arinv import metrics
from arinv.ops.augment import augment
from arinv.ops.images import to_float
from arinv.train.reconstruction import DISCRIMINATOR, GENERATOR, Goal, make_features_fn, make_update
from arinv.train.state import TrainState
from arinv.types import Array, Batch, Metrics, Network, Variables

__all__ = ["DISCRIMINATOR", "GENERATOR", "make_eval_step", "make_features_fn", "make_train_step"]


def make_train_step(
    encoder: Network,
    generator: Network,
    discriminator: Network | None,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    layer: str,
    feature_layer: str,
    weights: Mapping[str, float],
    pixel_order: int = 1,
    augmentation: Mapping,
) -> Callable[[TrainState, Batch, Array, Variables], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key, encoder_variables) -> (state, metrics).

    Args:
      encoder: the frozen network, feature extractor and comparator in one.
      generator: features[layer] -> images.
      discriminator: (images, features[layer]) -> logits; None to train without.
      optimizers: one for "generator" and one for "discriminator" where there is one.
      layer: the feature that is inverted.
      feature_layer: the feature that the feature loss compares.
      weights: {"pixel": ..., "feature": ..., "adversarial": ..., "discriminator": ...} of the terms;
        pixel or feature 0 leaves that term out.
      pixel_order: 1 for l1, 2 for squared l2.
      augmentation: options of ops.augment.augment.

    Returns:
      A function whose metrics hold each weighted term, per image.

    Source: Rojas-Gomez et al. 2022, eqs. 4 to 8.
    """
    update = make_update(
        generator, discriminator, optimizers, feature_layer=feature_layer, weights=weights, pixel_order=pixel_order
    )

    def train_step(state: TrainState, batch: Batch, key: Array, encoder_variables: Variables):
        augment_key, *keys = jax.random.split(jax.random.fold_in(key, state.step), 4)
        images = augment(augment_key, batch["image"], **augmentation)
        features_fn = make_features_fn(encoder, encoder_variables)
        targets = jax.lax.stop_gradient(features_fn(images))
        goal = Goal(images, targets, features_fn, targets[layer], batch["mask"])
        return update(keys, state, (targets[layer],), goal)

    return train_step


def _measure_pixels(_: Any, reconstructions: Array, images: Array) -> Mapping[str, Array]:
    return {
        "psnr": metrics.psnr(reconstructions, images),
        "ssim": metrics.ssim(reconstructions, images),
        "distance": metrics.euclidean_distance(reconstructions, images),
    }


def make_eval_step(
    encoder: Network,
    generator: Network,
    *,
    layer: str,
    measure: Callable[[Any, Array, Array], Mapping[str, Any]] = _measure_pixels,
) -> Callable[[Variables, Batch, Variables, Any], Mapping[str, Any]]:
    """Returns the pure step (generator_variables, batch, encoder_variables, measure_variables=None) -> results.

    Args:
      encoder: the frozen network.
      generator: features[layer] -> images.
      layer: the feature that is inverted.
      measure: (measure_variables, reconstructions, images) -> metrics by name; by default "psnr", "ssim" and
        "distance", each [B], which need no variables.

    Returns:
      A function giving what `measure` gives and "reconstruction" [B, H, W, C].
    """

    def eval_step(
        variables: Variables, batch: Batch, encoder_variables: Variables, measure_variables: Any = None
    ) -> Mapping[str, Any]:
        images = to_float(batch["image"])
        features = make_features_fn(encoder, encoder_variables)(images)[layer]
        reconstructions = generator.apply(variables, features, train=False)
        return {**measure(measure_variables, reconstructions, images), "reconstruction": reconstructions}

    return eval_step
