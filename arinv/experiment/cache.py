"""Cache of a task's finished results, which survive a kill, and the fingerprints and keys that identify them."""

import contextlib
import hashlib
import pathlib
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from arinv import distributed
from arinv.errors import UserError
from arinv.experiment.output_files import read_arrays, write_arrays, write_text
from arinv.types import Variables

_KEY, _MARK = "cache_key", ".cache_key"
_TOTALS = "totals/"  # prefix of their names in a file
_SAVE_EVERY_SECONDS = 30.0


class SaveTimer:
    """A timer of saves that take place at most twice a minute; it starts at once."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Starts the next half minute; call it after each save."""
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Returns whether half a minute has passed."""
        return time.monotonic() - self._last >= _SAVE_EVERY_SECONDS


class ResultCache:
    """Finished results of a task in a folder: named arrays, rows that grow, or files that the task itself writes.

    Process 0 alone writes and deletes. Results that are damaged, or have another key, are computed again. A task that
    is complete deletes what only a restart needs, by `remove` or `discard`.

    Args:
      folder: folder of the files.
      key: as `cache_key` returns it, of everything that determines the results besides the task's config. Results
        with another key are computed again.
    """

    def __init__(self, folder: pathlib.Path, key: str):
        self._folder, self._key = folder, key

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Returns named arrays that were saved with this key; None where they have to be computed.

        All processes must call together, and get the same: a network file system may hide from one what another has
        written, and what they compute next, they compute together.

        Args:
          name: their name.
        """
        arrays = self._read(name)
        if distributed.count() == 1:
            return arrays
        digests = distributed.gather(None if arrays is None else fingerprint(arrays))
        return arrays if len({*digests}) == 1 else None

    def _read(self, name: str) -> dict[str, np.ndarray] | None:
        """Returns named arrays as this process sees them."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            arrays = read_arrays(path)
        except UserError:
            return None
        return arrays if str(arrays.pop(_KEY, "")) == self._key else None

    def save(self, name: str, arrays: Mapping[str, np.ndarray], *, compressed: bool = True) -> None:
        """Writes named arrays; `compressed=False` is for arrays that are written often."""
        write_arrays(self._path(name), {_KEY: np.array(self._key), **arrays}, compressed=compressed)

    def remove(self, name: str) -> None:
        """Deletes named arrays that are no longer needed; those that cannot be deleted stay."""
        if distributed.index() == 0:
            with contextlib.suppress(OSError):
                self._path(name).unlink()

    def discard(self) -> None:
        """Deletes the folder, which must be the cache's own; what cannot be deleted stays."""
        if (self._folder / "config.json").exists():
            raise ValueError(f"{self._folder} is a workdir, which holds more than a cache")
        if distributed.index() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def rows(self, name: str) -> "CachedRows":
        """Returns results per image, to which the task appends; all processes must call together.

        Args:
          name: name of their arrays.
        """
        return CachedRows(self, name)

    def batches(self, suffix: str = "") -> "CachedBatches":
        """Returns results of batches of images, a file each; all processes must call together.

        Args:
          suffix: suffix of the files' names, for another kind of results in the same folder.
        """
        return CachedBatches(self, self._folder, suffix)

    def claim(self) -> None:
        """Deletes files of another key from the folder, and marks the folder with this key.

        For files that the task itself writes, whose presence marks an item as finished; for tasks of one process.

        Raises:
          UserError: the folder holds files that no task wrote; nothing is deleted.
        """
        folder, mark = self._folder, self._folder / _MARK
        if mark.is_file():
            if mark.read_text(encoding="utf-8") == self._key:
                return
            # Renamed first, so that a kill during the deletion leaves no files without the mark.
            trash = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(trash, ignore_errors=True)
            folder.rename(trash)
            shutil.rmtree(trash)
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} holds files that this task did not write; move them away, or name another --workdir"
            )
        write_text(mark, self._key)

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.npz"


