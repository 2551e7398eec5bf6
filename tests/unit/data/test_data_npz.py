"""Archives as datasets, renumbered classes, and batches from two sources."""

import io
import zipfile

import numpy as np
import pytest
from ml_collections import ConfigDict

from arinv import data
from arinv.data.source import Renumbered
from arinv.errors import UserError
from arinv.experiment.run import Run


def arrays(count=12, classes=3, side=8):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return {"image": image, "label": np.arange(count) % classes}


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "arrays.npz", **arrays())
    return tmp_path / "arrays.npz"


def test_npz_is_a_source(path):
    source = data.open_source(f"npz:{path}", split="all", image_size=8)
    assert (len(source), source.info.num_classes) == (12, 3)
    np.testing.assert_array_equal(source[5]["image"], arrays()["image"][5])
    assert source[5]["label"] == 2
    np.testing.assert_array_equal(source.read_labels(), arrays()["label"])
    assert data.open_source(f"npz:{path}", image_size=4)[0]["image"].shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "has no array .'image'"),
        ({"image": np.zeros((12, 8, 8, 3), np.float32)}, "uint8"),
        ({"label": np.zeros(3, int)}, r"integers \[12\]"),
        ({"label": np.full(12, -1)}, "0 or more"),
        ({"label": np.arange(12) + 0.5}, "whole numbers"),
        ({"label": np.full(12, np.nan)}, "whole numbers"),
        ({"label": np.full(12, 1e300)}, "too large"),
        ({"label": np.full((12, 3), 0.4)}, "not one-hot"),
        ({"label": np.array([b"a"] * 12)}, r"integers \[12\]"),
        ({"image": np.zeros((0, 8, 8, 3), np.uint8), "label": np.zeros(0, int)}, "at least one example"),
        ({"image": np.zeros((12, 0, 8, 3), np.uint8)}, r"uint8 \[N, H, W, 3\]"),
        ({"label": np.array([object()] * 12)}, "cannot be read as a .npz file"),
    ],
)
def test_npz_rejects_other_arrays(tmp_path, change, message):
    content = {name: value for name, value in (arrays() | change).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(UserError, match=message) as error:
        data.open_source(f"npz:{tmp_path}/bad.npz", image_size=8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text"])
def test_npz_rejects_damaged_file(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match="numpy.savez"):
        data.open_source(f"npz:{tmp_path}/bad.npz", image_size=8)
    with pytest.raises(UserError, match="does not exist"):
        data.open_source(f"npz:{tmp_path}/nowhere.npz", image_size=8)


def archive(**members):
    """The bytes of an .npz file with these members as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def one_array():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def damaged_deflate():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays())
    content = bytearray(buffer.getvalue())
    content[40:140] = b"\xff" * 100
    return bytes(content)


def unclosed_header():
    return one_array().replace(b"{'descr'", b"{('desc'")


@pytest.mark.parametrize(
    "content",
    [one_array(), damaged_deflate(), archive(image=b"raw", label=b"raw"), archive(image=unclosed_header(), label=b"")],
    ids=["npy", "deflate", "raw", "header"],
)
def test_npz_error_is_one_line_for_any_damage(content, tmp_path):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match="bad.npz cannot be read .*numpy.savez") as error:
        data.open_source(f"npz:{tmp_path}/bad.npz", image_size=8)
    assert "\n" not in str(error.value)


def opened_all(path, **options):
    return data.open_source(f"npz:{path}", split="all", image_size=8, **options)


def splits(path):
    return {name: data.open_source(f"npz:{path}", split=name, image_size=8) for name in ("train", "test", "all")}


def test_npz_test_split_is_a_fifth_of_every_class(tmp_path):
    content = arrays(50, classes=5)  # as many classes as the fifth has parts
    np.savez(tmp_path / "many.npz", **content)
    opened = splits(tmp_path / "many.npz")
    assert [(len(source), source.info.num_classes) for source in opened.values()] == [(40, 5), (10, 5), (50, 5)]
    assert np.bincount(opened["test"].read_labels()).tolist() == [2] * 5
    seen = {name: {source[i]["image"].tobytes() for i in range(len(source))} for name, source in opened.items()}
    assert not seen["train"] & seen["test"] and seen["train"] | seen["test"] == seen["all"]
    assert [opened["test"][i]["label"] for i in range(10)] == opened["test"].read_labels().tolist()
    with pytest.raises(UserError, match="unknown split of npz:.*all, test, train"):
        data.open_source(f"npz:{tmp_path}/many.npz", split="validation", image_size=8)


def test_npz_splits_small_classes(tmp_path):
    content = arrays(7)
    np.savez(tmp_path / "few.npz", image=content["image"], label=[0, 0, 1, 1, 1, 1, 2])
    assert splits(tmp_path / "few.npz")["test"].read_labels().tolist() == [0, 1]
    np.savez(tmp_path / "single.npz", image=content["image"], label=np.arange(7))
    with pytest.raises(UserError, match="has no example for split 'test'"):
        splits(tmp_path / "single.npz")


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (np.array([3, 8, 13] * 4), ("3", "8", "13")),
        (np.array([7, 5_000_000, 7] * 4), ("7", "5000000")),
        (np.array([1.0, 2.0, 3.0] * 4), ("1", "2", "3")),
        (np.array([[0], [1], [0]] * 4), ("0", "1")),
        (np.eye(3)[[0, 2, 0] * 4], ("0", "2")),
        (np.array([True, False, True] * 4), ("0", "1")),
        (np.array(["dog", "cat", "dog"] * 4), ("cat", "dog")),
        (np.array([2**63, 1, 2] * 4, np.uint64), None),
    ],
)
def test_npz_classes_are_the_labels_that_occur(tmp_path, label, names):
    np.savez(tmp_path / "a.npz", **(arrays() | {"label": label}))
    if names is None:
        with pytest.raises(UserError, match="too large"):
            opened_all(tmp_path / "a.npz")
        return
    source = opened_all(tmp_path / "a.npz")
    assert source.info.class_names == names and source.info.num_classes == len(names)
    assert sorted(set(source.read_labels().tolist())) == list(range(len(names)))
    assert [source[i]["label"] for i in range(3)] == source.read_labels()[:3].tolist()
    last = opened_all(tmp_path / "a.npz", classes=[names[-1]])
    assert set(last.read_labels().tolist()) == {len(names) - 1}


def data_config(name, extra):
    fields = {"name": name, "extra": {"name": extra}, "train_split": "train", "image_size": 8, "resize": "squash"}
    return ConfigDict({"data": {**fields, "data_dir": "", "on_bad_image": "error"}})


def test_open_extra_uses_labels_of_the_first_source(tmp_path):
    for name, label in {"first": [3, 8, 13], "some": [13, 3, 13], "other": [3, 4, 13]}.items():
        np.savez(tmp_path / f"{name}.npz", **(arrays() | {"label": np.array(label * 4)}))

    def opened(name, train):
        return Run(data_config("x", f"npz:{tmp_path}/{name}.npz"), tmp_path).open_extra(train)

    train = opened_all(tmp_path / "first.npz")
    assert opened("some", train).read_labels()[:3].tolist() == [2, 0, 2]
    with pytest.raises(UserError, match="other.npz has classes that x lacks: 4"):
        opened("other", train)
    np.savez(tmp_path / "wide.npz", **(arrays(28, classes=14)))
    assert opened("some", opened_all(tmp_path / "wide.npz")).read_labels()[:3].tolist() == [13, 3, 13]
    photos = data.open_source("photos", image_size=8, num_examples=14)  # whose classes have names
    np.savez(tmp_path / "few.npz", **(arrays() | {"label": np.array([4, 2, 4] * 4)}))
    assert opened("few", photos).read_labels()[:3].tolist() == [4, 2, 4]


def test_open_extra_uses_all_examples_of_an_npz(path):
    def opened(first):
        return Run(data_config(first, f"npz:{path}"), path.parent).open_extra(splits(path)["train"])

    assert len(opened("photos")) == 12
    assert len(opened(f"npz:{path}")) == 9  # the rest is what it is tested on


def test_open_source_renumbers_classes(path):
    source = data.open_source(f"npz:{path}", split="all", image_size=8, classes=(1, 2), renumber=True)
    assert (len(source), source.info.num_classes, source.info.class_names) == (8, 2, ("1", "2"))
    kept = arrays()["image"][arrays()["label"] > 0]
    np.testing.assert_array_equal(np.stack([source[i]["image"] for i in range(8)]), kept)
    np.testing.assert_array_equal(source.read_labels(), [0, 1] * 4)
    assert [source[i]["label"] for i in range(3)] == [0, 1, 0]


def batches(source, size):
    return data.train_batches(source, batch_size=size, seed=0)


def test_mixed_batches_hold_both_sources_and_resume(path, tmp_path):
    np.savez(tmp_path / "other.npz", **(arrays() | {"label": np.full(12, 7)}))
    first_source, other = (opened_all(place) for place in (path, tmp_path / "other.npz"))
    other = Renumbered(other, {0: 7}, map(str, range(8)))

    def mixed():
        return data.MixedBatches(batches(first_source, 2), batches(other, 4), batch_size=6)

    whole = mixed()
    assert whole.steps_per_epoch == 2
    seen = [next(whole) for _ in range(5)]
    assert all((batch["label"][:2] < 3).all() and (batch["label"][2:] == 7).all() for batch in seen)
    first, second = mixed(), mixed()
    for _ in range(3):
        next(first)
    second.set_state(first.get_state())
    np.testing.assert_array_equal(next(second)["image"], seen[3]["image"])
    with pytest.raises(UserError, match="cannot resume"):
        second.set_state({})


def test_names_of_one_archive_are_recognized(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros(1))
    (tmp_path / "b").mkdir()
    assert data.same_dataset(f"npz:{tmp_path}/a.npz", f"npz:{tmp_path}/b/../a.npz")
    assert not data.same_dataset(f"npz:{tmp_path}/a.npz", f"npz:{tmp_path}/none.npz")
    assert data.same_dataset("photos", "photos") and not data.same_dataset("tfds:cifar10", "tfds:cifar100")


def test_images_of_zeros_and_ones_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.ones((4, 2, 2, 3), np.uint8), label=np.arange(4) % 2)
    with pytest.raises(UserError, match="values of 0 and 1 only; uint8 images are in 0..255"):
        data.open_source(f"npz:{tmp_path / 'a.npz'}")


def test_npz_of_one_array_says_what_to_write(tmp_path):
    np.save(tmp_path / "images.npy", arrays()["image"])
    with pytest.raises(UserError, match=r"it holds one array and no labels; write both with numpy.savez\(file, image="):
        data.open_source(f"npz:{tmp_path}/images.npy")
