"""The base class of encoders, with the facts that each states, and their pixel normalization.

An encoder is one file with a subclass of `Encoder` and one row of `ENCODERS` in arinv/models/registry.py. Generators,
image sizes, weights from PyTorch, styles and the contract tests follow from what the class states.
"""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError, unknown
from arinv.models.layers import Misfit, ShapeChecked
from arinv.ops.inputs import as_images
from arinv.types import Array

MeanStd = tuple[tuple[float, float, float], tuple[float, float, float]]  # of RGB in [0, 1]
Normalization = str | MeanStd  # a name, or the numbers themselves

# name -> (mean, standard deviation) of RGB in [0, 1]
NORMALIZATIONS: dict[str, MeanStd] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # the mean deviation of an image
    "cifar10_pixels": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),  # the deviation of all pixels
    "cifar100_pixels": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "pm1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    # 255 x - mean, the pixels of Caffe, for whose scale CaffeNet's local response normalization is made
    "caffe": ((122.68 / 255, 116.67 / 255, 104.01 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class Stage(NamedTuple):
    """One resolution on the way from the image to a feature.

    Attributes:
      stride: image pixels per feature pixel along one side.
      width: channels of the last activation at that resolution.
    """

    stride: int
    width: int


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """The place of a named feature in its encoder.

    Attributes:
      stages: resolutions from the image, of stride 1, to the feature (for a vector, to the last spatial feature
        before it); with those that a strided layer skips. Strides grow by factors of two, or stay for one more layer of
        another width.
      offset: image side / stride minus the side of the feature; 1 in AlexNet, whose pools round down.
      is_vector: whether the feature is [B, K] after a fully connected layer.
    """

    stages: tuple[Stage, ...]
    offset: int = 0
    is_vector: bool = False

    def side(self, image_size: int) -> int:
        """Returns the side of the last spatial feature, in positions, for square images of `image_size` pixels.

        Args:
          image_size: side of the images, in pixels.
        """
        return image_size // self.stages[-1].stride - self.offset


class TorchLayer(NamedTuple):
    """A layer with weights, and its names and layout in PyTorch's checkpoints.

    Attributes:
      path: path in our variables, below the collection, parts joined by "/".
      names: names in PyTorch, without ".weight"; all are read, the first is written.
      transposed: whether it is a transposed convolution.
      channels: number of channels of the map that a dense layer reads flattened, channel by channel in PyTorch and
        pixel by pixel here; 0 for any other layer.
    """

    path: str
    names: tuple[str, ...]
    transposed: bool = False
    channels: int = 0


class Encoder(ShapeChecked):
    """An image classifier that also returns its features: images [B, H, W, 3] in [0, 1] -> (logits, features).

    A subclass defines `__call__(images, *, train=False)`, which begins with `self.normalize(images)` and returns
    (logits float32 [B, num_classes], {name: feature}), and `feature_specs()`. With num_classes=0 it omits its
    head and returns empty logits [B, 0]. It states these facts as class attributes, or as properties where they
    depend on its options:

      image_size: side in pixels of the images that it was designed for.
      smallest_side: side in pixels of the smallest images that it takes.
      has_fixed_head: whether weights with a head fit images of one size only.
      has_host_features: whether its features are computed by `host_features` and come with the batch.
      has_weights: False for a fixed function of the image, which has no classes either and is never trained.
      default_layer: the feature that is inverted unless another is named.
      style_layers: the features that styles are transferred at, the deepest first.

    Attributes:
      num_classes: length of the logits; 0 omits the head.
      normalization: pixel normalization, a name or (mean, standard deviation); see `mean_std`.
      dtype: type of the computation; parameters, statistics and logits stay float32.
    """

    num_classes: int = 1000
    normalization: Normalization = "imagenet"
    dtype: jax.typing.DTypeLike = jnp.float32

    image_size: ClassVar[int]
    smallest_side: ClassVar[int] = 1
    has_fixed_head: ClassVar[bool] = False
    has_host_features: ClassVar[bool] = False
    has_weights: ClassVar[bool] = True
    default_layer: ClassVar[str]
    style_layers: ClassVar[tuple[str, ...]]

    @nn.nowrap
    def shape_error(self, misfit: Misfit, images: Array, *others: Any) -> str:
        """Returns what does not fit: the size of images, where a head has weights for another, or the weights."""
        is_dense = len(misfit.needed) == len(misfit.given) == 2
        if not (self.has_fixed_head and is_dense and misfit.needed[0] != misfit.given[0]):
            return super().shape_error(misfit, images, *others)
        height, width = images.shape[1:3]
        return (
            f"images of {height} x {width} px do not fit the dense layers of this {type(self).__name__}, trained "
            "on another size: resize the images to that, or apply the convolutions alone (num_classes=0)"
        )

    def check_installed(self) -> None:
        """Checks that the optional packages that it needs are installed.

        Raises:
          UserError: one is missing.
        """

    def host_features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the arrays that a batch has for features computed on the host.

        Args:
          images: uint8 [B, H, W, 3].

        Returns:
          Arrays of B rows: "features", with "places" where they are sparse, see `arinv.ops.sift.spread`, and numbers
          [B] that are reported.
        """
        raise NotImplementedError

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature."""
        raise NotImplementedError

    def torch_layers(self) -> tuple[TorchLayer, ...]:
        """Returns the layers with weights, that of the logits last; empty where PyTorch has no such network."""
        return ()

    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Returns the options of the network in a state dict that its names and shapes show, such as depth and width.

        Args:
          shapes: name in PyTorch -> shape of the tensor.

        Returns:
          Options of `build`; empty where the shapes show none.
        """
        return {}

    def normalize(self, images: Array) -> Array:
        """Returns the normalized pixels [B, H, W, 3] of images [B, H, W, 3] in [0, 1].

        Args:
          images: float [B, H, W, 3] in [0, 1]; one channel stands for three equal ones.

        Returns:
          [B, H, W, 3] in `dtype`.

        Raises:
          UserError: images of another layout, dtype or range, or smaller than smallest_side.
        """
        x = normalize(images, self.normalization, self.dtype)
        height, width = x.shape[1:3]
        if min(height, width) < self.smallest_side:
            raise UserError(
                f"{type(self).__name__} takes images of at least {self.smallest_side} x {self.smallest_side} px; got "
                f"{height} x {width}: raise image_size, or take an encoder for smaller ones, such as resnet18 or "
                "alexnet_small"
            )
        return x


def spatial_layers(encoder: Encoder) -> tuple[str, ...]:
    """Returns the names of the features [B, h, w, K] of an encoder, from the image on."""
    return tuple(name for name, spec in encoder.feature_specs().items() if not spec.is_vector)


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """Returns the number of different numbers that follow a prefix in names such as "layer1.0.conv1.weight"."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    return sum(number.isdecimal() for number in numbers)


def mean_std(normalization: Normalization) -> MeanStd:
    """Returns mean and standard deviation of RGB in [0, 1].

    Args:
      normalization: "imagenet", "cifar10" (both as in MadryLab's robustness library), "cifar10_pixels" and
        "cifar100_pixels" (as in Rice et al. 2020, Wong et al. 2020 and DeepMind's networks), "pm1" (2x - 1, as in the
        released code of Rojas-Gomez et al. 2022), "caffe" (255 x - mean), "none", or the numbers: (mean, standard
        deviation), three of each.

    Returns:
      (mean, standard deviation), three numbers each.

    Raises:
      UserError: unknown name, not two times three finite numbers, a deviation that is not above 0, or numbers above 1,
        as those of grey levels.
    """
    if isinstance(normalization, str):
        if normalization not in NORMALIZATIONS:
            raise unknown("normalization", normalization, NORMALIZATIONS)
        return NORMALIZATIONS[normalization]
    try:
        mean, std = (tuple(float(x) for x in part if isinstance(x, numbers.Real)) for part in normalization)
    except (TypeError, ValueError):
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UserError(
            f"normalization must be a name ({', '.join(NORMALIZATIONS)}), or mean and standard deviation of red, green "
            f"and blue in [0, 1], deviations above 0; got {normalization!r}"
        )
    if max(map(abs, (*mean, *std))) > 1:
        raise UserError(
            f"normalization must be that of pixels in [0, 1], with means and deviations up to 1; got {normalization!r}"
            ": divide those of pixels in 0 to 255 by 255"
        )
    return mean, std


def normalize(
    images: Array, normalization: Normalization, dtype=jnp.float32, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Array:
    """Returns (images - mean) / std, after checking the images: the input of every encoder.

    Args:
      images: float [B, H, W, 3] in [0, 1]; one channel stands for three equal ones.
      normalization: as for `mean_std`.
      dtype: floating-point type of the result.
      bounds: allowed range of the images.

    Returns:
      [B, H, W, 3] in `dtype`.

    Raises:
      UserError: as for `mean_std`, or images of another layout, dtype or (where values are known) range.
    """
    mean, std = (jnp.asarray(c, jnp.float32)[None, None, None, :] for c in mean_std(normalization))
    images = as_images(images, finite=False, bounds=bounds)
    return ((images - mean) / std).astype(dtype)