def cache_key(*parts: str | np.ndarray, files: Sequence[pathlib.Path] = ()) -> str:
    """Returns a hash of the parts and of the files' names, sizes and modification times.

    Args:
      *parts: such as fingerprints of weights, and images, whose pixels count.
      files: existing files.
    """
    digest = hashlib.sha256()
    for part in parts:
        part = part if isinstance(part, str) else str(zlib.crc32(np.ascontiguousarray(part)))
        digest.update(f"{len(part)} {part}".encode("utf-8", "surrogateescape"))
    for path in files:
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class CachedRows:
    """Results of the finished images, in order, in one file.

    Attributes:
      count: number of finished images.
      totals: named arrays of all finished images together, such as sums; empty for none.
    """

    def __init__(self, cache: ResultCache, name: str):
        self._cache, self._name, self._timer = cache, name, SaveTimer()
        self._parts: list[dict[str, np.ndarray]] = []
        self.count, self.totals = 0, {}
        arrays = cache.load(name) or {}
        if count := len(next(iter(arrays.values()))) if arrays else 0:
            self.totals = {n.removeprefix(_TOTALS): arrays.pop(n) for n in list(arrays) if n.startswith(_TOTALS)}
            self._parts, self.count = [arrays], count

    def append(self, rows: Mapping[str, np.ndarray], totals: Mapping[str, np.ndarray] | None = None) -> None:
        """Appends the results of the next images, and writes the file if half a minute has passed.

        Args:
          rows: results [n, ...] of n images.
          totals: replace the attribute; None for none.
        """
        self.totals = dict(totals or {})
        self._parts.append({name: np.asarray(values) for name, values in rows.items()})
        self.count += len(next(iter(rows.values())))
        if self._timer.is_due():
            self.save()

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all results so far, by name."""
        names = self._parts[0] if self._parts else ()
        return {name: np.concatenate([part[name] for part in self._parts]) for name in names}

    def save(self) -> None:
        """Writes the file."""
        totals = {f"{_TOTALS}{name}": values for name, values in self.totals.items()}
        self._cache.save(self._name, {**self.arrays(), **totals}, compressed=False)
        self._timer.restart()


class CachedBatches:
    """Results of batches of consecutive images, a file each, which later batches of any size use.

    A file is named by its first image and the number of its images. With another key it is ignored.
    """

    def __init__(self, cache: ResultCache, folder: pathlib.Path, suffix: str):
        self._cache, self._suffix = cache, suffix
        names = (re.fullmatch(rf"(\d+)_(\d+){re.escape(suffix)}", path.stem) for path in folder.glob("*.npz"))
        spans = [(int(name[1]), int(name[2])) for name in names if name]
        # Those that process 0 sees, so that all processes load the same files together.
        self._spans = {(first, count) for first, count in distributed.broadcast(spans)}

    def load(self, first: int) -> dict[str, np.ndarray] | None:
        """Returns results [n, ...] of n images from the image `first` on; None where they have to be computed."""
        # Batches only get smaller within the images of an earlier one: the file of the fewest images is the newest.
        for start, count in sorted(self._spans, key=lambda span: span[1]):
            if start <= first < start + count:
                arrays = self._cache.load(self._name(start, count))
                if arrays is not None:
                    return {name: values[first - start :] for name, values in arrays.items()}
        return None

    def save(self, first: int, rows: Mapping[str, np.ndarray]) -> None:
        """Writes results [n, ...] of n images from the image `first` on."""
        count = len(next(iter(rows.values())))
        self._cache.save(self._name(first, count), rows)
        self._spans.add((first, count))

    def remove(self, end: int) -> None:
        """Deletes the results of images before `end`; files that also hold later ones stay."""
        for start, count in list(self._spans):
            if start + count <= end:
                self._cache.remove(self._name(start, count))
                self._spans.remove((start, count))

    def fill(
        self, count: int, compute: Callable[[int], Mapping[str, np.ndarray]]
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Yields the results of the images 0 to `count` - 1, batch by batch; missing ones are computed and saved.

        Args:
          count: number of images.
          compute: number of an image -> results [n, ...] of it and the images behind it, n at least 1.
        """
        first = 0
        while first < count:
            rows = self.load(first)
            if rows is None:
                rows = compute(first)
                self.save(first, rows)
            yield rows
            first += len(next(iter(rows.values())))

    def _name(self, first: int, count: int) -> str:
        return f"{first}_{count}{self._suffix}"


def fingerprint(variables: Variables) -> str:
    """Returns 12 hexadecimal digits that depend on every name, shape, dtype and value.

    Args:
      variables: variables of a network.
    """
    digest = hashlib.sha256()
    for path, value in sorted((jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(variables)):
        array = np.ascontiguousarray(value)
        digest.update(f"{path}{array.shape}{array.dtype}".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()[:12]
