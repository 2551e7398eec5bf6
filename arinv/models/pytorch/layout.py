"""Where each number of PyTorch's weights goes in ours, and back.

PyTorch keeps convolutions OIHW and dense layers [out, in]; we keep HWIO and [in, out]. Its transposed convolutions
are [in, out, H, W] and turned by 180 degrees against ours. A dense layer behind a convolution reads the map channel
by channel there, pixel by pixel here. Batch normalisation and biases are the same. Spectral normalisation keeps the
kernel before the division and two vectors, of which the right one runs along a kernel of one output.

Source: torch.nn.Conv2d, ConvTranspose2d, Linear, BatchNorm2d and torch.nn.utils.spectral_norm.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from arinv.models.pytorch.names import Layer, Layers

_LEAVES = {
    ("params", "bias"): ("bias",),
    ("params", "scale"): ("weight",),
    ("batch_stats", "mean"): ("running_mean",),
    ("batch_stats", "var"): ("running_var",),
    # The second of each is how torch.nn.utils.parametrizations names it.
    ("spectral", "u"): ("weight_u", "parametrizations.weight.0._u"),
    ("spectral", "v"): ("weight_v", "parametrizations.weight.0._v"),
}
_SPECTRAL_KERNEL = ("weight_orig", "parametrizations.weight.original")


class Entry(NamedTuple):
    """One array of our variables and its place in a checkpoint.

    Attributes:
      path: in our variables, collection first.
      shape: here.
      names: in PyTorch; the first is written.
      layer: the layer it belongs to.
      kernel: shape of that layer's kernel here, None where it has none.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    layer: Layer
    kernel: tuple[int, ...] | None

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape in PyTorch."""
        if self.path[-1] != "kernel":
            return self.shape
        if len(self.shape) == 2:
            return self.shape[::-1]
        height, width, inputs, outputs = self.shape
        return (*((inputs, outputs) if self.layer.transposed else (outputs, inputs)), height, width)


def entries(variables: Mapping[str, Any], layers: Layers) -> list[Entry]:
    """Returns an entry for each array of a network's variables, in the order of its layers.

    Args:
      variables: arrays, or their shapes.
      layers: of the network, all of them.
    """
    flat = traverse_util.flatten_dict(dict(variables))
    order = {tuple(layer.path.split("/")): i for i, layer in enumerate(layers)}
    found = []
    for path, leaf in flat.items():
        owner = path[1:-1] if path[0] != "spectral" else path[1:-2]  # spectral: .../vectors/u
        layer = layers[order[owner]]
        kernel = flat.get(("params", *owner, "kernel"))
        if path[-1] == "kernel":
            endings = _SPECTRAL_KERNEL if ("spectral", *owner, "vectors", "u") in flat else ("weight",)
        else:
            endings = _LEAVES[path[0], path[-1]]
        names = tuple(f"{name}.{ending}" for name in layer.names for ending in endings)
        shape = None if kernel is None else tuple(kernel.shape)
        found.append((order[owner], Entry(path, tuple(leaf.shape), names, layer, shape)))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def to_ours(entry: Entry, array: np.ndarray) -> np.ndarray:
    """Returns an array of a checkpoint in our layout."""
    if entry.path[-1] == "kernel":
        return _kernel(array, entry.layer)
    if entry.path[-1] == "v":
        return _kernel(array.reshape(_one_output(entry)), entry.layer).reshape(-1)
    return array


def to_torch(entry: Entry, array: np.ndarray) -> np.ndarray:
    """Returns one of our arrays in PyTorch's layout."""
    if entry.path[-1] == "kernel":
        return _torch_kernel(array, entry.layer)
    if entry.path[-1] == "v":
        return _torch_kernel(array.reshape(*entry.kernel[:-1], 1), entry.layer).reshape(-1)
    return array


def _one_output(entry: Entry) -> tuple[int, ...]:
    """Returns the shape of the layer's kernel in PyTorch if it had one output."""
    kernel = (*entry.kernel[:-1], 1)
    return entry._replace(path=("params", "kernel"), shape=kernel).torch_shape


def _kernel(weight: np.ndarray, layer: Layer) -> np.ndarray:
    if weight.ndim == 4:
        return weight.transpose(2, 3, 0, 1)[::-1, ::-1] if layer.transposed else weight.transpose(2, 3, 1, 0)
    if not layer.channels:
        return weight.T
    outputs, inputs = weight.shape
    side = math.isqrt(inputs // layer.channels)
    return weight.reshape(outputs, layer.channels, side, side).transpose(2, 3, 1, 0).reshape(inputs, outputs)


def _torch_kernel(kernel: np.ndarray, layer: Layer) -> np.ndarray:
    if kernel.ndim == 4:
        return kernel[::-1, ::-1].transpose(2, 3, 0, 1) if layer.transposed else kernel.transpose(3, 2, 0, 1)
    if not layer.channels:
        return kernel.T
    inputs, outputs = kernel.shape
    side = math.isqrt(inputs // layer.channels)
    return kernel.reshape(side, side, layer.channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, inputs)
