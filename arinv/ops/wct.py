"""The whitening and colouring transform: content features that take on the mean and covariance of a style's.

Features are float [B, h, w, C], one image a row; content and style may differ in size. Three published versions differ
in what keeps the covariances regular:

    official   identity added on both sides, the result clamped to the content's range (Rojas-Gomez et al. 2022's code)
    ust        eigenvalues below 1e-5 left out, no clamp (Li et al. 2017)
    ct         identity added on the content's side alone, no clamp (a widespread port of it)

Source: Li et al. 2017, "Universal Style Transfer via Feature Transforms", eqs. 2 and 3.
"""

import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.ops.linalg import sqrt_and_inverse_sqrt
from arinv.types import Array, ArrayLike

VARIANTS = ("official", "ust", "ct")
METHODS = ("eigh", "newton_schulz")

_SMALLEST_EIGENVALUE = 1e-5
_MIN_PIXELS = 10  # of a label on either side, and the greatest ratio of its areas, as in WCT2's code
_MAX_RATIO = 100.0


def wct(
    content_features: ArrayLike,
    style_features: ArrayLike,
    *,
    alpha: float = 1.0,
    variant: str = "official",
    method: str = "eigh",
    content_labels: ArrayLike | None = None,
    style_labels: ArrayLike | None = None,
    num_labels: int = 0,
) -> Array:
    """Returns content features with the mean and, nearly, the covariance of the style features.

    Args:
      content_features: [B, h, w, C].
      style_features: [B, h', w', C].
      alpha: share of the transformed features, 1 for all; the rest are the content's.
      variant: "official", "ust" or "ct", see above.
      method: how roots of the covariances are taken: "eigh", exact but on a GPU one image after the other, or
        "newton_schulz", products of matrices only, within 1e-3 of it where the covariance is regular.
      content_labels: int [B, h, w], 0..num_labels-1: each region takes on the style of the same label's region;
        regions without a counterpart, of 10 positions or fewer, or of very different size are left as they are.
      style_labels: int [B, h', w'], likewise.
      num_labels: number of labels; 0 to transform the whole image at once.

    Returns:
      float32 [B, h, w, C].

    Raises:
      UserError: unknown variant or method, features of different rank or channels, or labels of one side only.

    Source: Li et al. 2017, section 3; regions as in Yoo et al. 2019 (WCT2).
    """
    content, style = jnp.asarray(content_features, jnp.float32), jnp.asarray(style_features, jnp.float32)
    _check(content, style, variant, method, content_labels, style_labels, num_labels)
    b, h, w, c = content.shape
    rows, style_rows = content.reshape(b, h * w, c), style.reshape(b, -1, c)
    if num_labels:
        own, other = (jnp.asarray(labels).reshape(b, -1) for labels in (content_labels, style_labels))
        result = rows
        for label in range(num_labels):
            masks = (own == label).astype(jnp.float32), (other == label).astype(jnp.float32)
            transformed = _transform(rows, style_rows, *masks, variant, method)
            chosen = (masks[0] > 0) & _comparable(*masks)[:, None]
            result = jnp.where(chosen[:, :, None], transformed, result)
    else:
        ones = jnp.ones(rows.shape[:2]), jnp.ones(style_rows.shape[:2])
        result = _transform(rows, style_rows, *ones, variant, method)
    return (alpha * result + (1 - alpha) * rows).reshape(content.shape)


def _check(content, style, variant, method, content_labels, style_labels, num_labels) -> None:
    if variant not in VARIANTS:
        raise unknown("WCT variant", variant, VARIANTS)
    if method not in METHODS:
        raise unknown("method for matrix roots", method, METHODS)
    same = content.ndim == style.ndim == 4 and content.shape[::3] == style.shape[::3]
    if not same:
        raise UserError(
            f"content features {content.shape} and style features {style.shape} must be [B, h, w, C] with the same "
            "number of images and channels: take them from one layer"
        )
    if not (bool(num_labels) == (content_labels is not None) == (style_labels is not None)):
        raise UserError("labels need all three: content_labels, style_labels and num_labels")


def _comparable(content_mask: Array, style_mask: Array) -> Array:
    own, other = jnp.sum(content_mask, axis=1), jnp.sum(style_mask, axis=1)
    large = (own > _MIN_PIXELS) & (other > _MIN_PIXELS)
    return large & (own < _MAX_RATIO * other) & (other < _MAX_RATIO * own)


def _transform(content, style, content_mask, style_mask, variant: str, method: str) -> Array:
    """Returns content [B, N, C] whitened by its own covariance and coloured by the style's, over masks [B, N]."""
    mean, centred, covariance = _moments(content, content_mask)
    style_mean, _, style_covariance = _moments(style, style_mask)
    identity = jnp.eye(content.shape[-1])[None]
    if variant != "ust":
        covariance += identity
    if variant == "official":
        style_covariance += identity
    cut = _SMALLEST_EIGENVALUE if variant == "ust" else 0.0
    whitening = _root(covariance, method, inverse=True, cut=cut)
    colouring = _root(style_covariance, method, inverse=False, cut=cut)
    with jax.default_matmul_precision("highest"):
        result = centred @ (whitening @ colouring) + style_mean
    if variant == "official":
        inside = content_mask[:, :, None] > 0
        low = jnp.min(jnp.where(inside, content, jnp.inf), axis=(1, 2), keepdims=True)
        high = jnp.max(jnp.where(inside, content, -jnp.inf), axis=(1, 2), keepdims=True)
        result = jnp.clip(result, low, high)
    return result


def _moments(features: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Returns the mean [B, 1, C], features less it, and the covariance [B, C, C] over the mask."""
    weights = mask[:, :, None]
    count = jnp.sum(weights, axis=1, keepdims=True)
    mean = jnp.sum(features * weights, axis=1, keepdims=True) / jnp.maximum(count, 1)
    centred = features - mean
    with jax.default_matmul_precision("highest"):
        covariance = jnp.swapaxes(centred * weights, 1, 2) @ centred
    return mean, centred, covariance / jnp.maximum(count - 1, 1)


def _root(matrices: Array, method: str, *, inverse: bool, cut: float) -> Array:
    """Returns square roots, or inverse ones, of covariances [B, C, C]; eigenvalues below `cut` count as 0."""
    if method == "newton_schulz":
        return sqrt_and_inverse_sqrt(matrices, ridge=1e-6 if cut else 0.0)[int(inverse)]
    with jax.default_matmul_precision("highest"):
        values, vectors = jnp.linalg.eigh(matrices)
        kept = jnp.maximum(values, 1e-30)
        roots = jnp.where(values > cut, jax.lax.rsqrt(kept) if inverse else jnp.sqrt(kept), 0.0)
        return (vectors * roots[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)
