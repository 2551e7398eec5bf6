"""HOG and LBP: cases by hand, and plain loops over pixels."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import parallel
from arinv.errors import UserError
from arinv.ops.hog import hog
from arinv.ops.lbp import codes, lbp

WEIGHTS = np.array([0.299, 0.587, 0.114])
IMAGES = np.random.default_rng(0).random((2, 37, 52, 3), np.float32)


def corners(position, count):
    """Cells around a position in units of cells, with their weights."""
    low = int(np.floor(position))
    return [(i, 1 - abs(position - i)) for i in (low, low + 1) if 0 <= i < count]


def plain_hog(image):
    grey = image.astype(np.float64) @ WEIGHTS
    height, width = grey.shape
    rows, columns = (height + 4) // 8, (width + 4) // 8
    h = np.zeros((rows, columns, 18))
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            dx, dy = grey[y, x + 1] - grey[y, x - 1], grey[y + 1, x] - grey[y - 1, x]
            dots = [dx * np.cos(k * np.pi / 9) + dy * np.sin(k * np.pi / 9) for k in range(9)]
            k = int(np.argmax(np.abs(dots)))
            k += 9 * (dots[k] < 0)
            for i, v in corners((y + 0.5) / 8 - 0.5, rows):
                for j, u in corners((x + 0.5) / 8 - 0.5, columns):
                    h[i, j, k] += v * u * np.hypot(dx, dy)
    energy = np.sum((h[..., :9] + h[..., 9:]) ** 2, axis=-1)
    result = np.zeros((rows, columns, 31))
    for i in range(rows):
        for j in range(columns):
            for block, (a, b) in enumerate(((-1, -1), (-1, 1), (1, -1), (1, 1))):
                r, c = np.clip(i + a, 0, rows - 1), np.clip(j + b, 0, columns - 1)
                norm = np.sqrt(energy[i, j] + energy[r, j] + energy[i, c] + energy[r, c] + 1e-4)
                directed = np.minimum(0.2, h[i, j] / norm)
                undirected = np.minimum(0.2, (h[i, j, :9] + h[i, j, 9:]) / norm)
                result[i, j, :27] += 0.5 * np.concatenate([directed, undirected])
                result[i, j, 27 + block] = undirected.sum() / np.sqrt(18)
    return result


def plain_lbp(image):
    grey = (image * WEIGHTS.astype(np.float32)).sum(-1)
    height, width = grey.shape
    h = np.zeros((height // 16, width // 16, 58))
    ring = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            bits = [int(grey[y + a, x + b] > grey[y, x]) for a, b in ring]
            starts = [i for i in range(8) if bits[i] and not bits[i - 1]]
            code = 57 if len(starts) > 1 else 7 * starts[0] + sum(bits) - 1 if starts else 56
            for i, v in corners((y + 0.5) / 16 - 0.5, h.shape[0]):
                for j, u in corners((x + 0.5) / 16 - 0.5, h.shape[1]):
                    h[i, j, code] += v * u
    return np.sqrt(h / h.sum(-1, keepdims=True))


@pytest.mark.parametrize(("function", "plain"), [(hog, plain_hog), (lbp, plain_lbp)])
def test_features_equal_a_plain_loop(function, plain):
    features = jax.jit(function)(IMAGES)
    expected = np.stack([plain(image) for image in IMAGES])
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("axis", "sign", "orientation"), [(2, 1, 0), (2, -1, 9)])
@pytest.mark.long
def test_hog_of_a_ramp_is_one_orientation(axis, sign, orientation):
    ramp = np.linspace(0, 1, 40, dtype=np.float32)[::sign]
    images = np.broadcast_to(ramp[None, None, :, None], (1, 40, 40, 3))
    cell = np.asarray(hog(images))[0, 2, 2]
    expected = np.zeros(31)
    expected[[orientation, 18]] = 0.4
    expected[27:] = 0.2 / np.sqrt(18)  # 0.0471
    np.testing.assert_allclose(cell, expected, atol=1e-3)


@pytest.mark.long
def test_hog_of_one_cell_and_of_a_constant_image():
    assert hog(IMAGES[:, :8, :8]).shape == (2, 1, 1, 31)
    constant = jnp.full((1, 16, 16, 3), 0.3)
    assert not np.any(hog(constant))
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(hog(x)))(constant)))


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_hog_changes_with_the_brightness_by_the_constant_of_its_norms_alone(factor, monkeypatch):
    features, images = hog(IMAGES), jnp.float32(factor) * IMAGES
    np.testing.assert_allclose(jax.jit(hog)(images), features, atol=0.005)
    monkeypatch.setattr(importlib.import_module("arinv.ops.hog"), "_EPSILON", 1e-4 * factor**2)
    np.testing.assert_allclose(jax.jit(lambda x: hog(x))(images), features, atol=1e-5)


@pytest.mark.long
def test_lbp_cells_have_unit_norm_and_ignore_monotone_maps():
    grey = IMAGES[..., :1] * 0.9 + 0.05
    features = lbp(grey)
    np.testing.assert_allclose(np.sum(np.square(features), -1), 1, atol=1e-5)
    np.testing.assert_array_equal(features, lbp(np.sqrt(grey)))
    assert lbp(IMAGES[:, :16, :16]).shape == (2, 1, 1, 58)


@pytest.mark.parametrize("function", [hog, lbp])
def test_features_are_the_same_on_eight_devices(function):
    images = np.concatenate([IMAGES[:, :16, :16]] * 4)
    mesh = parallel.make_mesh()
    assert mesh.size == 8
    placed = parallel.place_batch({"image": images}, mesh)["image"]
    np.testing.assert_allclose(jax.jit(function)(placed), jax.jit(function)(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("function", [hog, lbp])
def test_features_of_images_that_are_not_finite_are_nan(function):
    images = np.full((3, 32, 32, 3), 0.5, np.float32)
    images[1, 3, 4], images[2, 5, 6, 0] = np.nan, np.inf
    is_nan = np.isnan(function(images)).reshape(3, -1)
    assert not is_nan[0].any() and is_nan[1:].all()


def test_lbp_codes_of_runs():
    table = codes()
    assert table[0] == table[255] == 56 and table[0b101] == 57
    assert table[0b1] == 0 and table[0b10] == 7 and table[0b11] == 1 and table[0b10000001] == 50
    assert np.bincount(table, minlength=58)[:56].tolist() == [1] * 56


@pytest.mark.parametrize(("features", "least"), [(hog, 4), (lbp, 16)])
def test_images_without_a_cell_are_refused(features, least):
    assert 0 not in features(np.zeros((1, least, least, 3), np.float32)).shape
    with pytest.raises(UserError, match=f"image sides must be {least} px or more"):
        features(np.zeros((1, 2 * least, least - 1, 3), np.float32))
