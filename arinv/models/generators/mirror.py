"""The generator from one feature of an encoder to the image, and the rule that mirrors an encoder.

A generator is a module with a plan, plain data. `arinv.models.generators.plans` has the published ones; for any other
encoder and layer the plan follows from the encoder's FeatureSpec by the rule that the tables of Rojas-Gomez et al. have
in common: convolutions at each resolution of the encoder, and between two resolutions a 4x4 transposed convolution, or
nearest upsampling, which draws no checkerboard. Features NHWC (or [B, K]) -> images NHWC in [0, 1].

Source: Rojas-Gomez et al. 2022, Tables A4, A6, A7; Dosovitskiy & Brox 2016a, Tables 3 to 7; those of `plans`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.encoders.base import FeatureSpec
from arinv.models.generators.plans import NEAREST, Plan, Step, conv, up
from arinv.models.layers import Conv, ConvTranspose, Dense, ShapeChecked, batch_norm, rectified_normal
from arinv.ops import pooling
from arinv.ops.channels import flatten_rows
from arinv.ops.images import resize_images
from arinv.types import Array


def mirror_plan(spec: FeatureSpec, *, image_size: int, upsampling: str = "transposed") -> Plan:
    """Returns the plan that mirrors an encoder's stages.

    Args:
      spec: the feature's place in its encoder.
      image_size: side of the square images; used for a vector feature, whose plan begins with a dense layer to the
        shape of the encoder's last spatial feature.
      upsampling: layer between two resolutions: "transposed", a 4x4 transposed convolution of stride 2, or "nearest",
        every pixel twice along both sides, so that the 3x3 convolution after it is the only one at its resolution.

    Returns:
      The steps before the last convolution to RGB.

    Raises:
      UserError: for a vector, images whose side is not a multiple of the stride of that spatial feature.

    Source: Rojas-Gomez et al. 2022, Table A4 and, of "nearest", the variant of the released code that interpolates.
    """
    deepest = spec.stages[-1]
    steps: tuple[Step, ...] = ()
    if spec.is_vector:
        if image_size % deepest.stride or spec.side(image_size) < 1:
            raise UserError(
                f"image_size of this generator must be a multiple of {deepest.stride} px, at least "
                f"{(1 + spec.offset) * deepest.stride}; got {image_size}"
            )
        steps += (Step("dense", deepest.width, spec.side(image_size)),)
    steps += conv(deepest.width)
    for _ in range(spec.offset):
        steps += up(deepest.width, 1) + conv(deepest.width)
    for previous, stage in zip(spec.stages[:0:-1], spec.stages[-2::-1], strict=True):
        factor = previous.stride // stage.stride
        if upsampling == "nearest":
            steps += NEAREST * (factor.bit_length() - 1)  # strides are powers of two
        elif factor > 1:
            steps += up(stage.width, factor)
        steps += conv(stage.width)
    return Plan(steps)


class Generator(ShapeChecked):
    """The network of a plan.

    Attributes:
      plan: steps, normalization, rectifier and output.
      is_vector: whether the feature it inverts is [B, K].
      spectral_norm: False for weights that are normalized already, whatever the plan says.
      image_size: side of the images, for plans whose output has another; 0 otherwise.
      dtype: type of the computation; parameters, statistics and images stay float32.
    """

    plan: Plan
    is_vector: bool = False
    spectral_norm: bool = True
    image_size: int = 0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Array, *, train: bool = False) -> Array:
        """Returns images [B, H, W, 3] of features [B, h, w, c] or [B, K].

        In evaluation they are in [0, 1] and, with the plan's fit "enlarge", have image_size. In training a linear
        output is neither clipped nor enlarged.

        Raises:
          UserError: features of the wrong rank, or a map that is too small.
        """
        rank = 2 if self.is_vector else 4
        if not hasattr(features, "ndim"):
            raise UserError(
                f"this generator inverts the array of one feature; got a {type(features).__name__}: take that of its "
                'layer, such as features["conv5"]'
            )
        if features.ndim != rank:
            expected = "[B, K]" if self.is_vector else "[B, H, W, C]"
            raise UserError(f"features must be {expected} for this generator; got shape {features.shape}")
        x = features.astype(self.dtype)
        if self.plan.streams:
            streams = []
            for name, steps in zip("ab", self.plan.streams, strict=True):
                y = x
                for i, step in enumerate(steps):
                    y = self._step(y, step, f"_{name}{i}", train)
                streams.append(y)
            if len({y.shape[1:3] for y in streams}) > 1:
                multiple = math.prod(step.stride for step in self.plan.streams[0] if step.kind == "conv")
                raise UserError(
                    f"this generator needs features with sides that are multiples of {multiple}; got "
                    f"{features.shape[1]} x {features.shape[2]}: choose another image size"
                )
            x = jnp.concatenate(streams, axis=-1)
        for i, step in enumerate(self.plan.steps):
            x = self._step(x, step, str(i), train)
        x = self._layer(self.plan.last, "rgb", last=True)(x, train=train).astype(jnp.float32)
        if self.plan.output == "tanh":
            x = jnp.clip((jnp.tanh(x) + 1) / 2, 0, 1)
        else:
            x = x + jnp.asarray(self.plan.offset, jnp.float32)[None, None, None, :]
            x = x if train else jnp.clip(x, 0, 1)
        return self._fit(x, train)

    def _fit(self, x: Array, train: bool) -> Array:
        side = self.image_size
        if self.plan.fit == "crop" and 0 < side < min(x.shape[1:3]):
            top, left = ((size - side) // 2 for size in x.shape[1:3])
            return x[:, top : top + side, left : left + side]
        if self.plan.fit == "enlarge" and not train and side:
            return resize_images(x, side)
        return x

    def _step(self, x: Array, step: Step, name: str, train: bool) -> Array:
        if step.kind == "nearest":
            return pooling.upsample_nearest(x)
        if step.kind == "conv" and not step.padding and min(x.shape[1:3]) < step.kernel:
            raise UserError(
                f"this generator needs features of at least {step.kernel} x {step.kernel}; got {x.shape[1]} x "
                f"{x.shape[2]}: raise the image size"
            )
        if step.kind == "dense":
            x = flatten_rows(x)
        x = self._layer(step, f"{step.kind}{name}")(x, train=train)
        if step.kind == "dense":
            x = x.reshape(x.shape[0], step.stride, step.stride, step.width)
        if self.plan.batch_norm:
            x = batch_norm(f"bn{name}", train=train, dtype=self.dtype)(x)
        return nn.leaky_relu(x, self.plan.slope) if self.plan.slope else nn.relu(x)

    def _layer(self, step: Step, name: str, *, last: bool = False) -> nn.Module:
        """Returns the layer of a step with weights."""
        options = {
            "use_bias": step.bias,
            "spectral_norm": self.spectral_norm and self.plan.spectral_norm,
            "dtype": self.dtype,
            "name": name,
        }
        if not self.plan.batch_norm:
            # Of the zeros that an up-convolution inserts, no weight reads more than one in stride ** 2.
            inserted = step.stride**2 if step.kind == "up" else 1
            options["kernel_init"] = rectified_normal(self.plan.slope, scale=inserted * (0.01 if last else 1.0))
        if step.kind == "dense":
            return Dense(step.stride**2 * step.width, **options)
        if step.kind == "up":
            return ConvTranspose(step.width, step.stride, size=step.kernel, **options)
        padding = step.kernel // 2 if step.padding else 0
        return Conv(step.width, step.kernel, step.stride, padding, **options)
