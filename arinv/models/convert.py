"""Weights from PyTorch's checkpoints, and back, without PyTorch.

Reads .pt and .pth of torch.save (the zip and the older format) and .safetensors with the names of torchvision,
MadryLab's robustness library, TRADES, GAIRAT and RobustBench (wide ResNets), Adv-BNN (VGG-16) and the released code of
Rojas-Gomez et al. 2022 (encoder, generator, discriminator). Nothing in a file is executed. Writes .safetensors that
PyTorch loads, with torchvision's names where torchvision has the network.

Everything in a file must be used and everything in the network must be in the file; a mismatch shows both sides. Not
read, and told by `describe_torch`: counts of batches, networks beside the one that is read, and `sub_block1` of the
wide ResNets, which no forward pass uses. Of several dictionaries that fit, the one at a usual place ("model",
"state_dict", ...) is read and the others are told too; at other places the file is refused.
"""

import contextlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from arinv.models.pytorch import weights as torch_weights
from arinv.models.pytorch.export import (
    export_discriminator_safetensors,
    export_generator_safetensors,
    export_safetensors,
)
from arinv.models.pytorch.file import TorchFile, open_torch
from arinv.models.pytorch.layout import Entry
from arinv.models.pytorch.networks import discriminator_entries, encoder_entries, generator_entries
from arinv.types import Variables

__all__ = [
    "describe_torch",
    "export_discriminator_safetensors",
    "export_generator_safetensors",
    "export_safetensors",
    "load_torch",
    "load_torch_discriminator",
    "load_torch_generator",
]

_CLASS_NAMES = ("class_names", "classes")  # entries of a file that list them


def _convert(file: TorchFile, wanted: Sequence[Entry], what: str) -> Variables:
    variables = torch_weights.convert(file, torch_weights.locate(file, wanted), wanted, what=what)
    return jax.tree.map(jnp.asarray, variables)


def load_torch(
    path: str | pathlib.Path,
    encoder: str,
    *,
    image_size: int | None = None,
    check_normalization: bool = True,
    **options,
) -> Variables:
    """Returns an encoder's variables from a PyTorch checkpoint.

    Args:
      path: a .pt, .pth or .safetensors file; it may hold the weights alone, or under "model", "state_dict" or the
        like, their names with any prefix.
      encoder: a key of ENCODERS.
      image_size: side of the images in pixels, where the shape of a weight depends on it; None for the encoder's own.
      check_normalization: whether the file's pixel normalisation, if it has one, must be the encoder's. The released
        generators of Rojas-Gomez et al. 2022 belong to an encoder that is fed normalization="pm1" whatever it was
        trained with.
      **options: the encoder is built with, as for `build`; num_classes among them.

    Returns:
      {"params": ..., "batch_stats": ...} in float32, for `build(encoder, **options).apply`.

    Raises:
      UserError: no such file or a damaged one, one that could run a program when it is loaded (nothing is run), other
        weights than the encoder's (both sides are shown), or another pixel normalisation than the encoder's.

    Source: torchvision; Engstrom et al. 2019 (robustness); Croce et al. 2021 (RobustBench).
    """
    module, wanted = encoder_entries(encoder, image_size, options)
    with open_torch(path) as file:
        found = torch_weights.locate(file, wanted)
        variables = torch_weights.convert(
            file, found, wanted, what=f"encoder {encoder!r} of {module.num_classes} classes"
        )
        if check_normalization:
            torch_weights.check_normalization(file, found, module.normalization)
    return jax.tree.map(jnp.asarray, variables)


def load_torch_generator(path: str | pathlib.Path, encoder: str, layer: str, **options) -> Variables:
    """Returns a generator's variables from a checkpoint of the released code.

    Args:
      path: as for `load_torch`; an autoencoder (generator.gen.0.weight_orig) or its generator alone.
      encoder: name of the encoder it inverts.
      layer: name of the feature it inverts.
      **options: of `build_generator`. The released `conv5_tconv` is AlexNet's default, `conv5_interp` its variant
        "interpolation"; weights without spectral normalisation need spectral_norm=False.

    Returns:
      {"params": ..., "batch_stats": ..., "spectral": ...} in float32.

    Raises:
      UserError: as for `load_torch`.

    Source: Rojas-Gomez et al. 2022, released code.
    """
    wanted = generator_entries(encoder, layer, options)
    with open_torch(path) as file:
        return _convert(file, wanted, f"the generator of {encoder} {layer}")


def load_torch_discriminator(
    path: str | pathlib.Path,
    encoder: str = "alexnet",
    layer: str = "conv5",
    *,
    image_size: int | None = None,
    **options,
) -> Variables:
    """Returns a discriminator's variables from a checkpoint of the released code.

    Args:
      path: as for `load_torch`; the released code keeps it in the generator's file.
      encoder: name of the encoder whose features it is given.
      layer: name of that feature.
      image_size: side of the images in pixels; None for the encoder's own.
      **options: of Discriminator, and encoder_options.

    Returns:
      {"params": ..., "spectral": ...} in float32.

    Raises:
      UserError: as for `load_torch`.

    Source: Rojas-Gomez et al. 2022, released code.
    """
    wanted = discriminator_entries(encoder, layer, image_size, options)
    with open_torch(path) as file:
        return _convert(file, wanted, f"the discriminator of {encoder} {layer}")


def describe_torch(
    path: str | pathlib.Path, encoder: str, *, image_size: int | None = None, **options
) -> dict[str, Any]:
    """Returns what a PyTorch checkpoint says of itself beside an encoder's weights.

    Args:
      path: as for `load_torch`.
      encoder: a key of ENCODERS.
      image_size: as for `load_torch`.
      **options: the encoder is built with.

    Returns:
      {"num_classes": length of the logits, None where the last layer is not found; "class_names": list, empty where
      the file has none; "normalization": name, None where the file has none or none of ours; "unread": names of
      weights that are known and not read, and of entries of the file with other weights of such a network}.

    Raises:
      UserError: no such file, a damaged one, one that could run a program when it is loaded, or one with several
        networks that fit alike.
    """
    _, wanted = encoder_entries(encoder, image_size, options)
    with open_torch(path) as file:
        found = torch_weights.locate(file, wanted)
        carried = torch_weights.read_normalization(file, found)
        last = next(entry for entry in wanted if entry.layer == wanted[-1].layer and entry.path[-1] == "kernel")
        shapes = [found.weights[name].shape for name in last.names if hasattr(found.weights.get(name), "shape")]
        num_classes = shapes[0][0] if shapes and shapes[0] else None
        return {
            "num_classes": num_classes,
            "class_names": _class_names(file, num_classes),
            "normalization": torch_weights.normalization_name(*carried) if carried else None,
            "unread": sorted({*torch_weights.unread(found), *found.others}),
        }


def _class_names(file: TorchFile, num_classes: int | None) -> list[str]:
    """Returns the classes that a file lists; an empty list where it has none that fit."""
    places = dict(file.content) if isinstance(file.content, dict) else {}
    if "class_names" in file.metadata:
        with contextlib.suppress(ValueError):
            places = {"class_names": json.loads(file.metadata["class_names"])}
    numbers = places.get("class_to_idx")
    if isinstance(numbers, dict) and set(map(str, numbers.values())) == set(map(str, range(len(numbers)))):
        places["classes"] = sorted(numbers, key=lambda name: int(numbers[name]))
    for name in _CLASS_NAMES:
        names = places.get(name)
        is_list = isinstance(names, list | tuple) and all(isinstance(part, str) for part in names)
        if is_list and len(names) == num_classes:
            return list(names)
    return []
