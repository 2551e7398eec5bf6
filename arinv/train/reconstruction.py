"""The update that inverters and denoisers share: a network that makes images, with or without a discriminator.

Losses are summed over each image and averaged over the batch, which keeps the papers' weights meaningful.
An update with a discriminator goes: reconstruct once; update the discriminator on the images and the detached
reconstructions; judge the same reconstructions by the updated discriminator; update the generator.

Source: Rojas-Gomez et al. 2022, section 3.2, and the order of the released code.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from arinv import losses, metrics
from arinv.train import state as train_state
from arinv.train.state import TrainState
from arinv.types import Array, FeaturesFn, Metrics, Network, Variables

GENERATOR, DISCRIMINATOR = "generator", "discriminator"  # of the networks in the state


class Goal(NamedTuple):
    """What a batch of reconstructions is compared with, all of it constant.

    Attributes:
      images: [B, H, W, C] in [0, 1].
      targets: the comparator's features of the images, by layer.
      features_fn: the comparator.
      condition: what the discriminator is given beside an image, [B, ...]; None without one.
      mask: [B], 0 for padding.
    """

    images: Array
    targets: Mapping[str, Array]
    features_fn: FeaturesFn
    condition: Array | None
    mask: Array


def make_features_fn(encoder: Network, variables: Variables) -> FeaturesFn:
    """Returns images [B, H, W, C] in [0, 1] -> named features, in evaluation mode, in float32."""

    def features_fn(images: Array) -> Mapping[str, Array]:
        features = encoder.apply(variables, images, train=False)[1]
        return {name: value.astype(jnp.float32) for name, value in features.items()}

    return features_fn


def make_update(
    generator: Network,
    discriminator: Network | None,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    feature_layer: str,
    weights: Mapping[str, float],
    pixel_order: int = 1,
) -> Callable[[Array, TrainState, tuple, Goal], tuple[TrainState, Metrics]]:
    """Returns the pure update (keys [3], state, inputs of the generator, goal) -> (state one step on, metrics).

    Args:
      generator: inputs -> images.
      discriminator: (images, condition) -> logits; None to train without.
      optimizers: one for "generator" and one for "discriminator" where there is one.
      feature_layer: the feature that the feature loss compares.
      weights: {"pixel": ..., "feature": ..., "adversarial": ..., "discriminator": ...} of the terms;
        pixel or feature 0 leaves that term out.
      pixel_order: 1 for l1, 2 for squared l2.

    Returns:
      A function whose metrics hold each weighted term, per image.

    Source: Rojas-Gomez et al. 2022, eqs. 4 to 8.
    """
    reconstruction_loss = functools.partial(
        _reconstruction_loss, feature_layer=feature_layer, weights=weights, pixel_order=pixel_order
    )

    def update(keys: Array, state: TrainState, inputs: tuple, goal: Goal):
        variables = state.variables[GENERATOR]

        def generate(params):
            return train_state.apply_train(generator, params, variables, *inputs, key=keys[0])

        reconstructions, backward, collections = jax.vjp(generate, variables["params"], has_aux=True)

        terms, judge = {}, None
        if discriminator is not None:
            state, terms["discriminator"] = _discriminator_step(
                keys[1],
                state,
                discriminator,
                optimizers[DISCRIMINATOR],
                weights["discriminator"],
                reconstructions,
                goal,
            )
            judge = _make_judge(keys[2], discriminator, state.variables[DISCRIMINATOR], goal.condition)

        cotangent, (generator_terms, judged) = jax.grad(reconstruction_loss, has_aux=True)(reconstructions, goal, judge)
        if judged is not None:  # the power iteration of the second forward
            judged = {**state.variables[DISCRIMINATOR], **judged}
            state = state.replace(variables={**state.variables, DISCRIMINATOR: judged})
        (gradients,) = backward(cotangent)
        state = train_state.apply_gradients(state, GENERATOR, gradients, collections, optimizers[GENERATOR])

        report = {"loss": sum(generator_terms.values()), "psnr": metrics.psnr(reconstructions, goal.images)}
        report |= {f"loss_{name}": term for name, term in {**generator_terms, **terms}.items()}
        report = {name: (jnp.sum(value * goal.mask), jnp.sum(goal.mask)) for name, value in report.items()}
        return state.replace(step=state.step + 1), report

    return update


def _masked_mean(values: Array, mask: Array) -> Array:
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def _reconstruction_loss(reconstructions: Array, goal: Goal, judge, *, feature_layer, weights, pixel_order):
    """Returns the mean loss, and its weighted terms per image with the judge's new collections."""
    terms, collections = {}, None
    if weights["pixel"] > 0:
        terms["pixel"] = weights["pixel"] * losses.pixel_loss(reconstructions, goal.images, order=pixel_order)
    if weights["feature"] > 0:
        features = goal.features_fn(reconstructions)[feature_layer]
        terms["feature"] = weights["feature"] * losses.feature_loss(features, goal.targets[feature_layer])
    if judge is not None:
        logits, collections = judge(reconstructions)
        terms["adversarial"] = weights["adversarial"] * losses.generator_loss(logits)
    return _masked_mean(sum(terms.values()), goal.mask), (terms, collections)


def _discriminator_step(
    key, state, discriminator, optimizer, weight, reconstructions, goal: Goal
) -> tuple[TrainState, Array]:
    """Returns the state after the discriminator's update, and its weighted loss per image [B].

    Two forwards, the images' and then the reconstructions', each with a power iteration of the spectral norms and a
    dropout mask of its own, as in the released code.
    """
    variables = state.variables[DISCRIMINATOR]
    keys = jax.random.split(key)

    def loss_fn(params):
        def judge(key, collections, images):
            return train_state.apply_train(discriminator, params, collections, images, goal.condition, key=key)

        real, collections = judge(keys[0], variables, goal.images)
        fake, collections = judge(keys[1], collections, reconstructions)
        per_image = weight * losses.discriminator_loss(real, fake)
        return _masked_mean(per_image, goal.mask), (per_image, collections)

    gradients, (per_image, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
    return train_state.apply_gradients(state, DISCRIMINATOR, gradients, collections, optimizer), per_image


def _make_judge(key: Array, discriminator: Network, variables: Variables, condition: Any):
    """Returns images -> (logits [B], collections after the forward), in training mode."""

    def judge(images):
        return train_state.apply_train(discriminator, variables["params"], variables, images, condition, key=key)

    return judge
