"""Compiled programs are kept in a directory of the user, unless the user says otherwise."""

import os
import pathlib
import subprocess
import sys

import pytest

from arinv import _compilation_cache

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = """
{imports}
import jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x @ x)(jnp.ones((4, 4)))
print(jax.config.jax_compilation_cache_dir)
"""


def test_default_directory_is_of_the_user_the_python_and_the_processor(tmp_path):
    environment = {"HOME": str(tmp_path)}
    _compilation_cache.enable(environment)
    folder = pathlib.Path(environment["JAX_COMPILATION_CACHE_DIR"])
    assert folder.is_dir() and folder.parent == tmp_path / ".cache/arinv/programs"
    assert folder.name.startswith(sys.implementation.cache_tag)
    assert _compilation_cache.default_directory({"XDG_CACHE_HOME": "/x"}) == pathlib.Path(
        "/x/arinv/programs", folder.name
    )


def test_what_the_user_sets_is_kept(tmp_path):
    environment = {"HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    _compilation_cache.enable(environment)
    assert environment == {"HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""} and not list(tmp_path.iterdir())
    environment = {"HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "5"}
    _compilation_cache.enable(environment)
    assert environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "5"
    assert "JAX_COMPILATION_CACHE_DIR" in environment


def test_programs_that_were_not_used_for_longest_are_removed(tmp_path):
    for i, name in enumerate(("b", "a", "c")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 + i, 5000 - i))
    _compilation_cache.remove_oldest(tmp_path, max_bytes=300)
    assert len(list(tmp_path.iterdir())) == 3
    _compilation_cache.remove_oldest(tmp_path, max_bytes=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_folders_among_the_programs_are_counted_and_do_not_end_the_removal(tmp_path):
    (tmp_path / "autotuning").mkdir()
    for i, name in enumerate(("autotuning/a", "b", "c")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 + i, 1000))
    os.utime(tmp_path / "autotuning", (1, 1))
    _compilation_cache.remove_oldest(tmp_path, max_bytes=250)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["autotuning", "b", "c"]
    _compilation_cache.remove_oldest(tmp_path, max_bytes=150)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["autotuning", "c"]


def test_a_user_without_a_home_keeps_no_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for environment in ({}, {"HOME": "", "XDG_CACHE_HOME": "cache"}):
        before = dict(environment)
        _compilation_cache.enable(environment)
        assert environment == before and not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_made_is_left_out(tmp_path):
    (tmp_path / "file").touch()
    environment = {"HOME": str(tmp_path / "file")}
    _compilation_cache.enable(environment)
    assert environment == {"HOME": str(tmp_path / "file")}


@pytest.mark.long
@pytest.mark.parametrize("imports", ["import arinv, jax", "import jax, arinv"])
def test_programs_are_written_to_it_whatever_is_imported_first(imports, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-c", CODE.format(imports=imports)]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    folder = _compilation_cache.default_directory(environment)
    assert shown == [str(folder)]
    assert any(path.name.startswith("jit_") for path in folder.iterdir())
