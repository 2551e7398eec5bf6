"""TFDS sets from array_record files: a tiny one made here, and real CIFAR-10 where there is one."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from arinv import data
from arinv.data.published import published
from arinv.errors import UserError

_PACKAGE = "tensorflow_datasets.core.features"


def _image(index):
    return np.full((6, 8, 3), index * 20, np.uint8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir with the set "tiny": ten images in split train, labels 0, 1, 2, 0, ..."""
    root = tmp_path_factory.mktemp("tfds")
    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    path = folder / "tiny-train.array_record-00000-of-00001"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for index in range(10):
        buffer = io.BytesIO()
        Image.fromarray(_image(index)).save(buffer, "PNG")
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(buffer.getvalue())
        example.features.feature["label"].int64_list.value.append(index % 3)
        writer.write(example.SerializeToString())
    writer.close()
    split = {"name": "train", "numBytes": "1000", "shardLengths": ["10"]}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    image = {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"}
    features = {
        "image": {"pythonClassName": f"{_PACKAGE}.image_feature.Image", "image": image},
        "label": {
            "pythonClassName": f"{_PACKAGE}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "3"},
        },
    }
    tree = {
        "pythonClassName": f"{_PACKAGE}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "features.json").write_text(json.dumps(tree))
    (folder / "label.labels.txt").write_text("ant\nbee\ncow\n")
    return root


def test_examples_and_info(prepared):
    source = data.open_source("tfds:tiny", data_dir=prepared, image_size=4)
    assert source.info == data.SourceInfo("tfds:tiny", "train", 10, 3, ("ant", "bee", "cow"), 4)
    for index in (0, 7, -1):
        example = source[index]
        assert (example["image"] == index % 10 * 20).all() and example["image"].shape == (4, 4, 3)
        assert example["label"] == index % 10 % 3
    assert source.read_labels().tolist() == [0, 1, 2] * 3 + [0]
    with pytest.raises(IndexError):
        source[10]


def test_slices_classes_and_cap(prepared):
    def labels(**options):
        return data.open_source("tfds:tiny", data_dir=prepared, **options).read_labels().tolist()

    assert labels(split="train[:80%]") == [0, 1, 2, 0, 1, 2, 0, 1]
    assert labels(split="train[8:]") == [2, 0]
    assert labels(split="train[-2:]+train[:0]+train[:1]") == [2, 0, 0]
    assert labels(split="all") == labels(split="train")
    assert labels(classes=["bee"]) == [1, 1, 1]
    assert labels(classes=[0, 2], num_examples=3) == [0, 2, 0]
    last = data.open_source("tfds:tiny", data_dir=prepared, split="train[80%:]", classes=["cow"])
    assert len(last) == 1 and (last[0]["image"] == 160).all()


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("tinny", "train", "tiny.*tfds build"),
        ("tiny:2.0.0", "train", "tiny/1.0.0"),
        ("tiny", "test", r"has no split 'test'.*train\[80%:\]"),
        ("tiny", "train[80:", "cannot read split"),
        ("tiny", "train[:0]", "no example .0 to 0.; take a larger slice"),
        ("tiny", "train[8:6]", "no example .8 to 6."),
        ("tiny", "train[8:6]+train", "no example .8 to 6, 0 to 10."),
        ("tiny", "train[:11]", "cannot read split .*incompatible with 10 examples"),
        ("tiny", "train[:101%]", r"cannot read split .*\[-100, 100\]"),
        ("tiny", "all[:5]", "cannot read split .*does not support slice"),
    ],
)
def test_mistakes_are_explained(prepared, name, split, message):
    with pytest.raises(UserError, match=message):
        data.open_source(f"tfds:{name}", data_dir=prepared, split=split)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("test[10%:20%]", 1000),
        ("test[-10%:]", 1000),
        ("test[9000:]", 1000),
        ("test[:60000]", None),
        ("test[-20000:]", None),
        ("test[:1001%]", None),
        ("test[9000:8000]", None),
        ("test[:0]", None),
        ("test[:]", None),
        ("test[10%:8000]", None),
    ],
)
def test_no_length_is_told_of_a_slice_that_cannot_be_read(split, expected):
    info = published("tfds:cifar10", split, image_size=32)
    assert (info and info.num_examples) == expected


def test_other_file_formats_are_explained(prepared, tmp_path):
    shutil.copytree(prepared / "tiny", tmp_path / "tiny")
    path = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match="--file_format=array_record"):
        data.open_source("tfds:tiny", data_dir=tmp_path)


def test_missing_set_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    with pytest.raises(UserError, match=r"sets; prepare it once with `tfds build cifar10"):
        data.open_source("tfds:cifar10")


def test_names_must_be_complete():
    for name in ("cifar10", "tfds:", "folder:", "tfds"):
        with pytest.raises(UserError, match="folder:PATH, npz:PATH, photos, tfds:NAME"):
            data.open_source(name)


def test_tensorflow_is_never_imported(prepared):
    program = (
        "import sys; from arinv import data; "
        f"source = data.open_source('tfds:tiny', data_dir={str(prepared)!r}); "
        "batches = data.train_batches(source, batch_size=5, seed=0, in_memory=False); "
        "print(next(batches)['label'].shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(5,) False"
    assert "Traceback" not in done.stderr  # the threads that decode ahead end in time


def test_cifar10_agrees_with_the_decoder_of_tfds(data_dir):
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = data_dir / "tfds"
    source = data.open_source("tfds:cifar10", split="test", data_dir=folder, num_examples=50)
    arrays = data.load_arrays(source)
    reference = tfds.data_source("cifar10", split="test", data_dir=str(folder))
    for index in range(50):
        np.testing.assert_array_equal(arrays["image"][index], reference[index]["image"])
        assert arrays["label"][index] == reference[index]["label"]
    assert len(set(arrays["label"].tolist())) == source.info.num_classes == 10
