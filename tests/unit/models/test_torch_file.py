"""Checkpoint files of PyTorch in every format: their contents, damaged files, and pickles that would run programs."""

import copyreg
import io
import json
import os
import pathlib
import pickle
import sys
import tarfile
import warnings
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_streams as streams
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_streams import call, name, number, row, table, tensor, text, write_legacy, write_zip

from arinv.errors import UserError
from arinv.models.pytorch import pickles
from arinv.models.pytorch.files import open_torch
from arinv.models.pytorch.pickles import Inert, Tensor

SIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def read(path, *names):
    """The tensors of these names."""
    with open_torch(path) as file:
        return [file.array(file.content[part]) for part in names]


def fails(path, message):
    with pytest.raises(UserError, match=message) as error, open_torch(path) as file:
        for value in file.content.values():
            file.array(value)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_open_torch_reads_views_of_one_storage(tmp_path):
    stream = table(
        whole=tensor(),
        turned=tensor(shape=(3, 2), strides=(1, 3)),
        part=tensor(offset=1, shape=(2, 2), strides=(3, 1)),
        repeated=tensor(offset=5, shape=(4,), strides=(0,)),
        single=tensor(offset=2, shape=(), strides=()),
        nothing=tensor(shape=(0, 3)),
    )
    expected = [SIX, SIX.T, SIX[:, 1:], np.full(4, 5.0), np.float32(2), np.zeros((0, 3))]
    names = ("whole", "turned", "part", "repeated", "single", "nothing")
    for array, expected_array in zip(read(write_zip(tmp_path / "a.pt", stream), *names), expected, strict=True):
        assert array.dtype == np.float32 and array.flags.c_contiguous
        np.testing.assert_array_equal(array, expected_array)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Half", "<f2"), ("Double", "<f8"), ("BFloat16", jnp.bfloat16), ("Long", "<i8"), ("Byte", "u1"), ("Bool", "?")],
)
def test_open_torch_reads_types_of_numbers(kind, dtype, tmp_path):
    stream = table(x=tensor(streams.storage(kind=f"{kind}Storage")))
    numbers = np.arange(6).astype(dtype)
    (array,) = read(write_zip(tmp_path / "a.pt", stream, storages={"0": numbers}), "x")
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array, numbers.reshape(2, 3))


def test_open_torch_reads_big_endian_files(tmp_path):
    path = write_zip(tmp_path / "a.pt", table(x=tensor()), storages={"0": SIX.astype(">f4")}, byteorder=b"big")
    np.testing.assert_array_equal(read(path, "x")[0], SIX)


def test_open_torch_reads_the_older_format_with_an_unused_storage(tmp_path):
    stream = table(a=call(name("argparse", "Namespace"), streams.legacy_storage("1", 4, "LongStorage")))
    stream = stream[:-1] + text("x") + tensor(streams.legacy_storage("2")) + b"u"
    storages = {"1": np.arange(4), "2": np.arange(6, dtype="<f4")}
    path = write_legacy(tmp_path / "a.pt", stream, storages=storages)
    np.testing.assert_array_equal(read(path, "x")[0], SIX)
    for length in (20, 200, path.stat().st_size - 1):
        (tmp_path / "b.pt").write_bytes(path.read_bytes()[:length])
        fails(tmp_path / "b.pt", "damaged")


def test_open_torch_reads_the_older_format_as_little_endian(tmp_path):
    path = write_legacy(tmp_path / "a.pt", table(x=tensor(streams.legacy_storage("0"))))
    content = bytearray(path.read_bytes())
    flag = content.index(b"\x88", content.index(b"little_endian"))
    content[flag : flag + 1] = b"\x89"  # False
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path, "x")[0], SIX)


def test_open_torch_reads_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"x": SIX, "y": SIX.astype(jnp.bfloat16)}, path, {"encoder": "alexnet"})
    for array in read(path, "x", "y"):
        np.testing.assert_array_equal(array.astype(np.float32), SIX)
    with open_torch(path) as file:
        assert file.metadata["encoder"] == "alexnet" and file.content["x"].shape == (2, 3)
    path.write_bytes(path.read_bytes()[:-5])
    fails(path, "cut short or damaged")


def test_open_torch_names_weights_in_8_bits(tmp_path):
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [6], "data_offsets": [0, 6]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(6))
    with pytest.raises(UserError, match="has x in 8-bit floating point .F8_E4M3.; save it as float16"):
        read(path, "x")


