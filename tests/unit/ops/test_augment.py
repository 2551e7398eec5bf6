"""Augmentations: range, shape, dtype, identity without options, and draws per image."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv.errors import UserError
from arinv.ops import augment
from arinv.ops.colors import shift_hue

ALL = {
    "random_crop": lambda key, x: augment.random_crop(key, x, padding=3),
    "random_flip": augment.random_flip,
    "random_rotate": lambda key, x: augment.random_rotate(key, x, degrees=30.0),
    "brightness": lambda key, x: augment.random_color_jitter(key, x, brightness=0.5),
    "contrast": lambda key, x: augment.random_color_jitter(key, x, contrast=0.5),
    "saturation": lambda key, x: augment.random_color_jitter(key, x, saturation=0.5),
    "hue": lambda key, x: augment.random_color_jitter(key, x, hue=0.5),
    "pca_lighting": lambda key, x: augment.random_lighting(key, x, std=0.5),
    "augment": lambda key, x: augment.augment(
        key,
        x,
        crop_padding=2,
        flip=True,
        color_jitter=0.3,
        hue=0.1,
        rotate_degrees=5.0,
        lighting=0.1,
    ),
}
EVERY = pytest.mark.parametrize("name", ALL)


def _run(function, *args, **options):
    return jax.jit(functools.partial(function, **options))(*args)


@pytest.fixture
def images():
    """Sixteen copies of one random image, float32 [16, 12, 10, 3]."""
    one = np.random.default_rng(0).random((1, 12, 10, 3), np.float32)
    return jnp.asarray(np.repeat(one, 16, axis=0))


@EVERY
@pytest.mark.long
def test_augmentation_keeps_range_and_draws_per_image(key, images, name):
    function = jax.jit(ALL[name])
    images = images[:, :, :10] if name != "augment" else images[:, :10]
    out = function(key, images)
    assert out.shape == images.shape and out.dtype == jnp.float32
    assert float(out.min()) >= 0.0 and float(out.max()) <= 1.0
    np.testing.assert_array_equal(function(key, images), out)  # the key decides
    assert not np.array_equal(function(jax.random.key(1), images), out)
    distinct = len({row.tobytes() for row in np.asarray(out)})
    assert distinct == 2 if name == "random_flip" else distinct > 8


def test_augment_without_options_is_identity(key, images):
    np.testing.assert_array_equal(augment.augment(key, images), images)
    images_u8 = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.uint8).reshape(2, 4, 4, 3)
    expected = np.asarray(images_u8, np.float32) / 255
    np.testing.assert_allclose(augment.augment(key, images_u8), expected, rtol=1e-6)
    np.testing.assert_array_equal(_run(augment.random_crop, key, images_u8, padding=0), images_u8)
    np.testing.assert_array_equal(_run(augment.random_color_jitter, key, images), images)
    np.testing.assert_allclose(_run(augment.random_rotate, key, images, degrees=0.0), images, atol=1e-6)
    np.testing.assert_array_equal(_run(augment.random_lighting, key, images, std=0.0), images)


def test_augment_draws_are_independent(key, images):
    alone = _run(augment.augment, key, images, flip=True)
    both = _run(augment.augment, key, images, flip=True, lighting=1e-6)
    np.testing.assert_allclose(both, alone, atol=1e-4)


def test_random_crop_shifts_and_pads_with_black(key):
    images = jnp.broadcast_to(jnp.arange(1, 26, dtype=jnp.uint8).reshape(1, 5, 5, 1), (64, 5, 5, 1))
    out = np.asarray(_run(augment.random_crop, key, images, padding=2))
    padded = np.pad(np.asarray(images[0]), ((2, 2), (2, 2), (0, 0)))
    windows = [padded[y : y + 5, x : x + 5].tobytes() for y in range(5) for x in range(5)]
    seen = {windows.index(row.tobytes()) for row in out}
    assert out.dtype == np.uint8 and len(seen) > 18  # of the 25 shifts


def test_random_flip_mirrors_about_half(key, images):
    out = np.asarray(_run(augment.random_flip, key, jnp.tile(images, (16, 1, 1, 1))))
    same = (out == np.asarray(images[:1])).all(axis=(1, 2, 3))
    mirrored = (out == np.asarray(images[:1, :, ::-1])).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all() and 0.35 < same.mean() < 0.65


def test_random_rotate_by_a_quarter_turn(key, monkeypatch):
    image = np.random.default_rng(1).random((1, 9, 9, 3), np.float32)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, minval, maxval: maxval + jnp.zeros(shape))
    out = np.asarray(_run(augment.random_rotate, key, jnp.asarray(image), degrees=90.0))
    turned = [np.rot90(image, k, axes=(1, 2)) for k in (1, 3)]
    assert min(np.abs(out - t).max() for t in turned) < 1e-4


def test_random_rotate_stays_within_limit(key):
    # A bright dot near the right edge moves along an arc no longer than the angle allows.
    image = np.zeros((64, 33, 33, 1), np.float32)
    image[:, 16, 28] = 1.0
    out = np.asarray(_run(augment.random_rotate, key, jnp.asarray(image), degrees=10.0))[..., 0]
    mass = out / out.sum(axis=(1, 2), keepdims=True)
    rows = (mass * np.arange(33)[:, None]).sum(axis=(1, 2)) - 16
    columns = (mass * np.arange(33)).sum(axis=(1, 2)) - 16
    angles = np.degrees(np.arctan2(rows, columns))
    assert abs(angles).max() < 10.5 and angles.min() < -5 and angles.max() > 5


def test_color_jitter_brightness_contrast_saturation(key):
    images = np.random.default_rng(2).uniform(0.3, 0.6, (32, 8, 8, 3)).astype(np.float32)
    x = jnp.asarray(images)
    brighter = np.asarray(_run(augment.random_color_jitter, key, x, brightness=0.25)) / images
    assert brighter.std(axis=(1, 2, 3)).max() < 1e-5
    assert 0.75 <= brighter.min() < 0.85 and 1.15 < brighter.max() <= 1.2501
    contrast = np.asarray(_run(augment.random_color_jitter, key, x, contrast=0.25))
    grey = np.array([0.2989, 0.587, 0.114])
    np.testing.assert_allclose((contrast @ grey).mean(axis=(1, 2)), (images @ grey).mean(axis=(1, 2)), atol=1e-3)
    ratio = contrast.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    assert 0.7 < ratio.min() < 0.9 and 1.1 < ratio.max() < 1.3
    saturated = np.asarray(_run(augment.random_color_jitter, key, x, saturation=0.25))
    np.testing.assert_allclose(saturated @ grey, images @ grey, atol=1e-3)
    assert not np.allclose(saturated, images, atol=1e-2)


def test_color_jitter_hue_equals_colorsys(key, monkeypatch):
    image = np.random.default_rng(3).random((1, 5, 5, 3)).astype(np.float32)
    image[0, 0, 0] = 0.4  # grey has no hue
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, minval, maxval: maxval + jnp.zeros(shape))
    out = np.asarray(_run(augment.random_color_jitter, key, jnp.asarray(image), hue=0.2))
    for pixel, got in zip(image.reshape(-1, 3), out.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
        np.testing.assert_allclose(got, colorsys.hsv_to_rgb((hue + 0.2) % 1, saturation, value), atol=1e-5)


def test_pca_lighting_adds_one_color(key):
    images = jnp.full((256, 4, 4, 3), 0.5)
    added = np.asarray(_run(augment.random_lighting, key, images, std=0.1)) - 0.5
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-6)
    colors = added[:, 0, 0]
    covariance = colors.T @ colors / len(colors)
    values = np.linalg.eigvalsh(covariance)
    assert 0.8 < np.sqrt(values[-1]) / (0.1 * 0.2175) < 1.2  # mostly grey, along the first component


def test_augment_rejects_negative_strength(key, images):
    with pytest.raises(UserError, match="crop_padding must be at least 0; got -1"):
        augment.augment(key, images, crop_padding=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_jitter": np.nan}, "color_jitter must be a finite number"),
        ({"hue": 0.7}, "hue must be a finite number from 0 to 0.5"),
    ],
)
def test_augment_rejects_numbers_out_of_range(key, images, options, message):
    with pytest.raises(UserError, match=message):
        augment.augment(key, images, **options)


def test_grey_images_stay_grey(key):
    grey = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    options = {"crop_padding": 1, "flip": True, "color_jitter": 0.2, "hue": 0.1, "rotate_degrees": 5.0}
    assert augment.augment(key, grey, **options).shape == grey.shape
    np.testing.assert_array_equal(shift_hue(grey, 0.3), grey)
    with pytest.raises(UserError, match="lighting adds colors: images must have 3 channels"):
        augment.augment(key, grey, lighting=0.1)
