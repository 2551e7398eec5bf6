"""Results per image that grow while a task works through its images, kept in a file, so that it goes on where it was.

A file holds named arrays [n] of the first n images, and an identity: what they were computed with. A file of another
identity is started anew.
"""

import pathlib
import time
from collections.abc import Mapping

import numpy as np

from arinv.train.array_files import read_arrays, write_arrays

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
