"""Trains a generator that inverts one layer of a trained, frozen encoder."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from arinv import models
from arinv.errors import UserError
from arinv.ops.images import image_grid, to_float
from arinv.tasks import networks, setting, training
from arinv.tasks import workdir as workdirs
from arinv.tasks.fingerprint import fingerprint
from arinv.train import inverter


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data or checkpoints.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    setting.validate(config)
    training.validate(config)
    networks.check_generator(
        config.encoder.name, config.encoder.layer, variant=config.encoder.generator, image_size=config.data.image_size
    )
    models.feature_spec(config.encoder.name, config.loss.feature_layer or config.encoder.layer)
    training.check_loss(config.loss)
    if not config.encoder.checkpoint:
        raise UserError("encoder.checkpoint is empty; name the workdir of a classifier's training")


def check_inputs(config: ConfigDict, workdir: pathlib.Path, stages: Mapping[pathlib.Path, ConfigDict]) -> None:
    """Checks, before anything is trained, that the encoder is there and fits, or will.

    Raises:
      UserError: no checkpoint there, or one of another network or of another image size.
    """
    reference = config.encoder.checkpoint
    if not reference.startswith("stage:"):
        build_generator(config, _load_encoder(config, workdir))
    elif not config.encoder.other_size:
        networks.check_planned_size(config, reference, workdir, stages)


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains, saves checkpoints in `workdir`, and returns the results on the test source.

    Args:
      config: as made by configs/inverter.py; config.encoder.checkpoint names the classifier's workdir.
      workdir: of this run.

    Raises:
      UserError: what the config asks for does not exist or does not fit.
    """
    mesh = setting.mesh(config)
    encoder = _load_encoder(config, workdir)
    build_generator(config, encoder)  # tells what does not fit before the data is read
    train, test = setting.open_source(config, "train"), setting.open_source(config, "test")
    batches = training.make_batches(config, train)
    trainee = build(config, workdir, encoder, batches.steps_per_epoch)
    described = {**trainee.description, networks.WEIGHTS: fingerprint(encoder.variables)}
    trainee = dataclasses.replace(trainee, description=described)
    size = networks.report_size(encoder, config.data.image_size, config.title)
    results = training.run(config, workdir, trainee, batches=batches, train=train, test=test, mesh=mesh)
    results = {**results, **size, "setting": setting.provenance(config)}
    workdirs.write_results(workdir, results)
    return results


def build_generator(config: ConfigDict, encoder: networks.Encoder) -> Any:
    """Returns the untrained generator.

    Raises:
      UserError: an encoder that is not the config's, or an image size whose features do not lead back to it.
    """
    networks.check_name(encoder, config.encoder.name, config.encoder.checkpoint)
    return networks.build_generator(_describe(config, encoder), encoder, dtype=setting.dtype(config))


def build(
    config: ConfigDict, workdir: pathlib.Path, encoder: networks.Encoder, steps_per_epoch: int
) -> training.Trainee:
    """Returns what is trained, and how.

    Args:
      config: as made by configs/inverter.py.
      workdir: of the run, from which the encoder's is told.
      encoder: the frozen encoder, trained or with the shapes of its weights.
      steps_per_epoch: what an epoch of the config means.

    Raises:
      UserError: what the config asks for does not exist or does not fit.
    """
    dtype, image_size = setting.dtype(config), config.data.image_size
    generator = build_generator(config, encoder)
    features = networks.feature_structs(encoder.module, image_size)
    parts = {inverter.GENERATOR: (generator, (features[config.encoder.layer],))}
    discriminator = None
    if config.loss.adversarial > 0:
        discriminator = models.build_discriminator(image_size=image_size, dtype=dtype)
        inputs = (networks.image_struct(image_size), features[config.encoder.layer])
        parts[inverter.DISCRIMINATOR] = (discriminator, inputs)
    optimizers = training.make_optimizers(config, tuple(parts), steps_per_epoch)
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
    source = workdirs.resolve(config.encoder.checkpoint, workdir)
    return training.Trainee(
        networks=parts,
        optimizers=optimizers,
        train_step=step,
        eval_step=lambda variables, batch, key, frozen: eval_step(variables[inverter.GENERATOR], batch, frozen),
        picture=lambda images: image_grid([to_float(images["image"]), images["reconstruction"]]),
        description={**_describe(config, encoder), "encoder_workdir": workdirs.relative(source, workdir)},
        frozen=(encoder.variables,),
        normalization=encoder.module.normalization,
    )


def _load_encoder(config: ConfigDict, workdir: pathlib.Path) -> networks.Encoder:
    source = workdirs.resolve(config.encoder.checkpoint, workdir)
    size, other_size = config.data.image_size, config.encoder.get("other_size", False)
    try:
        return networks.load_encoder(source, dtype=setting.dtype(config), image_size=size, other_size=other_size)
    except networks.OtherSize as error:
        raise UserError(f"{error}, or encoder.other_size=True to invert it at {size} px all the same") from error


def _describe(config: ConfigDict, encoder: networks.Encoder) -> dict[str, Any]:
    """Returns what the generator is rebuilt from, once its encoder is there."""
    return {
        "kind": "inverter",
        "encoder": encoder.description["encoder"],
        "layer": config.encoder.layer,
        "variant": config.encoder.generator,
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "loss": config.loss.to_dict(),
    }
