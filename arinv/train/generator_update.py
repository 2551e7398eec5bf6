"""The loss of reconstructed images, and the update of a generator and its discriminator by it.

Source: Rojas-Gomez et al. 2022, section 3.2.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from arinv import losses, metrics
from arinv.errors import UserError
from arinv.experiment.state import TrainState, apply_train
from arinv.experiment.trained import DISCRIMINATOR, GENERATOR
from arinv.types import Array, FeaturesFn, Metrics, Network, Variables

_TERMS = ("pixel", "feature", "adversarial")  # of the generator's loss


def check_loss(loss: ConfigDict) -> None:
    """Checks the weights of a loss of reconstructions.

    Raises:
      UserError: a negative weight, no term that compares with the image, or an unknown order.
    """
    for name in _TERMS:
        if not loss[name] >= 0:
            raise UserError(f"loss.{name} must be 0 or more; got {loss[name]!r}")
    if not any(loss[name] > 0 for name in ("pixel", "feature")):
        raise UserError(
            "loss.pixel and loss.feature are both 0, so no term compares the reconstruction with the image; set one "
            "of them"
        )
    if loss.pixel_order not in (1, 2):
        raise UserError(f"loss.pixel_order={loss.pixel_order!r} must be 1 (absolute) or 2 (squared differences)")


def loss_weights(loss: ConfigDict) -> dict[str, float]:
    """Returns the weights of `make_update`."""
    return {name: loss[name] for name in (*_TERMS, "discriminator")}


class ReconstructionTargets(NamedTuple):
    """What a batch of reconstructions is compared with; all constant in the gradient.

    Attributes:
      images: [B, H, W, C] in [0, 1].
      targets: the comparator's features of the images, by layer.
      features_fn: features function of the comparator.
      condition: second input of the discriminator, [B, ...]; None without a discriminator.
      mask: [B], 0 for padding.
    """

    images: Array
    targets: Mapping[str, Array]
    features_fn: FeaturesFn
    condition: Array | None
    mask: Array


def make_update(
    generator: Network,
    discriminator: Network | None,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    feature_layer: str,
    weights: Mapping[str, float],
    pixel_order: int = 1,
    pause: float = 0.0,
) -> Callable[[Array, TrainState, tuple, ReconstructionTargets], tuple[TrainState, Metrics]]:
    """Returns the pure update (keys [3], state, inputs of the generator, goal) -> (state one step on, metrics).

    Args:
      generator: inputs -> images; with weights["divergence"] above 0 it returns (images, normal distribution of
        latents) in training, as a `models.VariationalAutoencoder` does.
      discriminator: (images, condition) -> logits; None to train without.
      optimizers: one for "generator" and one for "discriminator" where there is one.
      feature_layer: the feature that the feature loss compares.
      weights: {"pixel": ..., "feature": ..., "adversarial": ..., "discriminator": ...} of the terms, and
        "divergence", of the latents from N(0, I); 0 omits the term.
      pixel_order: 1 for l1, 2 for squared l2.
      pause: the discriminator is not updated while its loss is below this share of the generator's adversarial loss,
        without weights; 0 for never.

    Returns:
      A function whose metrics are the weighted terms, per image.

    Source: Rojas-Gomez et al. 2022, eqs. 4 to 8; Dosovitskiy & Brox 2016b for the pause, at 0.1, and the divergence.
    """
    divergence_weight = weights.get("divergence", 0.0)
    reconstruction_loss = functools.partial(
        _reconstruction_loss, feature_layer=feature_layer, weights=weights, pixel_order=pixel_order
    )

    def update(keys: Array, state: TrainState, inputs: tuple, goal: ReconstructionTargets):
        variables = state.variables[GENERATOR]

        def generate(params):
            outputs, collections = apply_train(generator, params, variables, *inputs, key=keys[0])
            if not divergence_weight:
                return (outputs, None), collections
            images, latents = outputs
            return (images, divergence_weight * losses.gaussian_divergence(*latents)), collections

        (reconstructions, divergence), backward, collections = jax.vjp(generate, variables["params"], has_aux=True)
        chex.assert_equal_shape([reconstructions, goal.images])

        terms, discriminate = {}, None
        if discriminator is not None:
            state, terms["discriminator"] = _discriminator_step(
                keys[1],
                state,
                discriminator,
                optimizers[DISCRIMINATOR],
                weights["discriminator"],
                reconstructions,
                goal,
                pause,
            )
            discriminate = _make_discriminate(keys[2], discriminator, state.variables[DISCRIMINATOR], goal.condition)

        loss_gradient = jax.grad(reconstruction_loss, has_aux=True)
        cotangent, (generator_terms, discriminator_collections) = loss_gradient(reconstructions, goal, discriminate)
        if discriminator_collections is not None:  # after the power iteration of the generator's forward pass
            discriminator_variables = {**state.variables[DISCRIMINATOR], **discriminator_collections}
            state = state.replace(variables={**state.variables, DISCRIMINATOR: discriminator_variables})
        of_divergence = None
        if divergence is not None:
            of_divergence = goal.mask / jnp.maximum(jnp.sum(goal.mask), 1)
            generator_terms = {**generator_terms, "divergence": divergence}
        (gradients,) = backward((cotangent, of_divergence))
        state = state.apply_gradients(GENERATOR, gradients, collections, optimizers[GENERATOR])

        report = {"loss": sum(generator_terms.values()), "psnr": metrics.psnr(reconstructions, goal.images)}
        report |= {f"loss_{name}": term for name, term in {**generator_terms, **terms}.items()}
        report = {name: (jnp.sum(value * goal.mask), jnp.sum(goal.mask)) for name, value in report.items()}
        return state.replace(step=state.step + 1), report

    return update


def _masked_mean(values: Array, mask: Array) -> Array:
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def _reconstruction_loss(
    reconstructions: Array, goal: ReconstructionTargets, discriminate, *, feature_layer, weights, pixel_order
):
    """Returns the mean loss, and its weighted terms per image with the discriminator's new collections."""
    terms, collections = {}, None
    if weights["pixel"] > 0:
        terms["pixel"] = weights["pixel"] * losses.pixel_loss(reconstructions, goal.images, order=pixel_order)
    if weights["feature"] > 0:
        features = goal.features_fn(reconstructions)[feature_layer]
        chex.assert_equal_shape([features, goal.targets[feature_layer]])
        terms["feature"] = weights["feature"] * losses.feature_loss(features, goal.targets[feature_layer])
    if discriminate is not None:
        logits, collections = discriminate(reconstructions)
        terms["adversarial"] = weights["adversarial"] * losses.generator_loss(logits)
    chex.assert_equal_shape([goal.mask, *terms.values()])
    return _masked_mean(sum(terms.values()), goal.mask), (terms, collections)


