"""VGG-16 and VGG-19, plain as in torchvision or with batch normalization as in Adv-BNN.

Images NHWC in [0, 1] -> (logits, {"conv1_1": ..., "conv5_1": ...}), each feature after its ReLU and before the pooling
of its stage. A dense head adds "fc6" and "fc7" after their ReLU, and "fc8", the logits.

Source: Simonyan & Zisserman 2015, Table 1 (D and E); Liu et al. 2019 (Adv-BNN) for the network with batch
normalization, an average pool and one dense layer, inverted in Rojas-Gomez et al. 2022, section 4.1.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from arinv.errors import unknown
from arinv.models.encoders.base import Encoder, FeatureSpec, Stage, TorchLayer
from arinv.models.layers import BatchNorm, LinenConv
from arinv.ops import pooling
from arinv.ops.channels import flatten_rows
from arinv.types import Array

_WIDTHS = (64, 128, 256, 512, 512)
_HEADS = ("dense", "pooled")
_CONVOLUTION = re.compile(r"features\.(\d{1,4})\.weight")


class VGG(Encoder):
    """VGG; with the defaults VGG-16 with 138,357,544 parameters for 1,000 classes.

    Attributes:
      num_classes: length of the logits; 0 for the convolutions alone.
      depths: 3x3 convolutions in each of the five stages.
      batch_norm: normalize after every convolution, which keeps its bias.
      head: "dense" (the last stage averaged to 7x7, then fc6, fc7 and fc8) or "pooled" (its mean over all
        positions, then one dense layer).
      width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
      dense_width: length of fc6 and fc7.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dropout: rate after fc6 and fc7, in training.
      dtype: type of the computation; parameters, statistics and logits stay float32.
    """

    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    batch_norm: bool = False
    head: str = "dense"
    width: int = 64
    dense_width: int = 4096
    dropout: float = 0.5

    image_size = 224  # any multiple of 32 works
    smallest_side = 32
    default_layer = "conv5_1"
    style_layers = ("conv5_1", "conv3_1", "conv1_1")

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits [B, K] and the features of images [B, H, W, 3] in [0, 1].

        Raises:
          UserError: a head that is neither "dense" nor "pooled", or images too small for it.
        """
        if self.head not in _HEADS:
            raise unknown("head of a VGG", self.head, _HEADS)
        features = {}
        x = self.normalize(images)
        for stage, (width, depth) in enumerate(zip(self._widths(), self.depths, strict=True), start=1):
            for i in range(1, depth + 1):
                x = features[f"conv{stage}_{i}"] = self._convolve(x, width, f"{stage}_{i}", train)
            x = pooling.max_pool(x, 2, 2)
        if not self.num_classes:
            return jnp.zeros((x.shape[0], 0), jnp.float32), features
        logits = self._classify(x, features, train).astype(jnp.float32)
        if self.head == "dense":
            features["fc8"] = logits
        return logits, features

    def _widths(self) -> tuple[int, ...]:
        return tuple(self.width * width // _WIDTHS[0] for width in _WIDTHS)

    def _convolve(self, x: Array, width: int, name: str, train: bool) -> Array:
        x = LinenConv(
            width,
            (3, 3),
            padding=1,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            name=f"conv{name}",
        )(x)
        if self.batch_norm:
            norm = BatchNorm(
                use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=f"bn{name}"
            )
            x = norm(x)
        return nn.relu(x)

    def _classify(self, x: Array, features: dict[str, Array], train: bool) -> Array:
        """Returns the logits, and adds fc6 and fc7 to the features."""
        small = nn.initializers.normal(0.01)
        if self.head == "pooled":
            x = jnp.mean(x.astype(jnp.float32), axis=(1, 2)).astype(self.dtype)
            return nn.Dense(self.num_classes, kernel_init=small, dtype=self.dtype, name="fc")(x)
        x = pooling.adaptive_avg_pool(x, 7)
        x = flatten_rows(x)
        for name in ("fc6", "fc7"):
            x = nn.Dense(self.dense_width, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name=name)(x)
            x = features[name] = nn.relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=small, dtype=self.dtype, name="fc8")(x)

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature."""
        stages = tuple(Stage(2**i, width) for i, width in enumerate(self._widths()))
        specs = {
            f"conv{stage}_{i}": FeatureSpec(stages[:stage])
            for stage, depth in enumerate(self.depths, start=1)
            for i in range(1, depth + 1)
        }
        if self.head == "dense":
            pooled = FeatureSpec((*stages, Stage(32, stages[-1].width)), is_vector=True)
            specs |= dict.fromkeys(("fc6", "fc7", "fc8"), pooled)
        return specs

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers as torchvision names them, and those of a pooled head as Adv-BNN does."""
        layers, i = [], 0
        for stage, depth in enumerate(self.depths, start=1):
            for place in range(1, depth + 1):
                layers.append(TorchLayer(f"conv{stage}_{place}", (f"features.{i}",)))
                if self.batch_norm:
                    layers.append(TorchLayer(f"bn{stage}_{place}", (f"features.{i + 1}",)))
                i += 3 if self.batch_norm else 2  # with its ReLU
            i += 1  # the pooling
        if self.head == "pooled":
            return (*layers, TorchLayer("fc", ("classifier",)))
        return (
            *layers,
            TorchLayer("fc6", ("classifier.0",), channels=self._widths()[-1]),
            TorchLayer("fc7", ("classifier.3",)),
            TorchLayer("fc8", ("classifier.6",)),
        )

    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns depths, widths and head of a state dict, and torchvision's pixels for its normalized networks."""
        matches = {match: shape for name, shape in shapes.items() if (match := _CONVOLUTION.fullmatch(name))}
        places = sorted(int(match[1]) for match, shape in matches.items() if len(shape) == 4)
        if not places or places[0] != 0:
            return {}
        step = 3 if shapes.get("features.1.weight") else 2  # a convolution, its normalization, its ReLU
        pools = [i for i, (place, after) in enumerate(itertools.pairwise(places), start=1) if after - place != step]
        depths = tuple(b - a for a, b in itertools.pairwise((0, *pools, len(places))))
        options = {"depths": depths, "batch_norm": step == 3, "width": shapes["features.0.weight"][0]}
        if dense := shapes.get("classifier.0.weight"):
            options |= {"head": "dense", "dense_width": dense[0], "normalization": "imagenet"}
        return options | ({"head": "pooled"} if "classifier.weight" in shapes else {})
