"""The Gram loss: how far an image is from another one's style, by the statistics of a network's features.

Images are float [B, H, W, C] in [0, 1]. The published figures are those of VGG-19 trained on ImageNet; any other
network gives another scale.

Source: Gatys et al. 2016, section 2.2, as evaluated by Rojas-Gomez et al. 2022 in their comparison of style transfer.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.types import Array, ArrayLike, FeaturesFn

GRAM_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")  # of VGG-19

GRAM_VARIANT = (
    "gram: mean squared difference of the Gram matrices F F^T / (C H W) plus that of the channel means, "
    "sum over layers, RGB in [0, 1], per image"
)


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
    both = features_fn(images_a), features_fn(images_b)
    total = jnp.zeros(images_a.shape[0], jnp.float32)
    for layer in layers:
        (gram_a, mean_a), (gram_b, mean_b) = (_statistics(features, layer) for features in both)
        total += jnp.mean(jnp.square(gram_a - gram_b), axis=(1, 2)) + jnp.mean(jnp.square(mean_a - mean_b), axis=1)
    return total


def _statistics(features, layer: str) -> tuple[Array, Array]:
    """Returns the Gram matrices [B, K, K] and the channel means [B, K] of one layer."""
    if layer not in features:
        raise unknown("layer", layer, features)
    feature = features[layer].astype(jnp.float32)
    if feature.ndim != 4:
        raise UserError(f"{layer} has shape {feature.shape}; a Gram matrix needs a spatial feature [B, h, w, K].")
    _, height, width, channels = feature.shape
    gram = jnp.einsum("bhwi,bhwj->bij", feature, feature) / (channels * height * width)
    return gram, jnp.mean(feature, axis=(1, 2))
