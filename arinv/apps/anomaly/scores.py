"""Anomaly scores: distances between images and their reconstructions, heat maps, thresholds, calibration, and attacks.

Images are [B, H, W, C] in [0, 1]. The pixel and the feature term are sums over an image, so that the papers' weights
apply. Thresholds and calibration run on the host, in NumPy. A latent search is too expensive to differentiate at every
step of an attack: attack `fixed_reconstruction_scores` or `amortized_scores` instead, and report that.

Source: Rojas-Gomez et al. 2022, section 3.3; Madry et al. 2018, section 2.1, with the score as the objective.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv import losses
from arinv.attacks import projected_ascent
from arinv.attacks.rows import select
from arinv.errors import UserError, unknown
from arinv.ops import norms
from arinv.ops.inputs import (
    LOOSE_BOUNDS,
    as_array,
    as_flags,
    as_image_pair,
    as_images,
    as_indices,
    as_labels,
    as_numbers,
    as_radius,
    as_vector,
    call,
    check_count,
    check_flag,
    check_number,
    decode,
    layer_features,
)
from arinv.ops.keys import fold_in, single_key
from arinv.types import Array, ArrayLike, DecodeFn, FeaturesFn

QUANTILE = "quantile"
POLICIES = (QUANTILE, "best_f1")


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
      pixel_weight: weight of the sum of absolute differences between pixels; may be traced.
      feature_weight: weight of the sum of squared differences between features; may be traced.

    Returns:
      float32 [B], float32 [B].

    Raises:
      UserError: shapes that do not match, or a weight that is negative or not finite.

    Source: Rojas-Gomez et al. 2022, eqs. 4 and 5; section A2 for the weights, of which the main text and the appendix
    of the first version differ in that of the features (2e-2 and 1e-2): the released code has 1e-2.
    """
    check_number(pixel_weight, "pixel_weight", minimum=0.0)
    check_number(feature_weight, "feature_weight", minimum=0.0)
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
    reconstructions = decode(decode_fn, features, bounds=LOOSE_BOUNDS)
    (reconstructed,) = layer_features(features_fn, reconstructions, (layer,))
    weights = {"pixel_weight": pixel_weight, "feature_weight": feature_weight}
    return sum(reconstruction_terms(reconstructions, reconstructed, images, features, **weights))


