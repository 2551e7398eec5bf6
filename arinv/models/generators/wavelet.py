"""The two halves of the denoiser: AlexNet with Haar transforms instead of max-pooling, and its wavelet decoder.

The encoder maps images NHWC in [0, 1] to (named features, details by layer). Its convolutions have AlexNet's names and
shapes, so it runs with the weights of any AlexNet, standard or robust. The decoder maps both back to images.

Source: Rojas-Gomez et al. 2022, section 3.3, Tables A8 and A9, and the released code.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.encoders.alexnet import convolution
from arinv.models.encoders.base import Normalization, normalize
from arinv.models.layers import Conv, ShapeChecked, batch_norm
from arinv.ops import pooling
from arinv.ops.inputs import LOOSE_BOUNDS
from arinv.ops.wavelets import Details, haar_analysis, haar_synthesis
from arinv.types import Array

MULTIPLE, SMALLEST_SIDE = 32, 64  # of the sides of images, in pixels


class WaveletAlexNet(ShapeChecked):
    """The convolutions of AlexNet with Haar analysis after the first, second and fifth; 2,469,696 parameters.

    Attributes:
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dtype: type of the computation; parameters stay float32.
    """

    normalization: Normalization = "imagenet"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> tuple[dict[str, Array], dict[str, Details]]:
        """Returns the features and the details of images [B, H, W, 3] in [0, 1].

        The features have AlexNet's names, where "conv1", "conv2" and "conv5" are low bands; the details are the
        (LH, HL, HH) that belong to these three.

        Raises:
          UserError: sides that are not multiples of 32 from 64 up.
        """
        if any(side % MULTIPLE or side < SMALLEST_SIDE for side in images.shape[1:3]):
            raise UserError(
                f"the wavelet encoder takes images whose sides are multiples of {MULTIPLE} from {SMALLEST_SIDE} up; "
                f"got {images.shape[1]} x {images.shape[2]}: pad them, as arinv.apps.denoising.denoise does"
            )
        conv = functools.partial(convolution, dtype=self.dtype)
        features, details = {}, {}
        x = normalize(images, self.normalization, self.dtype, bounds=LOOSE_BOUNDS)  # noisy ones
        x = features["relu1"] = nn.relu(conv(64, 11, strides=4, padding=2, name="conv1")(x))
        x, details["conv1"] = haar_analysis(x)
        features["conv1"] = x
        x = features["relu2"] = nn.relu(conv(192, 5, padding=2, name="conv2")(x))
        x, details["conv2"] = haar_analysis(x)
        features["conv2"] = x
        x = features["conv3"] = nn.relu(conv(384, 3, padding=1, name="conv3")(x))
        x = features["conv4"] = nn.relu(conv(256, 3, padding=1, name="conv4")(x))
        x = features["relu5"] = nn.relu(conv(256, 3, padding=1, name="conv5")(x))
        features["conv5"], details["conv5"] = haar_analysis(x)
        return features, details


class DecoderStep(NamedTuple):
    """One step of a plan: ("conv", width), ("synthesis", layer), ("pad", pixels) or ("nearest", factor)."""

    kind: str
    value: Any


DecoderPlan = tuple[DecoderStep, ...]
_RGB = 3  # channels of an image


def _conv(*widths: int) -> DecoderPlan:
    return tuple(DecoderStep("conv", width) for width in widths)


def _unpool(layer: str, pad: int = 0) -> DecoderPlan:
    return (DecoderStep("synthesis", layer), *((DecoderStep("pad", pad),) if pad else ()))


_CODE: DecoderPlan = (  # for 224 px: 6, 12, 13, 26, 27, 54, 56, 112, 224
    *(_conv(256) + _unpool("conv5") + _conv(256) + (DecoderStep("pad", 1),) + _conv(256, 192)),
    *(_unpool("conv2", pad=1) + _conv(128, 64) + _unpool("conv1", pad=2) + _conv(64)),
    *((DecoderStep("nearest", 2),) + _conv(32, 32) + (DecoderStep("nearest", 2),) + _conv(_RGB)),
)
# variant -> plan, without the last 3x3 convolution to RGB.
DECODER_PLANS: dict[str, DecoderPlan] = {"default": _CODE, "table_a9": _CODE + _conv(_RGB)}

# Padding of n pixels: ((top, bottom), (left, right)). The analysis drops the bottom row and the right column, so only
# "aligned" restores the positions of the skips.
PAD_SIDES = {
    "official": lambda n: ((0, n), (n, 0)),
    "aligned": lambda n: ((0, n), (0, n)),
}


class WaveletDecoder(ShapeChecked):
    """The network of a plan: BatchNorm and ReLU after each convolution, then 3x3 to RGB and tanh.

    Attributes:
      plan: the steps before the last convolution.
      pad_side: "official" (left and bottom, as the released code) or "aligned" (right and bottom).
      spectral_norm: normalize every kernel by its largest singular value.
      image_bias: initial bias of the normalization of three channels. With 0, as in the released code, pixels with
        three negative values have no gradient; about 2 avoids that in a short training.
      dtype: type of the computation; parameters, statistics and images stay float32.
    """

    plan: DecoderPlan = _CODE
    pad_side: str = "official"
    spectral_norm: bool = True
    image_bias: float = 0.0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, low: Array, details: Mapping[str, Details], *, train: bool = False) -> Array:
        """Returns images [B, H, W, 3] in [0, 1].

        Args:
          low: the encoder's "conv5" [B, h, w, 256].
          details: layer -> (LH, HL, HH), each [B, h, w, C].
          train: whether to normalize by statistics of this batch and to update the running ones.

        Raises:
          UserError: bands of different shapes.
        """
        x = low.astype(self.dtype)
        for i, step in enumerate(self.plan):
            x = self._step(x, details, step, str(i), train)
        x = Conv(_RGB, use_bias=True, spectral_norm=self.spectral_norm, dtype=self.dtype, name="rgb")(x, train=train)
        return jnp.clip((jnp.tanh(x.astype(jnp.float32)) + 1) / 2, 0, 1)

    def _step(self, x: Array, details: Mapping[str, Details], step: DecoderStep, name: str, train: bool) -> Array:
        if step.kind == "nearest":
            return pooling.upsample_nearest(x, step.value)
        if step.kind == "pad":
            return jnp.pad(x, ((0, 0), *PAD_SIDES[self.pad_side](step.value), (0, 0)), mode="reflect")
        if step.kind == "synthesis":
            return haar_synthesis(x, tuple(band.astype(self.dtype) for band in details[step.value]))
        options = {"spectral_norm": self.spectral_norm, "dtype": self.dtype}
        x = Conv(step.value, name=f"conv{name}", **options)(x, train=train)
        bias = self.image_bias if step.value == _RGB else 0.0
        return nn.relu(batch_norm(f"bn{name}", train=train, dtype=self.dtype, bias=bias)(x))
