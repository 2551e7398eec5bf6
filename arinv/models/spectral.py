"""Spectral normalisation worked into the weights, for a network that is applied many times without training.

In evaluation mode the normalisation divides each kernel by a number that the weights alone decide. A latent search
would compute it a hundred times an image. The weights are worked on by NumPy, on the host.

Source: Miyato et al. 2018, algorithm 1.
"""

from typing import Any

import flax.linen as nn
import numpy as np

from arinv.types import Variables


def fold_spectral_norm(module: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
    """Returns a network without spectral normalisation, and weights with which it computes the same in evaluation.

    Args:
      module: with an attribute spectral_norm, such as a generator or a discriminator.
      variables: its weights.

    Returns:
      The network and its weights; both as they came where there is no spectral normalisation.
    """
    if not module.spectral_norm:
        return module, variables
    params: dict[str, Any] = dict(variables["params"])
    for name, state in variables["spectral"].items():
        kernel, u, v = (np.asarray(x) for x in (params[name]["kernel"], state["vectors"]["u"], state["vectors"]["v"]))
        sigma = v @ kernel.reshape(-1, kernel.shape[-1]) @ u
        params[name] = {**params[name], "kernel": kernel / sigma}
    rest = {name: value for name, value in variables.items() if name != "spectral"}
    return module.clone(spectral_norm=False), {**rest, "params": params}
