"""Training steps of an inverter: a generator, with or without a discriminator, on a frozen encoder.

Losses are summed over each image and averaged over the batch, which keeps the papers' weights meaningful.
A step with a discriminator goes: reconstruct once; update the discriminator on the images and the detached
reconstructions; judge the same reconstructions by the updated discriminator; update the generator.

Source: Rojas-Gomez et al. 2022, section 3.2, and the order of the released code.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from arinv import losses, metrics
from arinv.ops.augment import augment
from arinv.ops.images import to_float
from arinv.train import state as train_state
from arinv.train.state import TrainState
from arinv.types import Array, Batch, FeaturesFn, Metrics, Network, Variables

GENERATOR, DISCRIMINATOR = "generator", "discriminator"  # of the networks in the state


def make_features_fn(encoder: Network, variables: Variables) -> FeaturesFn:
    """Returns images [B, H, W, C] in [0, 1] -> named features, in evaluation mode, in float32."""

    def features_fn(images: Array) -> Mapping[str, Array]:
        features = encoder.apply(variables, images, train=False)[1]
        return {name: value.astype(jnp.float32) for name, value in features.items()}

    return features_fn


def _masked_mean(values: Array, mask: Array) -> Array:
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


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
    reconstruction_loss = functools.partial(
        _reconstruction_loss, feature_layer=feature_layer, weights=weights, pixel_order=pixel_order
    )

    def train_step(state: TrainState, batch: Batch, key: Array, encoder_variables: Variables):
        augment_key, *keys = jax.random.split(jax.random.fold_in(key, state.step), 4)
        images, mask = augment(augment_key, batch["image"], **augmentation), batch["mask"]
        features_fn = make_features_fn(encoder, encoder_variables)
        targets = jax.lax.stop_gradient(features_fn(images))
        variables = state.variables[GENERATOR]

        def generate(params):
            return train_state.apply_train(generator, params, variables, targets[layer], key=keys[0])

        reconstructions, backward, collections = jax.vjp(generate, variables["params"], has_aux=True)

        terms, judge = {}, None
        if discriminator is not None:
            pair = (images, reconstructions, targets[layer])
            state, terms["discriminator"] = _discriminator_step(
                state, discriminator, optimizers[DISCRIMINATOR], weights["discriminator"], *pair, mask, keys[1]
            )
            judge = _make_judge(discriminator, state.variables[DISCRIMINATOR], targets[layer], keys[2])

        cotangent, (generator_terms, judged) = jax.grad(reconstruction_loss, has_aux=True)(
            reconstructions, images, targets, features_fn, judge, mask
        )
        if judged is not None:  # the power iteration of the second forward
            judged = {**state.variables[DISCRIMINATOR], **judged}
            state = state.replace(variables={**state.variables, DISCRIMINATOR: judged})
        (gradients,) = backward(cotangent)
        state = train_state.apply_gradients(state, GENERATOR, gradients, collections, optimizers[GENERATOR])

        report = {"loss": sum(generator_terms.values()), "psnr": metrics.psnr(reconstructions, images)}
        report |= {f"loss_{name}": term for name, term in {**generator_terms, **terms}.items()}
        report = {name: (jnp.sum(value * mask), jnp.sum(mask)) for name, value in report.items()}
        return state.replace(step=state.step + 1), report

    return train_step


def _reconstruction_loss(
    reconstructions, images, targets, features_fn, judge, mask, *, feature_layer, weights, pixel_order
):
    """Returns the mean loss, and its weighted terms per image with the judge's new collections."""
    terms, collections = {}, None
    if weights["pixel"] > 0:
        terms["pixel"] = weights["pixel"] * losses.pixel_loss(reconstructions, images, order=pixel_order)
    if weights["feature"] > 0:
        features = features_fn(reconstructions)[feature_layer]
        terms["feature"] = weights["feature"] * losses.feature_loss(features, targets[feature_layer])
    if judge is not None:
        logits, collections = judge(reconstructions)
        terms["adversarial"] = weights["adversarial"] * losses.generator_loss(logits)
    return _masked_mean(sum(terms.values()), mask), (terms, collections)


def _discriminator_step(
    state, discriminator, optimizer, weight, images, reconstructions, features, mask, key
) -> tuple[TrainState, Array]:
    """Returns the state after the discriminator's update, and its weighted loss per image [B]."""
    variables = state.variables[DISCRIMINATOR]
    # One forward for real and fake, interleaved so that a split batch stays where it is.
    both = jnp.stack([images, reconstructions], axis=1).reshape(-1, *images.shape[1:])
    conditions = jnp.repeat(features, 2, axis=0)

    def loss_fn(params):
        logits, collections = train_state.apply_train(discriminator, params, variables, both, conditions, key=key)
        per_image = weight * losses.discriminator_loss(logits[::2], logits[1::2])
        return _masked_mean(per_image, mask), (per_image, collections)

    gradients, (per_image, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
    return train_state.apply_gradients(state, DISCRIMINATOR, gradients, collections, optimizer), per_image


def _make_judge(discriminator, variables: Variables, features: Array, key: Array):
    """Returns images -> (logits [B], collections after the forward), in training mode."""

    def judge(images):
        return train_state.apply_train(discriminator, variables["params"], variables, images, features, key=key)

    return judge


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
