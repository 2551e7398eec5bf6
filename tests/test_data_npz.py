"""Arrays as a source, classes numbered anew, and batches from two sources."""

import numpy as np
import pytest

from arinv import data
from arinv.errors import UserError


def arrays(count=12, classes=3, side=8):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return {"image": image, "label": np.arange(count) % classes}


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "arrays.npz", **arrays())
    return tmp_path / "arrays.npz"


def test_an_archive_is_a_source(path):
    source = data.open_source(f"npz:{path}", image_size=8)
    assert (len(source), source.info.num_classes) == (12, 3)
    np.testing.assert_array_equal(source[5]["image"], arrays()["image"][5])
    assert source[5]["label"] == 2
    np.testing.assert_array_equal(source.read_labels(), arrays()["label"])
    assert data.open_source(f"npz:{path}", image_size=4)[0]["image"].shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"image": None}, "has no array .'image'"),
        ({"image": np.zeros((12, 8, 8, 3), np.float32)}, "uint8"),
        ({"label": np.zeros(3, int)}, r"integers \[12\]"),
        ({"label": np.full(12, -1)}, "0 or more"),
        ({"label": np.array([object()] * 12)}, "cannot be read as a .npz file"),
    ],
)
def test_another_archive_is_told(tmp_path, change, shown):
    content = {name: value for name, value in (arrays() | change).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(UserError, match=shown) as error:
        data.open_source(f"npz:{tmp_path}/bad.npz", image_size=8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text"])
def test_a_damaged_archive_is_told(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match="numpy.savez"):
        data.open_source(f"npz:{tmp_path}/bad.npz", image_size=8)
    with pytest.raises(UserError, match="does not exist"):
        data.open_source(f"npz:{tmp_path}/nowhere.npz", image_size=8)


def test_classes_can_be_numbered_anew(path):
    source = data.open_source(f"npz:{path}", image_size=8, classes=(1, 2), renumber=True)
    assert (len(source), source.info.num_classes, source.info.class_names) == (8, 2, ("1", "2"))
    kept = arrays()["image"][arrays()["label"] > 0]
    np.testing.assert_array_equal(np.stack([source[i]["image"] for i in range(8)]), kept)
    np.testing.assert_array_equal(source.read_labels(), [0, 1] * 4)
    assert [source[i]["label"] for i in range(3)] == [0, 1, 0]


def batches(path, size):
    return data.train_batches(data.open_source(f"npz:{path}", image_size=8), batch_size=size, seed=0)


def test_mixed_batches_hold_both_sources_and_resume(path, tmp_path):
    np.savez(tmp_path / "other.npz", **(arrays() | {"label": np.full(12, 7)}))

    def mixed():
        return data.MixedBatches(batches(path, 2), batches(tmp_path / "other.npz", 4), batch_size=6)

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
