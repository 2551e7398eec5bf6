"""Training of a denoiser: a wavelet decoder on the frozen convolutions of a trained encoder with Haar pooling.

Source: Rojas-Gomez et al. 2022, sections 3.3 and A3.4.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from arinv import data, metrics, models
from arinv.errors import UserError
from arinv.experiment import descriptions, loading, workdirs
from arinv.experiment.fields import check_fields
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.experiment.trained import (
    CLASSIFIER,
    DENOISER,
    DISCRIMINATOR,
    GENERATOR,
    Trained,
    make_denoise_fn,
    make_features_fn,
)
from arinv.models.generators.wavelet import MULTIPLE, SMALLEST_SIDE
from arinv.ops import degradations
from arinv.ops.augment import augment
from arinv.ops.degradations import add_gaussian_noise
from arinv.ops.images import image_grid, to_float
from arinv.train import inverter, training
from arinv.train.generator_update import ReconstructionTargets, check_loss, loss_weights, make_update
from arinv.types import Array, Batch, Metrics, Network, Variables


def check(config: ConfigDict) -> None:
    """Checks everything that does not depend on data or checkpoints.

    Raises:
      UserError: unknown name or number out of range.
    """
    check_fields(config)
    training.check(config)
    fields = config.decoder
    denoiser = models.build_denoiser(config.encoder.name, variant=fields.variant, pad_side=fields.pad_side)
    if fields.image_bias and not denoiser.decoder.takes_image_bias:
        raise UserError(
            f"decoder.image_bias={fields.image_bias} is of decoders that normalize three channels, unlike "
            f"{config.encoder.name}'s: leave it 0"
        )
    models.feature_spec(config.encoder.name, config.loss.feature_layer)
    degradations.check_noise(**config.noise)
    check_loss(config.loss)
    size, window = config.data.image_size, config.augmentation.get("window", 0)
    for name, side in (("data.image_size", size), ("augmentation.window", window or size)):
        if side % MULTIPLE or side < SMALLEST_SIDE:
            raise UserError(f"{name}={side} must be a multiple of {MULTIPLE} from {SMALLEST_SIDE} up")
    if window > size:
        raise UserError(f"augmentation.window={window} is more than data.image_size={size}; cut smaller windows")
    if not config.encoder.checkpoint:
        raise UserError("encoder.checkpoint is empty; name the workdir of a classifier's training")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the classifier exists or is trained by one, and that there are images.

    Raises:
      UserError: another network or architecture, or data that cannot be read.
    """
    if run.check_planned(run.config.encoder.checkpoint, kind=CLASSIFIER, allow_other_size=True) is None:
        load_frozen(run)
    training.check_inputs(run)


def run(run: Run) -> dict[str, Any]:
    """Trains, saves checkpoints in the workdir, and returns the results on the test source.

    Args:
      run: a run of configs/denoising.py; config.encoder.checkpoint names the classifier's workdir.

    Raises:
      UserError: data or checkpoints that cannot be read or do not fit the config.
    """
    config, classifier = run.config, load_frozen(run)
    size = descriptions.report_size(classifier.description, _window(config), config.title)
    return run.finish({**training.train(run, build, classifier), **size, "noise": config.noise.to_dict()})


def load_frozen(run: Run) -> Trained:
    """Returns the classifier, checked to be the encoder of the config.

    Raises:
      UserError: it is another one, or cannot be read.
    """
    reference = run.config.encoder.checkpoint
    classifier = run.load(reference, kind=CLASSIFIER)
    descriptions.check_encoder(classifier.description, run.config.encoder.name, run.resolve(reference))
    return classifier


plan_frozen = inverter.plan_frozen


