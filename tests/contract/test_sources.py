"""The contract of a dataset scheme: one table, the same checks for every row, and a new row for a toy dataset."""

import numpy as np
import pytest
from PIL import Image

from arinv import data
from arinv.data.opening import SCHEMES, Scheme
from arinv.errors import UserError

SIZE = 8


class Toy:
    """Twelve images of one grey level each, in three classes; every fourth is a test image."""

    def __init__(self, location, split, *, image_size, resize):
        self._numbers = [i for i in range(12) if (i % 4 == 3) == (split == "test")]
        self.info = data.SourceInfo(f"toy:{location}", split, len(self._numbers), 3, ("a", "b", "c"), image_size)
        self.num_skipped = 0

    def __len__(self):
        return len(self._numbers)

    def __getitem__(self, index):
        number, size = self._numbers[index], self.info.image_size
        return {"image": np.full((size, size, 3), number, np.uint8), "label": number % 3}

    def read_labels(self):
        return np.array(self._numbers, np.int32) % 3


def files(folder):
    """Writes two classes of ten images that all differ."""
    for i in range(20):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((10, 12, 3), 10 * i, np.uint8)).save(path)
    return folder


def arrays(folder):
    """Writes two classes of ten images that all differ."""
    image = np.full((20, 10, 12, 3), 10 * np.arange(20)[:, None, None, None], np.uint8)
    np.savez(folder / "arrays.npz", image=image, label=np.arange(20) % 2)
    return folder / "arrays.npz"


def slices(folder):
    """Writes a volume whose slices all differ."""
    np.save(folder / "rock.npy", np.random.default_rng(0).integers(0, 256, (30, 10, 12)).astype(np.uint8))
    return folder / "rock.npy"


# scheme -> the name of a dataset to open
NAMES = {
    "photos": lambda tmp_path, data_dir: "photos",
    "tfds": lambda tmp_path, data_dir: "tfds:cifar10",
    "folder": lambda tmp_path, data_dir: f"folder:{files(tmp_path)}",
    "npz": lambda tmp_path, data_dir: f"npz:{arrays(tmp_path)}",
    "blobs": lambda tmp_path, data_dir: "blobs",
    "volume": lambda tmp_path, data_dir: f"volume:{slices(tmp_path)}",
    "toy": lambda tmp_path, data_dir: "toy:here",
}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """Registers the toy dataset."""
    monkeypatch.setitem(SCHEMES, "toy", Scheme(Toy, "NAME"))


@pytest.fixture(params=NAMES)
def open_split(request, tmp_path):
    """Returns a function from a split, and options, to the source."""
    directory = request.getfixturevalue("data_dir") / "tfds" if request.param == "tfds" else None
    name = NAMES[request.param](tmp_path, directory)

    def open_split(split, **options):
        return data.open_source(name, split=split, image_size=SIZE, data_dir=directory, **options)

    return open_split


def test_every_scheme_has_a_dataset_to_open():
    assert set(NAMES) == set(SCHEMES)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.long
def test_source_has_examples_of_its_info(open_split, split):
    source = open_split(split, num_examples=8)
    info, labels = source.info, source.read_labels()
    assert isinstance(source, data.Source) and source.num_skipped == 0
    assert 0 < len(source) <= 8 and (info.num_examples, info.split) == (len(source), split)
    assert info.image_size == SIZE and len(info.class_names) == info.num_classes
    assert labels.dtype == np.int32 and labels.shape == (len(source),)
    for index in range(len(source)):
        example = source[index]
        assert (example["image"].shape, example["image"].dtype) == ((SIZE, SIZE, info.channels), np.uint8)
        assert example["label"] == labels[index] and 0 <= example["label"] < info.num_classes


def test_examples_are_the_same_every_time(open_split):
    first, second = open_split("train", num_examples=6), open_split("train", num_examples=6)
    for i in (5, 0, 5):
        np.testing.assert_array_equal(first[i]["image"], second[i]["image"])


def test_splits_are_disjoint(open_split):
    train, test = (
        {source[i]["image"].tobytes() for i in range(len(source))}
        for source in (open_split(split, num_examples=200) for split in ("train", "test"))
    )
    assert train and test and not train & test


