"""Slices of volumes: the synthetic one, and a user's as an array or a folder."""

import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from arinv import data
from arinv.data.slices import make_blobs
from arinv.errors import UserError
from arinv.experiment import references


def images_of(name, split, **options):
    source = data.open_source(name, split=split, **options)
    return np.stack([source[i]["image"] for i in range(len(source))]), source


def test_blobs_are_porous_and_the_same_every_time():
    cube = make_blobs(3, 64)
    assert (cube < 128).mean() == pytest.approx(0.24, abs=0.02)
    make_blobs.cache_clear()
    np.testing.assert_array_equal(make_blobs(3, 64), cube)
    assert np.abs(make_blobs(4, 64).astype(int) - cube).mean() > 20
    # Pores are larger than voxels: neighbors are alike.
    assert ((cube[1:] < 128) == (cube[:-1] < 128)).mean() > 0.85


def test_test_slices_of_blobs_form_a_cube():
    images, source = images_of("blobs", "test", image_size=32)
    assert images.shape == (32, 32, 32, 1) and set(source.read_labels().tolist()) == {0}
    cube = make_blobs(16, 64)[::2].astype(float)
    means = cube.reshape(32, 32, 2, 32, 2).mean(axis=(2, 4))
    assert np.abs(images[..., 0] - means).mean() < 6  # bilinear with antialiasing, not a box


def test_volume_is_split_along_its_first_axis(tmp_path):
    volume = np.random.default_rng(0).integers(0, 256, (20, 6, 8)).astype(np.uint8)
    np.save(tmp_path / "rock.npy", volume)
    name = f"volume:{tmp_path / 'rock.npy'}"
    test, source = images_of(name, "test", image_size=6)
    np.testing.assert_array_equal(test[..., 0], volume[16:, :, 1:7])
    train, source = images_of(name, "train", image_size=6)
    axes = source.read_labels()
    assert np.bincount(axes).tolist() == [16, 6, 6]
    np.testing.assert_array_equal(train[axes == 0][..., 0], volume[:16, :, 1:7])
    np.testing.assert_array_equal(train[axes == 2][0, ..., 0], volume[5:11, :, 1])
    window, _ = images_of(name, "test", image_size=4, window=(2, 3, 4))
    np.testing.assert_array_equal(window[..., 0], volume[16:, 1:5, 0:4])
    np.savez(tmp_path / "thin.npz", volume[:6].astype(np.float32) - 50)
    thin, source = images_of(f"volume:{tmp_path / 'thin.npz'}", "train", image_size=6)
    assert len(thin) == 5, "too thin for squares across the other axes"
    low, high = volume[:6].min(), volume[:6].max()
    np.testing.assert_allclose(thin[..., 0], (volume[:5, :, 1:7] - low) * (255 / (high - low)), atol=0.51)


def test_slices_can_be_sent_to_worker_processes(tmp_path):
    np.save(tmp_path / "rock.npy", np.random.default_rng(0).integers(0, 256, (8, 5, 5)).astype(np.uint8))
    for name in ("blobs", f"volume:{tmp_path / 'rock.npy'}"):
        source = data.open_source(name, split="test", image_size=4)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0]["image"], source[0]["image"])


def test_folder_of_slices_is_in_the_order_of_numbers(tmp_path):
    for i in range(12):
        Image.fromarray(np.full((5, 5), 10 * i, np.uint8)).save(tmp_path / f"slice{i}.png")
    images, source = images_of(f"volume:{tmp_path}", "train", image_size=5)
    levels = images[source.read_labels() == 0].mean(axis=(1, 2, 3))
    assert levels.tolist() == [10.0 * i for i in range(10)]


def test_volume_errors_are_one_line(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2, 2)), b=np.zeros((2, 2, 2)))
    np.save(tmp_path / "nan.npy", np.full((3, 4, 4), np.nan))
    np.save(tmp_path / "constant.npy", np.full((3, 4, 4), 7.0))
    for name, message in (
        ("flat.npy", r"float64 \(4, 4\); a volume has numbers"),
        ("objects.npy", "Object arrays .* numbers, not of objects"),
        ("two.npz", "arrays a, b; name the volume's"),
        ("nan.npy", "not finite"),
        ("constant.npy", "value 7 everywhere"),
        ("none.npy", "is not a volume"),
    ):
        with pytest.raises(UserError, match=message) as error:
            data.open_source(f"volume:{tmp_path / name}", image_size=4)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_slices_of_a_folder_are_scaled_as_an_array_is(tmp_path, dtype):
    volume = np.random.default_rng(0).integers(0, 4096, (10, 6, 6)).astype(dtype)
    (tmp_path / "scan").mkdir()
    for i, image in enumerate(volume):
        Image.fromarray(image).save(tmp_path / "scan" / f"{i}.tif")
    np.save(tmp_path / "scan.npy", volume)
    folder, _ = images_of(f"volume:{tmp_path / 'scan'}", "train", image_size=6)
    array, _ = images_of(f"volume:{tmp_path / 'scan.npy'}", "train", image_size=6)
    np.testing.assert_array_equal(folder, array)
    assert array.max() == 255


