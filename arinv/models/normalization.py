"""The pixel normalisation an encoder was trained with: its first layer, so that no caller can get it wrong."""

import jax.numpy as jnp

from arinv.errors import unknown
from arinv.types import Array

# name -> (mean, standard deviation) of RGB in [0, 1]
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "pm1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def normalize(images: Array, name: str, dtype=jnp.float32) -> Array:
    """Returns (images - mean) / std.

    Args:
      images: float32 [B, H, W, 3] in [0, 1].
      name: "imagenet", "cifar10" (both as in MadryLab's robustness library), "pm1" (2x - 1, what the
        released code of Rojas-Gomez et al. 2022 feeds its encoder) or "none".
      dtype: of the result.

    Returns:
      [B, H, W, 3] in `dtype`.

    Raises:
      UserError: unknown name.
    """
    if name not in NORMALIZATIONS:
        raise unknown("normalization", name, NORMALIZATIONS)
    mean, std = (jnp.asarray(c, jnp.float32)[None, None, None, :] for c in NORMALIZATIONS[name])
    return ((images - mean) / std).astype(dtype)
