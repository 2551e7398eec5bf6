"""Gaussian noise by its two protocols, and random windows of larger images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.errors import UserError
from arinv.ops.augment import augment, random_window
from arinv.ops.degradations import add_gaussian_noise

SIGMA = 50 / 255


def test_add_gaussian_noise_unclipped_is_white(key):
    images = jnp.full((4, 64, 64, 3), 0.25)
    noise = np.asarray(add_gaussian_noise(key, images, sigma=SIGMA, protocol="unclipped") - images, np.float64)
    error = SIGMA / np.sqrt(noise.size)
    assert abs(noise.mean()) < 4 * error and abs(noise.std() - SIGMA) < 4 * error
    assert abs((noise**4).mean() / SIGMA**4 - 3) < 0.1  # a normal distribution
    neighbors = [(noise[:, :, 1:], noise[:, :, :-1]), (noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1])]
    for a, b in [*neighbors, (noise[1:], noise[:-1])]:
        assert abs((a * b).mean()) < 5 * SIGMA**2 / np.sqrt(a.size)


def test_add_gaussian_noise_clipped_is_clipped(key):
    images = jnp.asarray(np.random.default_rng(0).random((2, 32, 32, 3), np.float32))
    clipped, plain = (add_gaussian_noise(key, images, sigma=SIGMA, protocol=p) for p in ("clipped", "unclipped"))
    np.testing.assert_array_equal(clipped, np.clip(plain, 0, 1))
    assert float(plain.min()) < -0.1 and float(plain.max()) > 1.1
    np.testing.assert_array_equal(clipped, add_gaussian_noise(key, images, sigma=SIGMA))  # the paper's is the default
    black = add_gaussian_noise(key, jnp.zeros((4, 64, 64, 3)), sigma=SIGMA)
    np.testing.assert_allclose(black.mean(), SIGMA / np.sqrt(2 * np.pi), rtol=0.02)


def test_add_gaussian_noise_depends_on_key_and_is_identity_at_zero(key):
    images = jnp.asarray(np.random.default_rng(1).random((1, 8, 8, 3), np.float32))
    once = add_gaussian_noise(key, images, sigma=SIGMA)
    np.testing.assert_array_equal(once, add_gaussian_noise(key, images, sigma=SIGMA))
    assert not np.array_equal(once, add_gaussian_noise(jax.random.key(1), images, sigma=SIGMA))
    np.testing.assert_array_equal(add_gaussian_noise(key, images, sigma=0.0), images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 50}, "sigma must be 0 to 1.*; got 50: .*50/255"),
        ({"sigma": -0.1}, "0 to 1"),
        ({"sigma": float("nan")}, "0 to 1"),
        ({"sigma": 0.1, "protocol": "clip"}, "known: clipped, unclipped"),
    ],
)
def test_check_noise_rejects_mistakes(key, options, message):
    with pytest.raises(UserError, match=message):
        add_gaussian_noise(key, jnp.zeros((1, 2, 2, 3)), **options)


def test_add_gaussian_noise_rejects_other_images_and_keys(key):
    for images, message in (
        (np.zeros((1, 2, 2, 3), np.uint8), "to_float"),
        (np.full((2, 2, 3), 99.0), "divide by 255"),
    ):
        with pytest.raises(UserError, match=message):
            add_gaussian_noise(key, images, sigma=SIGMA)
    with pytest.raises(UserError, match="^key must be"):
        add_gaussian_noise(0, np.zeros((1, 2, 2, 3)), sigma=SIGMA)


def test_random_window_reaches_the_whole_image(key):
    image = np.arange(6 * 7, dtype=np.uint8).reshape(1, 6, 7, 1)
    windows = np.asarray(random_window(key, jnp.asarray(np.repeat(image, 128, axis=0)), size=4))
    possible = [image[0, y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(4)]
    assert windows.shape == (128, 4, 4, 1) and windows.dtype == np.uint8
    assert {possible.index(window.tobytes()) for window in windows} == set(range(12))


def test_augment_crops_window_first(key):
    images = jnp.asarray(np.random.default_rng(2).integers(0, 256, (8, 12, 12, 3), dtype=np.uint8))
    plain = augment(key, images, window=8)
    assert plain.shape == (8, 8, 8, 3)
    flipped = augment(key, images, window=8, flip=True)
    same = [np.array_equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(plain, flipped, strict=True)]
    assert any(same) and any(mirrored) and all(a or b for a, b in zip(same, mirrored, strict=True))
    with pytest.raises(UserError, match="cannot crop windows of 13 px from images of 12 x 12"):
        augment(key, images, window=13)


@pytest.mark.parametrize("sigma", [np.float32(0.1), np.float64(0.1), jnp.float32(0.1)])
def test_add_gaussian_noise_takes_numbers_of_any_library(key, sigma):
    images = jnp.full((1, 8, 8, 3), 0.5)
    np.testing.assert_allclose(
        add_gaussian_noise(key, images, sigma=sigma), add_gaussian_noise(key, images, sigma=0.1), atol=1e-6
    )
    result = jax.jit(lambda sigma: add_gaussian_noise(key, images, sigma=sigma))(sigma)
    np.testing.assert_allclose(result, add_gaussian_noise(key, images, sigma=0.1), atol=1e-6)
