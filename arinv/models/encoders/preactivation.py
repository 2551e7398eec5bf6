"""Wide ResNet and PreActResNet for 32 px images: blocks of normalization, activation and convolution, in this order.

Images NHWC in [0, 1] -> (logits, {"block1": ..., "block2": ...}), each feature the output of a stage of blocks, a sum.

Both have a variant of DeepMind's, whose convolutions of stride 2 pad below and on the right only, and which applies
SiLU (its `_silu` rows). Weights of one variant fit the shapes of another but give other logits, so each variant reads
the names of its own origin only.

Source: Zagoruyko & Komodakis 2016; He et al. 2016 (Identity mappings); TRADES and RobustBench (WideResNet and
PreActResNet); Gowal et al. 2020 and Rebuffi et al. 2021, released code (in RobustBench DMWideResNet, DMPreActResNet).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.models.encoders.base import Encoder, FeatureSpec, Normalization, Stage, TorchLayer, count_blocks
from arinv.models.encoders.resnet import classify, conv, norm
from arinv.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "silu": nn.silu}
_STEM = 16  # channels, of the wide ResNet
_he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Variant(NamedTuple):
    """What published networks of one family differ in.

    Attributes:
      activated_shortcut: whether the convolution of a shortcut reads the block's input after its first activation,
        rather than the input itself.
      last_norm: whether normalization and activation follow the last block.
      shortcut_size: kernel size of that convolution.
      padding: padding of the convolutions; None for PyTorch's, equal on all sides.
    """

    activated_shortcut: bool = True
    last_norm: bool = True
    shortcut_size: int = 1
    padding: str | None = None


WIDE_RESNETS = {"trades": Variant(), "deepmind": Variant(padding="SAME")}
PREACT_RESNETS = {
    "rice": Variant(),
    "kuangliu": Variant(last_norm=False),
    "wong": Variant(last_norm=False, activated_shortcut=False),
    "deepmind": Variant(activated_shortcut=False, shortcut_size=3, padding="SAME"),
}


class _PreActivationNet(Encoder):
    """Stem, stages of pre-activation blocks, and head."""

    num_classes: int = 10
    normalization: Normalization = "none"
    activation: str = "relu"
    variant: str = ""

    image_size = 32
    variants: ClassVar[Mapping[str, Variant]] = {}  # name -> what a subclass differs in

    def _stages(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Returns the channels of the stem, and channels and blocks of each stage."""
        raise NotImplementedError

    def _variant(self) -> Variant:
        if self.variant not in self.variants:
            raise unknown(f"variant of a {type(self).__name__}", self.variant, self.variants)
        return self.variants[self.variant]

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features block1, block2, ... of images [B, H, W, 3] in [0, 1].

        Raises:
          UserError: unknown activation or variant, or a depth that the family does not have.
        """
        if self.activation not in ACTIVATIONS:
            raise unknown(f"activation of a {type(self).__name__}", self.activation, ACTIVATIONS)
        variant, (stem, stages) = self._variant(), self._stages()
        features = {}
        x = self.normalize(images)
        x = conv(stem, 3, kernel_init=_he_fan_out, dtype=self.dtype, name="conv1")(x)
        for stage, (width, depth) in enumerate(stages, start=1):
            for i in range(depth):
                stride, name = 2 if stage > 1 and i == 0 else 1, f"block{stage}_{i}"
                x = PreActivationBlock(width, stride, self.dtype, self.activation, variant, name=name)(x, train=train)
            features[f"block{stage}"] = x
        if self.num_classes and variant.last_norm:
            x = ACTIVATIONS[self.activation](norm(train, self.dtype, "bn")(x))
        return classify(x, self.num_classes, self.dtype), features

    def _layers(
        self, stem: str, block: Callable[[int, int], str], parts: tuple[str, ...], head: tuple[str, str]
    ) -> tuple[TorchLayer, ...]:
        """Returns the layers by their names in PyTorch.

        Args:
          stem: name of the first convolution.
          block: (stage from 1, block of it from 0) -> name of the block.
          parts: names within a block: first normalization and convolution, second ones, shortcut.
          head: names of the last normalization and of the logits' layer.
        """
        layers = [TorchLayer("conv1", (stem,))]
        for stage, (_, depth) in enumerate(self._stages()[1], start=1):
            for i in range(depth):
                for part, name in zip(("bn1", "conv1", "bn2", "conv2", "shortcut_conv"), parts, strict=True):
                    layers.append(TorchLayer(f"block{stage}_{i}/{part}", (f"{block(stage, i)}.{name}",)))
        return (*layers, TorchLayer("bn", (head[0],)), TorchLayer("fc", (head[1],)))


_DEEPMIND_HEAD = ("batchnorm", "logits")


class WideResNet(_PreActivationNet):
    """Wide ResNet; with the defaults WRN-28-10, 36,479,194 parameters for 10 classes.

    Attributes:
      num_classes: length of the logits; 0 for the groups of blocks alone.
      depth: 6 n + 4 for n blocks in each of the three groups.
      width: factor on the channels of the groups, 16, 32 and 64.
      activation: "relu" or "silu".
      variant: "trades" or "deepmind", see WIDE_RESNETS.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dtype: type of the computation; parameters, statistics and logits stay float32.
    """

    depth: int = 28
    width: int = 10
    variant: str = "trades"

    default_layer = "block3"  # of images of any multiple of 4 px
    style_layers = ("block3", "block2", "block1")
    variants = WIDE_RESNETS

    def _stages(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise UserError(f"depth of a wide ResNet must be 6 n + 4, such as 10, 16, 22 or 28; got {self.depth}")
        return _STEM, tuple((factor * _STEM * self.width, blocks) for factor in (1, 2, 4))

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature (the stem and block1 are both at full resolution)."""
        stem, groups = self._stages()
        stages = (Stage(1, stem), *(Stage(2**i, width) for i, (width, _) in enumerate(groups)))
        return {f"block{i}": FeatureSpec(stages[: i + 1]) for i in range(1, 4)}

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers as TRADES, GAIRAT and RobustBench name them, or as DeepMind does."""
        if self.variant == "deepmind":
            parts = ("batchnorm_0", "conv_0", "batchnorm_1", "conv_1", "shortcut")
            return self._layers("init_conv", lambda group, i: f"layer.{group - 1}.block.{i}", parts, _DEEPMIND_HEAD)
        parts = ("bn1", "conv1", "bn2", "conv2", "convShortcut")
        return self._layers("conv1", lambda group, i: f"block{group}.layer.{i}", parts, ("bn1", "fc"))

    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns the depth and width of a state dict."""
        is_deepmind = self.variant == "deepmind"
        group, first = ("layer.0.block.", "0.conv_0") if is_deepmind else ("block1.layer.", "0.conv1")
        options = {}
        if blocks := count_blocks(shapes, group):
            options["depth"] = 6 * blocks + 4
        width, rest = divmod((shapes.get(f"{group}{first}.weight") or (0,))[0], _STEM)
        if width and not rest:
            options["width"] = width
        return options


