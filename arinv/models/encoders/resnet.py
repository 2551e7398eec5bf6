"""ResNet and wide ResNet for 32 px images: 3x3 stem, no stem pooling.

Images NHWC in [0, 1] -> (logits, {"block1": ..., "block2": ...}). Each of ResNet's features is taken after the last
ReLU of its stage, each of the wide ResNet's is the output of a group of pre-activation blocks, a sum.

Source: He et al. 2016; Zagoruyko & Komodakis 2016; MadryLab's robustness library; Rojas-Gomez et al. 2022, section
A1.3, whose "third residual block, 4x4x512" is the output of the fourth stage, block4 here: no other has that shape.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.encoders.base import Encoder, FeatureSpec, Normalization, Stage, TorchLayer
from arinv.models.layers import BatchNorm
from arinv.ops import conv as conv_ops
from arinv.types import Array

_WIDTHS = (64, 128, 256, 512)  # of ResNet's stages
_STEM = 16  # channels, of the wide ResNet
_lecun = nn.initializers.lecun_normal()
_he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet(Encoder):
    """ResNet for 32 px; with the default depths ResNet-18, 11,173,962 parameters for 10 classes.

    Attributes:
      num_classes: length of the logits; 0 for the convolutions alone.
      depths: basic blocks in each of the four stages.
      normalization: of the pixels, see `mean_std`.
      dtype: of the computation; parameters, statistics and logits stay float32.
    """

    num_classes: int = 10
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    normalization: Normalization = "cifar10"

    image_size = 32  # any multiple of 8 works
    default_layer = "block4"
    style_layers = ("block4", "block2", "block1")

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features block1..block4 of images [B, H, W, 3] in [0, 1]."""
        x = self.normalize(images)
        x = _conv(_WIDTHS[0], 3, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(_norm(train, self.dtype, "bn1")(x))
        features = {}
        for stage, (width, depth) in enumerate(zip(_WIDTHS, self.depths, strict=True), start=1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                block = BasicBlock(width, stride, self.dtype, name=f"block{stage}_{i}")
                x = block(x, train=train)
            features[f"block{stage}"] = x
        return _classify(x, self.num_classes, self.dtype), features

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature."""
        stages = tuple(Stage(2**i, width) for i, width in enumerate(_WIDTHS))
        return {f"block{i}": FeatureSpec(stages[:i]) for i in range(1, 5)}

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers as torchvision names them; "shortcut", "linear" are from MadryLab's robustness library."""
        layers = [TorchLayer("conv1", ("conv1",)), TorchLayer("bn1", ("bn1",))]
        for stage, depth in enumerate(self.depths, start=1):
            for i in range(depth):
                block, name = f"block{stage}_{i}", f"layer{stage}.{i}"
                for part in ("conv1", "bn1", "conv2", "bn2"):
                    layers.append(TorchLayer(f"{block}/{part}", (f"{name}.{part}",)))
                for place, part in enumerate(("shortcut_conv", "shortcut_bn")):
                    names = (f"{name}.downsample.{place}", f"{name}.shortcut.{place}")
                    layers.append(TorchLayer(f"{block}/{part}", names))
        return (*layers, TorchLayer("fc", ("fc", "linear")))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, 1x1 where the shape changes."""

    width: int
    stride: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the block's output after its last ReLU."""
        conv = functools.partial(_conv, dtype=self.dtype)
        norm = functools.partial(_norm, train, self.dtype)
        y = nn.relu(norm("bn1")(conv(self.width, 3, stride=self.stride, name="conv1")(x)))
        y = norm("bn2")(conv(self.width, 3, name="conv2")(y))
        if x.shape != y.shape:
            x = norm("shortcut_bn")(conv(self.width, 1, stride=self.stride, name="shortcut_conv")(x))
        return nn.relu(x + y)


class WideResNet(Encoder):
    """Wide ResNet; with the defaults WRN-28-10, 36,479,194 parameters for 10 classes.

    Attributes:
      num_classes: length of the logits; 0 for the groups of blocks alone.
      depth: 6 n + 4 for n blocks in each of the three groups.
      width: factor on the channels of the groups, 16, 32 and 64.
      normalization: of the pixels, see `mean_std`.
      dtype: of the computation; parameters, statistics and logits stay float32.
    """

    num_classes: int = 10
    depth: int = 28
    width: int = 10
    normalization: Normalization = "none"

    image_size = 32  # any multiple of 4 works
    default_layer = "block3"
    style_layers = ("block3", "block2", "block1")

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features block1..block3 of images [B, H, W, 3] in [0, 1].

        Raises:
          UserError: a depth that is not 6 n + 4.
        """
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise UserError(f"depth {self.depth} of a wide ResNet must be 6 n + 4, such as 10, 16, 22 or 28")
        features = {}
        x = self.normalize(images)
        x = _conv(_STEM, 3, kernel_init=_he_fan_out, dtype=self.dtype, name="conv1")(x)
        for group, width in enumerate(self._widths(), start=1):
            for i in range(blocks):
                stride = 2 if group > 1 and i == 0 else 1
                x = PreActivationBlock(width, stride, self.dtype, name=f"block{group}_{i}")(x, train=train)
            features[f"block{group}"] = x
        if self.num_classes:
            x = nn.relu(_norm(train, self.dtype, "bn")(x))
        return _classify(x, self.num_classes, self.dtype), features

    def _widths(self) -> tuple[int, ...]:
        return tuple(factor * _STEM * self.width for factor in (1, 2, 4))

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature (the stem and block1 are both at full resolution)."""
        groups = tuple(Stage(2**i, width) for i, width in enumerate(self._widths()))
        stages = (Stage(1, _STEM), *groups)
        return {f"block{i}": FeatureSpec(stages[: i + 1]) for i in range(1, 4)}

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers as TRADES, GAIRAT and RobustBench name them."""
        layers = [TorchLayer("conv1", ("conv1",))]
        parts = {part: part for part in ("bn1", "conv1", "bn2", "conv2")} | {"shortcut_conv": "convShortcut"}
        for group in (1, 2, 3):
            for i in range((self.depth - 4) // 6):
                for part, name in parts.items():
                    layers.append(TorchLayer(f"block{group}_{i}/{part}", (f"block{group}.layer.{i}.{name}",)))
        return (*layers, TorchLayer("bn", ("bn1",)), TorchLayer("fc", ("fc",)))


class PreActivationBlock(nn.Module):
    """BN, ReLU and a 3x3 convolution, twice; the shortcut is a 1x1 convolution where channels change."""

    width: int
    stride: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the block's sum."""
        conv = functools.partial(_conv, kernel_init=_he_fan_out, dtype=self.dtype)
        norm = functools.partial(_norm, train, self.dtype)
        y = nn.relu(norm("bn1")(x))
        if x.shape[-1] != self.width:
            x = conv(self.width, 1, stride=self.stride, name="shortcut_conv")(y)
        y = conv(self.width, 3, stride=self.stride, name="conv1")(y)
        y = nn.relu(norm("bn2")(y))
        return x + conv(self.width, 3, name="conv2")(y)


def _conv(
    width: int,
    size: int,
    *,
    stride: int = 1,
    kernel_init: nn.initializers.Initializer = _lecun,
    dtype,
    name: str,
) -> nn.Conv:
    return nn.Conv(
        width,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=kernel_init,
        dtype=dtype,
        conv_general_dilated=conv_ops.conv_general_dilated,
        name=name,
    )


def _norm(train: bool, dtype, name: str) -> BatchNorm:
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def _classify(x: Array, num_classes: int, dtype) -> Array:
    """Returns the logits of the last feature map, empty for no classes. Must be called inside a compact method."""
    if not num_classes:
        return jnp.zeros((x.shape[0], 0), jnp.float32)
    pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return nn.Dense(num_classes, dtype=dtype, name="fc")(pooled.astype(dtype)).astype(jnp.float32)