def test_slices_of_different_kinds_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "0.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="slices of different types, uint16, uint8"):
        data.open_source(f"volume:{tmp_path}", image_size=4)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="slices of different sizes, 4x4 px, 5x4 px"):
        data.open_source(f"volume:{tmp_path}", image_size=5)


def test_slices_of_several_pages_are_refused(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), i, np.uint16)) for i in range(3)]
    for name in ("0.tif", "1.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="0.tif has 3 pages"):
        data.open_source(f"volume:{tmp_path}", image_size=4)


def test_a_workdir_among_the_slices_is_refused(tmp_path):
    config = ConfigDict({"task": "gan", "data": {"name": f"volume:{tmp_path}"}})
    with pytest.raises(UserError, match="so it would read its own outputs"):
        references.check_outside(config, tmp_path / "run")


def test_segmented_volumes_of_every_type_are_the_same(tmp_path):
    pores = np.random.default_rng(0).random((10, 6, 6)) < 0.3
    pores[0, 0, :2] = True, False
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(pores):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "folder" / f"{i}.png")
    names = ["folder"]
    for dtype in (np.uint8, bool, np.int32, np.float64):
        names.append(f"{np.dtype(dtype).name}.npy")
        np.save(tmp_path / names[-1], pores.astype(dtype))
    for name in names:
        images, _ = images_of(f"volume:{tmp_path / name}", "test", image_size=6)
        np.testing.assert_array_equal(images[..., 0], 255 * pores[8:], err_msg=name)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_volume_and_labels_of_phases_are_refused(tmp_path, value):
    np.save(tmp_path / "a.npy", np.full((10, 6, 6), value, np.uint8))
    with pytest.raises(UserError, match=f"has the value {value} everywhere"):
        data.open_source(f"volume:{tmp_path / 'a.npy'}", split="test")
    phases = np.random.default_rng(0).integers(0, 4, (10, 6, 6)).astype(np.uint8)
    np.save(tmp_path / "b.npy", phases)
    with pytest.raises(UserError, match="has the values 0 to 3 of uint8, nearly equal ones"):
        data.open_source(f"volume:{tmp_path / 'b.npy'}", split="test")


def test_folder_of_slices_is_one_volume_and_reports_the_rest(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6)).astype(np.uint8))
    (tmp_path / "raw").mkdir()
    for i in (1, 2, 3, 4, 7, 8, 9, 10):
        image.save(tmp_path / "raw" / f"scan2_{i}.png")
    (tmp_path / "raw" / "5.dcm").write_bytes(b"")
    source = data.open_source(f"volume:{tmp_path}", split="train")
    assert source.info.left_out == ".dcm (1), missing number among the slices (2)"
    (tmp_path / "labels").mkdir()
    image.save(tmp_path / "labels" / "1.png")
    with pytest.raises(UserError, match=r"has images in several folders \(labels, raw\)"):
        data.open_source(f"volume:{tmp_path}", split="train")


@pytest.mark.parametrize(
    "shifted",
    [
        lambda x: x.astype(np.int64) + 2**40,
        lambda x: x.astype(np.uint64) + 2**63,
        lambda x: x.astype(np.int64) * (2**55) - 2**62,
        lambda x: x / 255 + 1e8,
        lambda x: (x / 127.5 - 1) * 3e38,
        lambda x: (x / 127.5 - 1) * 1.7e308,
        lambda x: x * 1e-310,
    ],
)
def test_levels_do_not_depend_on_the_units_of_a_volume(tmp_path, shifted):
    levels = np.random.default_rng(0).integers(0, 256, (10, 6, 6))
    levels[0, 0, :2] = 0, 255
    np.save(tmp_path / "a.npy", shifted(levels))
    images, _ = images_of(f"volume:{tmp_path / 'a.npy'}", "test", image_size=6)
    np.testing.assert_array_equal(images[..., 0], levels[8:])
