"""Operators of inverse problems: what they do to an image, and that an image does not depend on its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.errors import UserError
from arinv.ops.degradations import OPERATORS, build_operator, image_keys

OPTIONS = {"blur": {"sigma": 1.0, "window": 5}}


@pytest.fixture
def images(key):
    return jax.random.uniform(key, (3, 8, 8, 3))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.long
def test_operator_treats_every_image_alone(name, images, key):
    operator = build_operator(name, **OPTIONS.get(name, {}))
    keys = image_keys(key, jnp.array([4, 0, 7]))
    for function in (operator.degrade, operator.project):
        whole = jax.jit(function)(keys, images)
        assert whole.shape == images.shape and whole.dtype == jnp.float32
        np.testing.assert_allclose(whole[1:2], function(keys[1:2], images[1:2]), atol=1e-5)
    assert operator.formula


@pytest.mark.parametrize("name", ["identity", "mask", "downsample", "sensing"])
def test_known_degradations_project_generated_images_alike(name, images, key):
    operator, keys = build_operator(name), image_keys(key, jnp.arange(3))
    degraded = operator.degrade(keys, images)
    projected = operator.project(keys, images)
    assert np.abs(projected - degraded).max() < (0.2 if name == "sensing" else 1e-6)  # its measurements have noise
    np.testing.assert_allclose(operator.project(keys, projected), projected, atol=1e-5)


def test_mask_clears_one_block_inside_the_image(images, key):
    degraded = np.asarray(build_operator("mask", share=0.5).degrade(image_keys(key, jnp.arange(3)), images))
    for image in degraded:
        rows, columns = np.nonzero((image == 0).all(-1))
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1, rows.size) == (4, 4, 16)


def test_blur_keeps_constant_images_and_is_the_outer_product_of_a_gaussian():
    blur = build_operator("blur", sigma=1.0, window=5).degrade
    np.testing.assert_allclose(blur(jax.random.key(0), jnp.full((1, 8, 8, 1), 0.3)), 0.3, rtol=1e-5)
    weights = np.exp(-(np.arange(-2, 3) ** 2) / 2)
    weights /= weights.sum()
    point = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1)
    np.testing.assert_allclose(blur(jax.random.key(0), point)[0, 2:7, 2:7, 0], np.outer(weights, weights), atol=1e-6)


def test_downsample_repeats_the_means_of_blocks(images):
    result = np.asarray(build_operator("downsample").degrade(jax.random.key(0), images))
    np.testing.assert_allclose(result[0, :4, 4:], np.broadcast_to(images[0, :4, 4:].mean((0, 1)), (4, 4, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("haze", {}, "'haze'"),
        ("noise", {"share": 0.5}, "'share'"),
        ("noise", {"sigma": 50}, "sigma"),
        ("mask", {"share": 1.5}, "share"),
        ("blur", {"window": 4}, "window must be odd.*; got 4"),
        ("blur", {}, "too small for a blur of 15 px"),
        ("downsample", {"factor": 3}, "7x7 px cannot be reduced 3 times"),
    ],
)
def test_operators_reject_what_does_not_fit(name, options, message, images, key):
    with pytest.raises(UserError, match=message):
        build_operator(name, **options).degrade(image_keys(key, jnp.arange(3)), images[:, :7, :7])
