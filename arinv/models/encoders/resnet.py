"""ResNet with basic blocks for 32 px images (3x3 stem, no stem pooling), as in MadryLab's robustness library.

Images NHWC in [0, 1] -> (logits, {"block1": ..., "block4": ...}), each block after its last ReLU.

Source: He et al. 2016; Rojas-Gomez et al. 2022, section A1.3, whose "third residual block, 4x4x512" is
the output of the fourth stage, block4 here: no other has that shape.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.layers import BatchNorm, FeatureSpec, Normalization, Stage, normalize
from arinv.ops import conv as conv_ops
from arinv.types import Array

_WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, 1x1 where the shape changes."""

    width: int
    stride: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the block's output after its last ReLU."""
        conv = functools.partial(
            nn.Conv,
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=conv_ops.conv_general_dilated,
        )
        norm = functools.partial(BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        y = conv(self.width, (3, 3), strides=self.stride, padding=1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv(self.width, (3, 3), padding=1, name="conv2")(y)
        y = norm(name="bn2")(y)
        if x.shape != y.shape:
            x = conv(self.width, (1, 1), strides=self.stride, padding=0, name="shortcut_conv")(x)
            x = norm(name="shortcut_bn")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet for 32 px; with the default depths ResNet-18, 11,173,962 parameters for 10 classes.

    Attributes:
      num_classes: length of the logits; 0 leaves out the dense layer.
      depths: basic blocks in each of the four stages.
      normalization: of the pixels, see `normalization.mean_std`.
      dtype: of the computation; parameters, statistics and logits stay float32.
    """

    num_classes: int = 10
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    normalization: Normalization = "cifar10"
    dtype: jax.typing.DTypeLike = jnp.float32

    image_size = 32  # any multiple of 8 works

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features block1..block4 of images [B, H, W, 3] in [0, 1]."""
        x = normalize(images, self.normalization, self.dtype)
        x = nn.Conv(
            _WIDTHS[0],
            (3, 3),
            padding=1,
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=conv_ops.conv_general_dilated,
            name="conv1",
        )(x)
        x = BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name="bn1")(x)
        x = nn.relu(x)
        features = {}
        for stage, (width, depth) in enumerate(zip(_WIDTHS, self.depths, strict=True), start=1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                block = BasicBlock(width, stride, self.dtype, name=f"block{stage}_{i}")
                x = block(x, train=train)
            features[f"block{stage}"] = x
        if not self.num_classes:
            return jnp.zeros((x.shape[0], 0), jnp.float32), features
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(pooled.astype(self.dtype))
        return logits.astype(jnp.float32), features

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature."""
        stages = tuple(Stage(2**i, width) for i, width in enumerate(_WIDTHS))
        return {f"block{i}": FeatureSpec(stages[:i]) for i in range(1, 5)}


_STEM = 16


def _conv(width: int, size: int, *, stride: int = 1, dtype, name: str) -> nn.Conv:
    return nn.Conv(
        width,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        conv_general_dilated=conv_ops.conv_general_dilated,
        name=name,
    )


def _norm(train: bool, dtype, name: str) -> BatchNorm:
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


class PreActivationBlock(nn.Module):
    """BN, ReLU and a 3x3 convolution, twice; the shortcut is a 1x1 convolution where channels change."""

    width: int
    stride: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the block's sum."""
        conv = functools.partial(_conv, dtype=self.dtype)
        y = nn.relu(_norm(train, self.dtype, "bn1")(x))
        if x.shape[-1] != self.width:
            x = conv(self.width, 1, stride=self.stride, name="shortcut_conv")(y)
        y = conv(self.width, 3, stride=self.stride, name="conv1")(y)
        y = nn.relu(_norm(train, self.dtype, "bn2")(y))
        return x + conv(self.width, 3, name="conv2")(y)


class WideResNet(nn.Module):
    """Wide ResNet; with the defaults WRN-28-10, 36,479,194 parameters for 10 classes.

    Attributes:
      num_classes: length of the logits; 0 leaves out what is behind the last group.
      depth: 6 n + 4 for n blocks in each of the three groups.
      width: factor on the channels of the groups, 16, 32 and 64.
      normalization: of the pixels, see `normalization.mean_std`.
      dtype: of the computation; parameters, statistics and logits stay float32.
    """

    num_classes: int = 10
    depth: int = 28
    width: int = 10
    normalization: Normalization = "none"
    dtype: jax.typing.DTypeLike = jnp.float32

    image_size = 32  # any multiple of 4 works

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
        x = normalize(images, self.normalization, self.dtype)
        x = _conv(_STEM, 3, dtype=self.dtype, name="conv1")(x)
        for group, width in enumerate(self._widths(), start=1):
            for i in range(blocks):
                stride = 2 if group > 1 and i == 0 else 1
                x = PreActivationBlock(width, stride, self.dtype, name=f"block{group}_{i}")(x, train=train)
            features[f"block{group}"] = x
        if not self.num_classes:
            return jnp.zeros((x.shape[0], 0), jnp.float32), features
        x = nn.relu(_norm(train, self.dtype, "bn")(x))
        pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(pooled.astype(self.dtype))
        return logits.astype(jnp.float32), features

    def _widths(self) -> tuple[int, ...]:
        return tuple(factor * _STEM * self.width for factor in (1, 2, 4))

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature (the stem and block1 share the full resolution)."""
        groups = tuple(Stage(2**i, width) for i, width in enumerate(self._widths()))
        stages = (Stage(1, _STEM), *groups)
        return {f"block{i}": FeatureSpec(stages[: i + 1]) for i in range(1, 4)}
