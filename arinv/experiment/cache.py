"""The finished parts of a task, each in a file of its own, so that a task that was killed goes on where it was."""

import hashlib
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from arinv.errors import UserError
from arinv.experiment.writer import read_arrays, write_arrays, write_text
from arinv.types import Variables

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


_SAVE_EVERY_SECONDS = 30.0
_IDENTITY = "identity"


class RowStore:
    """The results of the images that are done, in order.

    Attributes:
      count: number of images that are done.
    """

    def __init__(self, path: pathlib.Path, *, identity: str):
        """Takes over what the file holds, if it is of the same identity.

        Args:
          path: of the file, an .npz; need not exist.
          identity: of everything that decides the results beside the task's config.

        Raises:
          UserError: a damaged file.
        """
        self._path, self._identity, self._last = path, identity, time.monotonic()
        self._parts: list[dict[str, np.ndarray]] = []
        self.count = 0
        if path.exists():
            arrays = read_arrays(path)
            if str(arrays.pop(_IDENTITY, "")) == identity and arrays:
                self._parts = [arrays]
                self.count = len(next(iter(arrays.values())))

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Takes the results of the next images; they are on disk half a minute later at the latest."""
        self._parts.append({name: np.asarray(values) for name, values in rows.items()})
        self.count += len(next(iter(rows.values())))
        if time.monotonic() - self._last >= _SAVE_EVERY_SECONDS:
            self.save()

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all results so far, by name."""
        names = self._parts[0] if self._parts else ()
        return {name: np.concatenate([part[name] for part in self._parts]) for name in names}

    def save(self) -> None:
        """Writes the file."""
        write_arrays(self._path, {**self.arrays(), _IDENTITY: np.array(self._identity)}, compressed=False)
        self._last = time.monotonic()


def fingerprint(variables: Variables) -> str:
    """Returns 12 hexadecimal digits that depend on every name, shape, dtype and value.

    Args:
      variables: of a network.
    """
    digest = hashlib.sha256()
    for path, value in sorted((jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(variables)):
        array = np.ascontiguousarray(value)
        digest.update(f"{path}{array.shape}{array.dtype}".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()[:12]
