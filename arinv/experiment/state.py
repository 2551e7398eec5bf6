"""The state of a training run: networks by name with a moving average, their optimizers, the step, and the rest."""

from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from arinv.types import Array, Variables

AVERAGE = "average"  # name of the averaged network in the state


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: int32 scalar, steps taken.
      variables: network name -> {"params": ..., "batch_stats": ..., ...}, all float32.
      opt_states: network name -> optimizer state.
      extra: name -> what else a step keeps, trees of arrays.
    """

    step: Array
    variables: Mapping[str, Variables]
    opt_states: Mapping[str, optax.OptState]
    extra: Mapping[str, Any] = flax.struct.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        key: Array,
        networks: Mapping[str, tuple[nn.Module, tuple[Any, ...]]],
        optimizers: Mapping[str, optax.GradientTransformation],
    ) -> "TrainState":
        """Returns the state at step 0.

        Args:
          key: PRNG key of the initial weights.
          networks: name -> (module, shapes of its inputs, each an array or a tree of them).
          optimizers: name -> optimizer.
        """
        variables, opt_states = {}, {}
        for i, (name, (module, inputs)) in enumerate(networks.items()):
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), inputs)
            variables[name] = module.init(jax.random.fold_in(key, i), *zeros, train=False)
            opt_states[name] = optimizers[name].init(variables[name]["params"])
        return cls(jnp.zeros((), jnp.int32), variables, opt_states)

    def apply_gradients(
        self, name: str, gradients: Any, collections: Variables, optimizer: optax.GradientTransformation
    ) -> "TrainState":
        """Returns the state after one optimizer step of one network; `step` is unchanged.

        Args:
          name: name of the network.
          gradients: gradients of its parameters.
          collections: its other variables after the forward pass.
          optimizer: the one whose state `opt_states` holds.
        """
        before = self.variables[name]
        chex.assert_trees_all_equal_shapes_and_dtypes({**collections, "params": gradients}, dict(before))
        updates, opt_state = optimizer.update(gradients, self.opt_states[name], before["params"])
        variables = {"params": optax.apply_updates(before["params"], updates), **collections}
        return self.replace(
            variables={**self.variables, name: variables},
            opt_states={**self.opt_states, name: opt_state},
        )

    def start_average(self, name: str) -> "TrainState":
        """Returns the state with an average that starts at a network's weights.

        Args:
          name: name of the network.
        """
        return self.replace(variables={**self.variables, AVERAGE: self.variables[name]})

    def restart_average(self, name: str, where: Array) -> "TrainState":
        """Returns the state with the average set to a network's weights.

        Args:
          name: name of the network.
          where: bool scalar, whether to.
        """
        average = jax.tree.map(
            lambda old, new: jnp.where(where, new, old), self.variables[AVERAGE], self.variables[name]
        )
        return self.replace(variables={**self.variables, AVERAGE: average})

    def update_average(self, name: str, decay: float) -> "TrainState":
        """Returns the state, after the network's update but before `step` is incremented, with the average updated.

        The decay starts small, so that the random initial weights soon cease to count.

        Args:
          name: name of the network.
          decay: share of the old average, such as 0.995, reached after about 10 / (1 - decay) steps.
        """
        step = self.step.astype(jnp.float32)
        decay = jnp.minimum(decay, step / (step + 10))
        average = optax.incremental_update(self.variables[name], self.variables[AVERAGE], 1 - decay)
        return self.replace(variables={**self.variables, AVERAGE: average})


def apply_train(module: nn.Module, params: Any, variables: Variables, *inputs: Array, key: Array):
    """Applies a network in training mode.

    Args:
      module: the network.
      params: its parameters, the ones to differentiate.
      variables: its variables, of which only the collections besides "params" are read.
      *inputs: of the module.
      key: PRNG key of dropout.

    Returns:
      (output, collections besides "params" after the forward pass).
    """
    rest = {name: value for name, value in variables.items() if name != "params"}
    return module.apply({"params": params, **rest}, *inputs, train=True, mutable=list(rest), rngs={"dropout": key})
