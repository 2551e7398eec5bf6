"""The state of a training run: networks by name, their optimisers, and the step."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from arinv.types import Array, Variables


@flax.struct.dataclass
class TrainState:
    """Everything a step changes.

    Attributes:
      step: int32 scalar, steps taken.
      variables: network name -> {"params": ..., "batch_stats": ..., ...}, all float32.
      opt_states: network name -> optimiser state.
    """

    step: Array
    variables: Mapping[str, Variables]
    opt_states: Mapping[str, optax.OptState]


def create(
    key: Array,
    networks: Mapping[str, tuple[nn.Module, tuple[Any, ...]]],
    optimizers: Mapping[str, optax.GradientTransformation],
) -> TrainState:
    """Returns the state at step 0.

    Args:
      key: PRNG key of the initial weights.
      networks: name -> (module, shapes of its inputs, each an array or a tree of them).
      optimizers: name -> optimiser.
    """
    variables, opt_states = {}, {}
    for i, (name, (module, inputs)) in enumerate(networks.items()):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), inputs)
        variables[name] = module.init(jax.random.fold_in(key, i), *zeros, train=False)
        opt_states[name] = optimizers[name].init(variables[name]["params"])
    return TrainState(jnp.zeros((), jnp.int32), variables, opt_states)


def apply_train(module: nn.Module, params: Any, variables: Variables, *inputs: Array, key: Array):
    """Applies a network in training mode.

    Args:
      module: the network.
      params: its parameters, the ones to differentiate.
      variables: its variables, of which only the collections beside "params" are read.
      *inputs: what the module takes.
      key: PRNG key of dropout.

    Returns:
      (output, collections beside "params" after the forward).
    """
    rest = {name: value for name, value in variables.items() if name != "params"}
    return module.apply({"params": params, **rest}, *inputs, train=True, mutable=list(rest), rngs={"dropout": key})


def apply_gradients(
    state: TrainState,
    name: str,
    gradients: Any,
    collections: Variables,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """Returns the state after one optimiser step of one network; `step` is left as it is.

    Args:
      state: before.
      name: of the network.
      gradients: of its parameters.
      collections: its other variables after the forward.
      optimizer: the one whose state `state` holds.
    """
    params = state.variables[name]["params"]
    updates, opt_state = optimizer.update(gradients, state.opt_states[name], params)
    variables = {"params": optax.apply_updates(params, updates), **collections}
    return state.replace(
        variables={**state.variables, name: variables},
        opt_states={**state.opt_states, name: opt_state},
    )


def abstract(init: Callable[[Array], TrainState], key: Array) -> TrainState:
    """Returns the shapes and dtypes of a state without computing it."""
    return jax.eval_shape(init, key)


AVERAGE = "average"  # of the averaged network in the state


def with_average(state: TrainState, name: str) -> TrainState:
    """Returns the state with an average that begins at a network's weights.

    Args:
      state: at step 0.
      name: of the network.
    """
    return state.replace(variables={**state.variables, AVERAGE: state.variables[name]})


def update_average(state: TrainState, name: str, decay: float) -> TrainState:
    """Returns the state with the average moved towards a network's weights.

    Early on the average is over as many steps as there were, so that the random start is soon forgotten.

    Args:
      state: after the network's update, `step` not counted up yet.
      name: of the network.
      decay: share of the old average, such as 0.995, reached after about 10 / (1 - decay) steps.
    """
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(decay, step / (step + 10))
    average = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, state.variables[AVERAGE], state.variables[name]
    )
    return state.replace(variables={**state.variables, AVERAGE: average})