class PreActResNet(_PreActivationNet):
    """PreActResNet; with the defaults PreActResNet-18, 11,172,170 parameters for 10 classes.

    Attributes:
      num_classes: length of the logits; 0 for the stages of blocks alone.
      depths: blocks in each of the four stages.
      width: channels of the stem and of the first stage; the others have 2, 4 and 8 times as many.
      activation: "relu" or "silu".
      variant: "rice", "kuangliu" or "wong", the last two without the last normalization, or "deepmind": see
        PREACT_RESNETS.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dtype: type of the computation; parameters, statistics and logits stay float32.
    """

    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    width: int = 64
    variant: str = "rice"
    normalization: Normalization = "cifar10_pixels"

    default_layer = "block4"  # of images of any multiple of 8 px
    style_layers = ("block4", "block2", "block1")
    variants = PREACT_RESNETS

    def _stages(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        return self.width, tuple((self.width * 2**i, depth) for i, depth in enumerate(self.depths))

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature."""
        stages = tuple(Stage(2**i, width) for i, (width, _) in enumerate(self._stages()[1]))
        return {f"block{i}": FeatureSpec(stages[:i]) for i in range(1, 5)}

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers as RobustBench names them, or as DeepMind does."""
        if self.variant == "deepmind":
            parts = ("batchnorm_0", "conv_2d_1", "batchnorm_1", "conv_2d_2", "shortcut")
            return self._layers("conv_2d", lambda stage, i: f"layer_{stage - 1}.{i}", parts, _DEEPMIND_HEAD)
        parts = ("bn1", "conv1", "bn2", "conv2", "shortcut.0")
        return self._layers("conv1", lambda stage, i: f"layer{stage}.{i}", parts, ("bn", "linear"))

    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns the depths and width of a state dict, and the variant where it has no last normalization."""
        is_deepmind = self.variant == "deepmind"
        depths = tuple(count_blocks(shapes, f"layer_{i}." if is_deepmind else f"layer{i + 1}.") for i in range(4))
        options = {"depths": depths} if all(depths) else {}
        if width := (shapes.get("conv_2d.weight" if is_deepmind else "conv1.weight") or (0,))[0]:
            options["width"] = width
        if not is_deepmind and self._variant().last_norm and "linear.weight" in shapes and "bn.weight" not in shapes:
            options["variant"] = "wong"  # as the published ones are; kuangliu's has the same names
        return options


class PreActivationBlock(nn.Module):
    """Normalization, activation and a 3x3 convolution, twice; the shortcut is a convolution where channels change."""

    width: int
    stride: int
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: str = "relu"
    variant: Variant = Variant()

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Returns the block's sum."""
        padding, activate = self.variant.padding, ACTIVATIONS[self.activation]
        convolve = functools.partial(conv, kernel_init=_he_fan_out, dtype=self.dtype, padding=padding)
        normalize = functools.partial(norm, train, self.dtype)
        y = activate(normalize("bn1")(x))
        if x.shape[-1] != self.width:
            source = y if self.variant.activated_shortcut else x
            x = convolve(self.width, self.variant.shortcut_size, self.stride, name="shortcut_conv")(source)
        y = convolve(self.width, 3, self.stride, name="conv1")(y)
        y = activate(normalize("bn2")(y))
        return x + convolve(self.width, 3, name="conv2")(y)
