"""The finished parts of a task, each in a file of its own, so that a task that was killed goes on where it was."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from arinv.errors import UserError
from arinv.train.array_files import read_arrays, write_arrays

_WEIGHTS = "weights"


class Parts:
    """Arrays by the name of the part; those made with other weights are not found again.

    Args:
      folder: where the files go, NAME.npz each.
      weights: fingerprint of the networks that the parts are made with.
    """

    def __init__(self, folder: pathlib.Path, weights: str):
        self._folder, self._weights = folder, weights

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Returns the arrays of a part, or None where it has to be made (anew)."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            arrays = read_arrays(path)
        except UserError:
            return None
        return arrays if str(arrays.pop(_WEIGHTS, "")) == self._weights else None

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a part; only process 0 does."""
        if jax.process_index() == 0:
            write_arrays(self._path(name), {_WEIGHTS: np.array(self._weights), **arrays})

    def remove(self, name: str) -> None:
        """Deletes a part that is no longer needed."""
        if jax.process_index() == 0:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.npz"
