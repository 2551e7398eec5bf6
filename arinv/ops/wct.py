"""The whitening and coloring transform of features, and transfer of colors between images.

Content features get the mean and covariance of style features. Features are float [B, h, w, C], one image a row;
content and style may differ in size. Three published versions differ in how they regularize the covariances:

    official   identity added to both, the result clipped to the content's range (Rojas-Gomez et al. 2022's code)
    ust        eigenvalues below 1e-5 ignored, no clipping (Li et al. 2017)
    ct         identity added to the content's, eigenvalues below 1e-5 of the style's ignored, no clipping (a
               widespread port of it)

With the identity added and fewer positions than channels, a root of the covariance follows from the positions'
products, a smaller matrix: 6 x 6 positions of AlexNet's conv5 instead of 256 channels.

The transform depends on the mean of the style and a root of its covariance only: `style_moments` computes them once for
any number of contents, `transfer` applies them, and `wct` does both.

Gradients are finite, also for dead channels, constant features and equal eigenvalues.

Source: Li et al. 2017, "Universal Style Transfer via Feature Transforms", eqs. 2 and 3.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError, unknown
from arinv.ops.colors import grey_values
from arinv.ops.inputs import as_floats, as_image_pair, as_images, check_count, check_number, is_concrete
from arinv.ops.linalg import ValueFunction, inverse_near_identity, matrix_function, sqrt_and_inverse_sqrt
from arinv.types import Array, ArrayLike

VARIANTS = ("official", "ust", "ct")
METHODS = ("eigh", "newton_schulz")

_SMALLEST_EIGENVALUE = 1e-5
_WEIGHT_TOLERANCE = 1e-4  # of a sum of weights
_MIN_PIXELS = 10  # of a label in both images, and the largest ratio of its areas, as in WCT2's code
_MAX_RATIO = 100.0


@functools.partial(jax.tree_util.register_dataclass, data_fields=("mean", "root", "count"), meta_fields=("variant",))
@dataclasses.dataclass(frozen=True)
class StyleMoments:
    """The moments of B styles for each label's region (L = 1 for the whole image).

    Attributes:
      mean: [B, L, C] of the features.
      root: [B, L, C, C], square root of their covariance, regularized by the variant.
      count: [B, L], number of positions in the region.
      variant: name of the transform that they are for.
    """

    mean: Array
    root: Array
    count: Array
    variant: str


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
    """Returns content features with the mean and approximately the covariance of the style features.

    Args:
      content_features: [B, h, w, C].
      style_features: [B, h', w', C].
      alpha: weight of the transformed features in 0 to 1; 1 - alpha is that of the content's. May be traced.
      variant: "official", "ust" or "ct", see the module.
      method: how roots of the covariances are computed: "eigh", exact but sequential over images on a GPU, or
        "newton_schulz", by products of matrices: within 1e-3 of it (relative to the style's standard deviation) for
        a regular covariance, as with the added identity up to variances of 1e5 (5e-2 at 1e6); with "ust", and for
        the style of "ct", directions below 1e-4 of the Frobenius norm are attenuated, and all of them for a norm
        of 1e-5 or less.
      content_labels: int [B, h, w], 0..num_labels-1: each region gets the style of the region of the same label;
        regions without a counterpart, of 10 positions or fewer, or of very different size are unchanged.
      style_labels: int [B, h', w'], likewise.
      num_labels: number of labels; 0 to transform the whole image at once.

    Returns:
      float32 [B, h, w, C].

    Raises:
      UserError: unknown variant or method, features of different rank or channels, labels of content or style only or
        (if concrete) outside 0..num_labels-1, or alpha outside 0 to 1.

    Source: Li et al. 2017, section 3; regions as in Yoo et al. 2019 (WCT2).
    """
    content, style = as_floats(content_features, "content features"), as_floats(style_features, "style features")
    if not (content.ndim == style.ndim == 4 and content.shape[::3] == style.shape[::3]):
        raise _mismatch(content.shape, style.shape)
    if not (bool(num_labels) == (content_labels is not None) == (style_labels is not None)):
        raise UserError("labels need all three: content_labels, style_labels and num_labels")
    options = {"variant": variant, "method": method, "num_labels": num_labels}
    moments = style_moments(style, labels=style_labels, **options)
    return transfer(content, (moments,), alpha=alpha, labels=content_labels, **options)


def style_moments(
    style_features: ArrayLike,
    *,
    variant: str = "official",
    method: str = "eigh",
    labels: ArrayLike | None = None,
    num_labels: int = 0,
) -> StyleMoments:
    """Returns the moments of styles for `transfer`.

    Args:
      style_features: [B, h', w', C].
      variant: see `wct`.
      method: see `wct`.
      labels: int [B, h', w'], 0..num_labels-1.
      num_labels: number of labels; 0 for moments of the whole image.

    Returns:
      Moments of B styles.

    Raises:
      UserError: unknown variant or method, or only one of labels and num_labels.
    """
    _check_options(variant, method, labels, num_labels)
    style = as_floats(style_features, "style features")
    if style.ndim != 4 or 0 in style.shape[1:]:
        raise UserError(f"style features must be [B, h, w, C], none of them 0; got shape {style.shape}")
    b, h, w, c = style.shape
    rows = style.reshape(b, h * w, c)
    parts = []
    for mask in _masks(labels, num_labels, (b, h * w)):
        mean, _, samples = _moments(rows, mask)
        parts.append((mean[:, 0], _color(samples, variant, method), jnp.sum(mask, axis=1)))
    return StyleMoments(*(jnp.stack(values, axis=1) for values in zip(*parts, strict=True)), variant)


def transfer(
    content_features: ArrayLike,
    styles: Sequence[StyleMoments],
    *,
    weights: Sequence[float] = (1.0,),
    alpha: float = 1.0,
    variant: str = "official",
    method: str = "eigh",
    labels: ArrayLike | None = None,
    num_labels: int = 0,
) -> Array:
    """Returns content features with the moments of a style, or a weighted sum of the results of several.

    Args:
      content_features: [B, h, w, C].
      styles: moments of B styles each, all of the same variant and number of labels.
      weights: one number of 0 or more per style, with a sum of 1; may be traced.
      alpha: weight of the transformed features in 0 to 1; 1 - alpha is that of the content's. May be traced.
      variant: see `wct`.
      method: see `wct`.
      labels: int [B, h, w], 0..num_labels-1.
      num_labels: number of labels; 0 to transform the whole image at once.

    Returns:
      float32 [B, h, w, C].

    Raises:
      UserError: unknown variant or method, moments of other features, variants or numbers of labels, weights that
        are not one per style or do not sum to 1, alpha outside 0 to 1, or only one of labels and num_labels.

    Source: Li et al. 2017, section 3; regions as in Yoo et al. 2019 (WCT2).
    """
    _check_options(variant, method, labels, num_labels)
    content = as_floats(content_features, "content features")
    _check_mixture(weights, alpha, len(styles))
    for style in styles:
        if content.ndim != 4 or 0 in content.shape[1:] or content.shape[::3] != style.mean.shape[::2]:
            raise _mismatch(content.shape, style.mean.shape)
        if (count := style.mean.shape[1]) != (needed := max(1, num_labels)):
            raise UserError(f"moments of {count} region(s), not {needed}: give style_moments num_labels={num_labels}")
        if style.variant != variant:
            raise UserError(f"moments of the variant {style.variant!r}, not {variant!r}: give both the same variant=")
    rows = content.reshape(content.shape[0], math.prod(content.shape[1:3]), content.shape[-1])
    results = [rows] * len(styles)
    for label, mask in enumerate(_masks(labels, num_labels, rows.shape[:2])):
        _, centered, samples = _moments(rows, mask)
        white = _whiten(centered, samples, variant, method)
        for i, style in enumerate(styles):
            with jax.default_matmul_precision("highest"):
                colored = white @ style.root[:, label] + style.mean[:, label, None]
            if variant == "official":
                colored = _clamp(colored, rows, mask)
            if num_labels:
                selected = (mask > 0) & _comparable(jnp.sum(mask, axis=1), style.count[:, label])[:, None]
                colored = jnp.where(selected[:, :, None], colored, results[i])
            results[i] = colored
    result = sum(weight * colored for weight, colored in zip(weights, results, strict=True))
    return (alpha * result + (1 - alpha) * rows).reshape(content.shape)


def keep_chroma(images: ArrayLike, colored: ArrayLike) -> Array:
    """Returns the luminance of images with the chroma of others.

    Args:
      images: [B, H, W, 3] in [0, 1] with the luminance, such as stylized ones.
      colored: [B, H, W, 3] in [0, 1] with the chroma, such as the contents.

    Returns:
      float32 [B, H, W, 3], clipped to [0, 1].

    Raises:
      UserError: images outside [0, 1], of different shapes, or grey.

    Source: Gatys et al. 2016, section 4 (luminance-only transfer).
    """
    images, colored = as_image_pair(images, colored, ("images", "colored"))
    if images.shape[-1] != 3:
        raise UserError(f"images must have 3 channels, for their chroma; got shape {images.shape}")
    luminance = grey_values(images - colored)  # of Rec. 601, as in YIQ and YCbCr
    return jnp.clip(colored + luminance, 0.0, 1.0)


def color_moments(images: ArrayLike) -> StyleMoments:
    """Returns the mean and the root of the covariance of the colors of each image.

    Args:
      images: [B, H, W, 3] in [0, 1].

    Returns:
      Moments with C = 3.

    Raises:
      UserError: images outside [0, 1].
    """
    return style_moments(as_images(images), variant="ust")


def match_colors(images: ArrayLike, colors: StyleMoments) -> Array:
    """Returns images, such as styles, with the mean and covariance of the colors of others, such as contents.

    Args:
      images: [B, H, W, 3] in [0, 1].
      colors: moments of the colors of B other images, from `color_moments`.

    Returns:
      float32 [B, H, W, 3], clipped to [0, 1].

    Raises:
      UserError: images outside [0, 1], or another number of them than of colors.

    Source: Gatys et al. 2016, section 3 (linear transform of the colors, with the symmetric roots).
    """
    return jnp.clip(transfer(as_images(images), (colors,), variant="ust"), 0.0, 1.0)


def _check_options(variant: str, method: str, labels: ArrayLike | None, num_labels: int) -> None:
    if variant not in VARIANTS:
        raise unknown("WCT variant", variant, VARIANTS)
    if method not in METHODS:
        raise unknown("method for matrix roots", method, METHODS)
    if bool(check_count(num_labels, "num_labels", minimum=0)) != (labels is not None):
        raise UserError("labels and num_labels must be passed together")


def _check_mixture(weights: Sequence[float], alpha: float, num_styles: int) -> None:
    check_number(alpha, "alpha", minimum=0.0, maximum=1.0)
    if not hasattr(weights, "__len__"):
        raise UserError(f"weights of styles must be a tuple, such as (0.5, 0.5); got {weights!r}")
    if not num_styles or len(weights) != num_styles:
        raise UserError(f"{num_styles} styles need as many weights; got {len(weights)}")
    for weight in weights:
        check_number(weight, "a style's weight", minimum=0.0)
    if all(map(is_concrete, weights)) and abs(float(sum(weights)) - 1.0) > _WEIGHT_TOLERANCE:
        raise UserError(f"weights of styles must sum to 1; got {tuple(map(float, weights))}: divide them by their sum")


def _mismatch(content: tuple[int, ...], style: tuple[int, ...]) -> UserError:
    return UserError(
        f"content features {content} and style features {style} must be [B, h, w, C], none of them 0, with "
        "the same number of images and channels: take them from one layer"
    )


def _masks(labels: ArrayLike | None, num_labels: int, shape: tuple[int, int]) -> Iterator[Array]:
    """Yields the mask of each label, float [B, N], or a single mask of ones."""
    if not num_labels:
        yield jnp.ones(shape, jnp.float32)
        return
    labels = jnp.asarray(labels)
    if labels.ndim != 3 or (labels.shape[0], labels.shape[1] * labels.shape[2]) != shape:
        raise UserError(f"labels must be one per position of the features, [B, h, w]; got shape {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(f"labels must be integers; got {labels.dtype}")
    if is_concrete(labels) and labels.size:
        low, high = (int(limit(np.asarray(labels))) for limit in (np.min, np.max))
        if low < 0 or high >= num_labels:
            raise UserError(f"labels must be 0 to {num_labels - 1}, as num_labels is {num_labels}; got {low} to {high}")
    labels = labels.reshape(shape)
    for label in range(num_labels):
        yield (labels == label).astype(jnp.float32)


def _comparable(own: Array, other: Array) -> Array:
    """Returns whether regions with these numbers of positions [B] are large and similar enough, [B]."""
    return (jnp.minimum(own, other) > _MIN_PIXELS) & (own < _MAX_RATIO * other) & (other < _MAX_RATIO * own)


def _clamp(colored: Array, content: Array, mask: Array) -> Array:
    """Returns features clipped to the range of the content's in the mask."""
    inside = mask[:, :, None] > 0
    low = jnp.min(jnp.where(inside, content, jnp.inf), axis=(1, 2), keepdims=True)
    high = jnp.max(jnp.where(inside, content, -jnp.inf), axis=(1, 2), keepdims=True)
    return jnp.clip(colored, low, high)


def _moments(features: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Returns the mean over the mask [B, 1, C], centered features, and S [B, N, C] with the covariance S^T S."""
    weights = mask[:, :, None]
    count = jnp.sum(weights, axis=1, keepdims=True)
    mean = jnp.sum(features * weights, axis=1, keepdims=True) / jnp.maximum(count, 1)
    centered = features - mean
    return mean, centered, centered * weights * jax.lax.rsqrt(jnp.maximum(count - 1, 1))


def _whiten(features: Array, samples: Array, variant: str, method: str) -> Array:
    """Returns centered features [B, N, C] times the inverse root of the covariance S^T S of samples S [B, N, C]."""
    regular = variant != "ust"
    with jax.default_matmul_precision("highest"):
        if regular and _are_few(samples):
            middle = _root_of_few(samples, method, inverse=True)
            return features + features @ _transpose(samples) @ middle @ samples
        return features @ _root(samples, method, regular=regular, inverse=True)


def _color(samples: Array, variant: str, method: str) -> Array:
    """Returns the root [B, C, C] of the covariance of samples."""
    regular = variant == "official"
    with jax.default_matmul_precision("highest"):
        if regular and _are_few(samples):
            middle = _root_of_few(samples, method, inverse=False)
            return jnp.eye(samples.shape[-1], dtype=jnp.float32)[None] + _transpose(samples) @ middle @ samples
        return _root(samples, method, regular=regular, inverse=False)


def _are_few(samples: Array) -> bool:
    return samples.shape[1] < samples.shape[2]


def _root(samples: Array, method: str, *, regular: bool, inverse: bool) -> Array:
    """Returns roots or inverse roots of the covariance, with the identity added or without small eigenvalues."""
    covariance = _transpose(samples) @ samples
    if regular:
        covariance += jnp.eye(samples.shape[-1], dtype=jnp.float32)[None]
    if method == "newton_schulz":
        if regular:
            return sqrt_and_inverse_sqrt(covariance)[int(inverse)]
        size = jax.lax.stop_gradient(jnp.linalg.norm(covariance, axis=(1, 2), keepdims=True))
        is_small = size <= _SMALLEST_EIGENVALUE  # and so is every eigenvalue
        return jnp.where(is_small, 0.0, sqrt_and_inverse_sqrt(covariance, ridge=1e-6)[int(inverse)])
    return matrix_function(_INVERSE_ROOT if inverse else _ROOT, covariance)


def _root_of_few(samples: Array, method: str, *, inverse: bool) -> Array:
    """Returns M [B, N, N] such that the root, or inverse root, of I + S^T S is I + S^T M S.

    With an eigenvalue 1 + m of I + S S^T and s = 1 / sqrt(1 + m), M has (sqrt(1 + m) - 1) / m = s / (1 + s) there, or
    (s - 1) / m = -s^2 / (1 + s) for the inverse root, without cancellation.
    """
    identity = jnp.eye(samples.shape[1], dtype=jnp.float32)[None]
    matrices = identity + samples @ _transpose(samples)
    if method == "newton_schulz":
        s = sqrt_and_inverse_sqrt(matrices)[1]
        result = s @ inverse_near_identity(identity + s)
        return -s @ result if inverse else result
    return matrix_function(_INVERSE_ROOT_OF_FEW if inverse else _ROOT_OF_FEW, matrices)


def _of_kept(value: Callable[[Array], Array], quotient: Callable[[Array, Array], Array]) -> ValueFunction:
    """Returns a function of eigenvalues that is 0 below the smallest one that counts.

    Args:
      value: eigenvalues -> values.
      quotient: the divided difference for the roots of two eigenvalues.
    """

    def values(x: Array) -> Array:
        return jnp.where(x > _SMALLEST_EIGENVALUE, value(jnp.maximum(x, _SMALLEST_EIGENVALUE)), 0.0)

    def quotients(a: Array, b: Array) -> Array:
        kept_a, kept_b = a > _SMALLEST_EIGENVALUE, b > _SMALLEST_EIGENVALUE
        roots = (jnp.sqrt(jnp.maximum(x, _SMALLEST_EIGENVALUE)) for x in (a, b))
        gap = jnp.maximum(jnp.abs(a - b), _SMALLEST_EIGENVALUE)  # across the step, where smaller ones are rounding
        step = (values(a) - values(b)) * jnp.sign(a - b) / gap
        return jnp.where(kept_a & kept_b, quotient(*roots), jnp.where(kept_a | kept_b, step, 0.0))

    return ValueFunction(values, quotients)


def _of_few(value: Callable[[Array], Array], quotient: Callable[[Array, Array], Array]) -> ValueFunction:
    """Returns a function of eigenvalues of I + S S^T from its value and divided difference at their roots."""

    def root(x: Array) -> Array:
        return jnp.sqrt(jnp.maximum(x, 1.0))

    return ValueFunction(lambda x: value(root(x)), lambda a, b: quotient(root(a), root(b)))


_ROOT = _of_kept(jnp.sqrt, lambda x, y: 1 / (x + y))
_INVERSE_ROOT = _of_kept(jax.lax.rsqrt, lambda x, y: -1 / (x * y * (x + y)))
_ROOT_OF_FEW = _of_few(lambda x: 1 / (x + 1), lambda x, y: -1 / ((x + 1) * (y + 1) * (x + y)))
_INVERSE_ROOT_OF_FEW = _of_few(
    lambda x: -1 / (x * (x + 1)), lambda x, y: (x + y + 1) / ((x + y) * x * (x + 1) * y * (y + 1))
)


def _transpose(matrices: Array) -> Array:
    return jnp.swapaxes(matrices, 1, 2)