def build(run: Run, classifier: Trained, info: data.SourceInfo, steps_per_epoch: int) -> training.TrainSetup:
    """Returns what is trained, and how.

    Args:
      run: a run of configs/denoising.py.
      classifier: its convolutions are frozen; trained or with the shapes of its weights.
      info: description of the training images.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: an encoder that does not fit the config, or a number out of range.
    """
    config, size, noise = run.config, _window(run.config), run.config.noise.to_dict()
    description = _describe(run, classifier)
    encoder, decoder = loading.build_denoiser(description, classifier, dtype=run.dtype)
    decoder = decoder.clone(image_bias=config.decoder.image_bias)
    networks = {GENERATOR: (decoder, loading.decoder_inputs(encoder, size))}
    comparator, discriminator = classifier.module, None
    if not comparator.feature_specs()[config.loss.feature_layer].is_vector:
        comparator = comparator.clone(num_classes=0)  # dense layers may fit images of one size only
    if config.loss.adversarial > 0:
        discriminator = models.build_discriminator(image_size=size, dtype=run.dtype)
        condition = loading.feature_structs(comparator, size)[config.loss.feature_layer]
        networks[DISCRIMINATOR] = (discriminator, (loading.image_struct(size), condition))
    optimizers = training.make_optimizers(config, tuple(networks), steps_per_epoch)
    step = make_train_step(
        encoder,
        decoder,
        comparator,
        discriminator,
        optimizers,
        noise=noise,
        feature_layer=config.loss.feature_layer,
        weights=loss_weights(config.loss),
        pixel_order=config.loss.pixel_order,
        augmentation=config.augmentation.to_dict(),
    )
    eval_step = make_eval_step(encoder, decoder, noise=noise)
    return training.TrainSetup(
        networks=networks,
        optimizers=optimizers,
        train_step=step,
        eval_step=lambda variables, batch, key, frozen: eval_step(variables[GENERATOR], batch, key, frozen),
        figure=lambda images: image_grid([to_float(images["image"]), images["noisy"], images["denoised"]]),
        description=description,
        frozen=(classifier.variables,),
        normalization=classifier.module.normalization,
    )


def _window(config: ConfigDict) -> int:
    """Returns the side of the windows that the decoder is trained on, in pixels."""
    return config.augmentation.get("window", 0) or config.data.image_size


def _describe(run: Run, classifier: Trained) -> dict[str, Any]:
    """Returns the description of a checkpoint, which the denoiser is rebuilt from."""
    config = run.config
    return {
        "kind": DENOISER,
        "encoder_workdir": workdirs.relative(run.resolve(config.encoder.checkpoint), run.workdir),
        "encoder": classifier.description["encoder"],
        "variant": config.decoder.variant,
        "pad_side": config.decoder.pad_side,
        "image_size": config.data.image_size,
        "noise": config.noise.to_dict(),
        "loss": config.loss.to_dict(),
    }


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
      decoder: (features["conv5"], details) -> images; "generator" in the state.
      comparator: the classifier with the encoder's weights, images -> (logits, features).
      discriminator: (images, features[feature_layer]) -> logits; None to train without.
      optimizers: one for "generator" and one for "discriminator" where there is one.
      noise: options of ops.degradations.add_gaussian_noise.
      feature_layer: the comparator's feature that the feature loss compares.
      weights: weights of the terms, see `generator_update.make_update`.
      pixel_order: 1 for l1, 2 for squared l2.
      augmentation: options of ops.augment.augment.

    Returns:
      A function whose metrics are the weighted terms, per image. No gradient of a frozen weight is computed.
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
        goal = ReconstructionTargets(images, targets, features_fn, targets[feature_layer], batch["mask"])
        return update(keys, state, (features["conv5"], details), goal)

    return train_step


def make_eval_step(
    encoder: Network, decoder: Network, *, noise: Mapping[str, Any]
) -> Callable[[Variables, Batch, Array, Variables], Mapping[str, Array]]:
    """Returns the pure step (decoder_variables, batch, key, classifier_variables) -> results.

    Args:
      encoder: the frozen wavelet encoder.
      decoder: its decoder.
      noise: options of ops.degradations.add_gaussian_noise.

    Returns:
      A function returning "psnr", "ssim", "psnr_noisy" and "ssim_noisy", each [B], "noisy" and "denoised"
      [B, H, W, C].
    """
    denoise_fn = make_denoise_fn(encoder, decoder)

    def eval_step(variables: Variables, batch: Batch, key: Array, classifier_variables: Variables):
        images = to_float(batch["image"])
        noisy = add_gaussian_noise(key, images, **noise)
        denoised = denoise_fn((classifier_variables, variables), noisy)
        results = {
            f"{name}{suffix}": metric(outputs, images)
            for name, metric in (("psnr", metrics.psnr), ("ssim", metrics.ssim))
            for suffix, outputs in (("", denoised), ("_noisy", noisy))
        }
        return {**results, "noisy": noisy, "denoised": denoised}

    return eval_step
