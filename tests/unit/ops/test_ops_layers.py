"""Adaptive pooling and local response normalization against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.ops.images import to_uint8
from arinv.ops.pooling import adaptive_avg_pool, avg_pool, local_response_normalization


@pytest.mark.parametrize(("height", "width", "side"), [(7, 7, 7), (2, 3, 7), (13, 9, 6), (14, 14, 7)])
@pytest.mark.long
def test_adaptive_avg_pool_equals_numpy(key, height, width, side):
    x = np.asarray(jax.random.normal(key, (2, height, width, 3)))
    expected = np.empty((2, side, side, 3), np.float32)
    for i in range(side):
        for j in range(side):
            rows = slice(int(np.floor(i * height / side)), int(np.ceil((i + 1) * height / side)))
            columns = slice(int(np.floor(j * width / side)), int(np.ceil((j + 1) * width / side)))
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(adaptive_avg_pool(jnp.asarray(x), side), expected, rtol=1e-5, atol=1e-6)


def test_local_response_normalization_equals_numpy(key):
    x = np.asarray(30 * jax.random.normal(key, (2, 3, 3, 8)))
    expected = np.empty_like(x)
    for c in range(8):
        neighbors = x[..., max(0, c - 2) : c + 3]
        expected[..., c] = x[..., c] / (1 + 1e-4 / 5 * np.square(neighbors).sum(-1)) ** 0.75
    got = local_response_normalization(jnp.asarray(x))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.abs(got - x).max() > 0.1  # strong enough inputs for the test to see it


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_to_uint8_rounds_in_float32(dtype):
    values = jnp.arange(256, dtype=jnp.float32) / 255
    rounded = values.astype(dtype)
    expected = np.floor(np.asarray(rounded.astype(jnp.float32)) * np.float32(255) + np.float32(0.5))
    np.testing.assert_array_equal(to_uint8(rounded), expected.astype(np.uint8))


def test_avg_pool_of_bfloat16_keeps_its_digits():
    images = jnp.full((1, 33, 33, 1), 1.01, jnp.bfloat16)
    result = avg_pool(images, 32, 1)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result, np.float32), np.asarray(images[0, 0, 0, 0], np.float32), rtol=0.01)
