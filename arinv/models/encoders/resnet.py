"""ResNet of basic blocks or bottlenecks, with CIFAR's stem (3x3) or ImageNet's (7x7 of stride 2, then a pool).

Images NHWC in [0, 1] -> (logits, {"block1": ..., "block2": ...}), each feature after the last ReLU of its stage.
ImageNet's stem adds "relu1" and "conv1", before and after its pool.

Source: He et al. 2016; Zagoruyko & Komodakis 2016 (wide bottlenecks); torchvision; MadryLab's robustness library, both
of whose bottlenecks have the stride in their 3x3 convolution; Rojas-Gomez et al. 2022, section A1.3, whose "third
residual block, 4x4x512" is the output of the fourth stage, block4 here: no other has that shape.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import unknown
from arinv.models.encoders.base import Encoder, FeatureSpec, Normalization, Stage, TorchLayer, count_blocks
from arinv.models.layers import BatchNorm, LinenConv
from arinv.ops import pooling
from arinv.types import Array

BLOCKS, STEMS = ("basic", "bottleneck"), ("cifar", "imagenet")
_EXPANSION = 4  # of a bottleneck's output
_lecun = nn.initializers.lecun_normal()


class ResNet(Encoder):
    """ResNet; with the defaults ResNet-18 for 32 px, 11,173,962 parameters for 10 classes.

    Attributes:
      num_classes: length of the logits; 0 for the convolutions alone.
      depths: blocks in each of the four stages.
      block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3 and 1x1, to four times as many channels).
      stem: "cifar" (3x3) or "imagenet" (7x7 of stride 2, and a 3x3 pool of stride 2).
      width: channels of the stem and of the first stage's 3x3 convolutions; the other stages have 2, 4 and 8 times as
        many.
      bottleneck_width: factor on the inner channels of bottlenecks, 2 in Wide-ResNet-50-2.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dtype: type of the computation; parameters, statistics and logits stay float32.
    """

    num_classes: int = 10
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    block: str = "basic"
    stem: str = "cifar"
    width: int = 64
    bottleneck_width: int = 1
    normalization: Normalization = "cifar10"

    default_layer = "block4"
    style_layers = ("block4", "block2", "block1")

    @property
    def image_size(self) -> int:
        """Side in pixels; any multiple of 8, or with ImageNet's stem of 32, works."""
        return 224 if self.stem == "imagenet" else 32

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features block1..block4 of images [B, H, W, 3] in [0, 1].

        Raises:
          UserError: unknown block or stem.
        """
        for option, value, known in (("block", self.block, BLOCKS), ("stem", self.stem, STEMS)):
            if value not in known:
                raise unknown(f"{option} of a ResNet", value, known)
        features = {}
        x = self.normalize(images)
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = nn.relu(norm(train, self.dtype, "bn1")(conv(self.width, size, stride, dtype=self.dtype, name="conv1")(x)))
        if self.stem == "imagenet":
            features["relu1"] = x
            x = features["conv1"] = pooling.max_pool(x, 3, 2, padding=1)
        for stage, depth in enumerate(self.depths, start=1):
            for i in range(depth):
                x = self._block(stage, i)(x, train=train)
            features[f"block{stage}"] = x
        return classify(x, self.num_classes, self.dtype), features

    def _block(self, stage: int, i: int) -> nn.Module:
        width, stride, name = self.width * 2 ** (stage - 1), 2 if stage > 1 and i == 0 else 1, f"block{stage}_{i}"
        if self.block == "basic":
            return BasicBlock(width, stride, self.dtype, name=name)
        return Bottleneck(width, stride, self.dtype, self.bottleneck_width, name=name)

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature (ImageNet's stem skips 1/1: half its width there)."""
        is_large = self.stem == "imagenet"
        before = (Stage(1, self.width // 2 or 1), Stage(2, self.width)) if is_large else ()
        first, expansion = 4 if is_large else 1, 1 if self.block == "basic" else _EXPANSION
        # A stage of its own where block1 has other channels.
        stem = Stage(first, self.width)
        stages = (*before, *((stem,) if expansion > 1 else ()))
        specs = {"relu1": FeatureSpec(before), "conv1": FeatureSpec((*before, stem))} if is_large else {}
        for i in range(4):
            stages = (*stages, Stage(first * 2**i, expansion * self.width * 2**i))
            specs[f"block{i + 1}"] = FeatureSpec(stages)
        return specs

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers as torchvision names them; "shortcut", "linear" are from MadryLab's robustness library."""
        layers = [TorchLayer("conv1", ("conv1",)), TorchLayer("bn1", ("bn1",))]
        count = 2 if self.block == "basic" else 3
        for stage, depth in enumerate(self.depths, start=1):
            for i in range(depth):
                block, name = f"block{stage}_{i}", f"layer{stage}.{i}"
                for part in (f"{kind}{number}" for number in range(1, count + 1) for kind in ("conv", "bn")):
                    layers.append(TorchLayer(f"{block}/{part}", (f"{name}.{part}",)))
                for place, part in enumerate(("shortcut_conv", "shortcut_bn")):
                    names = (f"{name}.downsample.{place}", f"{name}.shortcut.{place}")
                    layers.append(TorchLayer(f"{block}/{part}", names))
        return (*layers, TorchLayer("fc", ("fc", "linear")))

    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns block, stem, depths and widths of a state dict."""
        stem, inner = shapes.get("conv1.weight", ()), shapes.get("layer1.0.conv1.weight", ())
        depths = tuple(count_blocks(shapes, f"layer{stage}.") for stage in range(1, 5))
        if not (len(stem) == len(inner) == 4 and stem[0] and all(depths)):
            return {}
        is_bottleneck, width = "layer1.0.conv3.weight" in shapes, stem[0]
        options = {
            "block": "bottleneck" if is_bottleneck else "basic",
            "stem": "imagenet" if stem[2] == 7 else "cifar",
            "depths": depths,
            "width": width,
        }
        return options | ({"bottleneck_width": inner[0] // width} if is_bottleneck and inner[0] >= width else {})


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, 1x1 where the shape changes."""

    width: int
    stride: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the block's output after its last ReLU."""
        convolve, normalize = functools.partial(conv, dtype=self.dtype), functools.partial(norm, train, self.dtype)
        y = nn.relu(normalize("bn1")(convolve(self.width, 3, self.stride, name="conv1")(x)))
        y = normalize("bn2")(convolve(self.width, 3, name="conv2")(y))
        return nn.relu(_shortcut(x, y, self.stride, train, self.dtype) + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, 1x1 where the shape changes."""

    width: int
    stride: int
    dtype: jax.typing.DTypeLike = jnp.float32
    factor: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the block's output after its last ReLU."""
        convolve, normalize = functools.partial(conv, dtype=self.dtype), functools.partial(norm, train, self.dtype)
        inner = self.factor * self.width
        y = nn.relu(normalize("bn1")(convolve(inner, 1, name="conv1")(x)))
        y = nn.relu(normalize("bn2")(convolve(inner, 3, self.stride, name="conv2")(y)))
        y = normalize("bn3")(convolve(_EXPANSION * self.width, 1, name="conv3")(y))
        return nn.relu(_shortcut(x, y, self.stride, train, self.dtype) + y)


def _shortcut(x: Array, y: Array, stride: int, train: bool, dtype) -> Array:
    """Returns x, convolved where y has another shape. Must be called inside a compact method."""
    if x.shape == y.shape:
        return x
    x = conv(y.shape[-1], 1, stride, dtype=dtype, name="shortcut_conv")(x)
    return norm(train, dtype, "shortcut_bn")(x)


def conv(
    width: int,
    size: int,
    stride: int = 1,
    *,
    padding: str | int | None = None,
    kernel_init: nn.initializers.Initializer = _lecun,
    dtype,
    name: str,
) -> LinenConv:
    """Returns a square convolution without bias; padding None is PyTorch's, half the size on all sides.

    Args:
      width: number of channels of the result.
      size: side of the kernel.
      stride: stride along both axes.
      padding: padding as in `flax.linen.Conv`; None for PyTorch's, half of `size` on all sides.
      kernel_init: initializer of the kernel.
      dtype: floating-point type of the computation.
      name: name of the layer.

    Returns:
      A layer: [B, H, W, C] -> [B, H / stride, W / stride, width] (rounded up) with the default padding and an odd size.
    """
    return LinenConv(
        width,
        (size, size),
        strides=stride,
        padding=size // 2 if padding is None else padding,
        use_bias=False,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )


def norm(train: bool, dtype, name: str) -> BatchNorm:
    """Returns a batch normalization with PyTorch's defaults.

    Args:
      train: whether to normalize by the statistics of the batch and to update the running ones.
      dtype: floating-point type of the computation.
      name: name of the layer.

    Returns:
      A layer: [..., C] -> [..., C].
    """
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def classify(x: Array, num_classes: int, dtype) -> Array:
    """Returns the logits of the last feature map, empty for no classes. Must be called inside a compact method.

    Args:
      x: [B, h, w, C], the last feature map.
      num_classes: K, number of classes, 0 or more.
      dtype: floating-point type of the computation.

    Returns:
      float32 [B, K].
    """
    if not num_classes:
        return jnp.zeros((x.shape[0], 0), jnp.float32)
    pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return nn.Dense(num_classes, dtype=dtype, name="fc")(pooled.astype(dtype)).astype(jnp.float32)
