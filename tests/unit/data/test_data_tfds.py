"""TFDS datasets in array_record files: a tiny one written by the test, and CIFAR-10 where available."""

import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from prepared_tfds import IMAGE, LABEL, picture, png, prepare, prepare_faces, tensor_feature

from arinv import data
from arinv.data import published
from arinv.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir with the set "tiny": ten images in split train, labels 0, 1, 2, 0, ..."""
    root = tmp_path_factory.mktemp("tfds")

    def write(fields, index):
        fields["image"].bytes_list.value.append(png(index))
        fields["label"].int64_list.value.append(index % 3)

    folder = prepare(root, "tiny", {"image": IMAGE, "label": LABEL}, write)
    (folder / "label.labels.txt").write_text("ant\nbee\ncow\n")
    return root


@pytest.mark.parametrize("field", ["label", "labels"])
def test_tfds_numbers_plain_labels(field, tmp_path):
    def write(fields, index):
        fields["image"].bytes_list.value.append(png(index))
        fields[field].int64_list.value.append((3, 8, 13)[index % 3])

    prepare(tmp_path, "plain", {"image": IMAGE, field: tensor_feature(dtype="int64")}, write)
    source = data.open_source("tfds:plain", data_dir=tmp_path, image_size=4)
    assert source.info.class_names == ("3", "8", "13")
    assert source.read_labels().tolist() == [0, 1, 2] * 3 + [0] and source[5]["label"] == 2


def test_tfds_rejects_missing_or_other_labels(tmp_path):
    def write(fields, index):
        fields["image"].bytes_list.value.append(png(index))
        if index:
            fields["label"].int64_list.value.append(-1)

    prepare(tmp_path, "bare", {"image": IMAGE}, write)
    with pytest.raises(UserError, match="tfds:bare has no feature 'label' or 'labels'; it has: image"):
        data.open_source("tfds:bare", data_dir=tmp_path)
    prepare(tmp_path, "several", {"image": IMAGE, "labels": tensor_feature(3, dtype="int64")}, write)
    with pytest.raises(UserError, match="Tensor as 'labels'; expected one integer"):
        data.open_source("tfds:several", data_dir=tmp_path)
    prepare(tmp_path, "hidden", {"image": IMAGE, "label": LABEL}, write)  # as test splits without labels are
    source = data.open_source("tfds:hidden", data_dir=tmp_path, image_size=4)
    with pytest.raises(UserError, match="example 0 of tfds:hidden .* 0 values of 'label'"):
        source[0]
    with pytest.raises(UserError, match="the label -1, which is not one of the 3 classes"):
        source[1]


def test_tfds_label_is_an_attribute_or_none(tmp_path):
    prepare_faces(tmp_path, "faces", png)
    options = {"data_dir": tmp_path, "image_size": 4}
    source = data.open_source("tfds:faces", label="attributes/Eyeglasses", **options)
    assert source.info.class_names == ("no Eyeglasses", "Eyeglasses")
    assert source.read_labels().tolist() == [0, 1] * 5 and source[3]["label"] == 1
    worn = data.open_source("tfds:faces", label="attributes/Eyeglasses", classes=[1], renumber=True, **options)
    assert (worn[1]["image"] == 60).all() and len(worn) == 5
    unlabeled = data.open_source("tfds:faces", label="none", **options)
    assert unlabeled.read_labels().tolist() == [0] * 10 and unlabeled[3]["label"] == 0
    assert unlabeled.info.num_classes == 1
    with pytest.raises(UserError, match="'attributes/Hat'; known: attributes/Eyeglasses, attributes/Smiling, image"):
        data.open_source("tfds:faces", label="attributes/Hat", **options)
    with pytest.raises(UserError, match="data.label=none for images without labels"):
        data.open_source("tfds:faces", **options)


def test_tfds_crops_a_window_before_it_resizes(tmp_path):
    def write(fields, index):
        buffer = io.BytesIO()
        pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
        Image.fromarray(np.repeat(pixels[..., None], 3, axis=-1)).save(buffer, "PNG")
        fields["image"].bytes_list.value.append(buffer.getvalue())

    prepare(tmp_path, "windows", {"image": IMAGE}, write)
    options = {"data_dir": tmp_path, "image_size": 4, "label": "none"}
    image = data.open_source("tfds:windows", window=(3, 2, 4), **options)[0]["image"]
    np.testing.assert_array_equal(image[..., 0], np.arange(48).reshape(6, 8)[0:4, 1:5])
    with pytest.raises(UserError, match="8 x 6 px: the window of 4 px around x=7, y=2 is not inside"):
        data.open_source("tfds:windows", window=(7, 2, 4), **options)[0]
    with pytest.raises(UserError, match="must be x and y of its center and its side"):
        data.open_source("tfds:windows", window=(7, 2), **options)
    with pytest.raises(UserError, match="photos has no window"):
        data.open_source("photos", window=(3, 2, 4))


def test_tfds_reads_uint8_tensors_only(tmp_path):
    def write(fields, index):
        fields["image"].int64_list.value.extend(picture(index).reshape(-1).tolist())
        fields["label"].int64_list.value.append(index % 3)

    prepare(tmp_path, "raw", {"image": tensor_feature(6, 8, 3, dtype="uint8"), "label": LABEL}, write)
    source = data.open_source("tfds:raw", data_dir=tmp_path, image_size=4)
    assert (source[7]["image"] == 140).all() and source[7]["image"].dtype == np.uint8
    for name, feature in {
        "floats": tensor_feature(6, 8, 3, dtype="float32"),
        "ragged": tensor_feature(-1, -1, 3, dtype="uint8"),
    }.items():
        prepare(tmp_path, name, {"image": feature, "label": LABEL}, write)
        with pytest.raises(UserError, match=f"tfds:{name} stores 'image' as Tensor of .*tfds.features.Image"):
            data.open_source(f"tfds:{name}", data_dir=tmp_path)
    prepare(tmp_path, "short", {"image": tensor_feature(6, 9, 3, dtype="uint8"), "label": LABEL}, write)
    with pytest.raises(UserError, match="example 0 of tfds:short train has 144 pixel values"):
        data.open_source("tfds:short", data_dir=tmp_path)[0]


def test_tfds_examples_and_info(prepared):
    source = data.open_source("tfds:tiny", data_dir=prepared, image_size=4)
    parts = (("train", 0, 10),)
    assert source.info == data.SourceInfo("tfds:tiny", "train", 10, 3, ("ant", "bee", "cow"), 4, parts=parts)
    for index in (0, 7, -1):
        example = source[index]
        assert (example["image"] == index % 10 * 20).all() and example["image"].shape == (4, 4, 3)
        assert example["label"] == index % 10 % 3
    assert source.read_labels().tolist() == [0, 1, 2] * 3 + [0]
    with pytest.raises(IndexError):
        source[10]


def test_tfds_slices_classes_and_num_examples(prepared):
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
        ("tiny", "train[80:", "cannot parse split"),
        ("tiny", "train[:0]", "no example .0 to 0.; take a larger slice"),
        ("tiny", "train[8:6]", "no example .8 to 6."),
        ("tiny", "train[8:6]+train", "no example .8 to 6, 0 to 10."),
        ("tiny", "train[:11]", "cannot parse split .*incompatible with 10 examples"),
        ("tiny", "train[:101%]", r"cannot parse split .*\[-100, 100\]"),
        ("tiny", "all[:5]", "cannot parse split .*does not support slice"),
    ],
)
def test_tfds_mistakes_are_explained(prepared, name, split, message):
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
def test_published_length_of_slices(split, expected):
    info = published("tfds:cifar10", split, image_size=32)
    assert (info and info.num_examples) == expected


def test_tfds_rejects_other_file_formats(prepared, tmp_path):
    shutil.copytree(prepared / "tiny", tmp_path / "tiny")
    path = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match="--file_format=array_record"):
        data.open_source("tfds:tiny", data_dir=tmp_path)


def test_tfds_missing_dataset_names_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    with pytest.raises(UserError, match=r"sets; prepare it once with `tfds build cifar10"):
        data.open_source("tfds:cifar10")


def test_a_data_dir_beside_the_datasets_is_corrected(prepared, tmp_path):
    shutil.copytree(prepared, root := tmp_path / "sets")
    for place in (root / "tiny", tmp_path):
        with pytest.raises(UserError, match=f"is not in {place} but in {root}: set data_dir={root}$"):
            data.open_source("tfds:tiny", data_dir=place)


def test_open_source_rejects_incomplete_names():
    for name in ("cifar10", "tfds:", "folder:", "tfds"):
        with pytest.raises(UserError, match="folder:PATH, npz:PATH, photos, tfds:NAME"):
            data.open_source(name)


@pytest.mark.long
def test_tfds_does_not_import_tensorflow(prepared):
    program = (
        "import sys; from arinv import data; "
        f"source = data.open_source('tfds:tiny', data_dir={str(prepared)!r}); "
        "batches = data.train_batches(source, batch_size=5, seed=0, in_memory=False); "
        "print(next(batches)['label'].shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(5,) False"
    assert "Traceback" not in done.stderr  # the threads that decode ahead end in time


def test_tfds_cifar10_equals_decoder_of_tfds(data_dir):
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = data_dir / "tfds"
    source = data.open_source("tfds:cifar10", split="test", data_dir=folder, num_examples=50)
    arrays = data.load_arrays(source)
    reference = tfds.data_source("cifar10", split="test", data_dir=str(folder))
    for index in range(50):
        np.testing.assert_array_equal(arrays["image"][index], reference[index]["image"])
        assert arrays["label"][index] == reference[index]["label"]
    assert len(set(arrays["label"].tolist())) == source.info.num_classes == 10


def test_a_large_photograph_has_the_pixels_that_it_has_in_a_folder(tmp_path):
    """Both decode a JPEG file at a reduced size."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((600, 400), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(buffer.getvalue())
    (tmp_path / "images" / "1.jpg").write_bytes(buffer.getvalue())

    def write(features, index):
        features["image"].bytes_list.value.append(buffer.getvalue())
        features["label"].int64_list.value.append(0)

    prepare(tmp_path, "large", {"image": IMAGE, "label": LABEL}, write, count=2)
    from_records = data.open_source("tfds:large", data_dir=tmp_path, image_size=32)[0]["image"]
    from_file = data.open_source(f"folder:{tmp_path}/images", split="all", image_size=32)[0]["image"]
    np.testing.assert_array_equal(from_records, from_file)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A data_dir with the set "both": a hundred images in each of the splits train and test."""
    root = tmp_path_factory.mktemp("tfds")

    def write(fields, index):
        fields["image"].bytes_list.value.append(png(0))
        fields["label"].int64_list.value.append(index % 3)

    prepare(root, "both", {"image": IMAGE, "label": LABEL}, write, count=100, splits=("train", "test"))
    return root


@pytest.mark.parametrize(
    ("train", "test", "shared"),
    [
        ("train", "test", False),
        ("train[:80%]", "train[80%:]", False),
        ("train[:-20%]", "train[-20%:]", False),
        ("train[:-10]", "train[-10:]", False),
        ("train[:50]", "train[50:]", False),
        ("train", "train", True),
        ("all", "test", True),
        ("train", "all", True),
        ("train", "train[80%:]", True),
        ("train[:80%]", "train[50%:]", True),
        ("train[:60]", "train[50:]", True),
        ("train+test", "test", True),
        ("train[:50]", "train[80%:]", False),
        ("train[5%:]", "train[:80%]", True),
        ("train[:80]", "train[-30:]", True),
        ("train[:62.5%]", "train[50%:]", True),
        ("train[:9_0]", "train[80%:]", True),
        ("train[:1shard]", "train[:50%]", True),
        ("train[:80]", "train[80%:]", False),
    ],
)
def test_splits_that_share_images(both, train, test, shared):
    first, second = (data.open_source("tfds:both", split=split, data_dir=both).info for split in (train, test))
    assert data.share_images(first, second) == data.share_images(second, first) == shared
