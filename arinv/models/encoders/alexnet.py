"""AlexNet, single tower, as in torchvision; CaffeNet; and a smaller AlexNet for 32 to 64 px.

Images NHWC in [0, 1] -> (logits, named features). "conv1", "conv2" and "conv5" are taken after ReLU and max-pooling,
the others after ReLU; AlexNet's "relu1", "relu2" and "relu5" are those three before the pooling. CaffeNet's "conv1"
and "conv2" are taken after its local response normalization.

Source: Krizhevsky 2014 (one weird trick); Rojas-Gomez et al. 2022, section A3.1; Krizhevsky et al. 2012 and the Caffe
reference network; Dosovitskiy & Brox 2016, Table 1.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from arinv.models.encoders.base import Encoder, FeatureSpec, Normalization, Stage, TorchLayer, mean_std
from arinv.models.layers import LinenConv
from arinv.ops import pooling
from arinv.ops.channels import flatten_rows
from arinv.types import Array

# He initialization: without batch normalization, smaller kernels make the signal of deep layers vanish.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


def convolution(features: int, size: int, *, strides: int = 1, padding: int, dtype, name: str) -> LinenConv:
    """Returns one of AlexNet's convolutions, square and with bias.

    Args:
      features: number of channels of the result.
      size: side of the kernel.
      strides: stride along both axes.
      padding: pixels of zeros on each side.
      dtype: floating-point type of the computation.
      name: name of the layer.

    Returns:
      A layer: [B, H, W, C] -> [B, H', W', features].
    """
    return LinenConv(
        features,
        (size, size),
        strides=strides,
        padding=padding,
        kernel_init=_he_normal,
        dtype=dtype,
        name=name,
    )


def own_names(*, channels: int) -> tuple[TorchLayer, ...]:
    """Returns conv1 to conv5 and fc6 to fc8 as PyTorch layers of the same names; fc6 reads `channels`.

    Args:
      channels: number of channels of the map that fc6 reads flattened.
    """
    names = (*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8")
    return tuple(TorchLayer(name, (name,), channels=channels if name == "fc6" else 0) for name in names)


def _classify(x: Array, features: dict, widths: tuple[int, int], num_classes: int, dropout: float, dtype, train: bool):
    """Adds fc6, fc7 and fc8 on top of x [B, h, w, c]. Must be called inside a compact method."""
    dense = functools.partial(nn.Dense, kernel_init=_he_normal, dtype=dtype)
    x = flatten_rows(x)
    for name, width in zip(("fc6", "fc7"), widths, strict=True):
        x = nn.Dropout(dropout, deterministic=not train)(x)
        x = features[name] = nn.relu(dense(width, name=name)(x))
    # Small weights: logits near 0 at the start, whatever the width.
    logits = nn.Dense(num_classes, kernel_init=nn.initializers.normal(0.01), dtype=dtype, name="fc8")(x)
    features["fc8"] = logits = logits.astype(jnp.float32)
    return logits, features


class AlexNet(Encoder):
    """AlexNet with 61,100,840 parameters at 224 px and 1,000 classes.

    Attributes:
      num_classes: length of the logits; 0 for the convolutions alone, of which images of 31 to 62 px have no conv5.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dropout: rate before fc6 and fc7, in training.
      dense_width: length of fc6 and fc7.
      head_side: side that conv5 is averaged (or repeated) to before fc6, so that weights fit every image size;
        1 saves 36 million parameters for small images.
      dtype: type of the computation; parameters and logits stay float32.
    """

    dropout: float = 0.5
    dense_width: int = 4096
    head_side: int = 6

    image_size = 224  # any multiple of 32 from 64 up works
    default_layer = "conv5"
    style_layers = ("conv5", "conv2", "conv1")

    @property
    def smallest_side(self) -> int:
        """Side in pixels from which all pools have an input; without a head all but the last."""
        return 63 if self.num_classes else 31

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features conv1..conv5, fc6..fc8 of images [B, H, W, 3] in [0, 1].

        Raises:
          UserError: images too small for it.
        """
        conv = functools.partial(convolution, dtype=self.dtype)
        features = {}
        x = self.normalize(images)
        x = features["relu1"] = nn.relu(conv(64, 11, strides=4, padding=2, name="conv1")(x))
        x = features["conv1"] = pooling.max_pool(x, 3, 2)
        x = features["relu2"] = nn.relu(conv(192, 5, padding=2, name="conv2")(x))
        x = features["conv2"] = pooling.max_pool(x, 3, 2)
        x = features["conv3"] = nn.relu(conv(384, 3, padding=1, name="conv3")(x))
        x = features["conv4"] = nn.relu(conv(256, 3, padding=1, name="conv4")(x))
        x = features["relu5"] = nn.relu(conv(256, 3, padding=1, name="conv5")(x))
        if self.num_classes or min(x.shape[1:3]) >= 3:
            x = features["conv5"] = pooling.max_pool(x, 3, 2)
        if not self.num_classes:
            return jnp.zeros((x.shape[0], 0), jnp.float32), features
        x, width = pooling.adaptive_avg_pool(x, self.head_side), self.dense_width
        return _classify(x, features, (width, width), self.num_classes, self.dropout, self.dtype, train)

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature (the stem skips 1/1 and 1/2: half its width there)."""
        stem = (Stage(1, 32), Stage(2, 64), Stage(4, 64))
        middle = (*stem, Stage(8, 192))
        conv5 = (*middle, Stage(16, 256), Stage(32, 256))
        specs = {
            "relu1": FeatureSpec(stem, offset=1),
            "conv1": FeatureSpec((*stem, Stage(8, 64)), offset=1),
            "relu2": FeatureSpec(middle, offset=1),
            "conv2": FeatureSpec((*middle, Stage(16, 192)), offset=1),
            "conv3": FeatureSpec((*middle, Stage(16, 384)), offset=1),
            "conv4": FeatureSpec((*middle, Stage(16, 256)), offset=1),
            "relu5": FeatureSpec((*middle, Stage(16, 256)), offset=1),
            "conv5": FeatureSpec(conv5, offset=1),
        }
        vector = FeatureSpec(conv5, offset=1, is_vector=True)
        return specs | dict.fromkeys(("fc6", "fc7", "fc8"), vector)

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers as torchvision names them; "last_layer" is from MadryLab's robustness library."""
        places = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}
        return (
            *(TorchLayer(path, (f"features.{i}",)) for path, i in places.items()),
            TorchLayer("fc6", ("classifier.1",), channels=256),
            TorchLayer("fc7", ("classifier.4",)),
            TorchLayer("fc8", ("classifier.6", "last_layer")),
        )

    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns the size of the head of a state dict."""
        if len(dense := shapes.get("classifier.1.weight", ())) != 2:
            return {}
        return {"dense_width": dense[0], "head_side": math.isqrt(dense[1] // 256) or 1}


class AlexNetSmall(Encoder):
    """AlexNet's structure for small images: five convolutions, three 2x2 pools, three dense layers.

    Attributes:
      num_classes: length of the logits; 0 for the convolutions alone, at any image size.
      width: channels of conv1; conv2..conv5 have 3, 6, 4 and 4 times as many, fc6 and fc7 16 times.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dropout: rate before fc6 and fc7, in training.
      dtype: type of the computation; parameters and logits stay float32.
    """

    num_classes: int = 10
    width: int = 32
    normalization: Normalization = "cifar10"
    dropout: float = 0.0

    image_size = 32  # any multiple of 8 works
    smallest_side = 8
    has_fixed_head = True
    default_layer = "conv5"
    style_layers = ("conv5", "conv2", "conv1")

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features conv1..conv5, fc6..fc8 of images [B, H, W, 3] in [0, 1].

        Raises:
          UserError: images too small for it.
        """
        conv = functools.partial(convolution, dtype=self.dtype)
        w = self.width
        features = {}
        x = self.normalize(images)
        x = nn.relu(conv(w, 5, padding=2, name="conv1")(x))
        x = features["conv1"] = pooling.max_pool(x, 2, 2)
        x = nn.relu(conv(3 * w, 5, padding=2, name="conv2")(x))
        x = features["conv2"] = pooling.max_pool(x, 2, 2)
        x = features["conv3"] = nn.relu(conv(6 * w, 3, padding=1, name="conv3")(x))
        x = features["conv4"] = nn.relu(conv(4 * w, 3, padding=1, name="conv4")(x))
        x = nn.relu(conv(4 * w, 3, padding=1, name="conv5")(x))
        x = features["conv5"] = pooling.max_pool(x, 2, 2)
        if not self.num_classes:
            return jnp.zeros((x.shape[0], 0), jnp.float32), features
        return _classify(x, features, (16 * w, 16 * w), self.num_classes, self.dropout, self.dtype, train)

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature."""
        w = self.width
        full, half = Stage(1, w), Stage(2, 3 * w)
        conv5 = (full, half, Stage(4, 4 * w), Stage(8, 4 * w))
        specs = {
            "conv1": FeatureSpec((full, Stage(2, w))),
            "conv2": FeatureSpec((full, half, Stage(4, 3 * w))),
            "conv3": FeatureSpec((full, half, Stage(4, 6 * w))),
            "conv4": FeatureSpec((full, half, Stage(4, 4 * w))),
            "conv5": FeatureSpec(conv5),
        }
        return specs | dict.fromkeys(("fc6", "fc7", "fc8"), FeatureSpec(conv5, is_vector=True))

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers under our own names: no PyTorch library has this network."""
        return own_names(channels=4 * self.width)

    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns the width of a state dict."""
        return {"width": stem[0]} if (stem := shapes.get("conv1.weight")) else {}


class CaffeNet(Encoder):
    """CaffeNet, AlexNet in two groups: 60,965,224 parameters at 224 or 227 px and 1,000 classes.

    Attributes:
      num_classes: length of the logits; 0 for the convolutions alone, at any image size.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dropout: rate after fc6 and fc7, in training.
      dense_width: length of fc6 and fc7.
      dtype: type of the computation; parameters and logits stay float32.
    """

    normalization: Normalization = "caffe"
    dropout: float = 0.5
    dense_width: int = 4096

    # Published with 227 px. Its pools round up, so features have the same size at 224 px, and a mirror generator
    # returns 224 px; any multiple of 32 from 64 up works.
    image_size = 224
    smallest_side = 39
    has_fixed_head = True
    default_layer = "conv5"
    style_layers = ("conv5", "conv2", "conv1")

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features conv1..conv5, fc6..fc8 of images [B, H, W, 3] in [0, 1].

        Raises:
          UserError: images too small for it.
        """
        features = {}
        x = self.normalize(images)
        x = self._convolve(x, 96, 11, stride=4, padding=0, name="conv1")
        x = features["conv1"] = pooling.local_response_normalization(_pool(x))
        x = self._convolve(x, 256, 5, padding=2, groups=2, name="conv2")
        x = features["conv2"] = pooling.local_response_normalization(_pool(x))
        x = features["conv3"] = self._convolve(x, 384, 3, padding=1, name="conv3")
        x = features["conv4"] = self._convolve(x, 384, 3, padding=1, groups=2, name="conv4")
        x = features["conv5"] = _pool(self._convolve(x, 256, 3, padding=1, groups=2, name="conv5"))
        if not self.num_classes:
            return jnp.zeros((x.shape[0], 0), jnp.float32), features
        x = flatten_rows(x)
        for name in ("fc6", "fc7"):
            x = nn.Dense(self.dense_width, kernel_init=self._kernel_init(), dtype=self.dtype, name=name)(x)
            x = features[name] = nn.relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        small = nn.initializers.normal(0.01)
        logits = nn.Dense(self.num_classes, kernel_init=small, dtype=self.dtype, name="fc8")(x)
        features["fc8"] = logits = logits.astype(jnp.float32)
        return logits, features

    def _kernel_init(self) -> nn.initializers.Initializer:
        """Returns He initialization for the scale of the pixels.

        Each layer up to fc7 divides by the eighth root of that scale. If one layer divided by all of it, or none did,
        SGD would diverge at AlexNet's learning rates. Caffe's Gaussians of 0.01 and 0.005 have a similar effect.
        """
        pixel_scale = 0.25 / np.mean(mean_std(self.normalization)[1])  # pixels in [0, 1] deviate by about 0.25
        return nn.initializers.variance_scaling(2 * pixel_scale ** (-2 / 8), "fan_in", "truncated_normal")

    def _convolve(self, x: Array, width: int, size: int, *, padding: int, name: str, stride=1, groups=1) -> Array:
        conv = LinenConv(
            width,
            (size, size),
            strides=stride,
            padding=padding,
            feature_group_count=groups,
            kernel_init=self._kernel_init(),
            dtype=self.dtype,
            name=name,
        )
        return nn.relu(conv(x))

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature (the stem skips 1/1 and 1/2: half its width there)."""
        stem = (Stage(1, 48), Stage(2, 96), Stage(4, 96))
        middle = (*stem, Stage(8, 256))
        conv5 = (*middle, Stage(16, 256), Stage(32, 256))
        specs = {
            "conv1": FeatureSpec((*stem, Stage(8, 96)), offset=1),
            "conv2": FeatureSpec((*middle, Stage(16, 256)), offset=1),
            "conv3": FeatureSpec((*middle, Stage(16, 384)), offset=1),
            "conv4": FeatureSpec((*middle, Stage(16, 384)), offset=1),
            "conv5": FeatureSpec(conv5, offset=1),
        }
        vector = FeatureSpec(conv5, offset=1, is_vector=True)
        return specs | dict.fromkeys(("fc6", "fc7", "fc8"), vector)

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers under our own names: no PyTorch library has this network."""
        return own_names(channels=256)

    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns the length of fc6 and fc7 in a state dict."""
        return {"dense_width": dense[0]} if (dense := shapes.get("fc6.weight")) else {}


def _pool(x: Array) -> Array:
    """Returns 3x3 maxima at stride 2, with the last window cut off at the border if necessary, as in Caffe."""
    missing = [(3 - size) % 2 for size in x.shape[1:3]]  # after a ReLU, zeros do not change the maxima
    x = jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    return pooling.max_pool(x, 3, 2)
