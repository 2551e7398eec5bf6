"""Random weights of networks without the compilation that their own initialization takes."""

from typing import Any

import jax
import numpy as np


def fill(shapes: Any, seed: int = 0) -> Any:
    """Returns He-normal kernels, unit vectors for spectral norms and the statistics of a standard normal.

    Args:
      shapes: tree of a network's variables, as `jax.eval_shape` gives it.
      seed: seed of the kernels.
    """
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        if x.ndim > 1:
            return rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape).astype(np.float32)
        name = path[-1].key
        if name in ("u", "v"):
            return np.full(x.shape, x.size**-0.5, np.float32)
        return np.full(x.shape, float(name in ("scale", "var")), np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_variables(module: Any, *inputs: Any, seed: int = 0) -> Any:
    """Returns random variables of a network on the default device.

    Args:
      module: the network.
      *inputs: what it takes, arrays or their shapes.
      seed: seed of the kernels.
    """
    return jax.device_put(fill(jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x), *inputs), seed))
