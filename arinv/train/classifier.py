"""Training steps of a classifier, standard or adversarially robust.

Source: MadryLab's robustness library (the attack runs with the network in evaluation mode, the update in training
mode); the recipes are in arinv.train.robust.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from arinv import attacks, losses, metrics
from arinv.ops.augment import augment
from arinv.ops.images import to_float
from arinv.train import average, overfitting, robust
from arinv.train import state as train_state
from arinv.train.state import TrainState
from arinv.types import Array, Batch, LogitsFn, Metrics, Network, Variables

NAME = "classifier"  # of the network in the state


def make_logits_fn(encoder: Network, variables: Variables) -> LogitsFn:
    """Returns images [B, H, W, C] in [0, 1] -> logits [B, K] in evaluation mode."""
    return lambda images: encoder.apply(variables, images, train=False)[0]


class Extras(NamedTuple):
    """What a training step does beside training.

    Attributes:
      average_decay: of the moving average of the weights; 0 for none.
      watch: on catastrophic overfitting; None for none.
    """

    average_decay: float = 0.0
    watch: overfitting.Watch | None = None

    def extend(self, state: TrainState) -> TrainState:
        """Returns the state at step 0 with what the step needs beside the network."""
        if self.average_decay > 0:
            state = average.with_average(state, NAME)
        return overfitting.with_snapshot(state, NAME) if self.watch else state

    @property
    def trained(self) -> str:
        """Name of the weights in the state that a run is judged by."""
        return average.AVERAGE if self.average_decay > 0 else NAME


def make_train_step(
    encoder: Network,
    optimizer: optax.GradientTransformation,
    *,
    attack: Mapping,
    augmentation: Mapping,
    recipe: robust.Recipe | None = None,
    attack_warmup_steps: int = 0,
    geometry_from_step: int = 0,
    extras: Extras | None = None,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key) -> (state, metrics).

    Args:
      encoder: the network to train.
      optimizer: for its parameters.
      attack: options of attacks.pgd; eps = 0 trains on the images as they are, whatever the recipe.
      augmentation: options of ops.augment.augment.
      recipe: of robust training; None for PGD.
      attack_warmup_steps: steps over which the attack's radius grows from 0 to eps, for networks without
        batch normalisation, which otherwise may never leave chance.
      geometry_from_step: first step at which a recipe that weights examples by geometry does so.
      extras: average of the weights, watch on overfitting; None for neither.

    Returns:
      A function of the state, a batch ("image" uint8 or float32 [B, H, W, C], "label" int32 [B], "mask"
      float32 [B]) and the run's key, from which it derives the step's by state.step.
    """
    extras = extras or Extras()
    pgd = robust.make_recipe("pgd", num_steps=attack["num_steps"])
    recipe = recipe or pgd

    def perturb(key, state, images, labels) -> robust.Views:
        if not attack["eps"] > 0:
            return robust.Views((images,), jnp.zeros(images.shape[:1]))
        logits_fn = make_logits_fn(encoder, state.variables[NAME])
        scale = jnp.minimum(1.0, (state.step + 1) / max(1, attack_warmup_steps))
        scaled = _scaled(attack, scale)
        if extras.watch and extras.watch.switch:
            return overfitting.perturb_or_switch(key, state, recipe, pgd, logits_fn, images, labels, scaled)
        return recipe.perturb(key, logits_fn, images, labels, scaled)

    loss_of = recipe.loss if attack["eps"] > 0 else robust.standard_loss

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        augment_key, attack_key, dropout_key, watch_key = jax.random.split(jax.random.fold_in(key, state.step), 4)
        labels, mask = batch["label"], batch["mask"]
        images = augment(augment_key, batch["image"], **augmentation)
        variables = state.variables[NAME]
        views = perturb(attack_key, state, images, labels)
        active = state.step >= geometry_from_step

        def loss_fn(params):
            logits, collections = _forward_all(encoder, params, variables, views.images, dropout_key)
            per_example = loss_of(logits, labels, mask, views.kappa, active)
            return jnp.sum(per_example) / jnp.maximum(jnp.sum(mask), 1), (logits[-1], per_example, collections)

        gradients, (logits, per_example, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
        state = train_state.apply_gradients(state, NAME, gradients, collections, optimizer)
        count = jnp.sum(mask)
        report = {
            "loss": (jnp.sum(per_example), count),
            "accuracy": (jnp.sum(metrics.correct(logits, labels)), count),
            "gradient_norm": (optax.tree.norm(gradients), jnp.ones(())),
        }
        if extras.watch:
            logits_of = functools.partial(make_logits_fn, encoder)
            state, found = overfitting.check(
                watch_key, state, NAME, extras.watch, recipe, logits_of, images, labels, attack
            )
            report |= found
        if extras.average_decay > 0:
            state = average.update_average(state, NAME, extras.average_decay)
        return state.replace(step=state.step + 1), report

    return train_step


def _forward_all(encoder: Network, params, variables: Variables, views: tuple[Array, ...], key: Array):
    """Returns the logits of each view in training mode, one after the other, and the last collections."""
    logits, collections = [], variables
    for i, images in enumerate(views):
        (output, _), collections = train_state.apply_train(
            encoder, params, collections, images, key=jax.random.fold_in(key, i)
        )
        logits.append(output)
    return tuple(logits), collections


def _scaled(attack: Mapping, scale: Array) -> Mapping:
    """Returns the attack at a fraction of its radius, the step size with it."""
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
      attack: options of attacks.pgd; eps = 0 leaves the attack out.

    Returns:
      A function giving {"correct": [B], "loss": [B]} and, under attack, {"robust_correct": [B],
      "adversarial": [B, H, W, C]}; padding rows count 0.
    """

    def eval_step(variables: Variables, batch: Batch, key: Array) -> Mapping[str, Array]:
        labels = batch["label"]
        images = to_float(batch["image"])
        logits_fn = make_logits_fn(encoder, variables)
        logits = logits_fn(images)
        results = {"correct": metrics.correct(logits, labels), "loss": losses.cross_entropy(logits, labels)}
        if attack["eps"] > 0:
            adversarial = attacks.pgd(key, logits_fn, images, labels, **attack)
            results["adversarial"] = adversarial
            results["robust_correct"] = metrics.correct(logits_fn(adversarial), labels)
        return results

    return eval_step
