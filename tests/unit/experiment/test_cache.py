"""Cached results: read with the same key only; files of others are never deleted."""

import os

import numpy as np
import pytest

from arinv import distributed
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


def test_rows_of_a_damaged_file_are_computed_again(tmp_path):
    rows = ResultCache(tmp_path, "a").rows("scores")
    rows.append({"score": np.arange(2)})
    rows.save()
    (tmp_path / "scores.npz").write_bytes(b"PK cut short")
    assert ResultCache(tmp_path, "a").rows("scores").count == 0


def beside(monkeypatch, arrays):
    """Makes this process one of two; the other reads these arrays, or None where its file system hides the file."""
    digest = None if arrays is None else cache.fingerprint(arrays)
    monkeypatch.setattr(distributed, "count", lambda: 2)
    monkeypatch.setattr(distributed, "gather", lambda own: [own, digest])


def test_load_returns_what_all_processes_read(tmp_path, monkeypatch):
    arrays = {"tiles": np.zeros((2, 4, 4, 3), np.uint8), "names": np.array(["a", "bc"]), "psnr": np.arange(3.0)}
    ResultCache(tmp_path, "a").save("x", arrays)
    for other, expected in ((arrays, True), (None, False), ({**arrays, "tiles": arrays["tiles"][:1]}, False)):
        beside(monkeypatch, other)
        assert (ResultCache(tmp_path, "a").load("x") is not None) == expected
    beside(monkeypatch, arrays)
    assert ResultCache(tmp_path, "a").load("y") is None


def test_batches_of_several_processes_are_those_of_process_0(tmp_path, monkeypatch):
    states = ResultCache(tmp_path, "a").batches()
    states.save(0, {"done": np.full(2, 1)})
    states.save(2, {"done": np.full(2, 2)})
    monkeypatch.setattr(distributed, "broadcast", lambda spans: [[0, 2]])
    assert ResultCache(tmp_path, "a").batches().load(0)["done"].tolist() == [1, 1]
    assert ResultCache(tmp_path, "a").batches().load(2) is None


def test_processes_with_different_rows_compute_them_again(tmp_path, monkeypatch):
    rows = ResultCache(tmp_path, "a").rows("scores")
    rows.append({"score": np.arange(2)}, {"sum": np.array(1)})
    rows.save()
    for other in (None, {"score": np.arange(1), "totals/sum": np.array(1)}):
        beside(monkeypatch, other)
        resumed = ResultCache(tmp_path, "a").rows("scores")
        assert resumed.count == 0 and resumed.arrays() == resumed.totals == {}
    beside(monkeypatch, {"score": np.arange(2), "totals/sum": np.array(1)})
    assert ResultCache(tmp_path, "a").rows("scores").count == 2


def test_process_0_alone_writes_and_deletes(tmp_path, monkeypatch):
    parts = ResultCache(tmp_path / "parts", "a")
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "index", lambda: 1)
        parts.save("x", {"values": np.arange(3)})
        rows = parts.rows("scores")
        rows.append({"score": np.arange(2)})
        rows.save()
    assert not (tmp_path / "parts").exists()
    parts.save("x", {"values": np.arange(3)})
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "index", lambda: 1)
        parts.remove("x")
        parts.discard()
    assert parts.load("x") is not None


def test_remove_and_discard_accept_what_is_gone(tmp_path):
    parts = ResultCache(tmp_path / "parts", "a")
    for name in ("x", "y"):
        parts.save(name, {"values": np.arange(3)})
    for _ in range(2):
        parts.remove("x")
        assert [path.name for path in (tmp_path / "parts").glob("*")] == ["y.npz"]
    for _ in range(2):
        parts.discard()
        assert not (tmp_path / "parts").exists()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is a workdir"):
        ResultCache(tmp_path, "a").discard()


def test_save_timer_is_due_after_half_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cache.time, "monotonic", lambda: now[0])
    timer = cache.SaveTimer()
    now[0] = 29.0
    assert not timer.is_due()
    now[0] = 30.0
    assert timer.is_due()
    timer.restart()
    assert not timer.is_due()


def test_cached_rows_keep_the_totals_of_their_images(tmp_path):
    rows = ResultCache(tmp_path, "a").rows("numbers")
    for end in (2, 4):
        rows.append({"x": np.arange(end - 2, end)}, {"sum/x": np.array(sum(range(end)))})
    rows.save()
    resumed = ResultCache(tmp_path, "a").rows("numbers")
    assert resumed.count == 4 and resumed.totals == {"sum/x": 6} and list(resumed.arrays()) == ["x"]
    assert ResultCache(tmp_path, "b").rows("numbers").totals == {}


def test_cached_batches_serve_batches_of_another_size(tmp_path):
    """Of 20 images 12 are finished in batches of 6; the rest follow in batches of 4."""
    calls = []

    def compute(size):
        return lambda first: calls.append(first) or {"value": np.arange(first, min(first + size, 20))}

    def fill(key, size):
        cache = ResultCache(tmp_path, key).batches()
        return np.concatenate([rows["value"] for rows in cache.fill(20, compute(size))])

    rows = ResultCache(tmp_path, "a").batches().fill(20, compute(6))
    assert len(next(rows)["value"]) == len(next(rows)["value"]) == 6
    assert fill("a", 4).tolist() == list(range(20)) and calls == [0, 6, 12, 16]
    (tmp_path / "6_6.npz").write_bytes(b"PK cut short")
    assert fill("a", 8).tolist() == list(range(20)) and calls[4:] == [6], "and the rest of a file that holds more"
    assert fill("b", 8).tolist() == list(range(20)) and calls[5:] == [0, 8, 16]


def test_cached_batches_prefer_the_newest_and_remove_what_has_passed(tmp_path):
    states = ResultCache(tmp_path, "a").batches("_state")
    states.save(0, {"done": np.full(8, 1)})
    states.save(0, {"done": np.full(4, 2)})
    assert states.load(0)["done"].tolist() == [2] * 4 and states.load(5)["done"].tolist() == [1] * 3
    states.remove(4)
    assert [path.name for path in tmp_path.iterdir()] == ["0_8_state.npz"]
    assert ResultCache(tmp_path, "a").batches().load(0) is None, "another kind"
