"""Trains a generator that inverts one layer of a trained, frozen encoder."""

import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from arinv import models
from arinv.errors import UserError
from arinv.ops.images import image_grid, to_float
from arinv.tasks import networks, setting, training
from arinv.tasks import workdir as workdirs
from arinv.train import inverter


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    setting.validate(config)
    models.build_generator(config.encoder.name, config.encoder.layer, variant=config.encoder.generator)
    models.feature_spec(config.encoder.name, config.loss.feature_layer or config.encoder.layer)
    training.check_loss(config.loss)
    if not config.encoder.checkpoint:
        raise UserError("encoder.checkpoint is empty; name the workdir of a classifier's training")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains, saves checkpoints in `workdir`, and returns the results on the test source.

    Args:
      config: as made by configs/inverter.py; config.encoder.checkpoint names the classifier's workdir.
      workdir: of this run.

    Raises:
      UserError: what the config asks for does not exist or does not fit.
    """
    mesh, dtype, image_size = setting.mesh(config), setting.dtype(config), config.data.image_size
    encoder = _load_encoder(config, workdir, dtype)
    description = _describe(config, encoder, workdir)
    generator = networks.build_generator(description, encoder, dtype=dtype)
    train, test = setting.open_source(config, "train"), setting.open_source(config, "test")
    features = networks.feature_structs(encoder.module, image_size)

    parts = {inverter.GENERATOR: (generator, (features[config.encoder.layer],))}
    discriminator = None
    if config.loss.adversarial > 0:
        discriminator = models.build_discriminator(image_size=image_size, dtype=dtype)
        inputs = (networks.image_struct(image_size), features[config.encoder.layer])
        parts[inverter.DISCRIMINATOR] = (discriminator, inputs)
    batches = training.make_batches(config, train)
    optimizers = training.make_optimizers(config, tuple(parts), batches.steps_per_epoch)
    step = inverter.make_train_step(
        encoder.module,
        generator,
        discriminator,
        optimizers,
        layer=config.encoder.layer,
        feature_layer=config.loss.feature_layer or config.encoder.layer,
        weights={name: config.loss[name] for name in ("pixel", "feature", "adversarial", "discriminator")},
        pixel_order=config.loss.pixel_order,
        augmentation=config.augmentation.to_dict(),
    )
    eval_step = inverter.make_eval_step(encoder.module, generator, layer=config.encoder.layer)
    trainee = training.Trainee(
        networks=parts,
        optimizers=optimizers,
        train_step=step,
        eval_step=lambda variables, batch, key, frozen: eval_step(variables[inverter.GENERATOR], batch, frozen),
        picture=lambda images: image_grid([to_float(images["image"]), images["reconstruction"]]),
        description=description,
        frozen=(encoder.variables,),
    )
    results = training.run(config, workdir, trainee, batches=batches, test=test, mesh=mesh)
    results = {**results, "setting": setting.provenance(config)}
    workdirs.write_results(workdir, results)
    return results


def _load_encoder(config: ConfigDict, workdir: pathlib.Path, dtype: Any) -> networks.Encoder:
    source = workdirs.resolve(config.encoder.checkpoint, workdir)
    encoder = networks.load_encoder(source, dtype=dtype)
    if encoder.description["encoder"] != config.encoder.name:
        raise UserError(
            f"{source} is of another model: encoder is {encoder.description['encoder']!r} there, "
            f"{config.encoder.name!r} in the config"
        )
    return encoder


def _describe(config: ConfigDict, encoder: networks.Encoder, workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the checkpoint's description; the encoder's place is relative, so that both can be moved."""
    source = workdirs.resolve(config.encoder.checkpoint, workdir).absolute()
    return {
        "kind": "inverter",
        "encoder_workdir": os.path.relpath(source, workdir.absolute()),
        "encoder": encoder.description["encoder"],
        "layer": config.encoder.layer,
        "variant": config.encoder.generator,
        "image_size": config.data.image_size,
        "loss": config.loss.to_dict(),
    }
