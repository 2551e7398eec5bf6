"""Trains a denoiser: a decoder behind the frozen convolutions of a trained AlexNet that pool by the Haar transform."""

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from arinv import models
from arinv.errors import UserError
from arinv.models.wavelet_encoder import MULTIPLE, SMALLEST_SIDE
from arinv.ops import degradations
from arinv.ops.images import image_grid, to_float
from arinv.tasks import networks, setting, training
from arinv.tasks import workdir as workdirs
from arinv.tasks.denoising import networks as denoiser_networks
from arinv.tasks.fingerprint import fingerprint
from arinv.train import denoiser
from arinv.train.reconstruction import DISCRIMINATOR, GENERATOR


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    setting.validate(config)
    training.validate(config)
    models.build_denoiser(config.encoder.name, variant=config.decoder.variant, pad_side=config.decoder.pad_side)
    models.feature_spec(config.encoder.name, config.loss.feature_layer)
    degradations.check_noise(**config.noise)
    training.check_loss(config.loss)
    size, window = config.data.image_size, config.augmentation.get("window", 0)
    for name, side in (("data.image_size", size), ("augmentation.window", window or size)):
        if side % MULTIPLE or side < SMALLEST_SIDE:
            raise UserError(f"{name}={side} must be a multiple of {MULTIPLE} from {SMALLEST_SIDE} up")
    if window > size:
        raise UserError(f"augmentation.window={window} is more than data.image_size={size}; cut smaller windows")
    if not config.encoder.checkpoint:
        raise UserError("encoder.checkpoint is empty; name the workdir of a classifier's training")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains, saves checkpoints in `workdir`, and returns the results on the test source.

    Args:
      config: as made by configs/denoising.py; config.encoder.checkpoint names the classifier's workdir.
      workdir: of this run.

    Raises:
      UserError: what the config asks for does not exist or does not fit.
    """
    mesh = setting.mesh(config)
    classifier = _load_classifier(config, workdir, setting.dtype(config))
    train, test = setting.open_source(config, "train"), setting.open_source(config, "test")
    batches = training.make_batches(config, train)
    trainee = build(config, workdir, classifier, batches.steps_per_epoch)
    described = {**trainee.description, networks.WEIGHTS: fingerprint(classifier.variables)}
    trainee = dataclasses.replace(trainee, description=described)
    size = networks.report_size(classifier, _trained_size(config), config.title)
    results = training.run(config, workdir, trainee, batches=batches, train=train, test=test, mesh=mesh)
    results = {**results, **size, "noise": config.noise.to_dict(), "setting": setting.provenance(config)}
    workdirs.write_results(workdir, results)
    return results


def build(
    config: ConfigDict, workdir: pathlib.Path, classifier: networks.Encoder, steps_per_epoch: int
) -> training.Trainee:
    """Returns what is trained, and how.

    Args:
      config: as made by configs/denoising.py.
      workdir: of the run, from which the classifier's is found.
      classifier: whose convolutions are frozen, trained or with the shapes of its weights.
      steps_per_epoch: what an epoch of the config means.

    Raises:
      UserError: what the config asks for does not exist or does not fit.
    """
    dtype, size = setting.dtype(config), _trained_size(config)
    description = _describe(config, classifier, workdir)
    encoder, decoder = denoiser_networks.build(description, classifier, dtype=dtype)
    decoder = decoder.clone(image_bias=config.decoder.image_bias)
    parts = {GENERATOR: (decoder, denoiser_networks.decoder_inputs(encoder, size))}
    discriminator = None
    if config.loss.adversarial > 0:
        discriminator = models.build_discriminator(image_size=size, dtype=dtype)
        condition = networks.feature_structs(classifier.module, size)[config.loss.feature_layer]
        parts[DISCRIMINATOR] = (discriminator, (networks.image_struct(size), condition))
    optimizers = training.make_optimizers(config, tuple(parts), steps_per_epoch)
    noise = config.noise.to_dict()
    step = denoiser.make_train_step(
        encoder,
        decoder,
        classifier.module,
        discriminator,
        optimizers,
        noise=noise,
        feature_layer=config.loss.feature_layer,
        weights={name: config.loss[name] for name in ("pixel", "feature", "adversarial", "discriminator")},
        pixel_order=config.loss.pixel_order,
        augmentation=config.augmentation.to_dict(),
    )
    eval_step = denoiser.make_eval_step(encoder, decoder, noise=noise)
    return training.Trainee(
        networks=parts,
        optimizers=optimizers,
        train_step=step,
        eval_step=lambda variables, batch, key, frozen: eval_step(variables[GENERATOR], batch, key, frozen),
        picture=lambda images: image_grid([to_float(images["image"]), images["noisy"], images["denoised"]]),
        description=description,
        frozen=(classifier.variables,),
        normalization=classifier.module.normalization,
    )


def _trained_size(config: ConfigDict) -> int:
    """Returns the side of the images that are trained on, in pixels."""
    return config.augmentation.get("window", 0) or config.data.image_size


def _load_classifier(config: ConfigDict, workdir: pathlib.Path, dtype: Any) -> networks.Encoder:
    source = workdirs.resolve(config.encoder.checkpoint, workdir)
    classifier = networks.load_encoder(source, dtype=dtype)
    networks.check_name(classifier, config.encoder.name, source)
    return classifier


def _describe(config: ConfigDict, classifier: networks.Encoder, workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the checkpoint's description."""
    source = workdirs.resolve(config.encoder.checkpoint, workdir)
    return {
        "kind": denoiser_networks.KIND,
        "encoder_workdir": workdirs.relative(source, workdir),
        "encoder": classifier.description["encoder"],
        "variant": config.decoder.variant,
        "pad_side": config.decoder.pad_side,
        "image_size": config.data.image_size,
        "noise": config.noise.to_dict(),
        "loss": config.loss.to_dict(),
    }