def _discriminator_step(
    key, state, discriminator, optimizer, weight, reconstructions, goal: ReconstructionTargets, pause: float
) -> tuple[TrainState, Array]:
    """Returns the state after the discriminator's update, and its weighted loss per image [B].

    Two forward passes, of the images and then of the reconstructions, each with a power iteration of the spectral norms
    and a dropout mask of its own, as in the released code.
    """
    variables = state.variables[DISCRIMINATOR]
    keys = jax.random.split(key)

    def loss_fn(params):
        def discriminate(key, collections, images):
            return apply_train(discriminator, params, collections, images, goal.condition, key=key)

        real, collections = discriminate(keys[0], variables, goal.images)
        fake, collections = discriminate(keys[1], collections, reconstructions)
        loss, adversarial = losses.discriminator_loss(real, fake), losses.generator_loss(fake)
        is_ahead = _masked_mean(loss, goal.mask) < pause * _masked_mean(adversarial, goal.mask)
        return _masked_mean(weight * loss, goal.mask), (weight * loss, is_ahead, collections)

    gradients, (per_image, is_ahead, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
    updated = state.apply_gradients(DISCRIMINATOR, gradients, collections, optimizer)
    if pause:
        updated = jax.tree.map(lambda before, after: jnp.where(is_ahead, before, after), state, updated)
    return updated, per_image


def _make_discriminate(key: Array, discriminator: Network, variables: Variables, condition: Any):
    """Returns images -> (logits [B], collections after the forward pass), in training mode."""

    def discriminate(images):
        return apply_train(discriminator, variables["params"], variables, images, condition, key=key)

    return discriminate
