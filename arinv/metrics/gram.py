"""The Gram loss, a distance in style between images, from the statistics of a network's features.

Images are float [B, H, W, C] in [0, 1]. The published figures are those of VGG-19 trained on ImageNet; any other
network gives another scale.

Source: Gatys et al. 2016, section 2.2, as evaluated by Rojas-Gomez et al. 2022 in their comparison of style transfer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.ops.inputs import as_images, check_layers, layer_features, without_infinity
from arinv.types import Array, ArrayLike, FeaturesFn

GRAM_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")  # of VGG-19

# Reduction over the differences in each layer -> exact formula.
GRAM_VARIANTS = {
    "mean": (
        "gram: mean squared difference of the Gram matrices F F^T / (C H W) plus that of the channel means, "
        "sum over layers, RGB in [0, 1], per image"
    ),
    "sum": (
        "gram: sum of squared differences of the Gram matrices F F^T, over 4 C^2 (H W)^2, mean over layers "
        "(Gatys et al. 2016, eqs. 4 and 5), RGB in [0, 1], per image"
    ),
}
GRAM_VARIANT = GRAM_VARIANTS["mean"]


class GramStatistics(NamedTuple):
    """The style statistics of B images in one layer.

    Attributes:
      gram: Gram matrices [B, K, K], divided by the number of features.
      mean: channel means [B, K].
    """

    gram: Array
    mean: Array


def gram_loss(
    features_fn: FeaturesFn,
    images_a: ArrayLike,
    images_b: ArrayLike,
    *,
    layers: Sequence[str] = GRAM_LAYERS,
    reduction: str = "mean",
) -> Array:
    """Returns the difference in style of each pair of images.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images_a: [B, H, W, C] in [0, 1].
      images_b: [B, H', W', C] in [0, 1], of any size.
      layers: names of the features [B, h, w, K] to compare.
      reduction: "mean" as in the comparison of Rojas-Gomez et al. 2022, or "sum" as Gatys et al. 2016 minimize it;
        GRAM_VARIANTS says what each computes.

    Returns:
      float32 [B], 0 or more; lower is more similar. NaN for an image that is not finite.

    Raises:
      UserError: images outside [0, 1], different numbers of them, a layer that is not among the features or not
        spatial, or an unknown reduction.

    Source: Rojas-Gomez et al. 2022, released code of the style transfer; Gatys et al. 2016, eqs. 4 and 5.
    """
    pair = (("images_a", images_a), ("images_b", images_b))
    images_a, images_b = (without_infinity(as_images(images, name, finite=False)) for name, images in pair)
    if images_a.shape[0] != images_b.shape[0]:
        raise UserError(f"cannot pair {images_a.shape[0]} images with {images_b.shape[0]}; give as many of each")
    statistics = (gram_statistics(features_fn, images, layers=layers) for images in (images_a, images_b))
    return gram_distance(*statistics, reduction=reduction)


def gram_statistics(
    features_fn: FeaturesFn, images: ArrayLike, *, layers: Sequence[str] = GRAM_LAYERS
) -> tuple[GramStatistics, ...]:
    """Returns the statistics of the Gram loss, for images that are compared with many others.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images: [B, H, W, C] in [0, 1].
      layers: names of the features [B, h, w, K].

    Returns:
      The statistics of each layer.

    Raises:
      UserError: images outside [0, 1], no layer, or one that is not among the features or not spatial.
    """
    check_layers(layers)
    if not len(layers):
        raise UserError("the Gram loss needs at least one layer; GRAM_LAYERS has those of VGG-19")
    with jax.default_matmul_precision("highest"):  # a GPU's TF32 would show in the third digit
        features = layer_features(features_fn, as_images(images, finite=False), layers)
        return tuple(_statistics(feature, layer) for feature, layer in zip(features, layers, strict=True))


def gram_distance(a: Sequence[GramStatistics], b: Sequence[GramStatistics], *, reduction: str = "mean") -> Array:
    """Returns the Gram loss of each pair of images from their statistics.

    Args:
      a: statistics of B images, one for each layer.
      b: those of B others, for the same layers.
      reduction: see `gram_loss`.

    Returns:
      float32 [B], 0 or more; lower is more similar.

    Raises:
      UserError: an unknown reduction, or statistics of different shapes.
    """
    if reduction not in GRAM_VARIANTS:
        raise unknown("reduction of the Gram loss", reduction, GRAM_VARIANTS)
    shapes = [[one.gram.shape for one in statistics] for statistics in (a, b)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise UserError(f"statistics of {shapes[0]} and {shapes[1]} cannot be compared: take as many, of one network")
    total = jnp.zeros(a[0].mean.shape[0], jnp.float32)
    for one, other in zip(a, b, strict=True):
        squares = jnp.square(one.gram - other.gram)
        if reduction == "sum":  # the matrices are already divided by C H W
            total += jnp.sum(squares, axis=(1, 2)) / (4 * len(a))
            continue
        total += jnp.mean(squares, axis=(1, 2))
        total += jnp.mean(jnp.square(one.mean - other.mean), axis=1)
    return total


def _statistics(feature: Array, layer: str) -> GramStatistics:
    if feature.ndim != 4:
        raise UserError(f"a Gram matrix needs a spatial feature [B, h, w, K]; got shape {feature.shape} for {layer}")
    _, height, width, channels = feature.shape
    gram = jnp.einsum("bhwi,bhwj->bij", feature, feature) / (channels * height * width)
    return GramStatistics(gram, jnp.mean(feature, axis=(1, 2)))
