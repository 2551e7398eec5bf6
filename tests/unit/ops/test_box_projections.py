"""Projections onto balls and hyperplanes within the box: feasible, and nearest among feasible points."""

import functools

import jax
import numpy as np
import pytest
import scipy.optimize
from attacked_model import ORDERS, lengths
from hypothesis import given, settings
from hypothesis import strategies as st

from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.norms import move_to_hyperplane, project_l1_ball

NORMS = ("l1", "l2", "linf")
SIZE = 12

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31 - 1)


@functools.cache
def compiled(norm):
    return jax.jit(functools.partial(move_to_hyperplane, norm=norm))


def problem(seed, scale=1.0, count=4):
    """Points, some on the faces of the box, and planes that meet it; some weights are zero."""
    rng = np.random.default_rng(seed)
    points, others = np.clip(1.4 * rng.random((2, count, SIZE)) - 0.2, 0, 1).astype(np.float32)
    weights = (rng.standard_normal((count, SIZE)) * (rng.random((count, SIZE)) < 0.8) * scale).astype(np.float32)
    weights[:, 0] = scale
    residuals = np.sum(weights.astype(np.float64) * (points - others.astype(np.float64)), axis=1)
    return points, weights, residuals.astype(np.float32)


@few
@given(seed=seeds, norm=st.sampled_from(NORMS), scale=st.sampled_from((1e-25, 1e-3, 1.0, 1e6)))
def test_move_to_hyperplane_is_feasible(seed, norm, scale):
    points, weights, residuals = problem(seed, scale)
    moves = np.asarray(compiled(norm)(points, weights, residuals), np.float64)
    after = residuals / scale + np.sum(weights / scale * moves, axis=1)
    np.testing.assert_allclose(after, 0, atol=1e-5)
    assert np.all((points + moves >= -1e-6) & (points + moves <= 1 + 1e-6))
    assert not np.any(moves[weights == 0])


def shortest(point, weights, residual, norm):
    """The length of the shortest move, from a solver of linear or quadratic programs."""
    equality = {"A_eq": weights[None].astype(np.float64), "b_eq": [-float(residual)]}
    bounds = np.stack([-point, 1 - point], axis=1).astype(np.float64)
    if norm == "l2":
        solution = scipy.optimize.minimize(
            lambda d: d @ d, np.zeros(SIZE), jac=lambda d: 2 * d, bounds=bounds, method="SLSQP",
            constraints={"type": "eq", "fun": lambda d: equality["A_eq"][0] @ d + residual}, tol=1e-12,
        )  # fmt: skip
        return np.sqrt(solution.fun)
    if norm == "l1":  # a move of two parts, up and down
        split = np.concatenate([bounds.clip(min=0), (-bounds[:, ::-1]).clip(min=0)])
        both = np.concatenate([equality["A_eq"], -equality["A_eq"]], axis=1)
        return scipy.optimize.linprog(np.ones(2 * SIZE), A_eq=both, b_eq=equality["b_eq"], bounds=split).fun
    largest = np.concatenate([np.eye(SIZE), -np.eye(SIZE)]), -np.ones((2 * SIZE, 1))
    return scipy.optimize.linprog(
        np.eye(SIZE + 1)[SIZE], A_ub=np.concatenate(largest, axis=1), b_ub=np.zeros(2 * SIZE),
        A_eq=np.append(equality["A_eq"], [[0]], axis=1), b_eq=equality["b_eq"], bounds=[*bounds, (0, 1)],
    ).fun  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
def test_move_to_hyperplane_is_shortest(norm):
    for seed in range(8):
        points, weights, residuals = problem(seed)
        result = lengths(compiled(norm)(points, weights, residuals), norm)
        for i, length in enumerate(result):
            expected = shortest(points[i], weights[i], residuals[i], norm)
            np.testing.assert_allclose(length, expected, atol=2e-5, err_msg=f"problem {seed}, row {i}")


