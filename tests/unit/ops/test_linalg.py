"""Matrix roots by Newton-Schulz and by eigendecomposition against float64 eigh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.ops import linalg

SIZE = 24
roots = jax.jit(linalg.sqrt_and_inverse_sqrt)


def with_eigenvalues(values, seed=0):
    """A symmetric float64 matrix with these eigenvalues, and its root and inverse root."""
    values = np.asarray(values, np.float64)
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))[0]
    with np.errstate(divide="ignore"):
        inverse = np.where(values > 0, 1 / np.sqrt(values), 0)
    return (q * values) @ q.T, (q * np.sqrt(values)) @ q.T, (q * inverse) @ q.T


def spectral_norm(x):
    return np.linalg.norm(x, 2)


@pytest.mark.parametrize(("condition", "tolerance"), [(1.0, 1e-5), (1e2, 1e-5), (1e3, 1e-4), (1e4, 1e-3), (1e5, 0.1)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_sqrt_and_inverse_sqrt_of_regular_matrices(condition, tolerance, scale):
    values = scale * np.geomspace(1, 1 / condition, SIZE)
    matrix, root, inverse = with_eigenvalues(values)
    condition_of_norm = np.linalg.norm(matrix) / values[-1]
    assert condition_of_norm < 3 * max(condition, 2)
    found_root, found_inverse = map(np.asarray, roots(matrix.astype(np.float32)))
    assert spectral_norm(found_root - root) < 1e-3 * np.sqrt(np.linalg.norm(matrix))
    assert spectral_norm(found_root - root) < tolerance * spectral_norm(root)
    assert spectral_norm(found_inverse - inverse) < tolerance * spectral_norm(inverse)


@pytest.mark.parametrize("rank", [1, 5, SIZE - 1])
@pytest.mark.parametrize("ridge", [0.0, 1e-6])
@pytest.mark.long
def test_sqrt_and_inverse_sqrt_of_singular_matrices_is_bounded(rank, ridge):
    rows = np.random.default_rng(rank).normal(size=(rank, SIZE)).astype(np.float32)
    matrix = rows.T @ rows  # as rounding leaves it
    values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    exact = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    root, inverse = map(np.asarray, linalg.sqrt_and_inverse_sqrt(matrix, ridge=ridge))
    norm = np.linalg.norm(matrix)
    assert spectral_norm(root - exact) < (1e-3 + np.sqrt(ridge)) * np.sqrt(norm)
    assert spectral_norm(inverse) < 1700 / np.sqrt(norm)  # 1.5^18, and what rounding below zero adds
    kept = values > 1e-5 * norm
    exact_inverse = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    whitened = inverse.astype(np.float64) @ rows.T
    np.testing.assert_allclose(whitened, exact_inverse @ rows.T, atol=5e-3)


def test_inverse_near_identity_equals_numpy():
    matrices = np.stack([with_eigenvalues(np.linspace(1, 2, SIZE), seed)[0] for seed in range(3)])
    np.testing.assert_allclose(linalg.inverse_near_identity(matrices), np.linalg.inv(matrices), atol=1e-6)


def test_sqrt_and_inverse_sqrt_is_per_matrix_and_zero_for_zero():
    matrices = np.stack(
        [with_eigenvalues(np.linspace(1, 2 + i, SIZE), i)[0] for i in range(3)] + [np.zeros((SIZE,) * 2)]
    )
    together = roots(matrices.astype(np.float32).reshape(2, 2, SIZE, SIZE))
    for result in together:
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, jnp.swapaxes(result, -1, -2), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(result[1, 1], 0.0)
    for i in range(3):
        for result, expected in zip(together, roots(matrices[i].astype(np.float32)), strict=True):
            np.testing.assert_allclose(result.reshape(4, SIZE, SIZE)[i], expected, atol=1e-5)


@pytest.mark.long
def test_sqrt_and_inverse_sqrt_has_finite_gradients():
    matrix, _, _ = with_eigenvalues(np.geomspace(1, 1e-3, 6))
    whiten = jax.grad(lambda x: jnp.sum(jnp.square(linalg.sqrt_and_inverse_sqrt(x)[1])))
    gradient = whiten(matrix.astype(np.float32))  # sum of the eigenvalues of the inverse: -1 / x^2
    expected = -np.linalg.matrix_power(np.linalg.inv(matrix), 2)
    np.testing.assert_allclose(gradient, expected, atol=1e-2 * np.abs(expected).max())
