"""A watch on catastrophic overfitting: a network that withstands its single training step and no other attack.

Once every so many steps PGD is run on the batch at hand. Where the training attack's accuracy is far above PGD's,
the network has overfitted to the step; then a notice is given and, if asked for, the state of the last healthy
check comes back and training goes on with PGD. The healthy copy and the switch are part of the train state, so a
run that is killed and resumed does the same.

Source: Wong et al. 2020 (the failure, and PGD on a batch to notice it); Kim et al. 2021.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from arinv import attacks, metrics
from arinv.train.robust import Recipe, Views
from arinv.train.state import TrainState
from arinv.types import Array, LogitsFn, Metrics

SNAPSHOT = "healthy"  # of the copy in the state
SWITCHABLE = ("pgd", "fgsm", "n_fgsm")  # recipes with one view, as PGD has
NOTICE = "catastrophic_overfitting"  # of the metric that is above 0 where it was noticed


class Watch(NamedTuple):
    """When to look and what to do.

    Attributes:
      every_steps: steps between checks.
      num_steps: of PGD.
      threshold: accuracy under the training attack minus accuracy under PGD from which it counts as overfitting.
      switch: go back to the last healthy state and on with PGD, rather than only give notice.
    """

    every_steps: int
    num_steps: int = 10
    threshold: float = 0.3
    switch: bool = False


def with_snapshot(state: TrainState, name: str) -> TrainState:
    """Returns the state with a healthy copy of one network and its optimiser, not switched yet.

    Args:
      state: at step 0.
      name: of the network.
    """
    copy = {**state.variables[name], "switched": {"flag": jnp.zeros((), jnp.float32)}}
    return state.replace(
        variables={**state.variables, SNAPSHOT: copy}, opt_states={**state.opt_states, SNAPSHOT: state.opt_states[name]}
    )


def switched(state: TrainState) -> Array:
    """Returns whether training went over to PGD, bool scalar."""
    return state.variables[SNAPSHOT]["switched"]["flag"] > 0


def perturb_or_switch(
    key: Array, state: TrainState, recipe: Recipe, fallback: Recipe, logits_fn: LogitsFn, images: Array, labels, attack
) -> Views:
    """Returns the recipe's views, or the fallback's once training has switched."""

    def views_of(recipe):
        return lambda: recipe.perturb(key, logits_fn, images, labels, attack)

    return jax.lax.cond(switched(state), views_of(fallback), views_of(recipe))


def check(
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
    """Looks at the state after its step, if it is time to.

    Args:
      key: PRNG key of the attacks.
      state: after the update, `step` not counted up yet.
      name: of the network.
      watch: when and what.
      recipe: of the training.
      make_logits_fn: variables -> logits function in evaluation mode.
      images: float32 [B, H, W, C] in [0, 1].
      labels: int32 [B], -1 for padding.
      attack: of the training, at full radius.

    Returns:
      The state, gone back and switched where that was asked for, and {"pgd_accuracy", NOTICE} as (sum, count), the
      count 0 where it was not time.
    """

    def look(state):
        logits_fn = make_logits_fn(state.variables[name])
        own_key, pgd_key = jax.random.split(key)
        view = recipe.perturb(own_key, logits_fn, images, labels, attack).images[-1]
        strong = {"eps": attack["eps"], "norm": attack["norm"], "num_steps": watch.num_steps, "random_start": True}
        adversarial = attacks.pgd(pgd_key, logits_fn, images, labels, **strong)
        count = jnp.maximum(jnp.sum(labels >= 0), 1)
        own, pgd = (jnp.sum(metrics.correct(logits_fn(x), labels)) / count for x in (view, adversarial))
        overfitted = own - pgd > watch.threshold
        state = _go_back(state, name, overfitted) if watch.switch else state
        return state, {"pgd_accuracy": (pgd, jnp.ones(())), NOTICE: (overfitted.astype(jnp.float32), jnp.ones(()))}

    def skip(state):
        nothing = jnp.zeros(())
        return state, {"pgd_accuracy": (nothing, nothing), NOTICE: (nothing, nothing)}

    return jax.lax.cond((state.step + 1) % watch.every_steps == 0, look, skip, state)


def _go_back(state: TrainState, name: str, overfitted: Array) -> TrainState:
    """Returns the healthy copy in place of an overfitted network, or a new healthy copy."""
    healthy = {key: value for key, value in state.variables[SNAPSHOT].items() if key != "switched"}
    flag = state.variables[SNAPSHOT]["switched"]["flag"]

    def choose(old, new):
        return jax.tree.map(lambda a, b: jnp.where(overfitted, a, b), old, new)

    variables = choose(healthy, state.variables[name])
    opt_state = choose(state.opt_states[SNAPSHOT], state.opt_states[name])
    flag = jnp.maximum(flag, overfitted.astype(jnp.float32))
    copy = {**variables, "switched": {"flag": flag}}
    return state.replace(
        variables={**state.variables, name: variables, SNAPSHOT: copy},
        opt_states={**state.opt_states, name: opt_state, SNAPSHOT: opt_state},
    )
