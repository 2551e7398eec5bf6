"""The built-in photographs: disjoint splits, balance, determinism."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from arinv import data
from arinv.data import photos
from arinv.errors import UserError


def _overlap(window, cell):
    top, left, side = window
    cell_top, cell_left, cell_bottom, cell_right = cell
    rows = min(top + side, cell_bottom) - max(top, cell_top)
    columns = min(left + side, cell_right) - max(left, cell_left)
    return max(rows, 0) * max(columns, 0)


@pytest.mark.parametrize("image_size", [32, 224])
def test_photos_windows_lie_in_cells_of_their_split(image_size):
    for split in ("train", "test"):
        source = data.open_source("photos", split=split, image_size=image_size, num_examples=300)
        for index in range(len(source)):
            photograph = data.read_photograph(photos.CLASS_NAMES[index % 10])
            window = source.window(index)
            covered = [_overlap(window, cell) for cell in photos.test_cells(photograph.shape[:2])]
            expected = 0 if split == "train" else window[2] ** 2
            assert sum(covered) == max(covered) == expected


def test_photos_train_patches_do_not_depend_on_test_pixels(monkeypatch):
    before = data.load_arrays(data.open_source("photos", num_examples=200))["image"]
    changed = {}
    for name in photos.CLASS_NAMES:
        changed[name] = data.read_photograph(name).copy()
        for top, left, bottom, right in photos.test_cells(changed[name].shape[:2]):
            changed[name][top:bottom, left:right] = 255 - changed[name][top:bottom, left:right]
    monkeypatch.setattr(photos, "read_photograph", changed.__getitem__)
    np.testing.assert_array_equal(data.load_arrays(data.open_source("photos", num_examples=200))["image"], before)
    test = data.load_arrays(data.open_source("photos", split="test", num_examples=20))["image"]
    monkeypatch.undo()
    original = data.load_arrays(data.open_source("photos", split="test", num_examples=20))["image"]
    assert (test != original).any(axis=(1, 2, 3)).all()


def test_photos_windows_reach_every_cell_of_their_split():
    source = data.open_source("photos", num_examples=2000)
    height, width = data.read_photograph("astronaut").shape[:2]
    seen = np.zeros((height, width), bool)
    sides = set()
    for index in range(0, 2000, 10):
        top, left, side = source.window(index)
        assert 0 <= top <= height - side and 0 <= left <= width - side
        seen[top : top + side, left : left + side] = True
        sides.add(side)
    assert seen.mean() > 0.7  # three quarters of the photograph are for training
    assert min(sides) >= 24 and max(sides) <= 128 and len(sides) > 20


def test_photos_defaults_are_balanced():
    source = data.open_source("photos")
    assert (len(source), source.info.num_classes, source.info.image_size) == (10_000, 10, 32)
    assert len(data.open_source("photos", split="test")) == 1_000
    assert np.bincount(source.read_labels()).tolist() == [1_000] * 10
    assert source[13]["label"] == 3 and source.info.class_names[3] == "hubble_deep_field"
    image = source[0]["image"]
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8


def test_photos_example_depends_on_its_index_alone():
    few = data.open_source("photos", num_examples=20)
    many = data.open_source("photos", num_examples=20_000)
    expected = [few[i]["image"] for i in range(20)]
    for index in (19, 3, 0, 11):
        np.testing.assert_array_equal(many[index]["image"], expected[index])
    assert not np.array_equal(expected[0], expected[10])


def test_photos_patches_have_detail():
    arrays = data.load_arrays(data.open_source("photos", num_examples=300))
    spread = arrays["image"].astype(np.float32).std(axis=(1, 2)).max(axis=-1)
    assert spread.min() > 4.0  # the sky of `rocket` and the corners of `retina` are 0 to 3
    assert np.median(spread) > 20.0


def test_photos_classes_keep_labels_and_number_of_patches():
    source = data.open_source("photos", classes=["coffee", 7], num_examples=31)
    assert len(source) == 31 and source.info.num_examples == 31
    assert set(source.read_labels()) == {2, 7}
    assert source[0]["label"] == 2 and source.info.num_classes == 10
    for wrong in (["cat"], [10], [-1], []):
        with pytest.raises(UserError, match="class"):
            data.open_source("photos", classes=wrong)


def test_photos_rejects_unknown_split_and_missing_photograph(monkeypatch):
    with pytest.raises(UserError, match="train"):
        data.open_source("photos", split="valid")
    photos.read_photograph.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="scikit-image"):
        data.open_source("photos")


def test_read_photograph_returns_file_of_its_package():
    coffee = data.read_photograph("coffee")
    assert coffee.shape == (400, 600, 3) and not coffee.flags.writeable
    with pytest.raises(UserError, match="china"):
        data.read_photograph("chima")
    spec = importlib.util.find_spec("skimage")
    path = spec.submodule_search_locations[0] + "/data/coffee.png"
    np.testing.assert_array_equal(coffee, np.asarray(Image.open(path).convert("RGB")))


def test_open_photographs_returns_whole_images_up_to_a_side(tmp_path, monkeypatch):
    images = data.open_photographs("photos:coffee+chelsea", max_side=40)
    assert images.names == ("coffee", "chelsea") and [image.shape for image in images] == [(27, 40, 3), (27, 40, 3)]
    np.testing.assert_array_equal(data.open_photographs("photos:coffee")[0], data.read_photograph("coffee"))
    assert (
        data.photograph_names("photos") == data.photograph_names("photos:")
        and len(data.open_photographs("photos")) == 10
    )
    with pytest.raises(UserError, match="unknown photograph 'cofee'.*Did you mean 'coffee'"):
        data.open_photographs("photos:cofee")
    assert data.is_photographs("photos") and not data.is_photographs("photos.png")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not data.is_photographs("photos")  # a folder of the user


def test_sources_and_photographs_of_other_types_are_refused_in_one_line():
    with pytest.raises(UserError, match="must be a source, of open_source; got str"):
        data.load_arrays("photos")
    with pytest.raises(UserError, match="named by text .* got None"):
        data.open_photographs(None)
