"""Training steps of a classifier, standard or adversarially robust.

Source: Madry et al. 2018, section 2.1; MadryLab's robustness library (the attack runs with the network in
evaluation mode, the update in training mode; the loss is the adversarial cross-entropy alone).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from arinv import attacks, losses, metrics
from arinv.ops.augment import augment
from arinv.ops.images import to_float
from arinv.train import state as train_state
from arinv.train.state import TrainState
from arinv.types import Array, Batch, LogitsFn, Metrics, Network, Variables

NAME = "classifier"  # of the network in the state


def make_logits_fn(encoder: Network, variables: Variables) -> LogitsFn:
    """Returns images [B, H, W, C] in [0, 1] -> logits [B, K] in evaluation mode."""
    return lambda images: encoder.apply(variables, images, train=False)[0]


def make_train_step(
    encoder: Network,
    optimizer: optax.GradientTransformation,
    *,
    attack: Mapping,
    attack_warmup_steps: int = 0,
    augmentation: Mapping,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key) -> (state, metrics).

    Args:
      encoder: the network to train.
      optimizer: for its parameters.
      attack: options of attacks.pgd; eps = 0 trains on the images as they are.
      attack_warmup_steps: steps over which the attack's radius grows from 0 to eps, for networks without
        batch normalisation, which otherwise may never leave chance.
      augmentation: options of ops.augment.augment.

    Returns:
      A function of the state, a batch ("image" uint8 or float32 [B, H, W, C], "label" int32 [B], "mask"
      float32 [B]) and the run's key, from which it derives the step's by state.step.
    """

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        augment_key, attack_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        labels, mask = batch["label"], batch["mask"]
        images = augment(augment_key, batch["image"], **augmentation)
        variables = state.variables[NAME]
        if attack["eps"] > 0:
            scale = jnp.minimum(1.0, (state.step + 1) / max(1, attack_warmup_steps))
            logits_fn = make_logits_fn(encoder, variables)
            images = attacks.pgd(attack_key, logits_fn, images, labels, **_scaled(attack, scale))

        def loss_fn(params):
            (logits, _), collections = train_state.apply_train(encoder, params, variables, images, key=dropout_key)
            per_example = losses.cross_entropy(logits, labels)
            return jnp.sum(per_example) / jnp.maximum(jnp.sum(mask), 1), (logits, per_example, collections)

        gradients, (logits, per_example, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
        state = train_state.apply_gradients(state, NAME, gradients, collections, optimizer)
        count = jnp.sum(mask)
        report = {
            "loss": (jnp.sum(per_example), count),
            "accuracy": (jnp.sum(metrics.correct(logits, labels)), count),
            "gradient_norm": (optax.tree.norm(gradients), jnp.ones(())),
        }
        return state.replace(step=state.step + 1), report

    return train_step


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
