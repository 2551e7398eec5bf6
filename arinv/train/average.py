"""An exponential moving average of a network's weights and statistics, kept in the train state beside it.

Source: Polyak & Juditsky 1992; its use in robust training: Gowal et al. 2020.
"""

import jax
import jax.numpy as jnp

from arinv.train.state import TrainState

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