def test_open_torch_reads_safetensors_whose_first_byte_is_that_of_a_pickle(tmp_path):
    path = tmp_path / "a.safetensors"
    for length in range(200):  # of the header, which is padded to a multiple of 8
        safetensors.numpy.save_file({"x": SIX}, path, {"title": "x" * length})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    np.testing.assert_array_equal(read(path, "x")[0], SIX)


def test_open_torch_reads_parameters_and_other_rebuilders(tmp_path):
    parameter = call(name("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", streams.ORDERED)
    arguments = row(streams.storage(), number(0), row(number(6)), row(number(1)), b"\x89", streams.ORDERED)
    function, kind = name("torch._utils", "_rebuild_tensor_v2"), name("torch", "Tensor")
    typed = call(name("torch._tensor", "_rebuild_from_type_v2"), function, kind, arguments, b"}")
    path = write_zip(tmp_path / "a.pt", table(p=parameter, t=typed))
    np.testing.assert_array_equal(read(path, "p")[0], SIX)
    np.testing.assert_array_equal(read(path, "t")[0], SIX.reshape(-1))


def test_open_torch_reads_weights_beside_inert_settings(tmp_path):
    foreign = name("somebody.settings", "Options") + b")\x81" + table(rate=number(3)) + b"b"
    stream = table(
        model=streams.ORDERED + b"(" + text("w") + tensor() + b"u" + table(_metadata=streams.ORDERED) + b"b",
        args=name("argparse", "Namespace") + b")\x81" + table(lr=number(1), add=number(1)) + b"b",
        options=foreign,
        best=call(name("numpy.core.multiarray", "scalar"), call(name("numpy", "dtype"), text("f8")), text("abc")),
        path=call(name("pathlib", "PosixPath"), text("a")),
        steps=call(
            name("collections", "defaultdict"), name("__builtin__", "int"), b"]" + row(text("a"), number(2)) + b"a"
        ),
        classes=call(name("__builtin__", "set"), b"](" + text("a") + text("b") + b"e"),
        dtype=name("torch", "float32"),
        old=call(name("copy_reg", "_reconstructor"), name("my", "Thing"), name("__builtin__", "object"), b"N"),
    )
    with open_torch(write_zip(tmp_path / "a.pt", stream)) as file:
        content = file.content
        np.testing.assert_array_equal(file.array(content["model"]["w"]), SIX)
    assert all(isinstance(content[part], Inert) for part in ("args", "options", "best", "path", "old"))
    assert content["steps"] == {"a": 2} and content["classes"] == ["a", "b"] and content["model"].keys() == {"w"}


# Each of these makes a file called "made" when Python's own machine loads it.
COMMAND = "echo > made"
SYSTEM = name("os", "system")
HARMFUL = {
    "reduce": call(SYSTEM, text(COMMAND)),
    "python 2": call(name("__builtin__", "eval"), text("__import__('os').system('echo > made')")),
    "eval": call(name("builtins", "eval"), text("__import__('os').system('echo > made')")),
    "exec": call(name("builtins", "exec"), text("import os; os.system('echo > made')")),
    "inst": b"(" + text(COMMAND) + b"ios\nsystem\n",
    "obj": b"(" + name("subprocess", "call") + text(COMMAND) + b"N" * 7 + b"\x88o",
    "stack global": text("os") + text("system") + b"\x93" + row(text(COMMAND)) + b"R",
    "reached through": b"\x80\x04" + text("PIL.Image") + text("os.system") + b"\x93" + row(text(COMMAND)) + b"R",
    "memo": SYSTEM + b"q\x07" + b"0" + b"h\x07" + row(text(COMMAND)) + b"R",
    "build": name("argparse", "Namespace") + b")\x81" + table(__setstate__=SYSTEM) + b"b" + text(COMMAND) + b"b",
    "append": name("argparse", "Namespace") + b")\x81" + table(append=SYSTEM) + b"b" + text(COMMAND) + b"a",
    "made function": call(call(name("functools", "partial"), SYSTEM), text(COMMAND)),
    "getattr": call(call(name("builtins", "getattr"), call(name("builtins", "__import__"), text("os")), text("system")),
                    text(COMMAND)),
    "factory": call(name("collections", "Counter"), call(name("builtins", "map"), SYSTEM, row(text(COMMAND)))),
    "extension": b"\x82\xf0" + row(text(COMMAND)) + b"R",
    "extension 2": b"\x83\xf1\x00" + row(text(COMMAND)) + b"R",
    "extension 4": b"\x84\xf2\x00\x00\x00" + row(text(COMMAND)) + b"R",
}  # fmt: skip


# What PyTorch or another package would make an object of, or call: none is imported, all are placeholders.
FOREIGN = {
    "function": call(name("torch.hub", "load"), text("a/b")),
    "class": call(name("somebody.code", "Runner"), text("a")),
    "of the file": call(name("__main__", "run"), text("a")),
    "in a rebuilder": call(
        name("torch._tensor", "_rebuild_from_type_v2"), name("my", "run"), b"N", row(text("a")), b"N"
    ),
    "in an array": call(name("dill._dill", "_create_array"), name("my", "run"), row(text("a")), b"N", b"N"),
    "old style": call(name("copyreg", "_reconstructor"), name("my", "A"), name("my", "B"), text("a")),
    "nested file": call(name("torch.storage", "_load_from_bytes"), text("a")),
    "hook": name("my", "A") + b")\x81" + table(__setstate__=name("my", "run")) + b"b",
    "hook in slots": name("my", "A") + b")\x81" + row(b"N", table(extend=name("my", "run"))) + b"b",
    "attributes": name("my", "A") + b")\x81" + row(b"N", table(__dict__=b"}")) + b"b",
    "class by value": call(name("dill._dill", "_create_type"), name("builtins", "type"), text("A")),
    "method": call(call(name("__builtin__", "getattr"), name("zoneinfo", "ZoneInfo"), text("_unpickle")), text("UTC")),
    "partial": call(name("functools", "partial"), name("torch.nn", "ReLU")),
    "omegaconf": name("omegaconf.nodes", "AnyNode") + b")\x81" + table(_val=name("typing", "Any")) + b"b",
    "range": call(name("__builtin__", "xrange"), number(0), number(9), number(1)),
    "counter": call(name("collections", "Counter"), table(a=number(1))),
    "module that prints": call(name("this", "s"), text("a")),
}
NAMED = {
    "int": (name("__builtin__", "long"), ("builtins", "int")),
    "str": (name("__builtin__", "unicode"), ("builtins", "str")),
    "dots": (name("__builtin__", "Ellipsis"), ("builtins", "Ellipsis")),
    "any": (name("typing", "Any"), ("typing", "Any")),
    "class": (name("models.vgg", "VGG"), ("models.vgg", "VGG")),
}


@pytest.fixture
def extensions(tmp_path, monkeypatch):
    """A registry that holds os.system, and a directory of its own to run in."""
    monkeypatch.chdir(tmp_path)
    copyreg._extension_cache.update(dict.fromkeys((0xF0, 0xF1, 0xF2), os.system))
    yield
    copyreg.clear_extension_cache()


@pytest.mark.parametrize("kind", HARMFUL)
def test_open_torch_rejects_harmful_pickles_and_runs_nothing(kind, extensions, tmp_path):
    stream, output = HARMFUL[kind], tmp_path / "made"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pickle.loads(b"\x80\x02" + stream + b".")
        except Exception as error:  # some run first and fail afterwards
            assert output.exists(), error
    assert output.exists(), "the file is not harmful, so the test would pass for nothing"
    output.unlink()

    inside = row(streams.storage(), number(0), row(number(6)), row(number(1)), stream, streams.ORDERED)
    rebuilt = name("torch._utils", "_rebuild_tensor_v2") + inside + b"R"
    for content in (stream, table(w=tensor(), x=stream), table(w=rebuilt)):
        for write in (write_zip, write_legacy):
            fails(write(tmp_path / "a.pt", content), "nothing was run")
    (tmp_path / "raw.pt").write_bytes(b"\x80\x02" + stream + b".")
    fails(tmp_path / "raw.pt", "nothing was run")
    assert not output.exists()


@pytest.mark.parametrize("kind", FOREIGN)
def test_objects_beside_weights_are_placeholders(kind, tmp_path):
    modules = set(sys.modules)
    with open_torch(write_zip(tmp_path / "a.pt", table(w=tensor(), x=FOREIGN[kind], n=number(3)))) as file:
        np.testing.assert_array_equal(file.array(file.content["w"]), SIX)
        assert isinstance(file.content["x"], Inert) and file.content["n"] == 3
    assert set(sys.modules) == modules, "nothing that a file names may be imported"


@pytest.mark.parametrize("kind", NAMED)
def test_names_beside_weights_are_records(kind, tmp_path):
    stream, expected = NAMED[kind]
    factory = call(name("collections", "defaultdict"), stream)
    with open_torch(write_zip(tmp_path / "a.pt", table(w=tensor(), x=stream, d=factory))) as file:
        assert file.content["x"] == expected and file.content["d"] == {} and isinstance(file.content["w"], Tensor)


class _Evil:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self._path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_class_that_reduces_to_a_call_is_not_called(protocol, tmp_path):
    harmful = pickle.dumps({"model": _Evil(tmp_path / "made")}, protocol=protocol)
    assert isinstance(pickles.load_pickle(io.BytesIO(harmful), "a.pt")["model"], Inert)
    assert not (tmp_path / "made").exists()
    pickle.loads(harmful)
    assert (tmp_path / "made").exists(), "the file is not harmful, so the test would pass for nothing"


BAD_TENSORS = {
    "beyond": tensor(offset=1),
    "beyond by strides": tensor(shape=(2, 2), strides=(5, 1)),
    "negative": tensor(shape=(-1, 3)),
    "negative strides": tensor(offset=5, shape=(6,), strides=(-1,)),
    "other ranks": tensor(shape=(6,), strides=(3, 1)),
    "missing storage": tensor(streams.storage("7")),
    "short storage": tensor(streams.storage(size=60)),
    "no size": tensor(streams.storage(size=-1)),
    "repeated without end": tensor(shape=(1 << 30, 3), strides=(0, 1)),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_open_torch_rejects_a_tensor_that_does_not_fit_its_storage(kind, tmp_path):
    fails(write_zip(tmp_path / "a.pt", table(x=BAD_TENSORS[kind])), "damaged")


def test_open_torch_rejects_files_of_other_formats(tmp_path):
    path = tmp_path / "a.pth"
    fails(path, "no file")
    path.write_bytes(b"")
    fails(path, "is empty")
    path.write_bytes(b"\n<!DOCTYPE html><html>not found</html>")
    fails(path, "is a web page")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    fails(path, "a pointer of Git LFS, .* `git lfs pull`: expected a .pt")
    path.write_bytes(b"weights")
    fails(path, "not a PyTorch checkpoint")
    path.write_bytes(pickle.dumps([1, 2]))
    fails(path, "a pickle but not a PyTorch checkpoint")
    fails(write_zip(path, table(x=tensor()), **{"constants.pkl": b""}), "TorchScript")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "weights")
    fails(path, "a zip file but not a PyTorch checkpoint")
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    fails(path, "tar format")
    fails(tmp_path, "is a directory")


def test_open_torch_rejects_damaged_archives(tmp_path):
    path = write_zip(tmp_path / "a.pt", table(x=tensor()))
    content = path.read_bytes()
    for length in (10, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        fails(path, "cut short or damaged")
    place = content.index(SIX.tobytes())
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    fails(path, "CRC")


def test_locate_ends_on_deep_and_circular_contents(tmp_path):
    """Tuples of tuples that would take for ever to hash, and a list in itself."""
    doubled = b")" + b"".join(b"2\x86" for _ in range(200))
    itself = b"]q\x05h\x05a"
    stream = table(
        x=tensor(), class_to_idx=table(a=doubled), d=b"}" + doubled + b"Ns", s=b"\x8f(" + doubled + b"\x90", i=itself
    )
    np.testing.assert_array_equal(read(write_zip(tmp_path / "a.pt", stream), "x")[0], SIX)


WHOLE = b"\x80\x02" + table(w=tensor(), a=name("my", "A") + b")\x81" + table(b=number(1)) + b"b") + b"."


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4))
def test_load_pickle_of_a_changed_pickle_returns_or_raises_one_line(changes):
    stream = bytearray(WHOLE)
    for place, change in changes:
        stream[place : place + len(change)] = change
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in text
        try:
            content = pickles.load_pickle(io.BytesIO(bytes(stream)), "a.pt")
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(content, dict | list | tuple | str | bytes | int | float | Inert | Tensor | None)
