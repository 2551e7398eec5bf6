"""The generator and the discriminator of a progressive GAN, with the RGB layers of every size they have grown through.

A network of 2^k px holds the blocks of 4, 8, ..., 2^k px and an RGB layer for each, so that its parameters are those of
the network of half the size and a few more: `grow` copies them. While the new blocks fade in, the image is a mixture of
the new RGB layer's and of the enlarged image of the one before.

Kernels are drawn from N(0, 1) and multiplied in every forward pass by gain / sqrt(fan-in) (equalized learning rate).
Images are in [0, 1]; inside the networks they are 2x - 1.

Source: Karras et al. 2018 (Progressive Growing of GANs), Table 2 and sections 3 and 4, as used by the Generative
Encoder.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.models.layers import ShapeChecked
from arinv.ops import pooling
from arinv.ops.channels import add_bias, flatten_rows
from arinv.ops.conv import conv_general_dilated
from arinv.types import Array, ArrayLike, Variables

_SLOPE = 0.2
_GAIN = math.sqrt(2)


def sizes(image_size: int) -> tuple[int, ...]:
    """Returns the sizes that a network grows through, 4 to `image_size`, in pixels.

    Args:
      image_size: side of the images, in pixels.

    Returns:
      Powers of two, ascending.

    Raises:
      UserError: a size that is not a power of two of 4 or more.
    """
    if image_size < 4 or image_size & (image_size - 1):
        raise UserError(f"image_size of a progressive GAN must be 4, 8, 16, ... px; got {image_size}")
    return tuple(4 << i for i in range(image_size.bit_length() - 2))


def pixel_norm(x: Array) -> Array:
    """Returns x [..., C] over the root mean square of its last axis, x / sqrt(mean(x^2) + 1e-8) (section 4.2).

    Args:
      x: [..., C], features.

    Returns:
      [..., C], of mean square 1 over the last axis.
    """
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def minibatch_deviation(x: Array, group_size: int = 4) -> Array:
    """Returns x [B, H, W, C] with one more channel, the deviation within groups of the batch (section 3).

    Example i belongs to group i mod (B / group_size). The standard deviation over the examples of a group is averaged
    over positions and channels.

    Args:
      x: [B, H, W, C].
      group_size: number of examples in a group.

    Returns:
      [B, H, W, C + 1].

    Raises:
      UserError: a batch that is not a multiple of the group; smaller batches are one group.
    """
    count = x.shape[0]
    group_size = min(group_size, count)
    if count % group_size:
        raise UserError(f"a batch of {count} cannot be split into groups of {group_size}; use a multiple")
    groups = x.astype(jnp.float32).reshape(group_size, -1, *x.shape[1:])
    variance = jnp.mean(jnp.square(groups - jnp.mean(groups, axis=0, keepdims=True)), axis=0)
    deviation = jnp.mean(jnp.sqrt(variance + 1e-8), axis=(1, 2, 3))
    deviation = jnp.tile(deviation, group_size).astype(x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(deviation[:, None, None, None], (*x.shape[:3], 1))], axis=-1)


def fade_images(images: Array, fade: ArrayLike) -> Array:
    """Returns images [B, H, W, C] mixed with their 2x2 means by a fraction, as the networks see them while growing.

    Args:
      images: [B, H, W, C] of an even size.
      fade: weight of the images, 0 to 1; 0 for the means alone.

    Returns:
      [B, H, W, C].
    """
    means = pooling.upsample_nearest(pooling.avg_pool(images, 2, 2))
    return means + fade * (images - means)


def grow(variables: Variables, smaller: Variables) -> Variables:
    """Returns the variables of a network with those of the network of half the size in their places.

    Args:
      variables: initial variables of the larger network.
      smaller: trained variables of the network of half the size.

    Returns:
      Variables of the larger network.

    Raises:
      UserError: a parameter that the larger network does not have, or of another shape.
    """

    def replaced(new: Mapping[str, Any], old: Mapping[str, Any], path: str) -> dict[str, Any]:
        merged = dict(new)
        for name, value in old.items():
            place = f"{path}/{name}"
            if name not in new:
                raise UserError(f"{place} of the smaller network is not in the larger one; give both the same widths")
            if isinstance(value, Mapping):
                merged[name] = replaced(new[name], value, place)
            elif jnp.shape(value) != jnp.shape(new[name]):
                shapes = f"{jnp.shape(value)}, in the larger one {jnp.shape(new[name])}"
                raise UserError(f"{place} has the shape {shapes}; give both networks the same widths")
            else:
                merged[name] = value
        return merged

    return replaced(variables, smaller, "")


class EqualizedConv(nn.Module):
    """Convolution of stride 1 whose N(0, 1) kernel is scaled by gain / sqrt(fan-in), with a bias."""

    features: int
    size: int = 3
    gain: float = _GAIN
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the convolution of x [B, H, W, C], of the same size."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        kernel = kernel * (self.gain / math.sqrt(math.prod(shape[:3])))
        pads = ((self.size // 2, (self.size - 1) // 2),) * 2
        y = conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return add_bias(y, bias.astype(self.dtype))


class EqualizedDense(nn.Module):
    """Dense layer whose N(0, 1) kernel is scaled by gain / sqrt(fan-in), with a bias or without."""

    features: int
    gain: float = _GAIN
    use_bias: bool = True
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns x [B, K] times the scaled kernel plus the bias."""
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.features), jnp.float32)
        y = x.astype(self.dtype) @ (kernel * (self.gain / math.sqrt(x.shape[-1]))).astype(self.dtype)
        if not self.use_bias:
            return y
        return add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype))


