"""Cached results: read with the same key only; files of others are never deleted."""

import os

import numpy as np
import pytest

from arinv.errors import UserError
from arinv.experiment import cache
from arinv.experiment.cache import ResultCache, cache_key


def test_claim_keeps_files_of_the_same_key_only(tmp_path):
    folder = tmp_path / "images" / "robust"
    ResultCache(folder, "a").claim()
    (folder / "1.png").write_bytes(b"1")
    ResultCache(folder, "a").claim()
    assert (folder / "1.png").exists()
    ResultCache(folder, "b").claim()
    assert [path.name for path in folder.iterdir()] == [".cache_key"]
    assert [path.name for path in folder.parent.iterdir()] == ["robust"]


def test_claim_rejects_files_of_others(tmp_path):
    (tmp_path / "denoised").mkdir()
    ResultCache(tmp_path / "denoised", "a").claim()  # an empty one is fine
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.png").write_bytes(b"1")
    with pytest.raises(UserError, match="mine holds files that this task did not write"):
        ResultCache(tmp_path / "mine", "a").claim()
    assert (tmp_path / "mine" / "holiday.png").exists()


def test_cache_key_depends_on_parts_and_files(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"12")
    first = cache_key("a", "b", files=(path,))
    assert first == cache_key("a", "b", files=(path,)) and len({first, cache_key("ab"), cache_key("a", "b")}) == 3
    os.utime(path, (1, 1))
    assert cache_key("a", "b", files=(path,)) != first


def test_load_returns_arrays_of_the_same_key_only(tmp_path):
    ResultCache(tmp_path, "a").save("x", {"values": np.arange(3)})
    assert ResultCache(tmp_path, "a").load("x")["values"].tolist() == [0, 1, 2]
    assert ResultCache(tmp_path, "b").load("x") is None and ResultCache(tmp_path, "a").load("y") is None


def test_rows_are_resumed_with_the_same_key_only(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_SAVE_EVERY_SECONDS", 0.0)
    rows = ResultCache(tmp_path, "a").rows("scores")
    for start in (0, 2):
        rows.append({"score": np.arange(start, start + 2)})
    resumed = ResultCache(tmp_path, "a").rows("scores")
    assert resumed.count == 4 and resumed.arrays()["score"].tolist() == [0, 1, 2, 3]
    assert ResultCache(tmp_path, "b").rows("scores").count == 0
