"""The Haar transform: exact inverse, energy, and the bands of hand-made blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arinv.errors import UserError
from arinv.ops.wavelets import haar_analysis, haar_synthesis


@settings(max_examples=6, deadline=None)
@given(st.tuples(*(st.integers(1, 4) for _ in range(3))), st.integers(0, 9))
@pytest.mark.long
def test_haar_synthesis_inverts_analysis_and_energy_is_kept(shape, seed):
    b, h, w = shape
    x = np.random.default_rng(seed).normal(size=(b, 2 * h, 2 * w, 3)).astype(np.float32)
    low, details = haar_analysis(jnp.asarray(x))
    np.testing.assert_allclose(haar_synthesis(low, details), x, atol=1e-6)
    energy = sum(float(jnp.sum(band**2)) for band in (low, *details))
    np.testing.assert_allclose(energy, np.sum(x**2), rtol=1e-5)


def test_haar_analysis_of_one_block():
    block = jnp.array([[1.0, 2.0], [4.0, 8.0]]).reshape(1, 2, 2, 1)
    low, details = haar_analysis(block)
    assert [float(band[0, 0, 0, 0]) for band in (low, *details)] == [7.5, 2.5, 4.5, 1.5]


def test_haar_analysis_of_a_constant_has_no_details():
    low, details = haar_analysis(jnp.full((2, 6, 4, 3), 0.7))
    np.testing.assert_allclose(low, 1.4, rtol=1e-6)
    assert all(float(jnp.abs(band).max()) < 1e-6 for band in details)


def test_haar_analysis_drops_odd_border(key):
    x = jax.random.normal(key, (1, 5, 7, 2))
    low, details = haar_analysis(x)
    assert low.shape == (1, 2, 3, 2)
    np.testing.assert_allclose(haar_synthesis(low, details), x[:, :4, :6], atol=1e-6)


def test_haar_synthesis_rejects_different_shapes():
    a, b = jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 3, 1))
    with pytest.raises(UserError, match="one shape"):
        haar_synthesis(a, (a, a, b))