class _Widths(ShapeChecked):
    """What both networks have in common.

    Attributes:
      image_size: side of the images in pixels, 4 or a larger power of two.
      channels: number of channels of the images, 1 or 3.
      latent_size: K of the latents.
      base_width: the features at a side of s px are 2 base_width / s, at most `max_width`.
      max_width: largest number of features.
      dtype: type of the computation; parameters and outputs stay float32.
    """

    image_size: int = 128
    channels: int = 3
    latent_size: int = 512
    base_width: int = 8192
    max_width: int = 512
    dtype: jax.typing.DTypeLike = jnp.float32

    def width(self, side: int) -> int:
        """Returns the number of features at a side in pixels.

        Raises:
          UserError: base_width leaves no feature at that side.
        """
        width = min(2 * self.base_width // side, self.max_width)
        if width < 1:
            raise UserError(f"base_width={self.base_width} leaves no feature at {side} px; take {side // 2} or more")
        return width

    def _conv(self, name: str, width: int) -> EqualizedConv:
        return EqualizedConv(width, dtype=self.dtype, name=name)


class ProgressiveGenerator(_Widths):
    """Latents [B, K], N(0, I) -> images [B, H, W, C], near [0, 1]: its last layer is linear.

    22,933,394 parameters at 128 px.
    """

    @nn.compact
    def __call__(self, latents: Array, fade: ArrayLike = 1.0, *, train: bool = False) -> Array:
        """Returns images of latents.

        Args:
          latents: [B, K]; only their direction counts.
          fade: share of the last block, 0 to 1; may be traced. The rest is the enlarged image of the block before.
          train: no effect: the network has no batch statistics.

        Raises:
          UserError: latents of another shape, or an image size that is not a power of two.
        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_size:
            raise UserError(f"latents must be [B, {self.latent_size}]; got shape {latents.shape}")
        width = self.width(4)
        dense = EqualizedDense(16 * width, gain=_GAIN / 4, use_bias=False, dtype=self.dtype, name="dense")
        x = dense(pixel_norm(latents.astype(jnp.float32))).reshape(latents.shape[0], 4, 4, width)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        x = self._activate(add_bias(x, bias.astype(self.dtype)))
        x = self._activate(self._conv("conv4", width)(x))
        image = before = self._to_rgb(x, 4)
        for side in sizes(self.image_size)[1:]:
            x = pooling.upsample_nearest(x)
            for i in range(2):
                x = self._activate(self._conv(f"conv{side}_{i}", self.width(side))(x))
            before, image = pooling.upsample_nearest(image), self._to_rgb(x, side)
        image = before + jnp.asarray(fade, jnp.float32) * (image - before)
        return (image + 1) / 2

    def _activate(self, x: Array) -> Array:
        x = nn.leaky_relu(x, _SLOPE)
        return pixel_norm(x.astype(jnp.float32)).astype(self.dtype)

    def _to_rgb(self, x: Array, side: int) -> Array:
        return EqualizedConv(self.channels, 1, gain=1.0, dtype=self.dtype, name=f"rgb{side}")(x).astype(jnp.float32)


class ProgressiveDiscriminator(_Widths):
    """Images [B, H, W, C] in [0, 1] -> scores [B], larger for real ones.

    22,941,313 parameters at 128 px.

    Attributes:
      group_size: number of examples over which `minibatch_deviation` is computed.
    """

    group_size: int = 4

    @nn.compact
    def __call__(self, images: Array, fade: ArrayLike = 1.0, *, train: bool = False) -> Array:
        """Returns the scores of images.

        Args:
          images: [B, H, W, C] in [0, 1].
          fade: share of the first block, 0 to 1; may be traced. The rest are the features of the images' 2x2 means.
          train: no effect: the network has no batch statistics.

        Raises:
          UserError: images of another size, or a batch that cannot be split into groups.
        """
        expected = (self.image_size, self.image_size, self.channels)
        if images.shape[1:] != expected:
            raise UserError(f"images must be [B, {', '.join(map(str, expected))}]; got shape {images.shape}")
        images = (2 * images.astype(jnp.float32) - 1).astype(self.dtype)
        sides = sizes(self.image_size)[::-1]
        x = self._from_rgb(images, sides[0])
        for i, side in enumerate(sides[:-1]):
            x = self._activate(self._conv(f"conv{side}_0", self.width(side))(x))
            x = self._activate(pooling.avg_pool(self._conv(f"conv{side}_1", self.width(side // 2))(x), 2, 2))
            images = pooling.avg_pool(images, 2, 2)
            # RGB layers of lower sizes are owned by every network, so that its parameters contain those before it.
            smaller = self._from_rgb(images, side // 2)
            if i == 0:
                x = smaller + jnp.asarray(fade, self.dtype) * (x - smaller)
        x = minibatch_deviation(x, self.group_size)
        x = self._activate(self._conv("conv4", self.width(4))(x))
        x = EqualizedDense(self.width(4), dtype=self.dtype, name="dense0")(flatten_rows(x))
        x = EqualizedDense(1, gain=1.0, dtype=self.dtype, name="dense1")(self._activate(x))
        return x[:, 0].astype(jnp.float32)

    def _activate(self, x: Array) -> Array:
        return nn.leaky_relu(x, _SLOPE)

    def _from_rgb(self, images: Array, side: int) -> Array:
        conv = EqualizedConv(self.width(side), 1, dtype=self.dtype, name=f"rgb{side}")
        return self._activate(conv(images))
