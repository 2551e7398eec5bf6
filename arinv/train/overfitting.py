"""A watch on catastrophic overfitting during robust training.

The watch compares the accuracy under the training attack with that under PGD every few steps; a large gap is
catastrophic overfitting (Wong et al. 2020), after which training may continue with PGD from the last state before it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from arinv import attacks, metrics
from arinv.experiment.state import TrainState
from arinv.train.robust import Recipe, Views
from arinv.types import Array, LogitsFn, Metrics, Variables

_SNAPSHOT = "healthy"  # its name in the state
SWITCHABLE = ("pgd", "fgsm", "n_fgsm")  # recipes with one view, as PGD
NOTICE = "catastrophic_overfitting"  # name of the metric that is above 0 where overfitting was detected


class Watch(NamedTuple):
    """When to check for catastrophic overfitting, and what to do about it.

    Attributes:
      every_steps: steps between checks.
      num_steps: number of steps of PGD.
      threshold: accuracy under the training attack minus accuracy under PGD, above which it is overfitting.
      switch: whether to restore the last state before overfitting and continue with PGD, or only to report it.
    """

    every_steps: int
    num_steps: int = 10
    threshold: float = 0.3
    switch: bool = False


class Snapshot(NamedTuple):
    """What the watch keeps in the state.

    Attributes:
      variables: of the network before overfitting.
      opt_state: state of its optimizer then.
      switched: bool scalar, whether training has switched to PGD.
    """

    variables: Variables
    opt_state: optax.OptState
    switched: Array


def with_snapshot(state: TrainState, name: str) -> TrainState:
    """Returns the state with a copy of one network and its optimizer from before overfitting, not switched to PGD.

    Args:
      state: at step 0.
      name: name of the network.
    """
    snapshot = Snapshot(state.variables[name], state.opt_states[name], jnp.zeros((), bool))
    return state.replace(extra={**state.extra, _SNAPSHOT: snapshot})


def snapshot_of(state: TrainState) -> Snapshot:
    """Returns what the watch keeps in a state."""
    return state.extra[_SNAPSHOT]


def perturb_or_switch(
    key: Array,
    state: TrainState,
    recipe: Recipe,
    fallback: Recipe,
    logits_fn: LogitsFn,
    images: Array,
    labels: Array,
    attack: Mapping,
) -> Views:
    """Returns the recipe's views, or the fallback's once training has switched.

    Args:
      key: PRNG key of the attack.
      state: with what the watch keeps.
      recipe: recipe of the training.
      fallback: recipe after the switch, PGD.
      logits_fn: images -> logits [B, K], in evaluation mode.
      images: float32 [B, H, W, C] in [0, 1].
      labels: int32 [B], -1 for padding.
      attack: options of attacks.pgd.

    Returns:
      Views with images [B, H, W, C] within the attack's radius, and kappa [B].
    """

    def views_of(recipe):
        return lambda: recipe.perturb(key, logits_fn, images, labels, attack)

    return jax.lax.cond(snapshot_of(state).switched, views_of(fallback), views_of(recipe))


def check_overfitting(
    key: Array,
    state: TrainState,
    name: str,
    watch: Watch,
    recipe: Recipe,
    make_logits_fn,
    images: Array,
    labels: Array,
    attack: Mapping,
) -> tuple[TrainState, Metrics]:
    """Checks the state after its update for catastrophic overfitting, every watch.every_steps steps.

    Args:
      key: PRNG key of the attacks.
      state: after the update, before `step` is incremented.
      name: name of the network.
      watch: interval and action.
      recipe: recipe of the training.
      make_logits_fn: variables -> logits function in evaluation mode.
      images: float32 [B, H, W, C] in [0, 1].
      labels: int32 [B], -1 for padding.
      attack: attack of the training, at full radius.

    Returns:
      The state, restored and switched to PGD if watch.switch, and {"pgd_accuracy", NOTICE} as (sum, count), with count
      0 where no check was due.
    """

    def compare(state):
        logits_fn = make_logits_fn(state.variables[name])
        own_key, pgd_key = jax.random.split(key)
        view = recipe.perturb(own_key, logits_fn, images, labels, attack).images[-1]
        strong = {"eps": attack["eps"], "norm": attack["norm"], "num_steps": watch.num_steps, "random_start": True}
        adversarial = attacks.pgd(pgd_key, logits_fn, images, labels, **strong)
        count = jnp.maximum(jnp.sum(labels >= 0), 1)
        own, pgd = (jnp.sum(metrics.correct(logits_fn(x), labels)) / count for x in (view, adversarial))
        overfitted = own - pgd > watch.threshold
        state = _restore_copy(state, name, overfitted) if watch.switch else state
        return state, {"pgd_accuracy": (pgd, jnp.ones(())), NOTICE: (overfitted.astype(jnp.float32), jnp.ones(()))}

    def skip(state):
        zero = jnp.zeros(())
        return state, {"pgd_accuracy": (zero, zero), NOTICE: (zero, zero)}

    return jax.lax.cond((state.step + 1) % watch.every_steps == 0, compare, skip, state)


def _restore_copy(state: TrainState, name: str, overfitted: Array) -> TrainState:
    """Returns the state with the copy in place of an overfitted network, or else with a new copy."""
    before = snapshot_of(state)
    variables, opt_state = jax.tree.map(
        lambda old, new: jnp.where(overfitted, old, new),
        (before.variables, before.opt_state),
        (state.variables[name], state.opt_states[name]),
    )
    return state.replace(
        variables={**state.variables, name: variables},
        opt_states={**state.opt_states, name: opt_state},
        extra={**state.extra, _SNAPSHOT: Snapshot(variables, opt_state, before.switched | overfitted)},
    )
