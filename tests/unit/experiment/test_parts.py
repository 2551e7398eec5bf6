"""Finished parts of a task: known by what they were made of, and never another's files deleted."""

import os

import numpy as np
import pytest

from arinv.errors import UserError
from arinv.experiment.cache import Parts, claim, made_of


def test_a_folder_keeps_what_was_made_of_the_same_and_nothing_else(tmp_path):
    folder = tmp_path / "pictures" / "robust"
    claim(folder, "a")
    (folder / "1.png").write_bytes(b"1")
    claim(folder, "a")
    assert (folder / "1.png").exists()
    claim(folder, "b")
    assert [path.name for path in folder.iterdir()] == [".made_with"]
    assert [path.name for path in folder.parent.iterdir()] == ["robust"]


def test_files_that_no_task_made_are_not_deleted(tmp_path):
    (tmp_path / "denoised").mkdir()
    claim(tmp_path / "denoised", "a")  # an empty one is fine
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.png").write_bytes(b"1")
    with pytest.raises(UserError, match="mine holds files that this task did not make"):
        claim(tmp_path / "mine", "a")
    assert (tmp_path / "mine" / "holiday.png").exists()


def test_what_something_is_made_of_differs_by_parts_and_files(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"12")
    first = made_of("a", "b", files=(path,))
    assert first == made_of("a", "b", files=(path,)) and len({first, made_of("ab"), made_of("a", "b")}) == 3
    os.utime(path, (1, 1))
    assert made_of("a", "b", files=(path,)) != first


def test_parts_of_other_weights_are_not_found(tmp_path):
    Parts(tmp_path, "a").save("x", {"values": np.arange(3)})
    assert Parts(tmp_path, "a").load("x")["values"].tolist() == [0, 1, 2]
    assert Parts(tmp_path, "b").load("x") is None and Parts(tmp_path, "a").load("y") is None
