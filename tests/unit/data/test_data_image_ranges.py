"""Ranges of images: conversions, checks, and grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.errors import UserError
from arinv.ops import images as ops
from arinv.ops import inputs

GOOD = np.full((2, 4, 4, 3), 0.5, np.float32)


def test_to_uint8_inverts_to_float():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = ops.to_float(levels)
    assert floats.dtype == jnp.float32 and float(floats.max()) == 1.0
    np.testing.assert_array_equal(ops.to_uint8(floats), levels)
    np.testing.assert_array_equal(jax.jit(ops.to_uint8)(jax.jit(ops.to_float)(levels)), levels)


def test_to_float_keeps_floats():
    np.testing.assert_array_equal(ops.to_float(GOOD), GOOD)
    assert ops.to_float(jnp.asarray(GOOD, jnp.bfloat16)).dtype == jnp.float32


def test_to_uint8_rounds_halves_upwards_and_clips():
    values = np.array([-0.2, 0.5 / 255, 1.5 / 255, 2.5 / 255, 0.9999, 1.3], np.float32)
    assert ops.to_uint8(values).tolist() == [0, 1, 2, 3, 255, 255]


def test_from_pm1_maps_and_clips():
    values = np.array([-1.5, -1.0, 0.0, 1.0], np.float32)
    assert ops.from_pm1(values).tolist() == [0.0, 0.0, 0.5, 1.0]


def test_check_images_accepts_images():
    inputs.check_images(GOOD)
    inputs.check_images(jnp.asarray(GOOD, jnp.bfloat16))
    inputs.check_images(GOOD[..., :1])
    inputs.check_images(GOOD + 0.5 + 5e-7)
    inputs.check_images(GOOD[:0])


def test_check_images_accepts_tracers():
    @jax.jit
    def double(images):
        inputs.check_images(images)
        return images * 2

    np.testing.assert_array_equal(double(GOOD * 20), GOOD * 40)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD[0], r"batch, height, width, channels.*; got shape \(4, 4, 3\)"),
        (GOOD.transpose(0, 3, 1, 2), r"1 or 3 channels .*: transpose.*\(0, 2, 3, 1\)"),
        (np.zeros((2, 4, 4, 5), np.float32), r"1 or 3 channels .*got shape \(2, 4, 4, 5\)$"),
        (GOOD.astype(np.uint8), "got uint8.*to_float"),
        (GOOD.astype(np.int32), "got int32"),
        (GOOD * 510, "got 255 to 255.*divide by 255"),
        (GOOD * 2.4, "to 1.2.*clip"),
        (GOOD - 1.5, "got -1 to -1.*from_pm1"),
        (GOOD * np.nan, "not finite"),
        (GOOD * np.inf, "not finite"),
    ],
)
def test_check_images_names_the_mistake(images, message):
    for kind in (np.asarray, jnp.asarray):
        with pytest.raises(UserError, match=f"^originals .*{message}"):
            inputs.check_images(kind(images), "originals")


def test_image_grid_places_images_on_white():
    rows = [np.zeros((3, 4, 5, 3), np.float32), np.full((2, 4, 5, 1), 128, np.uint8)]
    grid = ops.image_grid(rows, gap=2)
    assert grid.shape == (2 * 6 + 2, 3 * 7 + 2, 3) and grid.dtype == np.uint8
    assert (grid[2:6, 2:7] == 0).all() and (grid[8:12, 9:14] == 128).all()
    assert (grid[:2] == 255).all() and (grid[:, 7:9] == 255).all()
    assert (grid[8:12, 16:21] == 255).all()  # the second row is shorter
    with pytest.raises(UserError, match="one size"):
        ops.image_grid([rows[0], np.zeros((1, 6, 5, 3))])
    with pytest.raises(UserError, match="one size"):
        ops.image_grid([])
