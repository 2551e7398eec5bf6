"""What is known of each picture of a long evaluation, kept in a file as soon as it is measured."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from arinv.errors import UserError
from arinv.train.array_files import read_arrays, write_arrays

_WINDOWS = "windows"


class Parts:
    """The numbers and windows of each picture, in a folder: an evaluation that is started again goes on from there."""

    def __init__(self, folder: pathlib.Path, *, rows: Sequence[str]):
        """Takes the folder and the names of the restorations that each number is of."""
        self._folder, self._rows = folder, tuple(rows)

    def has(self, number: int, name: str) -> bool:
        """Returns whether this picture was measured, with these restorations; a damaged file counts as none."""
        path = self._path(number)
        if not path.exists():
            return False
        try:
            part = read_arrays(path)
            return str(part["name"]) == name and tuple(part["rows"].tolist()) == self._rows
        except (KeyError, UserError):
            return False

    def write(self, number: int, name: str, numbers: Mapping[str, np.ndarray], windows: np.ndarray | None) -> None:
        """Keeps a picture's numbers, metric -> [rows], and what is shown of it, uint8 [1 + rows, S, S, 3]."""
        shown = {} if windows is None else {_WINDOWS: windows}
        names = {"name": np.array(name), "rows": np.array(self._rows)}
        write_arrays(self._path(number), {**names, **numbers, **shown})

    def collect(self, sets: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
        """Returns set -> metric -> [pictures, rows], with the "name" [pictures] of each picture.

        Args:
          sets: for each picture, the name of its set; pictures of a set follow each other.
        """
        collected: dict[str, dict[str, list]] = {}
        for number, name in enumerate(sets):
            part = read_arrays(self._path(number))
            part.pop("rows"), part.pop(_WINDOWS, None)
            for metric, values in part.items():
                collected.setdefault(name, {}).setdefault(metric, []).append(values)
        return {name: {metric: np.stack(v) for metric, v in part.items()} for name, part in collected.items()}

    def windows(self, count: int) -> dict[str, np.ndarray]:
        """Returns picture -> uint8 [1 + rows, S, S, 3] of those among `count` pictures that are shown, in order."""
        parts = (read_arrays(self._path(number)) for number in range(count))
        return {str(part["name"]): part[_WINDOWS] for part in parts if _WINDOWS in part}

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"{number:06d}.npz"
