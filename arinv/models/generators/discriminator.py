"""The discriminator of images given features, and the folding of spectral normalization into weights.

Source: Rojas-Gomez et al. 2022, Table A5, and the released code where the table's sizes are impossible
(7x7 stem, no padding after it, ReLU, dropout); after Dosovitskiy & Brox 2016b (DeePSiM), Table 1.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.models.layers import Conv, Dense, ShapeChecked, torch_uniform
from arinv.ops.channels import flatten_rows
from arinv.types import Array, Variables


def stem_stride(image_size: int) -> int:
    """Returns the stride of the first convolution: 4 at 224 px, less where it would leave too few features.

    Args:
      image_size: side of the images, in pixels.

    Returns:
      The stride, 1 to 4.
    """
    return min(4, max(1, image_size // 28))


class Discriminator(ShapeChecked):
    """Five convolutions over the image, two dense layers over the features, two over both.

    11,372,353 parameters with AlexNet's conv5 at 224 px. DeePSiM's reads no features, and has two outputs, whose
    difference is the logit: 1,147,714 parameters without spectral normalization.

    Attributes:
      conditional: whether it reads features; otherwise it is DeePSiM's.
      stem_stride: stride of the first convolution.
      dropout: rate before the last two layers, in training.
      negative_slope: slope of the rectifier below 0; 0 is ReLU.
      spectral_norm: normalize every kernel by its largest singular value.
      dtype: type of the computation; parameters and logits stay float32.
    """

    conditional: bool = True
    stem_stride: int = 4
    dropout: float = 0.5
    negative_slope: float = 0.0
    spectral_norm: bool = True
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array, features: Array | None = None, *, train: bool = False) -> Array:
        """Returns logits [B] (positive: real) of images [B, H, W, 3] in [0, 1] with target features [B, ...].

        Raises:
          UserError: images that are integers or too small, or no features of as many images where it reads them.
        """
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"images must be floating point in [0, 1]; got {images.dtype}")
        if self.conditional and (features is None or features.shape[0] != images.shape[0]):
            given = "none" if features is None else f"{features.shape[0]}"
            raise UserError(f"this discriminator needs the features of {images.shape[0]} images; got {given}")
        options = {"use_bias": True, "spectral_norm": self.spectral_norm, "dtype": self.dtype}

        def rectify(x):
            return nn.leaky_relu(x, self.negative_slope)

        x = images.astype(self.dtype)
        stem = (32, 7, self.stem_stride, 1)
        for i, (width, size, stride, padding) in enumerate(
            (stem, (64, 5, 1, 0), (128, 3, 2, 0), (256, 3, 1, 0), (256, 3, 2, 0))
        ):
            conv = Conv(width, size, stride, padding, name=f"conv{i}", **options)
            if min(x.shape[1:3]) + 2 * padding < size:
                raise UserError(
                    f"images of {images.shape[2]}x{images.shape[1]} px are too small for this discriminator; build it "
                    "for their size"
                )
            x = rectify(conv(x, train=train))
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2)).astype(self.dtype)

        if not self.conditional:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = rectify(Dense(512, name="joint0", **options)(x, train=train))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = Dense(2, name="joint1", **options)(x, train=train).astype(jnp.float32)
            return x[:, 0] - x[:, 1]

        y = flatten_rows(features).astype(self.dtype)
        for i, width in enumerate((1024, 512)):
            y = rectify(Dense(width, kernel_init=torch_uniform, name=f"features{i}", **options)(y, train=train))

        z = jnp.concatenate([x, y], axis=-1)
        z = nn.Dropout(self.dropout, deterministic=not train)(z)
        z = rectify(Dense(512, name="joint0", **options)(z, train=train))
        z = nn.Dropout(self.dropout, deterministic=not train)(z)
        return Dense(1, name="joint1", **options)(z, train=train).astype(jnp.float32)[:, 0]


def fold_spectral_norm(module: nn.Module, variables: Variables) -> tuple[nn.Module, Variables]:
    """Returns a network without spectral normalization, and weights for the same outputs in evaluation.

    Args:
      module: a network with an attribute spectral_norm, such as a generator or a discriminator.
      variables: variables of the network, with the collections "params" and, where it is normalized, "spectral".

    Returns:
      The network and its weights, unchanged if it has no spectral normalization.
    """
    if "spectral" not in variables:
        return module, variables
    params: dict[str, Any] = dict(variables["params"])
    for name, state in variables["spectral"].items():
        kernel, u, v = (np.asarray(x) for x in (params[name]["kernel"], state["vectors"]["u"], state["vectors"]["v"]))
        sigma = v @ kernel.reshape(-1, kernel.shape[-1]) @ u
        params[name] = {**params[name], "kernel": kernel / sigma}
    rest = {name: value for name, value in variables.items() if name != "spectral"}
    return module.clone(spectral_norm=False), {**rest, "params": params}
