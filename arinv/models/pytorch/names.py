"""Names and layouts of our networks' weights in PyTorch's checkpoints.

A network is a sequence of TorchLayer, each with its path in our variables, its names in PyTorch (the first is written,
all are read), and the layout of its weights. Encoders define theirs in `torch_layers`; those of the other networks are
in this module.

Encoders are named as in torchvision, and also read as MadryLab's robustness library names them (AlexNet's last layer
is "last_layer", a ResNet has "shortcut" and "linear"); wide ResNets and PreActResNets as in TRADES, GAIRAT and
RobustBench, their DeepMind variants as DeepMind does; VGG-16 with a pooled head as in Adv-BNN; generators, the
discriminator and the denoiser as in the released code of Rojas-Gomez et al. 2022
(github.com/renanrojasg/adv_robust_autoencoder). Encoders that none of them has (CaffeNet, AlexNetSmall) have our names:
conv1.weight, ..., fc8.bias.

Source: the state_dict of each of these.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from arinv.errors import UserError
from arinv.models.encoders.base import Encoder, TorchLayer
from arinv.models.generators.mirror import Generator
from arinv.models.generators.plans import Plan
from arinv.models.generators.wavelet import SMALLEST_SIDE, DecoderPlan
from arinv.models.registry import build, build_denoiser, build_discriminator, build_generator
from arinv.types import Variables

Layers = tuple[TorchLayer, ...]

# Tensors that are not read, by the last part of the name: counts of batches and of averaged models of PyTorch, its SWA
# and EMA.
UNREAD_LAST = ("num_batches_tracked", "n_averaged", "num_updates")
# By the first part: a group of blocks that the wide ResNets of TRADES and RobustBench contain but never apply; the
# constant kernels of the released denoiser; losses, metrics and optimizers that are modules of the saved network.
UNREAD_FIRST = re.compile(
    r"sub_block1|(un)?pool[123]|criterion|optimizer|(.*_)?loss(_.*)?|"
    r"(.*_)?(acc|accuracy|top\d|auroc|auc|f1|precision|recall|metrics?|meters?|confusion_matrix|confmat)(_?\d+|_.*)?"
)
# Other networks beside the one that is read, such as its second copy in the attacker of robustness.
NEIGHBORS = ("attacker", "classifier", "generator", "comparator", "discriminator", "ema", "model_ema", "ema_model")
# Last parts of the names of the pixel normalization.
MEANS, DEVIATIONS = ("new_mean", "mean", "mu"), ("new_std", "std", "sigma")
# Usual entries for the weights in a file, the most frequent first.
ENTRIES = ("model", "state_dict", "model_state_dict", "net", "last")


def is_normalization(name: str) -> bool:
    """Returns whether a name is that of a pixel normalization's mean or deviation.

    Args:
      name: name of a tensor in a state dict, with any prefix.
    """
    return name.rpartition(".")[2] in (*MEANS, *DEVIATIONS)


def generator_layers(plan: Plan) -> Layers:
    """Returns the layers of the generator of a plan, a torch.nn.Sequential called "gen".

    Args:
      plan: plan of the generator.

    Returns:
      Layers with weights, in order.

    Raises:
      UserError: a generator that the released code does not have: one that begins with a dense layer, or a plan of
        another paper.
    """
    if plan.streams or not plan.batch_norm:
        raise UserError("generators without batch normalization have no counterpart in the released PyTorch code")
    layers, i = [], 0
    for step, (kind, *_) in enumerate(plan.steps):
        if kind == "dense":
            raise UserError("generators of the features after a dense layer have no counterpart in PyTorch")
        if kind == "nearest":
            i += 1
            continue
        layers.append(TorchLayer(f"{kind}{step}", (f"gen.{i}",), transposed=kind == "up"))
        layers.append(TorchLayer(f"bn{step}", (f"gen.{i + 1}",)))
        i += 3  # with its ReLU
    return (*layers, TorchLayer("rgb", (f"gen.{i}",)))


def discriminator_layers(channels: int) -> Layers:
    """Returns the layers of the discriminator.

    Args:
      channels: number of channels of its input features; 0 for a vector.

    Returns:
      Layers with weights, in order.
    """
    convolutions = (TorchLayer(f"conv{i}", (f"features.{3 * i}",)) for i in range(5))
    return (
        *convolutions,
        TorchLayer("features0", ("classifier01.0",), channels=channels),
        TorchLayer("features1", ("classifier01.2",)),
        TorchLayer("joint0", ("classifier02.1",)),
        TorchLayer("joint1", ("classifier02.4",)),
    )


def wavelet_encoder_layers() -> Layers:
    """Returns the layers of the encoder of the released denoiser, AlexNetWav."""
    places = {"conv1": "conv1_1", "conv2": "conv2_1", "conv3": "conv3_1", "conv4": "conv3_2", "conv5": "conv3_3"}
    return tuple(TorchLayer(path, (name,)) for path, name in places.items())


# Suffixes of convolutions and normalizations of AlexNetWavGen with upsample_mode="conv5_interp", in its order.
_WAVELET_DECODER = ("7_1", "6_1", "5_1", "5_2", "4_1", "4_2", "3_1", "2", "2_1", "1")


def wavelet_decoder_layers(plan: DecoderPlan) -> Layers:
    """Returns the layers of the decoder of the released denoiser, AlexNetWavGen.

    Args:
      plan: plan of the decoder.

    Returns:
      Layers with weights, in order.

    Raises:
      UserError: another number of convolutions than in the only plan of the released code.
    """
    steps = [i for i, step in enumerate(plan) if step.kind == "conv"]
    if len(steps) != len(_WAVELET_DECODER):
        raise UserError(
            f"the released denoiser has {len(_WAVELET_DECODER)} convolutions before the last, this plan {len(steps)}; "
            "take encoder='alexnet' and variant='default'"
        )
    layers = []
    for step, name in zip(steps, _WAVELET_DECODER, strict=True):
        layers += [TorchLayer(f"conv{step}", (f"conv{name}",)), TorchLayer(f"bn{step}", (f"bn{name}",))]
    return (*layers, TorchLayer("rgb", ("conv1_1",)))


_LEAVES = {
    ("params", "bias"): ("bias",),
    ("params", "scale"): ("weight",),
    ("batch_stats", "mean"): ("running_mean",),
    ("batch_stats", "var"): ("running_var",),
    # The second of each is the name in torch.nn.utils.parametrizations.
    ("spectral", "u"): ("weight_u", "parametrizations.weight.0._u"),
    ("spectral", "v"): ("weight_v", "parametrizations.weight.0._v"),
}
_SPECTRAL_KERNEL = ("weight_orig", "parametrizations.weight.original")


class Entry(NamedTuple):
    """One array of our variables and its place in a checkpoint.

    Attributes:
      path: path in our variables, collection first.
      shape: shape in our variables.
      names: names in PyTorch; all are read, the first is written.
      layer: the layer that the array is part of.
      kernel: shape of the layer's kernel in our variables, None if it has none.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    names: tuple[str, ...]
    layer: TorchLayer
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
      variables: variables of the network, as arrays or ShapeDtypeStructs.
      layers: all layers of the network with weights, in order.

    Returns:
      One entry per array.
    """
    flat = traverse_util.flatten_dict(dict(variables))
    order = {tuple(layer.path.split("/")): i for i, layer in enumerate(layers)}
    pairs = []
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
        pairs.append((order[owner], Entry(path, tuple(leaf.shape), names, layer, shape)))
    return [entry for _, entry in sorted(pairs, key=lambda pair: pair[0])]


def to_ours(entry: Entry, array: np.ndarray) -> np.ndarray:
    """Returns an array of a checkpoint in our layout.

    Args:
      entry: entry of the array.
      array: array of the checkpoint, in PyTorch's layout.

    Returns:
      Array of shape `entry.shape`; kernels are [kh, kw, in, out] or [in, out].
    """
    if entry.path[-1] == "kernel":
        return _kernel(array, entry.layer)
    if entry.path[-1] == "v":
        return _kernel(array.reshape(_one_output(entry)), entry.layer).reshape(-1)
    return array


def to_torch(entry: Entry, array: np.ndarray) -> np.ndarray:
    """Returns one of our arrays in PyTorch's layout.

    Args:
      entry: entry of the array.
      array: array of shape `entry.shape`.

    Returns:
      Array of shape `entry.torch_shape`; convolution kernels are [out, in, kh, kw], transposed ones
      [in, out, kh, kw], dense ones [out, in].
    """
    if entry.path[-1] == "kernel":
        return _torch_kernel(array, entry.layer)
    if entry.path[-1] == "v":
        return _torch_kernel(array.reshape(*entry.kernel[:-1], 1), entry.layer).reshape(-1)
    return array


def _one_output(entry: Entry) -> tuple[int, ...]:
    """Returns the shape of the layer's kernel in PyTorch if it had one output."""
    kernel = (*entry.kernel[:-1], 1)
    return entry._replace(path=("params", "kernel"), shape=kernel).torch_shape


