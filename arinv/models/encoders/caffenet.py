"""CaffeNet: AlexNet in two groups with local response normalisation, as inverted by Dosovitskiy & Brox.

Images NHWC in [0, 1] -> (logits, named features). "conv1" and "conv2" are taken after pooling and normalisation,
"conv5" after pooling, the others after ReLU.

Source: Krizhevsky et al. 2012; the Caffe reference network; Dosovitskiy & Brox 2016, Table 1.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from arinv.models.encoders.alexnet import own_names
from arinv.models.encoders.base import Encoder, FeatureSpec, Stage, TorchLayer
from arinv.ops import conv as conv_ops
from arinv.ops import pooling
from arinv.types import Array


class CaffeNet(Encoder):
    """CaffeNet with 60,965,224 parameters at 224 or 227 px and 1,000 classes.

    Attributes:
      num_classes: length of the logits; 0 for the convolutions alone, at any image size.
      normalization: of the pixels, see `mean_std`.
      dropout: rate after fc6 and fc7, in training.
      dense_width: length of fc6 and fc7.
      dtype: of the computation; parameters and logits stay float32.
    """

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
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.Dense(self.dense_width, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name=name)(x)
            x = features[name] = nn.relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        small = nn.initializers.normal(0.01)
        logits = nn.Dense(self.num_classes, kernel_init=small, dtype=self.dtype, name="fc8")(x)
        features["fc8"] = logits = logits.astype(jnp.float32)
        return logits, features

    def _convolve(self, x: Array, width: int, size: int, *, padding: int, name: str, stride=1, groups=1) -> Array:
        conv = nn.Conv(
            width,
            (size, size),
            strides=stride,
            padding=padding,
            feature_group_count=groups,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            conv_general_dilated=conv_ops.conv_general_dilated,
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
