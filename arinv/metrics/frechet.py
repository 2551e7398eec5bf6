"""The Fréchet distance between two sets of images in the space of a network's features (FID).

Feature vectors are [B, K]. Their mean and covariance are accumulated batch by batch on the host in float64, without
storing features. The matrix root is computed on the host, in float64.

The published figures use the features of one Inception network and 50,000 images. Any other network or number gives
another scale, which is why results are reported under a name with both, such as "fid_resnet18_block4_n2000".

Source: Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
eq. (6).
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from arinv.errors import UserError
from arinv.ops.inputs import as_flags, as_images, as_numbers, layer_features
from arinv.types import Array, ArrayLike, FeaturesFn

FRECHET_VARIANT = (
    "fid: Fréchet distance between Gaussians fitted to the features of reconstructions and images, spatial features "
    "averaged over positions, sample covariances, float64; not comparable with FID of Inception features"
)

_SYMMETRY = 1e-4  # of the largest value, for matrices that were computed in float32


class FeatureMoments:
    """Mean and covariance of feature vectors, accumulated batch by batch in float64.

    Attributes:
      count: number of vectors.
    """

    def __init__(self):
        self.count = 0
        self._mean: np.ndarray | float = 0.0
        self._scatter: np.ndarray | float = 0.0

    def update(self, features: ArrayLike, mask: ArrayLike | None = None) -> None:
        """Adds a batch.

        Args:
          features: [B, K].
          mask: [B], 1 for an example that counts and 0 for padding; None counts all.

        Raises:
          UserError: features that are not one vector of numbers per image, or a mask of another length or values.
        """
        rows = as_numbers(features, "features")
        if rows.ndim != 2:
            raise UserError(f"features must be one vector per image [B, K]; got {rows.shape}: average their positions")
        if mask is not None:
            mask = as_flags(mask, "mask")
            if mask.shape != rows.shape[:1]:
                raise UserError(f"mask must be one number per image {rows.shape[:1]}; got shape {mask.shape}")
            rows = rows[mask]
        if not len(rows):
            return
        if self.count and rows.shape[1:] != np.shape(self._mean):
            raise UserError(f"features must be of one length; got {rows.shape[1]} after {np.shape(self._mean)[0]}")
        total = self.count + len(rows)
        center = rows.mean(axis=0)
        shift, rows = center - self._mean, rows - center[None, :]
        self._scatter = self._scatter + rows.T @ rows + np.outer(shift, shift) * (self.count * len(rows) / total)
        self._mean = self._mean + shift * (len(rows) / total)
        self.count = total

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns everything that was accumulated, as named arrays."""
        state = {"count": self.count, "mean": self._mean, "scatter": self._scatter}
        return {name: np.asarray(value) for name, value in state.items()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Replaces what was accumulated by what `get_state` has returned."""
        self.count, self._mean, self._scatter = int(state["count"]), state["mean"], state["scatter"]

    @property
    def mean(self) -> np.ndarray:
        """The mean, float64 [K]."""
        self._check(1)
        return self._mean

    @property
    def covariance(self) -> np.ndarray:
        """The sample covariance, float64 [K, K]."""
        self._check(2)
        return self._scatter / (self.count - 1)

    def _check(self, least: int) -> None:
        if self.count < least:
            raise UserError(f"the distribution of features needs at least {least} image(s); got {self.count}")


def feature_vectors(features_fn: FeaturesFn, images: ArrayLike, *, layer: str) -> Array:
    """Returns one feature vector per image: a spatial feature is averaged over its positions.

    Args:
      features_fn: images [B, H, W, C] in [0, 1] -> named features.
      images: [B, H, W, C] in [0, 1].
      layer: name of a feature [B, h, w, K] or [B, K].

    Returns:
      float32 [B, K].

    Raises:
      UserError: images outside [0, 1], or a layer that is not among the features.
    """
    with jax.default_matmul_precision("highest"):  # a GPU's TF32 would show in the third digit
        (feature,) = layer_features(features_fn, as_images(images, finite=False), (layer,))
    return jnp.mean(feature, axis=tuple(range(1, feature.ndim - 1)))


def frechet_distance(mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike) -> float:
    """Returns the squared Fréchet distance between two Gaussians, known as FID.

    The trace of the root loses half of the digits for eigenvalues near zero, of which there are many with fewer images
    than features. It is therefore computed in float64 on the host, with two symmetric eigendecompositions, which take
    seconds and, unlike an iteration, need no ridge.

    Args:
      mean_a: [K].
      covariance_a: [K, K], symmetric and positive semidefinite, singular or not.
      mean_b: [K].
      covariance_b: [K, K].

    Returns:
      |mean_a - mean_b|^2 + trace(covariance_a + covariance_b - 2 sqrt(covariance_a covariance_b)), 0 or more.

    Raises:
      UserError: not numbers, inconsistent shapes, or a matrix that is not symmetric or not positive semidefinite.

    Source: Heusel et al. 2017, eq. (6).
    """
    arguments = {"mean_a": mean_a, "covariance_a": covariance_a, "mean_b": mean_b, "covariance_b": covariance_b}
    arrays = [as_numbers(x, name) for name, x in arguments.items()]
    mean_a, covariance_a, mean_b, covariance_b = arrays
    size = mean_a.shape[0] if mean_a.ndim == 1 else -1
    if [x.shape for x in arrays] != [(size,), (size, size)] * 2:
        raise UserError(
            f"means [K] and covariances [K, K] must have the same feature size K; got {[x.shape for x in arrays]}"
        )
    for name, covariance in (("covariance_a", covariance_a), ("covariance_b", covariance_b)):
        _check_covariance(name, covariance)
    root = _trace_of_sqrt_product(covariance_a, covariance_b)
    distance = np.sum(np.square(mean_a - mean_b)) + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root
    return float(np.maximum(distance, 0.0))  # rounding may make equal distributions negative


def _check_covariance(name: str, covariance: np.ndarray) -> None:
    """Checks that a finite matrix may be a covariance; others have the distance NaN.

    Raises:
      UserError: it is not symmetric, or has a negative variance or eigenvalue.
    """
    if not np.isfinite(covariance).all():
        return
    size = np.abs(covariance).max(initial=0.0)
    if np.abs(covariance - covariance.T).max(initial=0.0) > _SYMMETRY * size:
        raise UserError(f"{name} must be symmetric, as a covariance is")
    if np.diagonal(covariance).min(initial=0.0) < -_SYMMETRY * size:
        raise UserError(f"{name} must have variances of 0 or more; got {np.diagonal(covariance).min():g}")
    smallest = np.linalg.eigvalsh(covariance)[0] if covariance.size else 0.0
    if smallest < -_SYMMETRY * size:
        raise UserError(f"{name} must be positive semidefinite, as a covariance is; an eigenvalue is {smallest:g}")


def moments_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Returns `frechet_distance` between the Gaussians of two sets of features.

    Args:
      a: moments of one set, of at least two vectors.
      b: moments of the other set, of at least two vectors.

    Returns:
      The squared distance, 0 or more.

    Raises:
      UserError: fewer than two vectors, or different features.
    """
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def _trace_of_sqrt_product(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the trace of the square root of a b; NaN where they are not finite.

    The eigenvalues of a b are those of sqrt(a) b sqrt(a), which is symmetric, so that singular matrices need no ridge.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))[None, :]) @ vectors.T
    return float(np.sum(np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0))))
