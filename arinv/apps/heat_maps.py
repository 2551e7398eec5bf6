"""Where an image differs from its reconstruction, pixel by pixel.

Images [B, H, W, C] in [0, 1]; maps are float32 [B, H, W], at least 0, each in a unit of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.inputs import as_image_pair, check_number, layer_features
from arinv.types import Array, ArrayLike, FeaturesFn


class HeatMaps(NamedTuple):
    """Where images differ from their reconstructions.

    Attributes:
      pixel: float32 [B, H, W], absolute difference averaged over channels, smoothed.
      feature: float32 [B, H, W], length of the difference of the features at each position, enlarged to the image;
        zero for a layer without positions.
    """

    pixel: Array
    feature: Array


def heat_maps(
    features_fn: FeaturesFn, images: ArrayLike, reconstructions: ArrayLike, *, layer: str, sigma: float = 1.0
) -> HeatMaps:
    """Returns where images differ from their reconstructions, in pixels and in features.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images: [B, H, W, C] in [0, 1].
      reconstructions: [B, H, W, C] in [0, 1].
      layer: the feature that is compared.
      sigma: standard deviation of the smoothing of the pixel map, in pixels; 0 for none.

    Returns:
      Both maps.

    Raises:
      UserError: images outside [0, 1] or of different shapes, a layer that is not among the features, or a negative
        sigma.
    """
    reconstructions, images = as_image_pair(reconstructions, images)
    pixel = jnp.mean(jnp.abs(images - reconstructions), axis=-1)
    pixel = smooth(pixel, sigma=sigma)
    found, target = (layer_features(features_fn, x, (layer,))[0] for x in (reconstructions, images))
    differences = target - found
    if differences.ndim != 4:
        return HeatMaps(pixel, jnp.zeros_like(pixel))
    lengths = norms.norm(differences.reshape(-1, differences.shape[-1]), "l2").reshape(differences.shape[:-1])
    return HeatMaps(pixel, jax.image.resize(lengths, pixel.shape, "bilinear"))


def smooth(maps: ArrayLike, *, sigma: float) -> Array:
    """Returns maps blurred by a Gaussian whose weights sum to one also at the edges.

    Args:
      maps: [B, H, W].
      sigma: standard deviation in pixels; 0 returns the maps.

    Returns:
      float32 [B, H, W].

    Raises:
      UserError: maps of another rank, or a negative sigma.
    """
    maps = jnp.asarray(maps, jnp.float32)
    if maps.ndim != 3:
        raise UserError(f"maps must be [B, H, W], got the shape {maps.shape}.")
    if check_number(sigma, "sigma", least=0.0) == 0:
        return maps
    rows, columns = (_gaussian_matrix(side, sigma) for side in maps.shape[1:])
    return jnp.einsum("ij,bjk,lk->bil", rows, maps, columns)


def _gaussian_matrix(side: int, sigma: float) -> Array:
    places = jnp.arange(side, dtype=jnp.float32)
    offsets = places[:, None] - places[None, :]
    weights = jnp.exp(-jnp.square(offsets / sigma) / 2)
    return weights / jnp.sum(weights, axis=1, keepdims=True)
