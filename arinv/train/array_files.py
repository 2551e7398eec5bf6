"""Named arrays in .npz files: written whole or not at all, and read without unpickling anything."""

import io
import pathlib
from collections.abc import Mapping

import numpy as np

from arinv.errors import UserError
from arinv.train.writer import write_atomically


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = True) -> None:
    """Writes named arrays, atomically.

    Args:
      path: of the file.
      arrays: none of them of Python objects.
      compressed: False for what is written often.
    """
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file.

    Raises:
      UserError: a missing or damaged file.
    """
    try:
        content = io.BytesIO(path.read_bytes())  # np.load leaves a damaged file open
        with np.load(content, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # the readers of zip, deflate and of NumPy's headers raise many kinds
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {reason}); delete it to compute it anew"
        ) from None
