"""Trains an encoder as a classifier, standard (attack.eps = 0) or adversarially robust."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from arinv import models
from arinv.ops.images import image_grid, to_float
from arinv.tasks import networks, setting, training
from arinv.tasks import workdir as workdirs
from arinv.train import classifier


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    setting.validate(config)
    setting.attack_options(config.attack)
    setting.attack_options(config.test_attack)
    models.build(config.encoder.name, **config.encoder.options)


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains, saves checkpoints in `workdir`, and returns the results on the test source.

    Args:
      config: as made by configs/classifier.py.
      workdir: of this run.

    Raises:
      UserError: what the config asks for does not exist or does not fit.
    """
    mesh = setting.mesh(config)
    attack, test_attack = setting.attack_options(config.attack), setting.attack_options(config.test_attack)
    options = config.encoder.options.to_dict()
    train, test = setting.open_source(config, "train"), setting.open_source(config, "test")
    encoder = models.build(
        config.encoder.name, num_classes=train.info.num_classes, dtype=setting.dtype(config), **options
    )
    description = {
        "kind": classifier.NAME,
        "encoder": config.encoder.name,
        "options": options,
        "num_classes": train.info.num_classes,
        "class_names": list(train.info.class_names),
        "image_size": config.data.image_size,
        "attack": config.attack.to_dict(),
    }
    batches = training.make_batches(config, train)
    optimizers = training.make_optimizers(config, (classifier.NAME,), batches.steps_per_epoch)
    step = classifier.make_train_step(
        encoder,
        optimizers[classifier.NAME],
        attack=attack,
        attack_warmup_steps=round(config.attack_warmup_epochs * batches.steps_per_epoch),
        augmentation=config.augmentation.to_dict(),
    )
    eval_step = classifier.make_eval_step(encoder, attack=test_attack)
    trainee = training.Trainee(
        networks={classifier.NAME: (encoder, (networks.image_struct(config.data.image_size),))},
        optimizers=optimizers,
        train_step=step,
        eval_step=lambda variables, batch, key: eval_step(variables[classifier.NAME], batch, key),
        picture=_picture,
        description=description,
    )
    results = training.run(config, workdir, trainee, batches=batches, test=test, mesh=mesh)
    results = {**results, "setting": setting.provenance(config)}
    workdirs.write_results(workdir, results)
    return results


def _picture(images: dict) -> Any:
    """Returns a grid with the test images above their adversarial versions, where there are any."""
    rows = [to_float(images["image"])] + ([images["adversarial"]] if "adversarial" in images else [])
    return image_grid(rows)