def _kernel(weight: np.ndarray, layer: TorchLayer) -> np.ndarray:
    if weight.ndim == 4:
        return weight.transpose(2, 3, 0, 1)[::-1, ::-1] if layer.transposed else weight.transpose(2, 3, 1, 0)
    if not layer.channels:
        return weight.T
    outputs, inputs = weight.shape
    side = math.isqrt(inputs // layer.channels)
    return weight.reshape(outputs, layer.channels, side, side).transpose(2, 3, 1, 0).reshape(inputs, outputs)


def _torch_kernel(kernel: np.ndarray, layer: TorchLayer) -> np.ndarray:
    if kernel.ndim == 4:
        return kernel[::-1, ::-1].transpose(2, 3, 0, 1) if layer.transposed else kernel.transpose(3, 2, 0, 1)
    if not layer.channels:
        return kernel.T
    inputs, outputs = kernel.shape
    side = math.isqrt(inputs // layer.channels)
    return kernel.reshape(side, side, layer.channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, inputs)


def _images(image_size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)


def _shapes(module: nn.Module, *inputs: jax.ShapeDtypeStruct) -> Variables:
    return jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x), *inputs)


def _features(encoder: nn.Module, layer: str, image_size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of one named feature of one image."""
    images = _images(image_size)
    return jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0][1], images)[layer]


def encoder_entries(name: str, image_size: int | None, options: Mapping[str, Any]) -> tuple[Encoder, list[Entry]]:
    """Returns an encoder and the entries of its variables; the last are those of the logits' layer.

    Args:
      name: name of the encoder, a key of ENCODERS.
      image_size: side of the images in pixels, where the shape of a weight depends on it; None for the encoder's own.
      options: options of `build`.

    Returns:
      The module, and one entry per array of its variables.

    Raises:
      UserError: unknown encoder or option.
    """
    module = build(name, **options)
    return module, list(_encoder_entries(name, module, image_size or module.image_size))


@functools.cache
def _encoder_entries(name: str, module: Encoder, image_size: int) -> tuple[Entry, ...]:
    if not (layers := module.torch_layers()):
        raise UserError(f"encoder {name!r} has no names in PyTorch; define {type(module).__name__}.torch_layers")
    return tuple(entries(_shapes(module, _images(image_size)), layers))


def generator_entries(encoder: str, layer: str, options: Mapping[str, Any]) -> list[Entry]:
    """Returns the entries of a generator's variables; options are those of `build_generator`.

    Args:
      encoder: name of the encoder whose feature it inverts, a key of ENCODERS.
      layer: name of the feature, such as "conv5".
      options: options of `build_generator`.

    Returns:
      One entry per array.

    Raises:
      UserError: unknown encoder, layer or variant, or a feature after a dense layer.
    """
    layers = generator_layers(build_generator(encoder, layer, **options).plan)
    return entries(generator_shapes(encoder, layer, options)[1], layers)


def generator_shapes(encoder: str, layer: str, options: Mapping[str, Any]) -> tuple[Generator, Variables]:
    """Returns a generator and the shapes of its variables; options are those of `build_generator`.

    Args:
      encoder: name of the encoder whose feature it inverts, a key of ENCODERS.
      layer: name of the feature, such as "conv5".
      options: options of `build_generator`.

    Returns:
      The module, and its variables as ShapeDtypeStructs.

    Raises:
      UserError: unknown encoder, layer or variant.
    """
    module = build_generator(encoder, layer, **options)
    inverted = build(encoder, **(options.get("encoder_options") or {}))
    return module, _shapes(module, _features(inverted, layer, options.get("image_size") or inverted.image_size))


def discriminator_entries(encoder: str, layer: str, image_size: int | None, options: Mapping[str, Any]) -> list[Entry]:
    """Returns the entries of a discriminator's variables; options are its attributes, and encoder_options.

    Args:
      encoder: name of the encoder whose feature it reads, a key of ENCODERS.
      layer: name of the feature, such as "conv5".
      image_size: side of the images in pixels; None for the encoder's own.
      options: attributes of Discriminator, and encoder_options, options of `build`.

    Returns:
      One entry per array.

    Raises:
      UserError: unknown encoder, or images too small.
    """
    options = dict(options)
    inverted = build(encoder, **(options.pop("encoder_options", None) or {}))
    image_size = image_size or inverted.image_size
    module = build_discriminator(image_size=image_size, **options)
    features = _features(inverted, layer, image_size)
    layers = discriminator_layers(features.shape[-1] if len(features.shape) == 4 else 0)
    return entries(_shapes(module, _images(image_size), features), layers)


def denoiser_entries(encoder: str, options: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """Returns the entries of a denoiser's "encoder" and "decoder"; options are those of `build_denoiser`.

    Args:
      encoder: name of the encoder whose convolutions the first half has, a key of ENCODERS.
      options: options of `build_denoiser`.

    Returns:
      {"encoder": entries, "decoder": entries}, one entry per array.

    Raises:
      UserError: unknown encoder or variant, or a variant that the released code does not have.
    """
    module, decoder = build_denoiser(encoder, **options)
    images = _images(SMALLEST_SIDE)
    features, details = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)
    return {
        "encoder": entries(_shapes(module, images), wavelet_encoder_layers()),
        "decoder": entries(_shapes(decoder, features["conv5"], details), wavelet_decoder_layers(decoder.plan)),
    }
