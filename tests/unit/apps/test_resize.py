"""The command `arinv resize`: what is read back from the dataset that it writes, restarts, and mistakes."""

import io

import numpy as np
import pytest
from PIL import Image

from arinv import data
from arinv.__main__ import _run
from arinv.apps.datasets import resize as module
from arinv.apps.datasets.resize import encode, main, resize
from arinv.errors import UserError


def smooth(height, width, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photographs(tmp_path):
    """A folder of two classes with ten images each, of several sizes."""
    root = tmp_path / "photographs"
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(10):
            height, width = [(90, 60), (48, 64), (20, 24), (300, 200)][i % 4]
            smooth(height, width, 10 * label + i).save(root / name / f"{i}.png")
    return root


def write(photographs, out, **options):
    splits = {"train": "train", "test": "test"}
    return resize(f"folder:{photographs}", "small", **{"out_dir": out, "splits": splits, "side": 32, **options})


def test_the_new_dataset_has_the_labels_and_the_reduced_images(photographs, tmp_path):
    folder = write(photographs, tmp_path / "out")
    assert folder == tmp_path / "out" / "small" / "1.0.0"
    for split in ("train", "test"):
        options = {"split": split, "resize": data.ORIGINAL, "image_size": 100}
        old = data.open_source(f"folder:{photographs}", **options)
        new = data.open_source("tfds:small", data_dir=tmp_path / "out", **options)
        assert new.info.class_names == old.info.class_names == ("cat", "dog")
        np.testing.assert_array_equal(new.read_labels(), old.read_labels())
        for i in range(len(old)):
            before, after = old[i]["image"], new[i]["image"]
            if min(before.shape[:2]) <= 32:
                np.testing.assert_array_equal(after, before)
                continue
            assert min(after.shape[:2]) == 32
            ratio = before.shape[0] / before.shape[1]
            assert after.shape[0] / after.shape[1] == pytest.approx(ratio, rel=0.02)
            expected = Image.fromarray(before).resize(after.shape[1::-1], Image.Resampling.BILINEAR)
            assert np.abs(after.astype(int) - np.asarray(expected, int)).mean() < 2


def test_a_stopped_run_resumes_to_the_same_files(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD", 3)
    folder = write(photographs, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len([name for name in files if "train.array_record" in name]) == 6
    shard = folder / "small-train.array_record-00002-of-00006"
    shard.unlink()
    (folder / "dataset_info.json").unlink()
    (folder / ".tmp-123-4").write_bytes(b"left behind by a kill")
    kept = folder / "small-train.array_record-00001-of-00006"
    changed = kept.stat().st_mtime_ns
    write(photographs, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert kept.stat().st_mtime_ns == changed


def test_an_exception_leaves_no_dataset_and_no_partial_file(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(photographs, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "small" / "1.0.0").iterdir()] == ["resize.json"]


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_stores_small_images_exactly(channels):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, channels), dtype=np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(encode(image, 7, 95))))
    np.testing.assert_array_equal(decoded.reshape(image.shape), image)


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--side=0"], "side must be 1 pixel or more; got 0"),
        (["--quality=0"], "quality must be from 1 to 100; got 0"),
        (["--train_split=", "--test_split="], "both splits are empty"),
        (["--test_split=val[:5]"], "val"),
        (["--on_bad_image=ignore"], "on_bad_image"),
    ],
)
def test_a_mistake_is_one_line(photographs, tmp_path, capsys, arguments, part):
    assert main([f"folder:{photographs}", "small", f"--data_dir={tmp_path}/out", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("checking", "\r", " "))]
    assert lines[-1].startswith("arinv: ") and part in lines[-1]


def test_the_command_refuses_names_sources_and_other_settings(photographs, tmp_path, capsys):
    out = f"--data_dir={tmp_path}/out"
    _run(["arinv", "resize", f"folder:{photographs}", "small", out, "--side=32"])
    assert f"dataset=tfds:small,data_dir={tmp_path}/out" in capsys.readouterr().out
    for arguments, part in (
        ([f"folder:{photographs}", "small", out, "--side=40"], "another side"),
        ([f"folder:{photographs}", "Small-1", out], "'Small-1'"),
        (["folder:/nowhere", "other", out], "/nowhere"),
        (["tfds:small", "other", out, "--test_split=validation"], "train, test"),
    ):
        assert main(arguments) == 2
        assert part in capsys.readouterr().err
    (tmp_path / "out" / "small" / ".ipynb_checkpoints").mkdir()  # no dataset
    assert main([f"folder:{photographs}", "small", out, "--side=32"]) == 0
    (tmp_path / "out" / "public" / "3.0.2").mkdir(parents=True)
    (tmp_path / "out" / "public" / "3.0.2" / "dataset_info.json").write_text("{}")
    capsys.readouterr()
    assert main([f"folder:{photographs}", "public", out, "--side=32"]) == 2
    assert "public holds 3.0.2 of another dataset" in capsys.readouterr().err
    smooth(50, 50, 3).save(photographs / "dog" / "new.png")
    assert main([f"folder:{photographs}", "small", out, "--side=32"]) == 2
    assert "another images" in capsys.readouterr().err


def test_images_that_have_changed_and_splits_in_common_are_refused(photographs, tmp_path, capsys):
    (photographs / "dog" / "notes.heic").write_bytes(b"")
    (photographs / "dog" / "bad.png").write_bytes(b"no image")
    write(photographs, tmp_path / "out", on_bad_image="skip")
    assert "skipped 1 unreadable" in (text := capsys.readouterr().err) and ".heic" in text
    changed = photographs / "dog" / "3.png"
    with Image.open(changed) as image:
        Image.new("RGB", image.size).save(changed)
    with pytest.raises(UserError, match="was written with another images"):
        write(photographs, tmp_path / "out", on_bad_image="skip")
    with pytest.raises(UserError, match="the splits all and test of .* have images in common"):
        write(photographs, tmp_path / "other", on_bad_image="skip", splits={"train": "all", "test": "test"})


@pytest.mark.parametrize("name", ["big\ndog", " dog", "d\udcffg"])
def test_resize_refuses_classes_that_a_file_of_labels_cannot_hold(photographs, tmp_path, name):
    (photographs / "dog").rename(photographs / name)
    with pytest.raises(UserError, match="one line of UTF-8 for each class.*rename its folder"):
        write(photographs, tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_damaged_record_files_are_one_line(photographs, tmp_path, damage):
    folder = write(photographs, tmp_path / "out")
    for file in folder.glob("*array_record*"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
        if damage == "missing":
            file.unlink()
    with pytest.raises(UserError, match="^tfds:small.*(missing or )?damaged.*prepare it again"):
        source = data.open_source("tfds:small", data_dir=tmp_path / "out")
        [source[i] for i in range(len(source))]
