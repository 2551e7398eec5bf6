"""Caffe's files, .caffemodel and .binaryproto, read as plain protobuf: nothing in them is executed.

Only the fields that hold names, types, shapes and numbers are decoded, in both generations of the format: layers with
types as text or as numbers, blobs with a shape or with num, channels, height and width. Numbers are views of the file
until they are read. Caffe's images are BGR in 0..255; `state_dict` has the first layer's channels in the order RGB.

Source: BVLC Caffe, caffe.proto; the wire format of Protocol Buffers.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from arinv.errors import UserError, first_line
from arinv.models.generators.plans import Step
from arinv.paths import expanded

SUFFIX, MEAN_SUFFIX = ".caffemodel", ".binaryproto"
_VARINT, _BYTES = 0, 2  # wire types
_FIXED = {1: 8, 5: 4}  # wire types with their bytes
_LONGEST_VARINT = 10  # bytes
_LARGEST_SIDE = 1 << 31
# Types of layers that were numbers; the others have no weights that are read.
_KINDS = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 39: "Deconvolution"}
_MAX_NAMES = 4  # of layers in a message


class Blob(NamedTuple):
    """Numbers of a layer.

    Attributes:
      shape: shape of the array.
      parts: one-dimensional arrays that together hold its numbers, in order.
    """

    shape: tuple[int, ...]
    parts: tuple[np.ndarray, ...]

    def array(self) -> np.ndarray:
        """Returns the numbers, float32."""
        flat = np.concatenate(self.parts) if self.parts else np.zeros(0)
        return flat.astype(np.float32).reshape(self.shape)


class Layer(NamedTuple):
    """A layer of a network.

    Attributes:
      name: name of the layer.
      kind: type of the layer, such as "Convolution"; empty for types of old files that are not read.
      blobs: weight and bias where it has some.
    """

    name: str
    kind: str
    blobs: tuple[Blob, ...]


def read_network(path: str | pathlib.Path) -> list[Layer]:
    """Returns the layers of a network in their order.

    Args:
      path: a .caffemodel file.

    Returns:
      The layers, also those without weights.

    Raises:
      UserError: a missing or damaged file, or one without weights.
    """
    with _one_line(path) as content:
        layers = [layer for number, kind, value in _fields(content) if (layer := _layer(number, kind, value))]
    if not any(layer.blobs for layer in layers):
        raise UserError(f"{path} contains no weights: expected a .caffemodel, a network of Caffe with its blobs")
    return layers


def read_mean(path: str | pathlib.Path) -> tuple[float, float, float]:
    """Returns the mean of red, green and blue in [0, 1], over the pixels of a mean image.

    Args:
      path: a .binaryproto file with one image [3, H, W], BGR in 0..255.

    Returns:
      Means of red, green and blue, in [0, 1].

    Raises:
      UserError: a missing or damaged file, or another shape.
    """
    with _one_line(path) as content:
        image = _blob(content).array()
    if image.ndim < 3 or image.size == 0 or image.shape[-3] != 3 or image.size != math.prod(image.shape[-3:]):
        raise UserError(f"{path} has a blob of shape {image.shape}; expected one mean image [3, H, W]")
    if not np.isfinite(image).all() or image.min() < 0 or not 1 <= image.max() <= 255:
        raise UserError(f"{path} has values from {image.min():g} to {image.max():g}; expected a mean image in 0..255")
    blue, green, red = image.reshape(3, -1).mean(axis=1, dtype=np.float64) / 255
    return float(red), float(green), float(blue)


def state_dict(layers: Sequence[Layer], path: str | pathlib.Path) -> dict[str, Blob]:
    """Returns "LAYER.weight" and "LAYER.bias" -> blob, in PyTorch's layout; further blobs are LAYER.blob2, ...

    Where the first layer with weights is a convolution of three channels, these are in the order RGB.

    Args:
      layers: layers of the network, in order, as `read_network` returns them.
      path: the file, for messages.

    Returns:
      Name -> blob.

    Raises:
      ValueError: two layers of one name.
      UserError: AlexNet, which normalizes before it pools, for which there is no encoder.
    """
    kinds = [layer.kind for layer in layers if layer.kind in ("LRN", "Pooling")]
    if kinds[:2] == ["LRN", "Pooling"]:
        raise UserError(
            f"{path} normalizes before it pools, as AlexNet of two towers (bvlc_alexnet); encoder caffenet pools "
            "first: take bvlc_reference_caffenet"
        )
    blobs: dict[str, Blob] = {}
    for layer in layers:
        for i, blob in enumerate(layer.blobs):
            name = f"{layer.name}.{('weight', 'bias')[i] if i < 2 else f'blob{i}'}"
            if name in blobs:
                raise ValueError(f"two layers are called {layer.name}")
            is_first = not blobs and layer.kind == "Convolution" and len(blob.shape) == 4 and blob.shape[1] == 3
            blobs[name] = Blob(blob.shape, (blob.array()[:, ::-1].ravel(),)) if is_first else blob
    return blobs


@contextlib.contextmanager
def _one_line(path: str | pathlib.Path) -> Iterator[memoryview]:
    """Opens a file, and turns every exception of decoding it into a UserError."""
    path = expanded(path)
    try:
        yield memoryview(np.memmap(path, np.uint8, mode="r"))
    except FileNotFoundError:
        raise UserError(f"no file {path}: expected a .caffemodel or .binaryproto file of Caffe") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; name a .caffemodel or .binaryproto file of Caffe") from None
    except (ValueError, OSError, OverflowError) as error:
        raise UserError(f"{path} cannot be read, it may be cut short or damaged ({first_line(error)})") from error


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns a number and the position after it."""
    value = 0
    for i in range(_LONGEST_VARINT):
        if position + i >= len(message):
            raise ValueError("a number is cut short")
        byte = message[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise ValueError("a number has more than 10 bytes")


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yields number, wire type and content of the fields of a message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, kind, value
            continue
        if kind == _BYTES:
            size, position = _varint(message, position)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"wire type {kind} is unknown")
        if not number or size > len(message) - position:
            raise ValueError("a field ends after its message")
        yield number, kind, message[position : position + size]
        position += size


