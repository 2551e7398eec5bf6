"""The pixel normalisation an encoder was trained with: its first layer, so that no caller can get it wrong."""

import math
import numbers

import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.ops.inputs import as_images
from arinv.types import Array

MeanStd = tuple[tuple[float, float, float], tuple[float, float, float]]  # of RGB in [0, 1]
Normalization = str | MeanStd  # a name, or the numbers themselves

# name -> (mean, standard deviation) of RGB in [0, 1]
NORMALIZATIONS: dict[str, MeanStd] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "pm1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def mean_std(normalization: Normalization) -> MeanStd:
    """Returns mean and standard deviation of RGB in [0, 1].

    Args:
      normalization: "imagenet", "cifar10" (both as in MadryLab's robustness library), "pm1" (2x - 1, what the
        released code of Rojas-Gomez et al. 2022 feeds its encoder), "none", or the numbers: (mean, standard
        deviation), three of each.

    Raises:
      UserError: unknown name, or other than two times three finite numbers, or a deviation that is not above 0.
    """
    if isinstance(normalization, str):
        if normalization not in NORMALIZATIONS:
            raise unknown("normalization", normalization, NORMALIZATIONS)
        return NORMALIZATIONS[normalization]
    try:
        mean, std = (tuple(float(x) for x in part if isinstance(x, numbers.Real)) for part in normalization)
    except (TypeError, ValueError):
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UserError(
            f"normalization={normalization!r} must be a name ({', '.join(NORMALIZATIONS)}), or mean and standard "
            "deviation of red, green and blue in [0, 1], deviations above 0"
        )
    return mean, std


def normalize(
    images: Array, normalization: Normalization, dtype=jnp.float32, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Array:
    """Returns (images - mean) / std: where images enter every encoder, and are checked.

    Args:
      images: float [B, H, W, 3] in [0, 1]; one channel stands for three equal ones.
      normalization: as for `mean_std`.
      dtype: of the result.
      bounds: the range that is allowed, where it is not [0, 1].

    Returns:
      [B, H, W, 3] in `dtype`.

    Raises:
      UserError: as for `mean_std`, or images of another layout, dtype or (where values are known) range.
    """
    mean, std = (jnp.asarray(c, jnp.float32)[None, None, None, :] for c in mean_std(normalization))
    images = as_images(images, finite=False, bounds=bounds)
    return ((images - mean) / std).astype(dtype)
