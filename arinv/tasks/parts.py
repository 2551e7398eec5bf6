"""The finished parts of a task, each in a file of its own, so that a task that was killed goes on where it was."""

import hashlib
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from arinv.errors import UserError
from arinv.train.array_files import read_arrays, write_arrays
from arinv.train.writer import write_text

_WEIGHTS = "weights"
_MARK = ".made_with"


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


def claim(folder: pathlib.Path, identity: str) -> None:
    """Empties `folder` of what was made with another identity, and marks it as made with this one.

    Files whose presence says that a piece of work is done are so never taken for another's.

    Args:
      folder: need not exist.
      identity: of everything that decides the files' content beside the task's config, such as `made_of` gives.

    Raises:
      UserError: files are there that no task made; nothing is deleted.
    """
    mark = folder / _MARK
    if mark.is_file():
        if mark.read_text(encoding="utf-8") == identity:
            return
        # A kill in the middle of deleting must not leave files without the mark.
        doomed = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds files that this task did not make; move them away, or name another --workdir")
    write_text(mark, identity)


def made_of(*parts: str, files: Sequence[pathlib.Path] = ()) -> str:
    """Returns a short text that differs where the parts or the files' names, sizes or times do.

    Args:
      *parts: such as fingerprints of weights.
      files: that exist.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} {part}".encode("utf-8", "surrogateescape"))
    for path in files:
        found = path.stat()
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