def fixed_reconstruction_scores(
    features_fn: FeaturesFn,
    images: ArrayLike,
    reconstructions: ArrayLike,
    *,
    layer: str,
    pixel_weight: float,
    feature_weight: float,
) -> Array:
    """Returns the scores of images against fixed reconstructions.

    With the reconstructions of a latent search this is its score, and a differentiable stand-in for it where the
    image changes: for a changed image the search would find another latent, whose score is lower or equal as far as
    the search finds the best one.

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
    pixel = _smooth(pixel, sigma)
    reconstructed, features = (layer_features(features_fn, x, (layer,))[0] for x in (reconstructions, images))
    differences = features - reconstructed
    if differences.ndim != 4:
        return HeatMaps(pixel, jnp.zeros_like(pixel))
    lengths = norms.norm(differences.reshape(-1, differences.shape[-1]), "l2").reshape(differences.shape[:-1])
    return HeatMaps(pixel, jax.image.resize(lengths, pixel.shape, "bilinear"))


def quantile_threshold(normal_scores: ArrayLike, *, quantile: float = 0.95) -> float:
    """Returns the lowest score that is at least as high as a given share of the scores.

    Args:
      normal_scores: [N], of normal images.
      quantile: share of the normal images to accept, above 0 and at most 1.

    Returns:
      A score; if only scores above it count as anomalous, that share of the normal images is accepted, or a little
      more.

    Raises:
      UserError: no score, one that is not finite, or a quantile out of range.
    """
    scores = _check_scores(normal_scores)
    if not 0 < check_number(quantile, "quantile") <= 1:
        raise UserError(f"quantile must be above 0 and at most 1; got {quantile}: 0.95 accepts 95 % of normal images")
    index = math.ceil(quantile * len(scores) - 1e-9) - 1  # 0.55 * 100 is a little more than 55
    return float(np.sort(scores)[max(index, 0)])


def best_f1_threshold(scores: ArrayLike, anomalous: ArrayLike) -> tuple[float, float]:
    """Returns the threshold with the best F1 for the anomalous images, and that F1.

    Args:
      scores: [N], of validation images.
      anomalous: bool [N], at least one of each kind.

    Returns:
      (threshold, F1): midway between two scores that occur, or just below the lowest if it is best to count every
      image as anomalous. Of equally good thresholds the highest, with the fewest false positives.

    Raises:
      UserError: scores that are not finite, labels that are neither true nor false, or only one kind.
    """
    scores, anomalous = _check_scores(scores), as_flags(anomalous, "anomalous")
    if anomalous.shape != scores.shape or anomalous.all() or not anomalous.any():
        raise UserError(
            f"best_f1 needs one label for each of the {len(scores)} scores, normal and anomalous ones among them; got "
            f"the shape {anomalous.shape} with {int(anomalous.sum())} anomalous."
        )
    levels = np.unique(scores)
    middles = levels[:-1] + (levels[1:] / 2 - levels[:-1] / 2)  # in halves, which cannot overflow
    middles = np.where(middles < levels[1:], middles, levels[:-1])  # of neighboring numbers the middle is the upper one
    thresholds = np.concatenate([[np.nextafter(levels[0], -np.inf)], middles])
    # Scores above a threshold count as anomalous: those from the lowest level on, from the second, ...
    positives = np.sort(scores[anomalous])
    predicted = len(scores) - np.searchsorted(np.sort(scores), levels, side="left")
    hits = len(positives) - np.searchsorted(positives, levels, side="left")
    f1 = 2 * hits / (predicted + len(positives))
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(thresholds[best]), float(f1[best])


def calibrate(scores: ArrayLike, normal_scores: ArrayLike) -> np.ndarray:
    """Returns the share of the normal scores below each score; equal ones count by half.

    Args:
      scores: [N].
      normal_scores: [M], of normal images that the detector was not trained on.

    Returns:
      float64 [N] in 0 to 1: 0.99 is a score that one normal image in a hundred exceeds.

    Raises:
      UserError: no normal score, one that is not finite, or a score that is NaN.
    """
    normal = np.sort(_check_scores(normal_scores))
    scores = as_numbers(scores, "scores")
    if np.isnan(scores).any():
        raise UserError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN, which has no rank")
    below, up_to = (np.searchsorted(normal, scores, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(normal))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The thresholds of one kind of score; saved as JSON.

    Attributes:
      normal_scores: scores of normal images that the detector was not trained on, sorted.
      best_f1: (threshold, F1) on validation images, or None without anomalous ones.
    """

    normal_scores: tuple[float, ...]
    best_f1: tuple[float, float] | None = None

    @classmethod
    def measure(cls, scores: ArrayLike, anomalous: ArrayLike) -> "Calibration":
        """Returns the calibration from scores [N] of validation images, of which bool [N] are anomalous.

        Raises:
          UserError: scores that are not finite, labels that are neither true nor false, or another number of them.
        """
        scores, anomalous = _check_scores(scores), as_flags(anomalous, "anomalous")
        if anomalous.shape != scores.shape:
            raise UserError(f"anomalous must be one per score {scores.shape}; got the shape {anomalous.shape}")
        best = best_f1_threshold(scores, anomalous) if anomalous.any() else None
        return cls(tuple(np.sort(_check_scores(scores[~anomalous])).tolist()), best)

    def threshold(self, *, policy: str = QUANTILE, quantile: float = 0.95) -> float:
        """Returns the threshold of a policy: "quantile" of the normal scores, or "best_f1".

        Raises:
          UserError: unknown policy, or best_f1 without anomalous validation images.
        """
        if policy not in POLICIES:
            raise unknown("threshold policy", policy, POLICIES)
        if policy == QUANTILE:
            return quantile_threshold(self.normal_scores, quantile=quantile)
        if self.best_f1 is None:
            raise UserError(
                "policy=best_f1 needs anomalous validation images, which this detector does not have; set "
                "policy=quantile, or run configs/detector.py again with anomalous=FOLDER"
            )
        return self.best_f1[0]

    def calibrated(self, scores: ArrayLike) -> np.ndarray:
        """Returns scores [N] as shares of the normal scores below them, see `calibrate`."""
        return calibrate(scores, self.normal_scores)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        best = self.best_f1 and {"threshold": self.best_f1[0], "f1": self.best_f1[1]}
        return {"normal_scores": list(self.normal_scores), "best_f1": best}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Calibration":
        """Returns the calibration of the values that `to_json` gave."""
        best = value["best_f1"] and (value["best_f1"]["threshold"], value["best_f1"]["f1"])
        return cls(tuple(value["normal_scores"]), best)


