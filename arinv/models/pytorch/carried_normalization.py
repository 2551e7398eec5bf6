"""The pixel normalisation that a checkpoint carries, and whether it is the encoder's.

Source: robustness (new_mean, new_std), RobustBench (mu, sigma) and the header of our own exports.
"""

import contextlib
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.models.normalization import NORMALIZATIONS, Normalization, mean_std
from arinv.models.pytorch import names as torch_names
from arinv.models.pytorch.file import TorchFile
from arinv.models.pytorch.objects import Tensor
from arinv.models.pytorch.weights import Found

_SAME = 1e-4  # means and deviations closer than this are the same


class Carried(NamedTuple):
    """The pixel normalisation that a file carries, for RGB in [0, 1].

    Attributes:
      mean: three numbers.
      std: likewise.
      precision: relative, of the type in which the file holds them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: float

    def is_close(self, known: Sequence[Sequence[float]]) -> bool:
        """Returns whether these are the same numbers as far as their type can hold them."""
        return np.allclose([self.mean, self.std], known, rtol=self.precision, atol=_SAME)


def read_normalization(file: TorchFile, found: Found) -> Carried | None:
    """Returns mean and standard deviation of RGB that a file carries, or None."""
    if "mean" in file.metadata and "std" in file.metadata:
        with contextlib.suppress(ValueError, TypeError):
            mean, std = (tuple(map(float, json.loads(file.metadata[name]))) for name in ("mean", "std"))
            if len(mean) == len(std) == 3:
                return Carried(mean, std, 0.0)
    values: dict[tuple[str, ...], np.ndarray] = {}
    for name, value in {**found.outside, **found.weights}.items():
        for kind in (torch_names.MEANS, torch_names.DEVIATIONS):
            stands_here = name.rpartition(".")[2] in kind and "attacker." not in name
            if stands_here and isinstance(value, Tensor) and math.prod(value.shape) == 3:
                values[kind] = file.array(value).reshape(-1)
    if len(values) != 2 or any(part.dtype.kind not in "fViu" for part in values.values()):  # V: bfloat16
        return None
    mean, std = values[torch_names.MEANS], values[torch_names.DEVIATIONS]
    # The shortest text of a number is what it was rounded from: .2471 of float32's .24709999561.
    numbers = [tuple(float(str(x)) for x in part) for part in (mean, std)]
    return Carried(*numbers, max(_precision(mean.dtype), _precision(std.dtype)))


def _precision(dtype: np.dtype) -> float:
    return float(jnp.finfo(dtype).eps) if dtype.kind in "fV" else 0.0


def normalization_of(carried: Carried) -> Normalization:
    """Returns the normalisation that a file carries: its name, or the numbers of one that has none here."""
    for name, known in NORMALIZATIONS.items():
        if carried.is_close(known):
            return name
    return carried.mean, carried.std


def check_normalization(file: TorchFile, found: Found, normalization: Normalization) -> None:
    """Compares the normalisation that a file carries with the encoder's.

    Raises:
      UserError: they differ.
    """
    carried = read_normalization(file, found)
    if carried is None or carried.is_close(mean_std(normalization)):
        return
    mean, std = ([round(x, 4) for x in numbers] for numbers in (carried.mean, carried.std))
    right = normalization_of(carried)
    in_config = "" if isinstance(right, str) else f" (in a config mean={_joined(right[0])},std={_joined(right[1])})"
    raise UserError(
        f"{file.path} was trained with mean {mean} and standard deviation {std}, the encoder is built with "
        f"normalization={normalization!r}; pass normalization={right!r}{in_config}, or check_normalization=False to "
        "keep what the encoder has"
    )


def _joined(numbers: Sequence[float]) -> str:
    return "+".join(f"{x:g}" for x in numbers)
