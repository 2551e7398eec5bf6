"""Writes networks as .safetensors that PyTorch loads: `model.load_state_dict(safetensors.torch.load_file(PATH))`.

Names and layout are PyTorch's, numbers float32. The header carries what a state_dict does not: the name of the
encoder, mean and deviation of its pixel normalisation (PyTorch's networks take normalised pixels), the classes.

Source: the safetensors format.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from arinv.errors import UserError
from arinv.models.normalization import mean_std
from arinv.models.pytorch import layout
from arinv.models.pytorch.layout import Entry
from arinv.models.pytorch.networks import discriminator_entries, encoder_entries, generator_entries
from arinv.models.pytorch.weights import abbreviate
from arinv.types import Variables


def export_safetensors(
    path: str | pathlib.Path,
    encoder: str,
    variables: Variables,
    *,
    image_size: int | None = None,
    class_names: Sequence[str] = (),
    **options,
) -> None:
    """Writes an encoder with torchvision's names, or with its origin's where torchvision has no such network.

    Args:
      path: of the .safetensors file; replaced if it is there.
      encoder: a key of ENCODERS.
      variables: as `load_torch` returns them.
      image_size: side of the images in pixels, where the shape of a weight depends on it; None for the encoder's own.
      class_names: kept in the file's header.
      **options: the encoder is built with.

    Raises:
      UserError: variables of another network (both sides are shown), or a path that cannot be written.
    """
    module, wanted = encoder_entries(encoder, image_size, options)
    mean, std = mean_std(module.normalization)
    metadata = {"encoder": encoder, "mean": json.dumps(mean), "std": json.dumps(std)}
    if class_names:
        metadata["class_names"] = json.dumps(list(class_names))
    _write(path, variables, wanted, metadata, f"encoder {encoder!r} of {module.num_classes} classes")


def export_generator_safetensors(
    path: str | pathlib.Path, encoder: str, layer: str, variables: Variables, **options
) -> None:
    """Writes a generator with the names of the released code of Rojas-Gomez et al. 2022.

    Args:
      path: of the .safetensors file; replaced if it is there.
      encoder: name of the encoder it inverts.
      layer: name of the feature it inverts.
      variables: as `load_torch_generator` returns them.
      **options: of `build_generator`.

    Raises:
      UserError: as for `export_safetensors`.
    """
    wanted = generator_entries(encoder, layer, options)
    metadata = {"encoder": encoder, "layer": layer}
    _write(path, variables, wanted, metadata, f"the generator of {encoder} {layer}")


def export_discriminator_safetensors(
    path: str | pathlib.Path,
    variables: Variables,
    encoder: str = "alexnet",
    layer: str = "conv5",
    *,
    image_size: int | None = None,
    **options,
) -> None:
    """Writes a discriminator with the names of the released code of Rojas-Gomez et al. 2022.

    Args:
      path: of the .safetensors file; replaced if it is there.
      variables: as `load_torch_discriminator` returns them.
      encoder: name of the encoder whose features it is given.
      layer: name of that feature.
      image_size: side of the images in pixels; None for the encoder's own.
      **options: of Discriminator, and encoder_options.

    Raises:
      UserError: as for `export_safetensors`.
    """
    wanted = discriminator_entries(encoder, layer, image_size, options)
    metadata = {"encoder": encoder, "layer": layer}
    _write(path, variables, wanted, metadata, f"the discriminator of {encoder} {layer}")


def _write(path, variables: Variables, wanted: Sequence[Entry], metadata: Mapping[str, str], what: str) -> None:
    flat = traverse_util.flatten_dict(dict(variables))
    _check(flat, wanted, what)
    arrays = {}
    for entry in wanted:
        array = np.asarray(jax.device_get(flat[entry.path]), np.float32)
        arrays[entry.names[0]] = np.ascontiguousarray(layout.to_torch(entry, array))
        if entry.path[0] == "batch_stats":  # PyTorch counts batches; nobody reads it
            arrays[f"{entry.names[0].rpartition('.')[0]}.num_batches_tracked"] = np.zeros((), np.int64)
    path = pathlib.Path(path).expanduser()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        safetensors.numpy.save_file(arrays, temporary, {"format": "pt", **metadata})
        temporary.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error}") from error


def _check(flat: Mapping[tuple[str, ...], object], wanted: Sequence[Entry], what: str) -> None:
    """Compares the variables' names and shapes with the network's."""
    shapes = {entry.path: entry.shape for entry in wanted}
    differences = [
        f"{'/'.join(name)}: {getattr(flat.get(name), 'shape', 'none')} given, {shapes.get(name, 'none')} in the network"
        for name in sorted({*shapes, *flat})
        if name not in flat or name not in shapes or tuple(flat[name].shape) != shapes[name]
    ]
    if differences:
        raise UserError(f"these variables do not fit {what}; {abbreviate(differences, separator='; ')}")
