"""Mirror generators, from one feature of an encoder to the image, and their published plans.

A generator is a module with a plan, plain data. PAPER_PLANS contains those of the papers' tables; for any other encoder
and layer the plan follows from the encoder's FeatureSpec by the rule that the tables have in common: convolutions at
each resolution of the encoder, and between two resolutions a 4x4 transposed convolution, or nearest upsampling, which
draws no checkerboard. Features NHWC (or [B, K]) -> images NHWC in [0, 1].

Source: Rojas-Gomez et al. 2022, Tables A4, A6, A7 and the released code, which disagree on where the
channels of A4 shrink; the code's plan has the published 4.7M parameters and is the default.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.encoders.base import FeatureSpec
from arinv.models.layers import Conv, ConvTranspose, Dense, batch_norm
from arinv.ops import pooling
from arinv.types import Array


class Step(NamedTuple):
    """One step of a plan: "conv" (3x3), "up" (4x4 transposed, stride 1 or 2), "nearest" (x2), "dense"."""

    kind: str
    width: int = 0
    stride: int = 1


Plan = tuple[Step, ...]


def _conv(*widths: int) -> Plan:
    return tuple(Step("conv", width) for width in widths)


def _up(width: int, stride: int) -> Plan:
    return (Step("up", width, stride),)


_NEAREST = (Step("nearest"),)

# (encoder, layer, variant) -> plan, without the last 3x3 convolution to RGB, which every generator has.
PAPER_PLANS: dict[tuple[str, str, str], Plan] = {
    ("alexnet", "conv5", "default"): (
        *(_conv(256) + _up(256, 1) + _conv(256) + _up(256, 2) + _conv(256)),
        *(_up(128, 2) + _conv(128) + _up(64, 2) + _conv(64) + _up(32, 2) + _conv(32) + _up(3, 2)),
    ),
    ("alexnet", "conv5", "table_a4"): (
        *(_conv(256) + _up(256, 1) + _conv(256) + _up(256, 2) + _conv(256) + _up(256, 2) + _conv(128)),
        *(_up(128, 2) + _conv(64) + _up(64, 2) + _conv(32) + _up(32, 2) + _conv(3)),
    ),
    ("alexnet", "conv5", "interpolation"): (
        *(_conv(256) + _up(256, 1) + _conv(256) + _NEAREST + _conv(256) + _NEAREST + _conv(128)),
        *(_NEAREST + _conv(64) + _NEAREST + _conv(32) + _NEAREST + _conv(3)),
    ),
    ("alexnet", "conv2", "default"): (
        *(_conv(192) + _up(192, 1) + _conv(96) + _NEAREST + _conv(96, 64)),
        *(_NEAREST + _conv(64) + _NEAREST + _conv(64) + _NEAREST + _conv(32, 3)),
    ),
    ("alexnet", "conv1", "default"): (
        *(_conv(64) + _up(64, 1) + _conv(64) + _NEAREST + _conv(64, 32)),
        *(_NEAREST + _conv(32) + _NEAREST + _conv(16, 3)),
    ),
}


def mirror_plan(spec: FeatureSpec, *, image_size: int, upsampling: str = "transposed") -> Plan:
    """Returns the plan that mirrors an encoder's stages.

    Args:
      spec: the feature's place in its encoder.
      image_size: side of the square images; used for a vector feature, whose plan begins with a dense layer to the
        shape of the encoder's last spatial feature.
      upsampling: between two resolutions: "transposed", a 4x4 transposed convolution of stride 2, or "nearest", every
        pixel twice along both sides, so that the 3x3 convolution behind it is the only one at its resolution.

    Returns:
      The steps before the last convolution to RGB.

    Source: Rojas-Gomez et al. 2022, Table A4 and, of "nearest", the variant of the released code that interpolates.
    """
    deepest = spec.stages[-1]
    plan: Plan = ()
    if spec.is_vector:
        plan += (Step("dense", deepest.width, spec.side(image_size)),)
    plan += _conv(deepest.width)
    for _ in range(spec.offset):
        plan += _up(deepest.width, 1) + _conv(deepest.width)
    for previous, stage in zip(spec.stages[:0:-1], spec.stages[-2::-1], strict=True):
        factor = previous.stride // stage.stride
        if upsampling == "nearest":
            plan += _NEAREST * (factor.bit_length() - 1)  # strides are powers of two
        elif factor > 1:
            plan += _up(stage.width, factor)
        plan += _conv(stage.width)
    return plan


class Generator(nn.Module):
    """The network of a plan: BatchNorm and ReLU after each step with weights, then 3x3 to RGB and tanh.

    Attributes:
      plan: the steps before the last convolution.
      is_vector: whether the feature it inverts is [B, K].
      spectral_norm: normalise every kernel by its largest singular value.
      dtype: of the computation; parameters, statistics and images stay float32.
    """

    plan: Plan
    is_vector: bool = False
    spectral_norm: bool = True
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Array, *, train: bool = False) -> Array:
        """Returns images [B, H, W, 3] in [0, 1] of features [B, h, w, c] or [B, K].

        Raises:
          UserError: features of the wrong rank.
        """
        rank = 2 if self.is_vector else 4
        if features.ndim != rank:
            expected = "[B, K]" if self.is_vector else "[B, H, W, C]"
            raise UserError(f"this generator inverts features {expected}; got shape {features.shape}")
        x = features.astype(self.dtype)
        for i, step in enumerate(self.plan):
            x = self._step(x, step, str(i), train)
        x = Conv(3, use_bias=True, spectral_norm=self.spectral_norm, dtype=self.dtype, name="rgb")(x, train=train)
        return jnp.clip((jnp.tanh(x.astype(jnp.float32)) + 1) / 2, 0, 1)

    def _step(self, x: Array, step: Step, name: str, train: bool) -> Array:
        if step.kind == "nearest":
            return pooling.upsample_nearest(x)
        options = {"spectral_norm": self.spectral_norm, "dtype": self.dtype}
        if step.kind == "dense":
            side = step.stride
            dense = Dense(side * side * step.width, use_bias=False, name=f"dense{name}", **options)
            x = dense(x, train=train).reshape(-1, side, side, step.width)
        elif step.kind == "up":
            x = ConvTranspose(step.width, step.stride, name=f"up{name}", **options)(x, train=train)
        else:
            x = Conv(step.width, name=f"conv{name}", **options)(x, train=train)
        x = batch_norm(f"bn{name}", train=train, dtype=self.dtype)(x)
        return nn.relu(x)
