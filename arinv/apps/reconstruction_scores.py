"""How far a reconstruction is from its image, in pixels and in features: the score of an anomaly.

Images [B, H, W, C] in [0, 1]; both terms are sums over an image, so that the papers' weights keep their meaning.

Source: Rojas-Gomez et al. 2022, section 3.3.
"""

import jax

from arinv import losses
from arinv.ops.inputs import as_image_pair, as_images, layer_features
from arinv.types import Array, ArrayLike, DecodeFn, FeaturesFn


def reconstruction_terms(
    reconstructions: ArrayLike,
    reconstructed: ArrayLike,
    images: ArrayLike,
    features: ArrayLike,
    *,
    pixel_weight: float,
    feature_weight: float,
) -> tuple[Array, Array]:
    """Returns the two weighted terms of the score; the score is their sum.

    Args:
      reconstructions: [B, H, W, C] in [0, 1].
      reconstructed: [B, ...], their features.
      images: [B, H, W, C] in [0, 1].
      features: [B, ...], the features of the images.
      pixel_weight: of the sum of absolute differences between pixels; may be traced.
      feature_weight: of the sum of squared differences between features; may be traced.

    Returns:
      float32 [B], float32 [B].

    Raises:
      UserError: shapes that do not fit each other.

    Source: Rojas-Gomez et al. 2022, eqs. 4 and 5; section A2 for the weights, of which the main text and the appendix
    of the first version differ in that of the features (2e-2 and 1e-2): the released code has 1e-2.
    """
    pixel = pixel_weight * losses.pixel_loss(reconstructions, images)
    return pixel, feature_weight * losses.feature_loss(reconstructed, features)


def amortized_scores(
    decode_fn: DecodeFn,
    features_fn: FeaturesFn,
    images: ArrayLike,
    *,
    layer: str,
    pixel_weight: float,
    feature_weight: float,
) -> Array:
    """Returns the scores of the reconstructions from the images' own features: one pass instead of a search.

    Differentiable in the images, end to end.

    Args:
      decode_fn: features [B, ...] -> images [B, H, W, C] in [0, 1].
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images: [B, H, W, C] in [0, 1].
      layer: the feature that `decode_fn` inverts and that is compared.
      pixel_weight: see `reconstruction_terms`.
      feature_weight: see `reconstruction_terms`.

    Returns:
      float32 [B].

    Raises:
      UserError: images outside [0, 1] or of another size, or a layer that is not among the features.
    """
    images = as_images(images)
    (features,) = layer_features(features_fn, images, (layer,))
    reconstructions = decode_fn(features)
    (reconstructed,) = layer_features(features_fn, reconstructions, (layer,))
    weights = {"pixel_weight": pixel_weight, "feature_weight": feature_weight}
    return sum(reconstruction_terms(reconstructions, reconstructed, images, features, **weights))


def held_scores(
    features_fn: FeaturesFn,
    images: ArrayLike,
    reconstructions: ArrayLike,
    *,
    layer: str,
    pixel_weight: float,
    feature_weight: float,
) -> Array:
    """Returns the scores of images against given reconstructions, which stay what they are.

    With the reconstructions of a latent search this is its score, and the differentiable stand-in for it where the
    image changes: the search would answer a changed image with another latent, whose score is lower or equal as
    far as the search finds the best one.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images: [B, H, W, C] in [0, 1].
      reconstructions: [B, H, W, C] in [0, 1], constants.
      layer: the feature that is compared.
      pixel_weight: see `reconstruction_terms`.
      feature_weight: see `reconstruction_terms`.

    Returns:
      float32 [B].

    Raises:
      UserError: images outside [0, 1] or of another size, or a layer that is not among the features.
    """
    reconstructions, images = as_image_pair(reconstructions, images)
    reconstructions = jax.lax.stop_gradient(reconstructions)
    (reconstructed,) = layer_features(features_fn, reconstructions, (layer,))
    reconstructed = jax.lax.stop_gradient(reconstructed)
    (features,) = layer_features(features_fn, images, (layer,))
    weights = {"pixel_weight": pixel_weight, "feature_weight": feature_weight}
    return sum(reconstruction_terms(reconstructions, reconstructed, images, features, **weights))
