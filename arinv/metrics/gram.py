"""The Gram loss: how far an image is from another one's style, by the statistics of a network's features.

Images are float [B, H, W, C] in [0, 1]. The published figures are those of VGG-19 trained on ImageNet; any other
network gives another scale.

Source: Gatys et al. 2016, section 2.2, as evaluated by Rojas-Gomez et al. 2022 in their comparison of style transfer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.types import Array, ArrayLike, FeaturesFn

GRAM_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")  # of VGG-19

GRAM_VARIANT = (
    "gram: mean squared difference of the Gram matrices F F^T / (C H W) plus that of the channel means, "
    "sum over layers, RGB in [0, 1], per image"
)


class GramStatistics(NamedTuple):
    """The style of B images, as one layer sees it.

    Attributes:
      gram: Gram matrices [B, K, K], divided by the number of features.
      mean: channel means [B, K].
    """

    gram: Array
    mean: Array


def gram_loss(
    features_fn: FeaturesFn, images_a: ArrayLike, images_b: ArrayLike, *, layers: Sequence[str] = GRAM_LAYERS
) -> Array:
    """Returns the difference in style of each pair of images.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images_a: [B, H, W, C] in [0, 1].
      images_b: [B, H', W', C] in [0, 1]; its size may be another one.
      layers: names of the features [B, h, w, K] to compare.

    Returns:
      float32 [B], 0 or more; lower is more alike.

    Raises:
      UserError: different numbers of images, or a layer that is not among the features or not spatial.

    Source: Rojas-Gomez et al. 2022, released code of the style transfer.
    """
    images_a, images_b = jnp.asarray(images_a), jnp.asarray(images_b)
    if images_a.shape[0] != images_b.shape[0]:
        raise UserError(f"cannot pair {images_a.shape[0]} images with {images_b.shape[0]}; give as many of each.")
    return gram_distance(*(gram_statistics(features_fn, images, layers=layers) for images in (images_a, images_b)))


def gram_statistics(
    features_fn: FeaturesFn, images: ArrayLike, *, layers: Sequence[str] = GRAM_LAYERS
) -> tuple[GramStatistics, ...]:
    """Returns what the Gram loss compares, for images that are compared with many others.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images: [B, H, W, C] in [0, 1].
      layers: names of the features [B, h, w, K] to look at.

    Returns:
      Statistics of each layer.

    Raises:
      UserError: a layer that is not among the features or not spatial.
    """
    features = features_fn(jnp.asarray(images))
    return tuple(_statistics(features, layer) for layer in layers)


def gram_distance(a: Sequence[GramStatistics], b: Sequence[GramStatistics]) -> Array:
    """Returns the Gram loss of each pair of images from their statistics.

    Args:
      a: of B images, layer by layer.
      b: of B others, from the same layers.

    Returns:
      float32 [B], 0 or more; lower is more alike.
    """
    total = jnp.zeros(a[0].mean.shape[0], jnp.float32)
    for one, other in zip(a, b, strict=True):
        total += jnp.mean(jnp.square(one.gram - other.gram), axis=(1, 2))
        total += jnp.mean(jnp.square(one.mean - other.mean), axis=1)
    return total


def _statistics(features, layer: str) -> GramStatistics:
    if layer not in features:
        raise unknown("layer", layer, features)
    feature = features[layer].astype(jnp.float32)
    if feature.ndim != 4:
        raise UserError(f"{layer} has shape {feature.shape}; a Gram matrix needs a spatial feature [B, h, w, K].")
    _, height, width, channels = feature.shape
    gram = jnp.einsum("bhwi,bhwj->bij", feature, feature) / (channels * height * width)
    return GramStatistics(gram, jnp.mean(feature, axis=(1, 2)))
