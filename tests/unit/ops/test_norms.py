"""Norm balls: nearest projections, steepest directions and random points inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arinv.errors import UserError
from arinv.ops import norms

NORMS = ("l1", "l2", "linf")
ASCENDING = ("l2", "linf")
SHAPE = (4, 2, 3, 2)
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
TOLERANCE = 1e-5

cases = given(
    seed=st.integers(0, 2**31 - 1),
    norm=st.sampled_from(NORMS),
    eps=st.sampled_from((0.0, 1e-3, 8 / 255, 0.5, 3.0)),
    scale=st.sampled_from((1e-4, 0.03, 1.0, 30.0)),
)
few = settings(max_examples=40, deadline=None)


def lengths(x, norm):
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    return np.linalg.norm(rows, ord=ORDERS[norm], axis=1)


def sample(seed, scale=1.0, shape=SHAPE):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@few
@cases
def test_norm_equals_numpy(seed, norm, eps, scale):
    x = sample(seed, scale)
    np.testing.assert_allclose(norms.norm(x, norm), lengths(x, norm), rtol=1e-6)


@few
@cases
@pytest.mark.long
def test_project_is_inside_and_idempotent(seed, norm, eps, scale):
    projected = norms.project(sample(seed, scale), eps=eps, norm=norm)
    assert np.all(lengths(projected, norm) <= eps * (1 + 1e-6))
    again = norms.project(projected, eps=eps, norm=norm)
    np.testing.assert_allclose(again, projected, rtol=1e-6)


@few
@cases
def test_project_keeps_the_inside(seed, norm, eps, scale):
    delta = sample(seed, scale)
    delta = delta * (0.99 * eps / lengths(delta, norm)[:, None, None, None]).astype(np.float32)
    np.testing.assert_array_equal(norms.project(delta, eps=eps, norm=norm), delta)


@few
@cases
@pytest.mark.long
def test_project_is_nearest_point(seed, norm, eps, scale):
    """No other point of the ball is nearer: not the scaled input, not random points around."""
    delta = sample(seed, scale)
    projected = np.asarray(norms.project(delta, eps=eps, norm=norm), np.float64)
    distance = lengths(delta - projected, "l2")
    direction = delta / lengths(delta, norm)[:, None, None, None]
    rng = np.random.default_rng(seed + 1)
    others = [direction * np.minimum(eps, lengths(delta, norm))[:, None, None, None]]
    for _ in range(20):
        other = projected + rng.standard_normal(SHAPE) * eps * rng.choice((0.01, 0.1, 1.0))
        other_length = lengths(other, norm)[:, None, None, None]
        others.append(other * np.minimum(1, eps / np.maximum(other_length, 1e-30)))
    for other in others:
        assert np.all(distance <= lengths(delta - other, "l2") + TOLERANCE * (eps + scale))


@few
@given(seed=st.integers(0, 2**31 - 1), norm=st.sampled_from(ASCENDING), scale=st.sampled_from((1e-4, 0.03, 1.0, 30.0)))
def test_steepest_ascent_has_length_one_and_rises_most(seed, norm, scale):
    gradient = sample(seed, scale)
    direction = np.asarray(norms.steepest_ascent(gradient, norm=norm), np.float64)
    np.testing.assert_allclose(lengths(direction, norm), 1.0, rtol=1e-5)
    other = sample(seed + 1)
    other = other / lengths(other, norm)[:, None, None, None]
    rises, other_rises = ((gradient * d).sum((1, 2, 3)) for d in (direction, other))
    assert np.all(rises >= other_rises - TOLERANCE * scale)


@pytest.mark.parametrize("norm", ASCENDING)
def test_steepest_ascent_of_zero_is_zero(norm):
    assert not np.any(norms.steepest_ascent(np.zeros(SHAPE, np.float32), norm=norm))


def test_steepest_ascent_rejects_l1():
    with pytest.raises(UserError, match='is for l2 and linf; got "l1": use APGD'):
        norms.steepest_ascent(np.zeros(SHAPE, np.float32), norm="l1")


@pytest.mark.parametrize("norm", NORMS)
def test_norm_has_finite_gradient_at_zero(norm):
    gradient = jax.grad(lambda x: norms.norm(x, norm).sum())(jnp.zeros(SHAPE))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("norm", NORMS)
def test_random_perturbation_fills_the_ball(key, norm):
    eps = np.array([0.0, 0.1, 3.0, 0.5], np.float32)
    points = norms.random_perturbation(key, (4, 16, 16, 3), eps=eps, norm=norm)
    result = lengths(points, norm)
    if norm in ("l1", "l2"):  # on the sphere
        np.testing.assert_allclose(result, eps, rtol=1e-5)
    else:  # uniform in the cube: 768 draws come near its faces, and their mean square is a third
        assert np.all((result <= eps) & (result >= 0.98 * eps))
        squares = np.mean(np.square(points), axis=(1, 2, 3))
        np.testing.assert_allclose(squares, eps**2 / 3, rtol=0.15)
    means = np.mean(points, axis=(1, 2, 3))
    spread = np.sqrt(np.mean(np.square(points), axis=(1, 2, 3)))
    assert np.all(np.abs(means) <= 5 * spread / np.sqrt(768))
    other = norms.random_perturbation(jax.random.key(1), points.shape, eps=eps, norm=norm)
    assert np.all(np.any(points != other, axis=(1, 2, 3))[1:])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.long
def test_project_takes_radii_per_example_and_traced(norm):
    delta, eps = sample(0), np.array([0.0, 0.1, 0.5, 100.0], np.float32)
    together = jax.jit(lambda d, e: norms.project(d, eps=e, norm=norm))(delta, eps)
    for i, radius in enumerate(eps):
        alone = norms.project(delta[i : i + 1], eps=float(radius), norm=norm)
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-6)


def test_unknown_norm_suggests_the_same_name_in_other_letters():
    with pytest.raises(UserError, match="Did you mean 'l2'"):
        norms.check_norm("L2")


def test_unknown_norm_lists_known_norms():
    with pytest.raises(UserError, match=r"unknown norm 'l3'; known: l1, l2, linf"):
        norms.project(np.zeros(SHAPE), eps=1.0, norm="l3")
    with pytest.raises(UserError, match="known: l1, l2, linf"):
        norms.norm(np.zeros(SHAPE), "max")


@pytest.mark.parametrize("eps", (-0.1, float("nan"), float("inf"), np.array([1, 1, 1, -1.0])))
def test_project_rejects_impossible_radius(eps):
    with pytest.raises(UserError, match="eps must be finite and at least 0"):
        norms.project(np.zeros(SHAPE), eps=eps, norm="l2")


def test_project_rejects_radius_of_wrong_shape():
    with pytest.raises(UserError, match=r"one per example \(4,\); got shape \(3,\)"):
        norms.project(np.zeros(SHAPE), eps=np.ones(3), norm="l2")


@pytest.mark.parametrize("size", (1e-30, 1e-10, 1e25, 1e36))
def test_norm_does_not_overflow_or_underflow(size):
    x = (sample(0) * size).astype(np.float32)
    np.testing.assert_allclose(norms.norm(x, "l2"), lengths(x, "l2"), rtol=1e-5)
    direction = norms.steepest_ascent(x, norm="l2")
    np.testing.assert_allclose(lengths(direction, "l2"), 1.0, rtol=1e-5)
    projected = norms.project(x, eps=0.5 * size, norm="l2")
    np.testing.assert_allclose(lengths(projected, "l2"), 0.5 * size, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_norm_of_nan_is_nan(norm):
    x = sample(0)
    x[1, 0, 0, 0], x[2, 0, 0, 0] = np.nan, np.inf
    result = np.asarray(norms.norm(x, norm))
    assert np.isnan(result[1]) and np.isinf(result[2]) and np.isfinite(result[[0, 3]]).all()


def test_finite_gradient_keeps_finite_values():
    inf, nan = np.inf, np.nan
    gradient = np.array([[1, -3, 2], [1, -inf, inf], [nan, 2, -inf], [nan, nan, nan], [0, inf, nan]], np.float32)
    result = np.asarray(norms.finite_gradient(gradient))
    np.testing.assert_array_equal(result[:3], [[1, -3, 2], [1, -1, 1], [0, 2, -2]])
    assert set(np.abs(result[3])) == {1.0} and len(set(result[3])) == 2
    assert result[4].tolist()[:2] == [0, 1] and abs(result[4, 2]) == 1
    for norm in ASCENDING:
        assert np.isfinite(norms.steepest_ascent(gradient, norm=norm)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("norm", NORMS)
def test_short_floats_are_computed_in_float32(dtype, norm):
    """Sums over an image exceed the range of float16, and lengths the digits of bfloat16."""
    images = jax.random.uniform(jax.random.key(0), (1, 224, 224, 3)).astype(dtype)
    length = norms.norm(images, norm)
    np.testing.assert_allclose(length, norms.norm(images.astype(jnp.float32), norm))
    projected = norms.project(images, eps=3.0, norm=norm)
    assert projected.dtype == length.dtype == jnp.float32
    limit = min(3.0, float(length[0]))
    assert 0.99 * limit <= norms.norm(projected, norm)[0] <= limit * (1 + 1e-5)
    if norm in ASCENDING:
        assert norms.norm(norms.steepest_ascent(images, norm=norm), norm)[0] == pytest.approx(1, rel=1e-5)