@pytest.mark.long
def test_classes_are_selected_and_renumbered(open_split):
    names = open_split("train", num_examples=1).info.class_names
    source = open_split("train", num_examples=3, classes=[names[1]], renumber=True)
    assert source.info.class_names == (names[1],) and source.read_labels().tolist() == [0] * len(source)
    assert source[0]["label"] == 0 and 0 < len(source) <= 3
    kept = open_split("train", num_examples=3, classes=[names[1]])
    assert kept.read_labels().tolist() == [1] * len(kept)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.long
def test_images_have_the_channels_that_are_asked_for(open_split, channels):
    own, source = open_split("train", num_examples=2), open_split("train", num_examples=2, channels=channels)
    image, original = source[1]["image"], own[1]["image"]
    assert (image.shape, image.dtype, source.info.channels) == ((SIZE, SIZE, channels), np.uint8, channels)
    grey = original[..., 0] if own.info.channels == 1 else original @ np.array([0.299, 0.587, 0.114])
    expected = original if own.info.channels == channels else grey[..., None]
    np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=0.501)
    assert source.read_labels().tolist() == own.read_labels().tolist()


def test_source_feeds_batches(open_split):
    source = open_split("train", num_examples=6)
    batch = next(data.train_batches(source, batch_size=4, seed=0))
    assert batch["image"].shape == (4, SIZE, SIZE, source.info.channels) and batch["mask"].tolist() == [1.0] * 4
    masks = [batch["mask"] for batch in data.eval_batches(source, batch_size=4)]
    assert sum(mask.sum() for mask in masks) == len(source)


@pytest.mark.parametrize("split", ["nowhere", ""])
def test_unknown_split_is_one_line(open_split, split):
    if open_split("train").info.name.startswith("toy"):
        pytest.skip("the toy dataset has any split")
    with pytest.raises(UserError, match="split") as error:
        open_split(split)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "tyo:here", "photo", "photos:", "photos:all", "tfds", "folder:", "npz:", "toy"])
@pytest.mark.parametrize("function", [data.check_name, data.open_source])
def test_unknown_name_is_one_line_with_the_known_ones(function, name):
    with pytest.raises(UserError, match="unknown dataset") as error:
        function(name)
    message = str(error.value)
    assert repr(name) in message and "\n" not in message
    assert "known: blobs, folder:PATH, npz:PATH, photos, tfds:NAME, toy:NAME, volume:PATH" in message


def test_unknown_name_is_completed_where_it_is_a_path_or_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("set.npz", "volume.npy", "cat.png"):
        (tmp_path / name).touch()
    for name, meant in (
        ("images", "folder:images"),
        (str(tmp_path / "images"), f"folder:{tmp_path}/images"),
        ("set.npz", "npz:set.npz"),
        ("volume.npy", "volume:volume.npy"),
        ("CIFAR10", "tfds:cifar10"),
    ):
        with pytest.raises(UserError, match="^unknown dataset .* known: .*") as error:
            data.check_name(name)
        assert str(error.value).endswith(f". Did you mean {meant!r}?")
    for name in ("cat.png", "/nowhere/images", "gs://bucket/images", "a b"):
        with pytest.raises(UserError, match="^unknown dataset .*volume:PATH.$"):
            data.check_name(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1; got 0"),
        ({"image_size": 32.0}, "image_size must be a whole number"),
        ({"image_size": 100_000}, "image_size must be 1 to 65536 px; got 100000"),
        ({"num_examples": 2.5}, "num_examples must be a whole number"),
        ({"channels": 2}, "channels must be 3, 1 for grey .*; got 2"),
        ({"classes": [1.5]}, "1.5 is neither a label"),
        ({"classes": [True]}, "True is neither a label"),
        ({"name": None}, "name of a dataset must be text"),
    ],
)
def test_open_source_rejects_other_numbers(options, message):
    with pytest.raises(UserError, match=message):
        data.open_source(**{"name": "photos", **options})


def test_toy_dataset_streams_as_from_memory():
    source = data.open_source("toy:here", image_size=SIZE)
    streams = [data.train_batches(source, batch_size=3, seed=1, in_memory=flag) for flag in (True, False)]
    for _ in range(4):
        memory, stream = (next(batches) for batches in streams)
        np.testing.assert_array_equal(memory["image"], stream["image"])
        np.testing.assert_array_equal(memory["image"][:, 0, 0, 0] % 3, memory["label"])
    streams[1].close()
