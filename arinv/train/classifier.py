"""Training of an encoder as a classifier, standard (attack.eps = 0) or adversarially robust.

Source: Rojas-Gomez et al. 2022, sections 2 and A3.1; for the recipes of robust training see `arinv.train.robust`.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from arinv import attacks, data, losses, metrics, models
from arinv.errors import UserError, unknown
from arinv.experiment.fields import attack_options, check_fields
from arinv.experiment.loading import image_struct
from arinv.experiment.run import Run
from arinv.experiment.state import AVERAGE, TrainState, apply_train
from arinv.experiment.trained import CLASSIFIER, make_logits_fn
from arinv.ops.augment import augment
from arinv.ops.images import image_grid, to_float
from arinv.ops.inputs import check_number
from arinv.train import overfitting, robust, training
from arinv.types import Array, Batch, Metrics, Network, Variables

_OVERFITTING = "catastrophic overfitting: accuracy under the training attack is far above accuracy under PGD; "
_NOTICE = {
    "notice": _OVERFITTING + "use recipe=n_fgsm or pgd, a smaller step, or --config.watch.action=switch",
    "switch": _OVERFITTING + "restored the last state before it and continues with PGD",
    "ignore": "",
}
_MAX_LISTED = 6  # classes in a message


def check(config: ConfigDict) -> None:
    """Checks everything that does not depend on data.

    Raises:
      UserError: unknown name or number out of range.
    """
    check_fields(config)
    training.check(config)
    attack_options(config.attack)
    attack_options(config.test_attack)
    encoder = models.build(config.encoder.name, **config.encoder.options)
    if not encoder.has_weights:
        raise UserError(
            f"encoder.name={config.encoder.name!r} has no weights to train; train its inverter with "
            f"configs/inverter.py:encoder={config.encoder.name}"
        )
    _recipe(config)
    _watch(config, 1)
    for name, epochs in _recipe_epochs(config):
        if epochs < 0:
            raise UserError(f"{name} must be 0 or more; got {epochs:g}")
        if not config.num_steps and epochs > config.num_epochs:
            raise UserError(
                f"{name}={epochs:g} is beyond the end of training, num_epochs={config.num_epochs:g}; lower it, or "
                "train longer"
            )


def _recipe_epochs(config: ConfigDict) -> tuple[tuple[str, float], ...]:
    """Returns the fields of a recipe that count epochs from the start, and their values."""
    return (
        ("attack_warmup_epochs", config.attack_warmup_epochs),
        ("recipe.geometry_from_epoch", config.recipe.geometry_from_epoch),
    )


def check_inputs(run: Run) -> None:
    """Checks the data, before any stage runs.

    Raises:
      UserError: data that cannot be read, a single class, or test classes without training images.
    """
    check_classes(run.config, run.open_data("train"), run.open_data("test"))
    training.check_inputs(run)


def run(run: Run) -> dict[str, Any]:
    """Trains, saves checkpoints in the workdir, and returns the results on the test source.

    Args:
      run: a run of configs/classifier.py.

    Raises:
      UserError: data or checkpoints that cannot be read or do not fit the config.
    """
    recipe = _report_differences(run)
    return run.finish({**training.train(run, build), **recipe})


def build(run: Run, frozen: None, info: data.SourceInfo, steps_per_epoch: int) -> training.TrainSetup:
    """Returns what is trained, and how.

    Args:
      run: a run of configs/classifier.py.
      frozen: None, since a classifier is trained on no other network.
      info: description of the training images.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: the config names something unknown or has a number out of range.
    """
    config = run.config
    recipe_steps = {
        name: training.steps_within(config, name, epochs, steps_per_epoch) for name, epochs in _recipe_epochs(config)
    }
    description = describe(config, info)
    encoder = models.build(config.encoder.name, num_classes=info.num_classes, dtype=run.dtype, **description["options"])
    optimizers = training.make_optimizers(config, (CLASSIFIER,), steps_per_epoch)
    extras = StepOptions(config.ema_decay, _watch(config, steps_per_epoch))
    step = make_train_step(
        encoder,
        optimizers[CLASSIFIER],
        attack=attack_options(config.attack),
        augmentation=config.augmentation.to_dict(),
        recipe=_recipe(config),
        attack_warmup_steps=recipe_steps["attack_warmup_epochs"],
        geometry_from_step=recipe_steps["recipe.geometry_from_epoch"],
        extras=extras,
    )
    eval_step = make_eval_step(encoder, attack=attack_options(config.test_attack))
    return training.TrainSetup(
        networks={CLASSIFIER: (encoder, (image_struct(config.data.image_size),))},
        optimizers=optimizers,
        train_step=step,
        eval_step=lambda variables, batch, key: eval_step(variables[extras.weights], batch, key),
        figure=_figure,
        description={**description, "weights": extras.weights},
        extend=extras.extend,
        notices={overfitting.NOTICE: _NOTICE[config.watch.action]},
        normalization=encoder.normalization,
    )


def describe(config: ConfigDict, info: data.SourceInfo) -> dict[str, Any]:
    """Returns the description of a checkpoint, which the encoder is rebuilt from.

    Args:
      config: config of the training.
      info: description of the training images.
    """
    return {
        "kind": CLASSIFIER,
        "encoder": config.encoder.name,
        "options": config.encoder.options.to_dict(),
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "attack": config.attack.to_dict(),
        "recipe": config.recipe.to_dict(),
        "recipe_differences": recipe_differences(config),
    }


def check_classes(config: ConfigDict, train: data.Source, test: data.Source) -> None:
    """Checks that there are several classes, and training images of every class of the test images.

    Raises:
      UserError: a single class, or test classes without training images.
    """
    info = train.info
    scheme, location = data.split_name(info.name)
    if info.num_classes < 2:
        advice = "use a dataset with several, or omit classes="
        if scheme.class_advice and not config.data.classes:
            advice = scheme.class_advice(location)
        raise UserError(
            f"{info.name} has one class, {', '.join(info.class_names)!r}: a classifier needs two or more; {advice}"
        )
    if not scheme.user_data or config.data.num_train or config.data.extra.name:
        return  # a small num_train may miss a class, and a second source may have it
    missing = sorted(set(test.read_labels().tolist()) - set(train.read_labels().tolist()))
    if missing:
        names = ", ".join(test.info.class_names[label] for label in missing[:_MAX_LISTED])
        raise UserError(
            f"{info.name} has no training image of {len(missing)} of the classes in its test: {names}; add some, or "
            "remove them"
        )


def recipe_differences(config: ConfigDict) -> dict[str, list]:
    """Returns how a config differs from the published recipe that it refers to.

    Args:
      config: with reference.fields, the values of the recipe by field. Where attack.eps is 0 in both, the other fields
        of attack and recipe are ignored.

    Returns:
      {"attack.step_size": [value, the recipe's value], ...}, plain JSON; empty without a reference.
    """
    if "reference" not in config:
        return {}
    used, published = (json.loads(json.dumps(part.to_dict())) for part in (config, config.reference.fields))
    if used["attack"]["eps"] == published["attack"]["eps"] == 0:
        published = {name: value for name, value in published.items() if not name.startswith(("attack", "recipe"))}
    return _differences(used, published, "")


def _differences(used: Any, published: Any, name: str) -> dict[str, list]:
    if not (isinstance(used, dict) and isinstance(published, dict)):
        return {} if used == published else {name: [used, published]}
    # A recipe gives only some fields of these groups; in the others an additional field is a difference as well.
    keys = published if name in ("", "data", "encoder") else dict.fromkeys([*published, *used])
    differences = {}
    for key in keys:
        differences |= _differences(used.get(key), published.get(key), f"{name}.{key}".removeprefix("."))
    return differences


def _report_differences(run: Run) -> dict[str, Any]:
    """Prints how a run differs from its published recipe, and returns that as fields of the results.

    Returns:
      {"recipe": {"name", "source"}, "recipe_differences": see `recipe_differences`}; empty without a reference.
    """
    if "reference" not in run.config:
        return {}
    differences, reference = recipe_differences(run.config), run.config.reference
    if differences:
        listed = ", ".join(f"{name} {used} (recipe: {published})" for name, (used, published) in differences.items())
        run.report(f"departs from the recipe {reference.name} ({reference.source}): {listed}")
    return {"recipe": {"name": reference.name, "source": reference.source}, "recipe_differences": differences}


def _recipe(config: ConfigDict) -> robust.Recipe:
    """Returns the recipe of robust training.

    Raises:
      UserError: unknown recipe or option.
    """
    return robust.make_recipe(config.recipe.name, num_steps=config.attack.num_steps, **config.recipe.options)


def _watch(config: ConfigDict, steps_per_epoch: int) -> overfitting.Watch | None:
    """Returns the watch on catastrophic overfitting; None where it is off or nothing is attacked.

    Raises:
      UserError: unknown action, or a switch in a recipe with several views.
    """
    watch = config.watch
    if watch.action not in _NOTICE:
        raise unknown("watch.action", watch.action, _NOTICE)
    if watch.action == "ignore" or not config.attack.eps > 0:
        return None
    if watch.action == "switch" and config.recipe.name not in overfitting.SWITCHABLE:
        allowed = ", ".join(overfitting.SWITCHABLE)
        raise UserError(
            f"watch.action=switch needs one of the recipes {allowed}; got recipe.name={config.recipe.name!r}"
        )
    for name, value, least in (("every_epochs", watch.every_epochs, 1e-9), ("num_steps", watch.num_steps, 1)):
        check_number(value, f"watch.{name}", minimum=least)
    check_number(watch.threshold, "watch.threshold")
    every_steps = max(1, round(watch.every_epochs * steps_per_epoch))
    return overfitting.Watch(every_steps, watch.num_steps, watch.threshold, switch=watch.action == "switch")


def _figure(images: Mapping[str, Any]) -> Any:
    """Returns a grid with the test images above their adversarial versions, where there are any."""
    rows = [to_float(images["image"])] + ([images["adversarial"]] if "adversarial" in images else [])
    return image_grid(rows)


class StepOptions(NamedTuple):
    """What a training step does besides training.

    Attributes:
      ema_decay: decay of the moving average of the weights; 0 for none.
      watch: on catastrophic overfitting; None for none.
    """

    ema_decay: float = 0.0
    watch: overfitting.Watch | None = None

    def extend(self, state: TrainState) -> TrainState:
        """Returns the state at step 0 with what the step keeps besides the network."""
        if self.ema_decay > 0:
            state = state.start_average(CLASSIFIER)
        return overfitting.with_snapshot(state, CLASSIFIER) if self.watch else state

    def update_average(self, state: TrainState, report: Metrics) -> TrainState:
        """Returns the state with the average updated, or begun again where the watch has restored the weights."""
        if self.ema_decay > 0:
            state = state.update_average(CLASSIFIER, self.ema_decay)
            if self.watch and self.watch.switch:
                state = state.restart_average(CLASSIFIER, report[overfitting.NOTICE][0] > 0)
        return state

    @property
    def weights(self) -> str:
        """Name of the weights in the state that are evaluated."""
        return AVERAGE if self.ema_decay > 0 else CLASSIFIER


def make_train_step(
    encoder: Network,
    optimizer: optax.GradientTransformation,
    *,
    attack: Mapping,
    augmentation: Mapping,
    recipe: robust.Recipe | None = None,
    attack_warmup_steps: int = 0,
    geometry_from_step: int = 0,
    extras: StepOptions | None = None,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key) -> (state, metrics).

    Args:
      encoder: the network to train.
      optimizer: for its parameters.
      attack: options of attacks.pgd; with eps = 0 every recipe trains on the unperturbed images.
      augmentation: options of ops.augment.augment.
      recipe: recipe of robust training; None for PGD.
      attack_warmup_steps: steps over which the attack's radius grows from 0 to eps; networks without batch
        normalization may otherwise stay at chance.
      geometry_from_step: first step at which a recipe weights examples by geometry.
      extras: average of the weights and watch on overfitting; None for neither.

    Returns:
      A function of the state, a batch ("image" uint8 or float32 [B, H, W, C], "label" int32 [B], "mask"
      float32 [B]) and the run's key, from which it derives the step's by state.step.
    """
    extras = extras or StepOptions()
    pgd = robust.make_recipe("pgd", num_steps=attack["num_steps"])
    recipe = recipe or pgd

    def perturb(key, state, images, labels) -> robust.Views:
        if not attack["eps"] > 0:
            return robust.Views((images,), jnp.zeros(images.shape[:1]))
        logits_fn = make_logits_fn(encoder, state.variables[CLASSIFIER])
        scale = jnp.minimum(1.0, (state.step + 1) / max(1, attack_warmup_steps))
        scaled = _scale_attack(attack, scale)
        if extras.watch and extras.watch.switch:
            return overfitting.perturb_or_switch(key, state, recipe, pgd, logits_fn, images, labels, scaled)
        return recipe.perturb(key, logits_fn, images, labels, scaled)

    loss_of = recipe.loss if attack["eps"] > 0 else robust.standard_loss

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        augment_key, attack_key, dropout_key, watch_key = jax.random.split(jax.random.fold_in(key, state.step), 4)
        labels, mask = batch["label"], batch["mask"]
        images = augment(augment_key, batch["image"], **augmentation)
        variables = state.variables[CLASSIFIER]
        views = perturb(attack_key, state, images, labels)
        active = state.step >= geometry_from_step

        def loss_fn(params):
            logits, collections = _forward_all(encoder, params, variables, views.images, dropout_key)
            per_example = loss_of(logits, labels, mask, views.kappa, active)
            chex.assert_equal_shape([per_example, mask])
            return jnp.sum(per_example) / jnp.maximum(jnp.sum(mask), 1), (logits[-1], per_example, collections)

        gradients, (logits, per_example, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
        state = state.apply_gradients(CLASSIFIER, gradients, collections, optimizer)
        count = jnp.sum(mask)
        report = {
            "loss": (jnp.sum(per_example), count),
            "accuracy": (jnp.sum(metrics.correct(logits, labels)), count),
            "gradient_norm": (optax.tree.norm(gradients), jnp.ones(())),
        }
        if extras.watch:
            logits_fn_of = functools.partial(make_logits_fn, encoder)
            state, notices = overfitting.check_overfitting(
                watch_key, state, CLASSIFIER, extras.watch, recipe, logits_fn_of, images, labels, attack
            )
            report |= notices
        state = extras.update_average(state, report)
        return state.replace(step=state.step + 1), report

    return train_step


def _forward_all(encoder: Network, params, variables: Variables, views: tuple[Array, ...], key: Array):
    """Returns the logits of each view in training mode, one after the other, and the last collections."""
    chex.assert_equal_shape(views)
    logits, collections = [], variables
    for i, images in enumerate(views):
        (output, _), collections = apply_train(encoder, params, collections, images, key=jax.random.fold_in(key, i))
        chex.assert_shape(output, (len(images), None))
        logits.append(output)
    return tuple(logits), collections


def _scale_attack(attack: Mapping, scale: Array) -> Mapping:
    """Returns the attack with its radius and step size multiplied by a factor."""
    step_size = attack.get("step_size")
    return {
        **attack,
        "eps": scale * attack["eps"],
        "step_size": None if step_size is None else scale * step_size,
    }


def make_eval_step(encoder: Network, *, attack: Mapping) -> Callable[[Variables, Batch, Array], Mapping[str, Array]]:
    """Returns the pure step (variables, batch, key) -> per-example results.

    Args:
      encoder: the network.
      attack: options of attacks.make_attack, such as its name; no attack with eps = 0.

    Returns:
      A function returning {"correct": [B], "loss": [B]} and, under attack, {"robust_correct": [B],
      "adversarial": [B, H, W, C]}; padding rows count 0.
    """
    attack_fn = attacks.make_attack(**attack) if attack["eps"] > 0 else None

    def eval_step(variables: Variables, batch: Batch, key: Array) -> Mapping[str, Array]:
        labels = batch["label"]
        images = to_float(batch["image"])
        logits_fn = make_logits_fn(encoder, variables)
        logits = logits_fn(images)
        results = {"correct": metrics.correct(logits, labels), "loss": losses.cross_entropy(logits, labels)}
        if attack_fn:
            adversarial = attack_fn(key, logits_fn, images, labels)
            results["adversarial"] = adversarial
            results["robust_correct"] = metrics.correct(logits_fn(adversarial), labels)
        return results

    return eval_step
