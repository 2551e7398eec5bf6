"""Style transfer at several levels: encoding, whitening and coloring, and decoding at one level after the other.

Images are float32 [B, H, W, 3] in [0, 1]; every row is a pair of a content and a style, whose sizes may differ. A level
is an encoder's layer with the generator that inverts it, as callables.

    official   from the deepest level to the shallowest, whose generator gives the result (released code)
    paper      from the shallowest to the deepest (Rojas-Gomez et al. 2022, section 3.3)

Source: Li et al. 2017, "Universal Style Transfer via Feature Transforms"; Rojas-Gomez et al. 2022, section 3.3.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError, unknown
from arinv.ops.inputs import as_images, decode, layer_features
from arinv.ops.wct import StyleMoments, style_moments, transfer
from arinv.types import Array, ArrayLike, DecodeFn, FeaturesFn

ORDERS = ("official", "paper")


class Level(NamedTuple):
    """An encoder's layer and its inverse.

    Attributes:
      layer: the feature that is transformed.
      features_fn: images -> named features, among them the layer's [B, h, w, C].
      decode_fn: that feature -> images of the size of the encoded ones.
    """

    layer: str
    features_fn: FeaturesFn
    decode_fn: DecodeFn


# The moments of styles at each level, from the shallowest to the deepest.
StyleCode = tuple[StyleMoments, ...]


def stylize(
    levels: Sequence[Level],
    content: ArrayLike,
    style: ArrayLike,
    *,
    variant: str = "official",
    method: str = "eigh",
    alpha: float = 1.0,
    order: str = "official",
    content_labels: ArrayLike | None = None,
    style_labels: ArrayLike | None = None,
    num_labels: int = 0,
) -> Array:
    """Returns contents in styles, row by row.

    Args:
      levels: from the shallowest to the deepest.
      content: [B, H, W, 3] in [0, 1], of a size that the levels return.
      style: [B, H', W', 3] in [0, 1].
      variant: name of the transform, "official", "ust" or "ct"; see ops.wct.
      method: "eigh" or "newton_schulz"; see ops.wct.
      alpha: share of the transformed features at each level, 0 to 1 for all; 0 encodes and decodes the content.
      order: "official" or "paper", see the module.
      content_labels: int [B, H, W], 0..num_labels-1: each region gets the style of the same label's region, and stays
        unchanged where that is missing or much smaller or larger.
      style_labels: int [B, H', W'], likewise.
      num_labels: number of labels; 0 for none.

    Returns:
      float32 [B, H, W, 3] in [0, 1].

    Raises:
      UserError: no level, images outside [0, 1] or of a size that a level does not return, unknown names, alpha outside
        0 to 1, different numbers of contents and styles, or labels of one side only.

    Source: Rojas-Gomez et al. 2022, section 3.3 and released code.
    """
    content, style = as_images(content, "content"), as_images(style, "style")
    if content.shape[0] != style.shape[0]:
        raise UserError(
            f"{content.shape[0]} contents cannot be paired with {style.shape[0]} styles; give as many of each"
        )
    if not (bool(num_labels) == (content_labels is not None) == (style_labels is not None)):
        raise UserError("labels need all three: content_labels, style_labels and num_labels")
    options = {"variant": variant, "method": method, "num_labels": num_labels}
    code = encode_style(levels, style, labels=style_labels, **options)
    return stylize_with(levels, content, (code,), alpha=alpha, order=order, labels=content_labels, **options)


def encode_style(
    levels: Sequence[Level],
    style: ArrayLike,
    *,
    variant: str = "official",
    method: str = "eigh",
    labels: ArrayLike | None = None,
    num_labels: int = 0,
) -> StyleCode:
    """Returns the codes of styles, to be used for any number of contents.

    Args:
      levels: from the shallowest to the deepest.
      style: [B, H', W', 3] in [0, 1].
      variant: see `stylize`.
      method: see `stylize`.
      labels: int [B, H', W'], 0..num_labels-1.
      num_labels: number of labels; 0 for none.

    Returns:
      The moments of B styles at each level.

    Raises:
      UserError: no level, images outside [0, 1], unknown names, or labels without their number.
    """
    _check_levels(levels)
    style = as_images(style, "style")
    _check_labels(labels, style, "style")
    code = []
    for level in levels:
        features = _features(level, style)
        regions = _resize_labels(labels, features)
        code.append(style_moments(features, variant=variant, method=method, labels=regions, num_labels=num_labels))
    return tuple(code)


def stylize_with(
    levels: Sequence[Level],
    content: ArrayLike,
    codes: Sequence[StyleCode],
    *,
    weights: Sequence[float] = (1.0,),
    variant: str = "official",
    method: str = "eigh",
    alpha: float = 1.0,
    order: str = "official",
    labels: ArrayLike | None = None,
    num_labels: int = 0,
) -> Array:
    """Returns contents in a style, or in a mixture of styles: the weighted sum of their features at each level.

    Args:
      levels: from the shallowest to the deepest.
      content: [B, H, W, 3] in [0, 1], of a size that the levels return.
      codes: codes of B styles each, from `encode_style` with the same levels, variant and number of labels.
      weights: weights of the codes, 0 or more; their sum is 1.
      variant: see `stylize`.
      method: see `stylize`.
      alpha: see `stylize`.
      order: see `stylize`.
      labels: int [B, H, W], 0..num_labels-1.
      num_labels: number of labels; 0 for none.

    Returns:
      float32 [B, H, W, 3] in [0, 1].

    Raises:
      UserError: no level, images outside [0, 1] or of a size that a level does not return, unknown names, codes of
        other levels, another variant or number of labels, alpha outside 0 to 1, or weights that are not one a code or
        do not sum to 1.
    """
    _check_levels(levels)
    images = as_images(content, "content")
    _check_labels(labels, images, "content")
    if order not in ORDERS:
        raise unknown("order of levels", order, ORDERS)
    if any(isinstance(code, StyleMoments) for code in codes):
        raise UserError("codes of styles must be a list of what encode_style returns; got one code: write [code]")
    if any(len(code) != len(levels) for code in codes):
        raise UserError(
            f"codes of styles are for {[len(code) for code in codes]} levels; the transfer has {len(levels)}"
        )
    options = {"weights": weights, "variant": variant, "method": method, "alpha": alpha, "num_labels": num_labels}
    indices = range(len(levels))
    for i in indices if order == "paper" else reversed(indices):
        features = _features(levels[i], images)
        regions = _resize_labels(labels, features)
        features = transfer(features, [code[i] for code in codes], labels=regions, **options)
        decoded = decode(levels[i].decode_fn, features, bounds=(-math.inf, math.inf))  # clipped below
        if decoded.shape != images.shape:
            sizes = (f"{x.shape[1]} x {x.shape[2]} px" for x in (images, decoded))
            raise UserError(
                "level {} turns images of {} into {}; pad or resize the content first".format(levels[i].layer, *sizes)
            )
        images = jnp.clip(decoded, 0.0, 1.0)
    return images


def _check_levels(levels: Sequence[Level]) -> None:
    if isinstance(levels, Level):
        raise UserError("levels must be a list; got one level: write [level]")
    if not levels:
        raise UserError("style transfer needs at least one level: a layer's features and the generator that inverts it")


def _features(level: Level, images: ArrayLike) -> Array:
    (features,) = layer_features(level.features_fn, images, (level.layer,))
    if features.ndim != 4:
        raise UserError(f"{level.layer} has shape {features.shape}; a level needs a spatial feature [B, h, w, C]")
    return features


def _check_labels(labels: ArrayLike | None, images: Array, name: str) -> None:
    if labels is not None and jnp.shape(labels) != images.shape[:3]:
        raise UserError(
            f"labels have shape {jnp.shape(labels)}; must be one for each pixel of {name} {images.shape[:3]}"
        )


def _resize_labels(labels: ArrayLike | None, features: Array) -> Array | None:
    """Returns labels [B, H, W] at the grid of features [B, h, w, C], by the label at the middle of each cell."""
    if labels is None:
        return None
    labels = jnp.asarray(labels)
    for axis in (1, 2):
        size, cells = labels.shape[axis], features.shape[axis]
        middles = ((np.arange(cells) + 0.5) * size / cells).astype(np.int32)
        labels = jnp.take(labels, middles, axis=axis)
    return labels
