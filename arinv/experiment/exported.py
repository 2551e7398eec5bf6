"""Trained networks as single files: weights in safetensors, the description as JSON in their metadata.

Weights have the names of their places in the variables, parts joined by "/". Kernels may be stored as float16: every
weight is read as float32. Nothing in a file is executed when it is read.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from arinv.errors import UserError
from arinv.experiment.descriptions import check_fields
from arinv.experiment.output_files import write_atomically
from arinv.models.pytorch.files import open_torch
from arinv.types import Variables

SUFFIX = ".safetensors"
_FORMAT = "arinv"
_MAX_DIFFERENCES = 6


def is_file(place: pathlib.Path) -> bool:
    """Returns whether a place is an existing file whose name ends as a network's."""
    return place.suffix == SUFFIX and place.is_file()


def write(path: pathlib.Path, variables: Variables, description: Mapping[str, Any], *, half: bool = False) -> None:
    """Writes a network.

    Args:
      path: path of the file.
      variables: variables of the network.
      description: what it is rebuilt from, plain JSON, see `arinv.experiment.descriptions`.
      half: store kernels as float16; biases, scales and statistics stay float32.

    Raises:
      UserError: a weight that is not finite in float16, or a file that cannot be written.
    """
    arrays = {}
    for name, value in flat(variables).items():
        array = np.asarray(value, np.float32)
        if half and array.ndim > 1:
            with np.errstate(over="ignore"):
                array = array.astype(np.float16)
            if not np.all(np.isfinite(array)):
                raise UserError(f"{name} of {path} has values beyond float16; write it as float32")
        arrays[name] = np.ascontiguousarray(array)
    metadata = {"format": _FORMAT, "description": json.dumps(description)}
    try:
        write_atomically(path, safetensors.numpy.save(arrays, metadata))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def load_description(path: pathlib.Path) -> dict[str, Any]:
    """Returns the description of a file's network.

    Raises:
      UserError: a damaged file, or one that holds no network of arinv.
    """
    with open_torch(path) as file:
        metadata = file.metadata
    try:
        description = json.loads(metadata["description"])
    except (KeyError, TypeError, ValueError):
        description = None
    return check_fields(description, path)


def load_variables(path: pathlib.Path, expected: Variables) -> Variables:
    """Returns the variables of a file's network, float32, on the default device.

    Args:
      path: path of the file.
      expected: shapes of the variables.

    Raises:
      UserError: a damaged file, one of another model, with both sides, or weights that are not finite.
    """
    leaves = flat(expected)
    with open_torch(path) as file:
        saved = {name: tuple(tensor.shape) for name, tensor in file.content.items()}
        if text := differences(saved, {name: tuple(leaf.shape) for name, leaf in leaves.items()}):
            raise UserError(f"{path} is of another model: {text}")
        arrays = [file.array(file.content[name]).astype(np.float32) for name in leaves]
    variables = jax.tree.unflatten(jax.tree.structure(expected), arrays)
    check_values(variables, path)
    return jax.device_put(variables, jax.local_devices()[0])


def check_values(variables: Variables, place: pathlib.Path) -> None:
    """Checks that the weights of a network are finite and its variances not negative.

    Args:
      variables: variables of the network.
      place: where they were read, for the message.

    Raises:
      UserError: naming the first weight that is not.
    """
    for name, value in flat(variables).items():
        array = np.asarray(value)
        if not np.isfinite(array).all():
            raise UserError(f"{place} has NaN or infinity in {name}; take another checkpoint, or train again")
        if name.endswith("/var") and array.min() < 0:
            raise UserError(f"{place} has a negative variance in {name}; take another checkpoint, or train again")


def differences(saved: Mapping[str, tuple[int, ...]], model: Mapping[str, tuple[int, ...]]) -> str:
    """Returns how the names and shapes of saved weights differ from a model's, both sides; empty if equal."""
    texts = [
        f"{name}: checkpoint {saved.get(name, 'has none')}, model {model.get(name, 'has none')}"
        for name in sorted(saved.keys() | model.keys())
        if saved.get(name) != model.get(name)
    ]
    more = len(texts) - _MAX_DIFFERENCES
    return "; ".join(texts[:_MAX_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def flat(tree: Variables) -> dict[str, Any]:
    """Returns the leaves by name, in their order in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
