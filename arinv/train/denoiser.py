"""Training steps of a denoiser: a decoder with skips behind a frozen encoder that pools by the Haar transform.

The encoder sees noisy images, drawn anew at every step; the decoder is to make the clean ones of them. Pixels are
compared, and the features of an ordinary AlexNet of the same weights, max-pools and all, which sees the clean image
and the denoised one. With a discriminator that AlexNet's features of the clean image are its condition.

Source: Rojas-Gomez et al. 2022, section 3.3 and A3.4.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from arinv import metrics
from arinv.ops.augment import augment
from arinv.ops.degradations import add_gaussian_noise
from arinv.ops.images import to_float
from arinv.train.reconstruction import Goal, make_features_fn, make_update
from arinv.train.state import TrainState
from arinv.types import Array, Batch, Metrics, Network, Variables


def make_train_step(
    encoder: Network,
    decoder: Network,
    comparator: Network,
    discriminator: Network | None,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    noise: Mapping[str, Any],
    feature_layer: str,
    weights: Mapping[str, float],
    pixel_order: int = 1,
    augmentation: Mapping,
) -> Callable[[TrainState, Batch, Array, Variables], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key, classifier_variables) -> (state, metrics).

    Args:
      encoder: the frozen wavelet encoder, images -> (features, details).
      decoder: (features["conv5"], details) -> images; the "generator" of the state.
      comparator: the classifier that the encoder's weights are of, images -> (logits, features).
      discriminator: (images, features[feature_layer]) -> logits; None to train without.
      optimizers: one for "generator" and one for "discriminator" where there is one.
      noise: options of ops.degradations.add_gaussian_noise.
      feature_layer: the comparator's feature that is compared.
      weights: of the terms, as for reconstruction.make_update.
      pixel_order: 1 for l1, 2 for squared l2.
      augmentation: options of ops.augment.augment.

    Returns:
      A function whose metrics hold each weighted term, per image. No gradient of a frozen weight is computed.
    """
    update = make_update(
        decoder, discriminator, optimizers, feature_layer=feature_layer, weights=weights, pixel_order=pixel_order
    )

    def train_step(state: TrainState, batch: Batch, key: Array, classifier_variables: Variables):
        augment_key, noise_key, *keys = jax.random.split(jax.random.fold_in(key, state.step), 5)
        images = augment(augment_key, batch["image"], **augmentation)
        noisy = add_gaussian_noise(noise_key, images, **noise)
        features, details = jax.lax.stop_gradient(encoder.apply(classifier_variables, noisy))
        features_fn = make_features_fn(comparator, classifier_variables)
        targets = jax.lax.stop_gradient(features_fn(images))
        goal = Goal(images, targets, features_fn, targets[feature_layer], batch["mask"])
        return update(keys, state, (features["conv5"], details), goal)

    return train_step


@functools.lru_cache(maxsize=8)
def make_denoise_fn(encoder: Network, decoder: Network) -> Callable[[tuple[Variables, Variables], Array], Array]:
    """Returns ((encoder_variables, decoder_variables), images) -> denoised images.

    Equal networks get the same function, so that what was compiled for one serves the other's weights too.

    Args:
      encoder: the wavelet encoder.
      decoder: its decoder.
    """

    def denoise_fn(variables: tuple[Variables, Variables], images: Array) -> Array:
        features, details = encoder.apply(variables[0], images)
        return decoder.apply(variables[1], features["conv5"], details, train=False)

    return denoise_fn


def make_eval_step(
    encoder: Network, decoder: Network, *, noise: Mapping[str, Any]
) -> Callable[[Variables, Batch, Array, Variables], Mapping[str, Array]]:
    """Returns the pure step (decoder_variables, batch, key, classifier_variables) -> results.

    Args:
      encoder: the frozen wavelet encoder.
      decoder: its decoder.
      noise: options of ops.degradations.add_gaussian_noise.

    Returns:
      A function giving "psnr", "ssim", "psnr_noisy" and "ssim_noisy", each [B], "noisy" and "denoised" [B, H, W, C].
    """
    denoise_fn = make_denoise_fn(encoder, decoder)

    def eval_step(variables: Variables, batch: Batch, key: Array, classifier_variables: Variables):
        images = to_float(batch["image"])
        noisy = add_gaussian_noise(key, images, **noise)
        denoised = denoise_fn((classifier_variables, variables), noisy)
        results = {
            f"{name}{suffix}": metric(found, images)
            for name, metric in (("psnr", metrics.psnr), ("ssim", metrics.ssim))
            for suffix, found in (("", denoised), ("_noisy", noisy))
        }
        return {**results, "noisy": noisy, "denoised": denoised}

    return eval_step
