"""The two halves of a denoiser: an encoder with Haar transforms instead of max-pooling, and its wavelet decoder.

The encoder maps images NHWC in [0, 1] to (named features, details by layer). Its convolutions have the names and shapes
of AlexNet's or another encoder's, so it runs with the weights of any such network, standard or robust. The decoder maps
both back to images.

Source: Rojas-Gomez et al. 2022, section 3.3, Tables A8 and A9, and the released code, of AlexNet; for other encoders
the decoder mirrors the encoder, which is ours.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.encoders.alexnet import AlexNet, AlexNetSmall, convolution
from arinv.models.encoders.base import Normalization, normalize
from arinv.models.layers import Conv, ShapeChecked, batch_norm
from arinv.ops import pooling
from arinv.ops.inputs import LOOSE_BOUNDS
from arinv.ops.wavelets import Details, haar_analysis, haar_synthesis
from arinv.types import Array

MULTIPLE, SMALLEST_SIDE = 32, 64  # of the sides of images, in pixels


class EncoderStep(NamedTuple):
    """A convolution "convN" of an encoder and its ReLU; Haar analysis follows where the encoder pools."""

    name: str
    width: int
    size: int
    stride: int = 1
    padding: int = 1
    pools: bool = False


EncoderPlan = tuple[EncoderStep, ...]


class WaveletEncoder(ShapeChecked):
    """The convolutions of an encoder with Haar analysis for its max-pools; AlexNet's have 2,469,696 parameters.

    Attributes:
      plan: the convolutions.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dtype: type of the computation; parameters stay float32.
    """

    plan: EncoderPlan
    normalization: Normalization = "imagenet"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> tuple[dict[str, Array], dict[str, Details]]:
        """Returns the features and the details of images [B, H, W, 3] in [0, 1].

        The features have the encoder's names, where those that it pools, such as "conv1", "conv2" and "conv5", are low
        bands, and "relu1", "relu2" and "relu5" are before the analysis; the details are the (LH, HL, HH) of each.

        Raises:
          UserError: sides that are not multiples of 32 from 64 up.
        """
        if any(side % MULTIPLE or side < SMALLEST_SIDE for side in images.shape[1:3]):
            raise UserError(
                f"the wavelet encoder takes images whose sides are multiples of {MULTIPLE} from {SMALLEST_SIDE} up; "
                f"got {images.shape[1]} x {images.shape[2]}: pad them, as arinv.apps.denoising.denoise does"
            )
        features, details = {}, {}
        x = normalize(images, self.normalization, self.dtype, bounds=LOOSE_BOUNDS)  # noisy ones
        for step in self.plan:
            options = {"strides": step.stride, "padding": step.padding, "dtype": self.dtype, "name": step.name}
            x = nn.relu(convolution(step.width, step.size, **options)(x))
            if step.pools:
                features[step.name.replace("conv", "relu")] = x
                x, details[step.name] = haar_analysis(x)
            features[step.name] = x
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


class WaveletPlans(NamedTuple):
    """The plan of an encoder, and those of its decoders by variant."""

    encoder: EncoderPlan
    decoders: Mapping[str, DecoderPlan]


def alexnet_plans(encoder: AlexNet) -> WaveletPlans:
    """Returns AlexNet's plans, the published ones."""
    steps = (
        EncoderStep("conv1", 64, 11, stride=4, padding=2, pools=True),
        EncoderStep("conv2", 192, 5, padding=2, pools=True),
        EncoderStep("conv3", 384, 3),
        EncoderStep("conv4", 256, 3),
        EncoderStep("conv5", 256, 3, pools=True),
    )
    return WaveletPlans(steps, DECODER_PLANS)


def alexnet_small_plans(encoder: AlexNetSmall) -> WaveletPlans:
    """Returns the plans of a small AlexNet of any width, whose decoder mirrors it."""
    w = encoder.width
    steps = (
        EncoderStep("conv1", w, 5, padding=2, pools=True),
        EncoderStep("conv2", 3 * w, 5, padding=2, pools=True),
        EncoderStep("conv3", 6 * w, 3),
        EncoderStep("conv4", 4 * w, 3),
        EncoderStep("conv5", 4 * w, 3, pools=True),
    )
    return WaveletPlans(steps, {"default": mirror_decoder(steps)})


def mirror_decoder(plan: EncoderPlan) -> DecoderPlan:
    """Returns the decoder that reverses an encoder: a synthesis for each analysis, a convolution for each of its own.

    Args:
      plan: convolutions that keep the size of their input; nothing of the decoder pads.

    Returns:
      A convolution of the deepest width first, so that the deepest low band is changed too, as in AlexNet's decoder.
    """
    steps = _conv(plan[-1].width)
    inputs = (plan[0].width, *(step.width for step in plan[:-1]))  # of each convolution; of the first, its own width
    for step, width in zip(reversed(plan), reversed(inputs), strict=True):
        steps += (_unpool(step.name) if step.pools else ()) + _conv(width)
    return steps


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

    @property
    def takes_image_bias(self) -> bool:
        """Whether the plan normalizes three channels, so that `image_bias` has an effect."""
        return DecoderStep("conv", _RGB) in self.plan

    @nn.compact
    def __call__(self, low: Array, details: Mapping[str, Details], *, train: bool = False) -> Array:
        """Returns images [B, H, W, 3] in [0, 1].

        Args:
          low: the encoder's "conv5" [B, h, w, C].
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
