"""LPIPS, a perceptual distance between images from the features of a network, published and robust.

Images are float [B, H, W, C] in [0, 1]; `features_fn` includes the network's normalization. The published metric uses
AlexNet or VGG-16 trained on ImageNet, with learned weights of the channels (`heads`). Robust LPIPS is the same distance
for an adversarially robust encoder, with equal weights of all channels. Different networks have different scales.

Source: Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric", eq. (1).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.inputs import as_finite, as_image_pair, check_layers, is_concrete, layer_features
from arinv.types import Array, ArrayLike, FeaturesFn

# The features of version 0.1, named as in our encoders "alexnet" and "vgg16": all after their ReLU.
LPIPS_LAYERS = {
    "alex": ("relu1", "relu2", "conv3", "conv4", "relu5"),
    "vgg": ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"),
}

_FORMULA = "features divided by (their length over channels + 1e-10), squared difference"
_REDUCTION = "mean over positions, sum over layers, RGB in [0, 1], per image"
LPIPS_VARIANTS = {
    f"lpips_{name}": (
        f"lpips_{name}: version 0.1, {network} at {', '.join(LPIPS_LAYERS[name])}, {_FORMULA}, "
        f"weighted sum over channels (linear heads of the package lpips), {_REDUCTION}"
    )
    for name, network in (("alex", "AlexNet"), ("vgg", "VGG-16"))
}
ROBUST_LPIPS_VARIANT = (
    f"robust_lpips: {_FORMULA}, plain sum over channels (no heads), {_REDUCTION}; "
    "not comparable with LPIPS, nor between encoders"
)

_FLOOR = 1e-10  # as in version 0.1


def lpips(
    features_fn: FeaturesFn,
    reconstructions: ArrayLike,
    images: ArrayLike,
    *,
    layers: Sequence[str],
    heads: Sequence[ArrayLike] | None = None,
) -> Array:
    """Returns the perceptual distance of each reconstruction to its image.

    At every position the features of both are scaled to unit length; their squared difference is summed over channels
    (weighted by `heads`), averaged over positions and summed over layers. Gradients are finite everywhere.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      reconstructions: [B, H, W, C] in [0, 1].
      images: [B, H, W, C] in [0, 1].
      layers: names of the features [B, h, w, K] or [B, K]; LPIPS_LAYERS has those of version 0.1.
      heads: weights [K] of the channels of each layer, 0 or more; None: all 1, the unweighted baseline of the
        authors' package.

    Returns:
      float32 [B]; 0 for equal images, lower is better. Without heads at most 4 per layer, 2 after a ReLU.

    Raises:
      UserError: different shapes, images outside [0, 1], no layer, a name in place of a tuple of names, one that is
        not among the features, or heads of other sizes than the layers, or with weights that are negative or not
        finite.

    Source: Zhang et al. 2018, eq. (1).
    """
    reconstructions, images = as_image_pair(reconstructions, images)
    check_layers(layers)
    if not len(layers):
        raise UserError("LPIPS needs at least one layer; LPIPS_LAYERS has those of the published networks")
    if heads is not None and len(heads) != len(layers):
        raise UserError(f"{len(heads)} head(s) for {len(layers)} layer(s); give one for each, or None")
    with jax.default_matmul_precision("highest"):  # a GPU's TF32 would show in the third digit
        features = [layer_features(features_fn, x, layers) for x in (reconstructions, images)]
    total = jnp.zeros(images.shape[0], jnp.float32)
    for i, (layer, feature, target) in enumerate(zip(layers, *features, strict=True)):
        difference = jnp.square(_unit_length(feature) - _unit_length(target))
        if heads is not None:
            difference *= _head(heads[i], layer, difference.shape[-1])[None, None, :]
        total += jnp.mean(jnp.sum(difference, axis=-1), axis=-1)
    return total


def _unit_length(feature: Array) -> Array:
    """Returns float32 [B, positions, K] scaled to length 1 over K; zeros stay zeros, with a gradient of zero."""
    batch, *positions, channels = feature.shape
    rows = feature.reshape(batch * math.prod(positions), channels)
    feature = rows.reshape(batch, math.prod(positions), channels)
    lengths = norms.norm(rows, "l2").reshape(*feature.shape[:-1], 1)
    return feature / (lengths + _FLOOR)


def _head(head: ArrayLike, layer: str, size: int) -> Array:
    head = as_finite(head, f"the head of {layer}")
    if is_concrete(head) and np.any(np.asarray(head) < 0):
        raise UserError(f"the head of {layer} must be 0 or more; got negative weights")
    if head.shape != (size,):
        raise UserError(f"the head of {layer} must be one weight per channel ({size},); got shape {head.shape}")
    return head
