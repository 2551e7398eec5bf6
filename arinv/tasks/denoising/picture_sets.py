"""Sets of clean pictures to measure a restoration on: folders, at the sizes they have, or examples of a data set.

config.data   {"name": "folder:PATH", or a name that data.open_source knows, several joined by "+",
               "splits": of each of them, "image_size", "data_dir": where they are no folders,
               "on_bad_image": of a folder, "num_images": of each set, evenly spread; 0 for all}
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from arinv import data
from arinv.errors import UserError
from arinv.tasks import setting
from arinv.tasks.picture_windows import evenly

_FOLDER = "folder:"


class PictureSet(NamedTuple):
    """A set of pictures.

    Attributes:
      name: of the folder or the data set.
      names: of its pictures.
      read: number -> uint8 [H, W, 3].
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[int], np.ndarray]


def validate(config: ConfigDict) -> None:
    """Checks what can be seen without reading pictures.

    Raises:
      UserError: no set, one of unknown kind or that is not there, or splits that are not one a set.
    """
    references = _references(config)
    if not references:
        raise UserError("data.name is empty; name a folder of clean pictures, folder:PATH, or several joined by +")
    if len(config.data.splits) != len(references):
        raise UserError(f"data.splits={tuple(config.data.splits)} must name a split for each of {config.data.name}")
    for reference in references:
        if not reference.startswith(_FOLDER):
            data.check_name(reference)
        elif not pathlib.Path(reference.removeprefix(_FOLDER)).expanduser().exists():
            raise UserError(f"{reference} does not exist; give a folder of clean pictures")
    if config.data.num_images < 0:
        raise UserError(f"data.num_images={config.data.num_images} must be 0 (all) or more")


def open_sets(config: ConfigDict) -> list[PictureSet]:
    """Returns the sets, whose files have all been decoded once.

    Raises:
      UserError: a set that is not there, is empty or holds a damaged picture.
    """
    sets = [_open(config, *named) for named in zip(_references(config), config.data.splits, strict=True)]
    names = [found.name for found in sets]
    return [
        found._replace(name=reference) if names.count(found.name) > 1 else found
        for found, reference in zip(sets, _references(config), strict=True)
    ]


def _references(config: ConfigDict) -> list[str]:
    return list(filter(None, config.data.name.split("+")))


def _open(config: ConfigDict, reference: str, split: str) -> PictureSet:
    fields = config.data
    if reference.startswith(_FOLDER):
        path = pathlib.Path(reference.removeprefix(_FOLDER)).expanduser()
        pictures = setting.open_pictures(path, on_bad_image=fields.on_bad_image)
        found = PictureSet(path.absolute().name, pictures.names, pictures.__getitem__)
    else:
        source = data.open_source(
            reference,
            split=split,
            image_size=fields.image_size,
            data_dir=fields.data_dir or None,
            num_examples=fields.num_images or None,
        )
        names = tuple(f"{i:05d}" for i in range(len(source)))
        found = PictureSet(reference, names, lambda i: np.asarray(source[i]["image"]))
    numbers = evenly(fields.num_images or len(found.names), len(found.names))
    return PictureSet(found.name, tuple(found.names[i] for i in numbers), lambda i: found.read(numbers[i]))
