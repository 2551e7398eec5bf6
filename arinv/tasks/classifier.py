"""Trains an encoder as a classifier, standard (attack.eps = 0) or adversarially robust."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from arinv import data, models
from arinv.errors import UserError, unknown
from arinv.ops.images import image_grid, to_float
from arinv.tasks import networks, setting, training, training_data
from arinv.tasks import workdir as workdirs
from arinv.train import classifier, overfitting, robust

_OVERFITTING = "catastrophic overfitting: accuracy under the training attack is far above accuracy under PGD; "
_NOTICE = {
    "notice": _OVERFITTING + "use recipe=n_fgsm or pgd, a smaller step, or on_overfitting=switch",
    "switch": _OVERFITTING + "went back to the last healthy state, and on with PGD",
    "ignore": "",
}


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading data.

    Raises:
      UserError: an unknown name or a number out of range.
    """
    setting.validate(config)
    training.validate(config)
    setting.attack_options(config.attack)
    setting.attack_options(config.test_attack)
    models.build(config.encoder.name, **config.encoder.options)
    _recipe(config)
    _watch(config, 1)
    for name, epochs in (
        ("attack_warmup_epochs", config.attack_warmup_epochs),
        ("recipe.geometry_from_epoch", config.recipe.geometry_from_epoch),
    ):
        if not config.num_steps and epochs > config.num_epochs:
            raise UserError(
                f"{name}={epochs:g} is beyond the end of training, num_epochs={config.num_epochs:g}; lower it, or "
                "train longer"
            )
    if not 0 <= config.average_decay < 1:
        raise UserError(
            f"average_decay must be 0 (none) or more and below 1, such as 0.995; got {config.average_decay}"
        )


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains, saves checkpoints in `workdir`, and returns the results on the test source.

    Args:
      config: as made by configs/classifier.py.
      workdir: of this run.

    Raises:
      UserError: what the config asks for does not exist or does not fit.
    """
    mesh = setting.mesh(config)
    train, test = setting.open_source(config, "train"), setting.open_source(config, "test")
    training_data.check_classes(config, train, test)
    batches = training.make_batches(config, train)
    trainee = build(config, train.info, batches.steps_per_epoch)
    recipe = setting.report_departures(config)
    results = training.run(config, workdir, trainee, batches=batches, train=train, test=test, mesh=mesh)
    results = {**results, **recipe, "setting": setting.provenance(config)}
    workdirs.write_results(workdir, results)
    return results


def describe(config: ConfigDict, info: data.SourceInfo) -> dict[str, Any]:
    """Returns the description of a checkpoint, from which the encoder is rebuilt.

    Args:
      config: of the training.
      info: of the training images.
    """
    return {
        "kind": classifier.NAME,
        "encoder": config.encoder.name,
        "options": config.encoder.options.to_dict(),
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "attack": config.attack.to_dict(),
        "recipe": config.recipe.to_dict(),
        "departs_from_recipe": setting.departures(config),
    }


def build(config: ConfigDict, info: data.SourceInfo, steps_per_epoch: int) -> training.Trainee:
    """Returns what is trained, and how.

    Args:
      config: as made by configs/classifier.py.
      info: of the training images.
      steps_per_epoch: what an epoch of the config means.

    Raises:
      UserError: what the config asks for does not exist or does not fit.
    """
    attack, test_attack = setting.attack_options(config.attack), setting.attack_options(config.test_attack)
    description = describe(config, info)
    encoder = models.build(
        config.encoder.name, num_classes=info.num_classes, dtype=setting.dtype(config), **description["options"]
    )
    optimizers = training.make_optimizers(config, (classifier.NAME,), steps_per_epoch)
    extras = classifier.Extras(config.average_decay, _watch(config, steps_per_epoch))
    step = classifier.make_train_step(
        encoder,
        optimizers[classifier.NAME],
        attack=attack,
        augmentation=config.augmentation.to_dict(),
        recipe=_recipe(config),
        attack_warmup_steps=round(config.attack_warmup_epochs * steps_per_epoch),
        geometry_from_step=round(config.recipe.geometry_from_epoch * steps_per_epoch),
        extras=extras,
    )
    eval_step = classifier.make_eval_step(encoder, attack=test_attack)
    return training.Trainee(
        networks={classifier.NAME: (encoder, (networks.image_struct(config.data.image_size),))},
        optimizers=optimizers,
        train_step=step,
        eval_step=lambda variables, batch, key: eval_step(variables[extras.trained], batch, key),
        picture=_picture,
        description={**description, "weights": extras.trained},
        extend=extras.extend,
        notices={overfitting.NOTICE: _NOTICE[config.watch.action]},
        normalization=encoder.normalization,
    )


def _recipe(config: ConfigDict) -> robust.Recipe:
    """Returns the recipe of robust training.

    Raises:
      UserError: an unknown one, or one without such an option.
    """
    return robust.make_recipe(config.recipe.name, num_steps=config.attack.num_steps, **config.recipe.options)


def _watch(config: ConfigDict, steps_per_epoch: int) -> overfitting.Watch | None:
    """Returns what to look for, None where nobody asked or nothing is attacked.

    Raises:
      UserError: an unknown action, or a switch in the middle of a recipe with several views.
    """
    watch = config.watch
    if watch.action not in _NOTICE:
        raise unknown("watch.action", watch.action, _NOTICE)
    if watch.action == "ignore" or not config.attack.eps > 0:
        return None
    if watch.action == "switch" and config.recipe.name not in overfitting.SWITCHABLE:
        known = ", ".join(overfitting.SWITCHABLE)
        raise UserError(f"on_overfitting=switch goes with the recipes {known}; got {config.recipe.name!r}")
    every_steps = max(1, round(watch.every_epochs * steps_per_epoch))
    return overfitting.Watch(every_steps, watch.num_steps, watch.threshold, switch=watch.action == "switch")


def _picture(images: dict) -> Any:
    """Returns a grid with the test images above their adversarial versions, where there are any."""
    rows = [to_float(images["image"])] + ([images["adversarial"]] if "adversarial" in images else [])
    return image_grid(rows)
