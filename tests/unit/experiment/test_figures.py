"""Images of a user at their own sizes, and labeled grids."""

import numpy as np
import pytest
from PIL import Image

from arinv import data
from arinv.errors import UserError
from arinv.experiment.figures import labeled_grid


def _save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def test_open_images_keeps_sizes_and_relative_names(tmp_path):
    small = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    _save(tmp_path / "b.png", small)
    _save(tmp_path / "inner" / "a.png", np.full((2, 9, 3), 7, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    images = data.open_images(tmp_path)
    assert images.names == ("b.png", "inner/a.png")
    assert [image.shape for image in images] == [(5, 3, 3), (2, 9, 3)]
    np.testing.assert_array_equal(images[0], small)
    alone = data.open_images(tmp_path / "b.png")
    assert alone.names == ("b.png",) and len(alone) == 1


def test_open_images_raises_for_or_skips_a_damaged_image(tmp_path):
    _save(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(UserError, match="b.png.*on_bad_image='skip'"):
        data.open_images(tmp_path)
    images = data.open_images(tmp_path, on_bad_image="skip")
    assert images.names == ("a.png",) and [p.name for p in images.bad_files] == ["b.png"]


def test_open_images_rejects_paths_without_images(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        data.open_images(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no image"):
        data.open_images(tmp_path)
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 1 images"):
        data.open_images(tmp_path, on_bad_image="skip")


def test_labeled_grid_places_names_left_of_and_above_images():
    red, blue = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    image = labeled_grid({"first": red, "second": blue}, columns=("a\nb", "c"), min_tile=16)
    plain = labeled_grid({"first": red, "second": blue}, min_tile=16)
    assert image.shape[0] > plain.shape[0] and image.shape[1] == plain.shape[1]
    tiles = image[-2 * 18 - 2 :, -2 * 18 - 2 :]
    assert tuple(tiles[10, 10]) == (255, 0, 0) and tuple(tiles[28, 28]) == (0, 0, 255)
    label = image[-38:, :-38]
    assert (label != 255).any()