def _check_scores(scores: ArrayLike) -> np.ndarray:
    scores = as_numbers(scores, "scores")
    if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise UserError(f"a threshold needs finite scores [N] of at least one image; got the shape {scores.shape}")
    return scores


def _smooth(maps: Array, sigma: float) -> Array:
    """Returns maps [B, H, W] blurred by a Gaussian whose weights sum to one also at the edges.

    Raises:
      UserError: a negative sigma.
    """
    if check_number(sigma, "sigma", minimum=0.0) == 0:
        return maps
    rows, columns = (_gaussian_matrix(side, sigma) for side in maps.shape[1:])
    return jnp.einsum("ij,bjk,lk->bil", rows, maps, columns)


def _gaussian_matrix(side: int, sigma: float) -> Array:
    places = jnp.arange(side, dtype=jnp.float32)
    offsets = places[:, None] - places[None, :]
    weights = jnp.exp(-jnp.square(offsets / sigma) / 2)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def attack_scores(
    key: Array,
    score_fn: Callable[[Array], Array],
    images: ArrayLike,
    anomalous: ArrayLike,
    *,
    eps: float,
    num_steps: int,
    step_size: float | None = None,
    norm: str = "l2",
    random_start: bool = True,
    indices: ArrayLike | None = None,
) -> Array:
    """Returns images near `images` with higher scores where they are normal, lower where anomalous.

    Args:
      key: PRNG key of the random starts.
      score_fn: images [B, H, W, C] in [0, 1] -> scores [B], differentiable; rows independent.
      images: [B, H, W, C] in [0, 1].
      anomalous: [B], 1 or True for anomalous images, 0 or False for normal ones; -1 for padding, which is returned
        unchanged.
      eps: radius in units of `images`, for "l2" over H, W and C together; may be traced.
      num_steps: gradient steps, at least 1; the best of all iterates is returned, or the image where none is better.
      step_size: length of a step; None for 2.5 * eps / num_steps.
      norm: "l2" or "linf".
      random_start: start from a random point of the ball (for "l2", of its surface).
      indices: integer [B]; an image's random start follows from `key` and its index. None for 0, 1, ..., B - 1.

    Returns:
      float32 [B, H, W, C] in [0, 1], within `eps` of `images`, as a constant.

    Raises:
      UserError: images outside [0, 1], an unknown norm, a negative radius, no step, a function that JAX cannot trace,
        scores that are not [B], `anomalous` and `indices` that are not one per image, or a `random_start` that is
        neither true nor false.

    Source: Madry et al. 2018, section 2.1.
    """
    norms.check_norm(norm)
    images = jnp.clip(jax.lax.stop_gradient(as_images(images)), 0.0, 1.0)
    count = images.shape[0]
    eps = as_radius(eps, batch_size=count, norm=norm)
    anomalous = as_array(anomalous, "anomalous")
    if anomalous.dtype == jnp.bool_:
        anomalous = anomalous.astype(jnp.int32)
    anomalous = as_labels(anomalous, batch_size=count, num_classes=2, name="anomalous")
    indices = as_indices(indices, count)
    check_count(num_steps, "num_steps")
    sign = jnp.where(anomalous == 0, 1.0, -1.0)
    radius = jnp.where(anomalous >= 0, eps, 0.0)  # padding stays
    start = images
    if check_flag(random_start, "random_start"):
        keys = fold_in(single_key(key), indices)
        noise = jax.vmap(lambda k: norms.random_perturbation(k, (1, *images.shape[1:]), eps=1.0, norm=norm)[0])(keys)
        start = jnp.clip(images + noise * norms.per_example(radius, images.shape), 0.0, 1.0)
    options = {"eps": radius, "step_size": step_size, "num_steps": num_steps, "norm": norm}

    def gains_fn(x):
        return sign * as_vector(call(score_fn, x, "score_fn"), count, "what score_fn returns")

    adversarial = projected_ascent(gains_fn, start, images, use_best=True, **options)
    if random_start:  # few steps may not reach the score of the image itself
        adversarial = select(gains_fn(adversarial) > gains_fn(images), adversarial, images)
    return jax.lax.stop_gradient(adversarial)