@pytest.mark.parametrize("norm", NORMS)
def test_move_to_hyperplane_ends_in_nearest_corner(norm):
    points, weights, _ = problem(0)
    moves = compiled(norm)(points, weights, np.full(4, 1e3, np.float32))
    corner = np.where(weights > 0, 0.0, np.where(weights < 0, 1.0, points))
    np.testing.assert_allclose(points + moves, corner, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_move_to_hyperplane_without_gradient_or_distance_is_zero(norm):
    points, weights, residuals = problem(0)
    assert not np.any(compiled(norm)(points, np.zeros_like(weights), residuals))
    assert not np.any(compiled(norm)(points, weights, np.zeros_like(residuals)))


def test_move_to_hyperplane_l1_is_shared_by_equal_weights():
    move = compiled("l1")(np.full((1, SIZE), 0.5, np.float32), np.ones((1, SIZE), np.float32), np.float32([2.0]))
    np.testing.assert_allclose(lengths(move, "l1"), 2.0, rtol=1e-6)


@few
@given(seed=seeds, eps=st.sampled_from((0.0, 0.01, 0.5, 2.0, 30.0)), scale=st.sampled_from((1e-3, 0.3, 3.0)))
def test_project_l1_ball_is_feasible_and_keeps_the_inside(seed, eps, scale):
    points, noise, _ = problem(seed, scale)
    projected = np.asarray(ball(noise, points, eps))
    assert np.all(lengths(projected, "l1") <= eps * (1 + 1e-6))
    assert np.all((points + projected >= 0) & (points + projected <= 1 + 1e-7))
    np.testing.assert_allclose(ball(projected, points, eps), projected, atol=1e-6)
    boxed = np.clip(points + noise, 0, 1) - points
    inside = lengths(boxed, "l1") <= 0.999 * eps
    np.testing.assert_allclose(projected[inside], boxed[inside], atol=1e-6)


@functools.cache
def _ball():
    return jax.jit(lambda noise, points, eps: project_l1_ball(noise, points, eps=eps))


def ball(noise, points, eps):
    return _ball()(noise, points, eps)


def nearest(noise, point, eps):
    """The projection by a solver of quadratic programs, the move split into its parts up and down."""
    both = np.concatenate([np.eye(SIZE), -np.eye(SIZE)], axis=1)
    bounds = np.concatenate([np.stack([np.zeros(SIZE), room], axis=1) for room in (1 - point, point)])
    solution = scipy.optimize.minimize(
        lambda d: np.sum(np.square(both @ d - noise)), np.zeros(2 * SIZE), method="SLSQP", tol=1e-12,
        jac=lambda d: 2 * both.T @ (both @ d - noise), bounds=bounds,
        constraints={"type": "ineq", "fun": lambda d: eps - d.sum()},
    )  # fmt: skip
    return both @ solution.x


@pytest.mark.parametrize("eps", (0.3, 1.5))
def test_project_l1_ball_is_nearest_point(eps):
    for seed in range(6):
        points, noise, _ = problem(seed)
        projected = ball(noise, points, eps)
        for i in range(len(points)):
            expected = nearest(noise[i].astype(np.float64), points[i].astype(np.float64), eps)
            np.testing.assert_allclose(projected[i], expected, atol=1e-5, err_msg=f"problem {seed}, row {i}")


def test_project_l1_ball_takes_radii_per_example():
    points, noise, _ = problem(1)
    eps = np.array([0.0, 0.1, 0.5, 100.0], np.float32)
    together = ball(noise, points, eps)
    for i, radius in enumerate(eps):
        np.testing.assert_allclose(together[i], ball(noise, points, np.full(4, radius))[i], atol=1e-6)


def test_project_l1_ball_far_from_the_box_equals_project():
    noise = 0.1 * problem(2)[1]
    middle = np.full_like(noise, 0.5)
    np.testing.assert_allclose(ball(noise, middle, 0.3), norms.project(noise, eps=0.3, norm="l1"), atol=1e-6)


def test_box_projections_reject_mistakes():
    points, weights, residuals = problem(0)
    with pytest.raises(UserError, match="unknown norm 'l3'; known: l1, l2, linf"):
        move_to_hyperplane(points, weights, residuals, norm="l3")
    with pytest.raises(UserError, match="eps must be finite and at least 0"):
        project_l1_ball(weights, points, eps=-1.0)
    assert set(NORMS) == set(ORDERS)
