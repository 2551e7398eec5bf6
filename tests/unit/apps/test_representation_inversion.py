"""Inversion by optimization: its steps by hand, and properties for any network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.apps.inversion import invert_by_optimization, relative_distance, start_images
from arinv.errors import UserError

SHAPE = (4, 5, 3)
MATRIX = np.random.default_rng(1).normal(size=(60, 24)).astype(np.float32)


def features_fn(images):
    """A linear network of 24 features."""
    return {"all": images.reshape(images.shape[0], -1) @ jnp.asarray(MATRIX)}


def images_of(count, seed=0):
    return np.random.default_rng(seed).random((count, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def search():
    """(start, targets, num_steps, step_size) -> images, compiled once for each number of images."""
    return jax.jit(
        lambda start, targets, num_steps: invert_by_optimization(
            features_fn, start, targets, layer="all", num_steps=num_steps, step_size=0.3
        )
    )


def test_invert_by_optimization_equals_numpy(search):
    images, start = images_of(3), images_of(3, seed=2)
    start[0, :2] = 0.99  # so that some pixels meet the limits
    targets = np.asarray(features_fn(images)["all"], np.float64)
    x, weights = start.reshape(3, -1).astype(np.float64), MATRIX.astype(np.float64)
    clipped = 0
    for _ in range(2):
        error = x @ weights - targets
        lengths = np.linalg.norm(error, axis=1) * np.linalg.norm(targets, axis=1)
        gradient = (error / lengths[:, None]) @ weights.T
        moved = x - 0.3 * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
        x = np.clip(moved, 0, 1)
        clipped += int((x != moved).sum())
    assert clipped > 0, "no pixel met the limits of [0, 1]"
    result = search(start, targets.astype(np.float32), 2)
    np.testing.assert_allclose(result.reshape(3, -1), x, atol=1e-5)


@pytest.mark.long
def test_invert_by_optimization_reduces_the_distance_within_the_limits(search):
    images = images_of(4)
    targets = features_fn(images)["all"]
    start = start_images(jax.random.key(0), np.arange(4), shape=SHAPE)
    results = {steps: search(start, targets, steps) for steps in (0, 1, 3)}
    np.testing.assert_array_equal(results[0], start)
    distances = [relative_distance(features_fn(x)["all"], targets) for x in results.values()]
    assert np.all(distances[1] < distances[0]) and np.all(distances[2] < distances[1])
    for x in results.values():
        assert float(x.min()) >= 0 and float(x.max()) <= 1


def test_invert_by_optimization_in_two_calls_equals_one(search):
    start, targets = images_of(3, seed=2), features_fn(images_of(3))["all"]
    whole = search(start, targets, 7)
    np.testing.assert_array_equal(search(search(start, targets, 3), targets, 4), whole)


def test_invert_by_optimization_of_a_batch_equals_that_of_each_image(search):
    start, targets = images_of(3, seed=2), features_fn(images_of(3))["all"]
    together = search(start, targets, 5)
    alone = [search(start[i : i + 1], targets[i : i + 1], 5) for i in range(3)]
    np.testing.assert_allclose(together, jnp.concatenate(alone), atol=1e-5)


@pytest.mark.long
def test_start_images_depend_on_the_number_not_on_the_batch():
    key = jax.random.key(3)
    together = start_images(key, np.arange(6), shape=SHAPE)
    np.testing.assert_array_equal(start_images(key, np.array([4]), shape=SHAPE)[0], together[4])
    many = np.asarray(start_images(key, np.arange(6), shape=(40, 50, 3)))
    assert abs(many.mean() - 0.5) < 0.005 and abs(many.std() - 0.05) < 0.002


def test_invert_by_optimization_stays_finite_at_the_target_and_for_zero_targets(search):
    images = images_of(3)
    same = search(images, features_fn(images)["all"], 1)
    assert np.isfinite(same).all()
    zero = search(images, np.zeros((3, 24), np.float32), 2)
    assert np.isfinite(zero).all()
    distance = relative_distance(np.ones((1, 4)), np.zeros((1, 4)))
    np.testing.assert_allclose(distance, 2.0)


def test_invert_by_optimization_lists_the_known_layers():
    with pytest.raises(UserError, match="unknown layer 'conv5'; known: all"):
        invert_by_optimization(features_fn, images_of(1), np.zeros((1, 24)), layer="conv5", num_steps=1)