def _layer(number: int, kind: int, value: int | memoryview) -> Layer | None:
    """Returns the layer in a field of a network; None for other fields."""
    if number not in (2, 100) or kind != _BYTES:
        return None
    is_new = number == 100
    names, kinds, blobs = (1, 2, 7) if is_new else (4, 5, 6)
    name, layer_kind, arrays = "", "", []
    for field, wire, content in _fields(value):
        if field == names and wire == _BYTES:
            name = str(content, "utf-8")
        elif field == kinds and wire == (_BYTES if is_new else _VARINT):
            layer_kind = str(content, "utf-8") if is_new else _KINDS.get(content, "")
        elif field == blobs and wire == _BYTES:
            arrays.append(_blob(content, place=len(arrays)))
    return Layer(name, layer_kind, tuple(arrays))


def _blob(message: memoryview, *, place: int = 0) -> Blob:
    """Returns a blob; `place` is its number in the layer."""
    shape, old, parts = None, [0, 0, 0, 0], []
    for number, kind, value in _fields(message):
        if number in (1, 2, 3, 4) and kind == _VARINT:
            old[number - 1] = value
        elif number == 7 and kind == _BYTES:
            shape = _shape(value)
        elif number in (5, 8) and kind != _VARINT:
            parts.append(np.frombuffer(value, "<f4" if number == 5 else "<f8"))
    if shape is None:  # of 1 x 1 x outputs x inputs in a dense layer, 1 x 1 x 1 x outputs in a bias
        shape = tuple(old)
        shape = shape[2:] if place == 0 and shape[:2] == (1, 1) else shape
        shape = (math.prod(shape),) if place else shape
    count = sum(len(part) for part in parts)
    if any(not 0 <= side < _LARGEST_SIDE for side in shape) or math.prod(shape) != count:
        raise ValueError(f"a blob of shape {shape} has {count} numbers")
    return Blob(shape, tuple(parts))


def _shape(message: memoryview) -> tuple[int, ...]:
    sides: list[int] = []
    for number, kind, value in _fields(message):
        if number == 1 and kind == _VARINT:
            sides.append(value)
        elif number == 1 and kind == _BYTES:
            position = 0
            while position < len(value):
                side, position = _varint(value, position)
                sides.append(side)
    return tuple(sides)


def weighted(path: str | pathlib.Path, count: int) -> list[Layer]:
    """Returns the layers of a file that have weights.

    Args:
      path: a .caffemodel file.
      count: expected number of such layers.

    Returns:
      `count` layers, in order.

    Raises:
      UserError: as `read_network`, or another number.
    """
    layers = [layer for layer in read_network(path) if layer.blobs]
    if len(layers) != count:
        names = ", ".join(f"{layer.name} {layer.blobs[0].shape}" for layer in layers[:_MAX_NAMES])
        raise UserError(f"{path} has {len(layers)} layers with weights, the network {count}; in the file: {names}, ...")
    return layers


def kernel_and_bias(layer: Layer, step: Step, path: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a layer in the layout of a generator's step.

    Args:
      layer: a layer with a weight; a missing bias stands for zeros.
      step: the corresponding step of the generator's plan.
      path: the file, for messages.

    Returns:
      Kernel and bias, float32, in our layout.

    Raises:
      UserError: another type of layer than the step's.
    """
    weight = layer.blobs[0].array()
    allowed = {"dense": ("InnerProduct",), "conv": ("Convolution",), "up": ("Deconvolution",)}[step.kind]
    allowed += ("Convolution",) if step.kind == "up" and step.stride == 1 else ()
    if layer.kind not in allowed or weight.ndim != (2 if step.kind == "dense" else 4):
        raise UserError(
            f"{path} has a layer {layer.name} of type {layer.kind or 'unknown'} with a weight of shape {weight.shape}, "
            f"where the network has {step.kind} {step.width}: expected {' or '.join(allowed)}"
        )
    outputs = weight.shape[1] if layer.kind == "Deconvolution" else weight.shape[0]
    bias = layer.blobs[1].array().reshape(-1) if len(layer.blobs) > 1 else np.zeros(outputs, np.float32)
    if step.kind == "dense":
        side = step.stride
        if side > 1 and outputs % side**2 == 0:  # channels first, here last
            weight = weight.reshape(-1, side, side, weight.shape[1]).transpose(1, 2, 0, 3).reshape(weight.shape)
            bias = bias.reshape(-1, side, side).transpose(1, 2, 0).reshape(-1)
        return weight.T, bias
    if layer.kind == "Deconvolution":
        return weight.transpose(2, 3, 0, 1)[::-1, ::-1], bias
    return weight.transpose(2, 3, 1, 0), bias
