"""The zoo: trained networks that are installed with the package, each with a card made from its runs.

zoo/NAME/encoder.safetensors      a classifier
zoo/NAME/LAYER.safetensors        an inverter of its feature LAYER, such as conv5; any number of them
zoo/NAME/gan.safetensors          a generator of images from noise; an entry has a classifier or a GAN
zoo/NAME/autoencoder.safetensors  an autoencoder of such images; autoencoder_OPERATOR restores degraded ones
zoo/NAME/card.json                how they were trained, and how they measure

"zoo:NAME" stands for the entry's network of the kind that is needed: among inverters that of the deepest layer, and an
inverter rather than the encoder where either fits. "zoo:NAME/LAYER" and "zoo:NAME/encoder" name one network.
`python -m launch.zoo add` writes entries; `arinv.zoo.cards` reads their cards.
"""

import os
import pathlib
import re
from collections.abc import Collection

from arinv.errors import UserError, unknown

FOLDER = pathlib.Path(__file__).resolve().parent  # of the entries
SCHEME = "zoo:"
ENCODER = "encoder"
CARD = "card.json"
MAX_FILE_BYTES, MAX_TOTAL_BYTES = 16 * 2**20, 40 * 2**20
_SUFFIX = ".safetensors"
INVERTER = "inverter"  # the kind of files with any other name than these:
_KINDS = {ENCODER: "classifier", "gan": "gan", "autoencoder": "autoencoder"}  # first word of a file's name -> kind
_PREFERENCE = (INVERTER, *_KINDS.values())


def names() -> tuple[str, ...]:
    """Returns the names of the entries."""
    return tuple(sorted({path.parent.name for path in FOLDER.glob(f"*/*{_SUFFIX}")}))


def is_reference(reference: str | os.PathLike) -> bool:
    """Returns whether a reference names an entry: "zoo:NAME" or "zoo:NAME/NETWORK"."""
    return isinstance(reference, str | os.PathLike) and os.fspath(reference).startswith(SCHEME)


def resolve(reference: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of an entry, or the file of one of its networks.

    Args:
      reference: "zoo:NAME" or "zoo:NAME/NETWORK", such as "encoder", "gan" or the layer of an inverter.

    Raises:
      UserError: unknown entry or network.
    """
    name, _, network = os.fspath(reference).removeprefix(SCHEME).partition("/")
    if name not in names():
        raise unknown("entry of the zoo", name, names())
    if network and network not in networks(name):
        raise unknown(f"network of zoo:{name}", network, networks(name))
    return FOLDER / name / f"{network}{_SUFFIX}" if network else FOLDER / name


def reference(place: pathlib.Path) -> str:
    """Returns the reference of a place that `resolve` returns; empty for any other place."""
    place = place.resolve()
    if place.parent == FOLDER and place.name in names():
        return f"{SCHEME}{place.name}"
    if place.parent.parent == FOLDER and place.suffix == _SUFFIX:
        return f"{SCHEME}{place.parent.name}/{place.stem}"
    return ""


def networks(name: str) -> tuple[str, ...]:
    """Returns the networks of an entry: the encoder and its inverters, the deepest last; the GAN and autoencoders."""
    return tuple(sorted((path.stem for path in (FOLDER / name).glob(f"*{_SUFFIX}")), key=order))


def kind_of(network: str) -> str:
    """Returns the kind of a network of an entry: "classifier", "inverter", "gan" or "autoencoder"."""
    return _KINDS.get(network.partition("_")[0], INVERTER)


def network(place: pathlib.Path, kinds: Collection[str] = ()) -> pathlib.Path:
    """Returns the file of an entry's network; a path that is no entry is returned unchanged.

    Args:
      place: the folder of an entry, or any other path.
      kinds: allowed kinds of networks; empty for any.

    Raises:
      UserError: the entry has no network of these kinds.
    """
    if not reference(place) or place.is_file():
        return place
    own, kinds = networks(place.name), set(filter(None, kinds))
    for kind in _PREFERENCE:
        fitting = [network for network in own if kind_of(network) == kind]
        if fitting and kind in (kinds or _PREFERENCE):
            return place / f"{fitting[-1 if kind == INVERTER else 0]}{_SUFFIX}"
    raise UserError(f"{SCHEME}{place.name} has no {' or '.join(sorted(kinds))}; it has {', '.join(own)}")


def order(network: str) -> tuple:
    """Returns what networks of an entry are sorted by: the encoder, its inverters by depth, the GAN, autoencoders."""
    kinds = (_KINDS[ENCODER], INVERTER, "gan", "autoencoder")
    return kinds.index(kind_of(network)), [int(number) for number in re.findall(r"\d+", network)], network
