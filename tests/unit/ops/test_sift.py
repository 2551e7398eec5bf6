"""Sparse SIFT features on their grid."""

import functools
import sys

import jax
import numpy as np
import pytest

from arinv import models
from arinv.errors import UserError
from arinv.ops import sift

IMAGES = np.zeros((2, 64, 48, 3), np.float32)
IMAGES[0, 24:36, 16:28] = 1
IMAGES[0] = (IMAGES[0] + np.roll(IMAGES[0], 1, 0) + np.roll(IMAGES[0], 1, 1)) / 3


def test_grid_has_one_keypoint_a_cell_with_place_angle_and_scale():
    grid = sift.sift_grid(IMAGES, library="skimage")
    points = sift.keypoints(IMAGES[0], library="skimage")
    assert grid.features.shape == (2, 16, 12, 133) and grid.library == "skimage"
    assert grid.num_keypoints.tolist() == [len(points.rows), 0] and len(points.rows) > 0
    assert not grid.features[1].any()
    cells = {(int(row // 4), int(column // 4)) for row, column in zip(points.rows, points.columns, strict=True)}
    assert {tuple(cell) for cell in np.argwhere(grid.features[0].any(-1)).tolist()} == cells
    filled = grid.features[0][grid.features[0].any(-1)]
    np.testing.assert_allclose(np.linalg.norm(filled[:, :128], axis=1), 1, atol=1e-5)
    assert filled[:, 128:130].min() >= 0 and filled[:, 128:130].max() < 4
    np.testing.assert_allclose(np.sum(filled[:, 130:132] ** 2, axis=1), 1, atol=1e-5)
    assert set(np.round(np.exp(filled[:, 132]), 3)) <= set(np.round(points.scales, 3).astype(np.float32))


def test_cells_are_spread_on_the_grid_on_the_device():
    cells = sift.sift_cells(IMAGES, library="skimage")
    grid = sift.sift_grid(IMAGES, library="skimage")
    assert cells.places.shape == (2, 16 * 12 // 4) and (cells.places[1] == 16 * 12).all()
    spread = jax.jit(functools.partial(sift.spread, height=16, width=12))(cells.places, cells.vectors)
    np.testing.assert_array_equal(spread, grid.features)
    assert cells.num_keypoints.tolist() == grid.num_keypoints.tolist()


def test_image_is_computed_once_and_has_at_most_a_quarter_of_its_cells(monkeypatch):
    calls = []

    def everywhere(grey, first_octave):
        calls.append(grey)
        rows, columns = np.divmod(np.arange(16 * 12), 12)
        ones = np.ones(16 * 12)
        return sift.Keypoints(4.0 * rows, 4.0 * columns, ones, ones, np.eye(16 * 12, 128, dtype=np.float32))

    monkeypatch.setitem(sift.LIBRARIES, "skimage", everywhere)
    monkeypatch.setattr(sift, "_CACHE", sift._Cache(30_000))
    first, again = (sift.sift_cells(IMAGES[:1], library="skimage") for _ in range(2))
    assert len(calls) == 1 and first.num_keypoints.tolist() == [16 * 12]
    assert len(set(first.places[0])) == 48 and first.places[0].max() < 16 * 12
    np.testing.assert_array_equal(first.places, again.places)
    assert sift.sift_cells(IMAGES[:1], library="skimage", first_octave=-1).places.shape == (1, 96)
    calls.clear()
    monkeypatch.setattr(sift, "_CACHE", sift._Cache(30_000))
    sift.sift_cells(IMAGES[:1], library="skimage")
    sift.sift_cells(IMAGES[1:], library="skimage")  # of 25 kB, in the place of the first
    sift.sift_cells(IMAGES[:1], library="skimage")
    assert len(calls) == 3


def test_encoder_calls_the_host_inside_of_a_compiled_function():
    encoder = models.build("sift_skimage")
    features = jax.jit(lambda x: encoder.apply({}, x)[1]["sift"])(IMAGES)
    np.testing.assert_array_equal(features, sift.sift_grid(IMAGES, library="skimage").features)


def test_one_of_the_keypoints_of_a_cell_is_drawn():
    numbers = np.array([1.0, 2.0])
    points = sift.Keypoints(numbers, numbers, np.ones(2), np.zeros(2), np.eye(2, 128, dtype=np.float32))
    drawn = {sift._choose(points, (1, 1), np.random.default_rng(i))[2][0, 128].item() for i in range(20)}
    assert drawn == {1.0, 2.0}


def test_vlsift_finds_the_keypoints_and_descriptors_of_vlfeat():
    find = pytest.importorskip("vlsift.sift.sift").sift
    grey = np.ascontiguousarray(IMAGES[0] @ np.array([0.299, 0.587, 0.114], np.float32))
    frames, descriptors = find(255 * grey, first_octave=0, compute_descriptor=True, float_descriptors=True)
    points = sift.keypoints(IMAGES[0], library="vlsift")
    assert len(frames) > 1 and points.rows.max() < 64 and points.columns.max() < 48
    np.testing.assert_allclose(np.stack(points[:4], axis=-1), frames, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(points.descriptors, descriptors / 512, atol=1e-3)
    grid = sift.sift_grid(IMAGES[:1], library="vlsift")
    filled = grid.features[0][grid.features[0].any(-1)]
    assert grid.num_keypoints.tolist() == [len(frames)] and len(filled) > 0
    rows, columns = (sift.CELL * place for place in np.nonzero(grid.features[0].any(-1)))
    for vector, row, column in zip(filled, rows, columns, strict=True):  # each is one of the keypoints
        place = np.hypot(frames[:, 0] - row - vector[129], frames[:, 1] - column - vector[128])
        error = np.abs(descriptors / 512 - vector[:128]).max(1)
        assert np.any((place < 1e-2) & (error < 1e-3))


def test_mistakes_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "vlsift.sift.sift", None)  # as if it was not installed
    for options, images, shown in (
        ({"library": "vlsift"}, IMAGES, r"pip install 'arinv\[sift\]'"),
        ({"library": "surf"}, IMAGES, "known: skimage, vlsift"),
        ({"library": "skimage", "first_octave": 1}, IMAGES, "first_octave must be 0 or -1; got 1"),
        ({"library": "skimage"}, IMAGES[:, :8], "16 px or more"),
    ):
        with pytest.raises(UserError, match=shown):
            sift.sift_grid(images, **options)
