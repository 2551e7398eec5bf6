"""The Fréchet distance against NumPy and SciPy in float64, also for singular covariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from arinv import metrics
from arinv.errors import UserError

RNG = np.random.default_rng(0)


def features(count, size, *, seed, shift=0.0):
    """Positive, correlated and of very different scales, as after a ReLU."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(size, size)) * np.geomspace(1, 1e-2, size)
    return np.maximum(rng.normal(size=(count, size)) @ mixing + shift, 0).astype(np.float32)


def moments(rows, batches=(None,)):
    result = metrics.FeatureMoments()
    for start, stop in zip((None, *batches[:-1]), batches, strict=True):
        result.update(jnp.asarray(rows[start:stop]))
    return result


def distance(a, b):
    a, b = moments(a), moments(b)
    return metrics.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def expected_distance(a, b):
    """By SciPy's Schur method, which does not use symmetry."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    covariances = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + covariances - 2 * np.trace(root).real


@pytest.mark.parametrize("shift", [0.0, 0.02, 1.0])
def test_frechet_distance_equals_scipy(shift):
    a, b = features(400, 24, seed=1), features(300, 24, seed=2, shift=shift)
    np.testing.assert_allclose(distance(a, b), expected_distance(a, b), rtol=1e-6)


def test_frechet_distance_with_fewer_images_than_features():
    """Covariances of rank 11 in 48 dimensions: float32 would be wrong in the first digits."""
    a, b = features(12, 48, seed=1), features(12, 48, seed=2)
    covariances = [np.cov(x.astype(np.float64), rowvar=False) for x in (a, b)]
    # Without any root: the singular values of the centered features' products are those of the two roots' product.
    centered = [(x - x.mean(0)).astype(np.float64) / np.sqrt(11) for x in (a.astype(np.float64), b.astype(np.float64))]
    root = np.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    expected = np.sum((a.mean(0, np.float64) - b.mean(0, np.float64)) ** 2)
    expected += sum(np.trace(x) for x in covariances) - 2 * root
    np.testing.assert_allclose(distance(a, b), expected, rtol=1e-6)


def test_frechet_distance_of_known_gaussians():
    identity = np.eye(3)
    assert metrics.frechet_distance(np.zeros(3), identity, np.ones(3), identity) == pytest.approx(3)
    assert metrics.frechet_distance(np.zeros(3), identity, np.zeros(3), 4 * identity) == pytest.approx(3)
    assert metrics.frechet_distance(np.zeros(3), 0 * identity, np.zeros(3), identity) == pytest.approx(3)


def test_frechet_distance_of_equal_distributions_is_zero():
    a = features(100, 24, seed=1)
    assert 0 <= distance(a, a) < 1e-6
    assert 0 <= distance(a[:10], a[:10]) < 1e-6


def test_feature_moments_do_not_depend_on_batches_or_padding():
    rows = features(50, 8, seed=3) + np.float32(1000)  # a mean that would cost float32 three digits
    expected = rows.astype(np.float64)
    for batches in ((50,), (1, 2, 33, 50), tuple(range(5, 51, 5))):
        result = moments(rows, batches)
        assert result.count == 50
        np.testing.assert_allclose(result.mean, expected.mean(0), rtol=1e-12)
        np.testing.assert_allclose(result.covariance, np.cov(expected, rowvar=False), rtol=1e-9, atol=1e-12)
    padded = metrics.FeatureMoments()
    padded.update(np.concatenate([rows, np.full((6, 8), np.nan, np.float32)]), np.repeat([1.0, 0.0], [50, 6]))
    padded.update(rows[:3], np.zeros(3))
    assert padded.count == 50
    np.testing.assert_allclose(padded.covariance, np.cov(expected, rowvar=False), rtol=1e-9, atol=1e-12)


def test_frechet_distance_of_non_finite_features_is_nan():
    a, b = features(20, 4, seed=1), features(20, 4, seed=2)
    a[3, 2] = np.nan
    assert np.isnan(distance(a, b))


def test_feature_vectors_average_positions():
    feature = RNG.random((2, 3, 4, 5), dtype=np.float32)

    def features_fn(images):
        return {"conv": jnp.asarray(feature, jnp.bfloat16), "fc": images[:, 0, 0, :]}

    result = metrics.feature_vectors(features_fn, np.ones((2, 6, 6, 3), np.float32), layer="conv")
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, feature.mean((1, 2)), rtol=2e-3)
    assert metrics.feature_vectors(features_fn, np.ones((2, 6, 6, 3)), layer="fc").shape == (2, 3)
    with pytest.raises(UserError, match="unknown layer 'conv9'; known: conv, fc"):
        metrics.feature_vectors(features_fn, np.ones((2, 6, 6, 3)), layer="conv9")


def test_frechet_distance_keeps_float32_outside():
    distance(features(20, 4, seed=1), features(20, 4, seed=2))
    assert jnp.ones(2).dtype == jnp.float32 and not jax.config.jax_enable_x64


def test_frechet_distance_rejects_mistakes():
    with pytest.raises(UserError, match="at least 2 image"):
        distance(features(1, 4, seed=1), features(20, 4, seed=2))
    with pytest.raises(UserError, match="the same feature size K"):
        metrics.frechet_distance(np.zeros(3), np.eye(3), np.zeros(4), np.eye(4))
    with pytest.raises(UserError, match=r"one vector per image \[B, K\]; got \(2, 3, 3, 4\)"):
        metrics.FeatureMoments().update(np.zeros((2, 3, 3, 4)))
    with pytest.raises(UserError, match="covariance_b must be symmetric"):
        metrics.frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(UserError, match="covariance_a must have variances of 0 or more; got -1"):
        metrics.frechet_distance(np.zeros(2), -np.eye(2), np.zeros(2), np.eye(2))
    indefinite = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]])
    with pytest.raises(UserError, match="covariance_a must be positive semidefinite.*; an eigenvalue is -1"):
        metrics.frechet_distance(np.zeros(3), indefinite, np.zeros(3), np.diag([1.0, 0.0, 0.0]))
    with pytest.raises(UserError, match="covariance_b must be positive semidefinite"):
        metrics.frechet_distance(np.zeros(3), np.diag([1.0, 0.0, 0.0]), np.zeros(3), indefinite)


@pytest.mark.parametrize("size", [2, 8, 64])
def test_frechet_distance_of_orthogonal_subspaces(size):
    basis = np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))[0]
    halves = np.split(basis.astype(np.float32), 2, axis=1)
    a, b = (half @ half.T for half in halves)
    mean = np.zeros(size)
    assert metrics.frechet_distance(mean, a, mean, b) == pytest.approx(size, rel=1e-3)
    assert metrics.frechet_distance(mean, 0 * a, mean, b) == pytest.approx(size / 2, rel=1e-3)
