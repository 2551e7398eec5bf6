"""PyTorch's checkpoint files, .pt, .pth and .safetensors, opened without PyTorch and without running their code.

Three formats, recognized by their first bytes: a zip archive with a pickle and one raw file for each storage (PyTorch
since 1.6), the older sequence of pickles followed by the storages, and safetensors; and Caffe's .caffemodel, by its
name. pickles.py decodes the pickles. Numbers are read on access, in PyTorch's layout (OIHW), any float type.

Source: torch.serialization; the safetensors format.
"""

import contextlib
import io
import math
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
import safetensors

from arinv.errors import UserError, first_line
from arinv.models import caffe
from arinv.models.pytorch.pickles import Storage, Tensor, load_pickle
from arinv.paths import expanded

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LARGEST_HEADER = 100_000_000  # bytes, of safetensors
_LARGEST_PICKLE = 1 << 28  # bytes; the names and shapes of a million weights take less
_FORMATS = "a .pt or .pth file of torch.save, .safetensors, or Caffe's .caffemodel"


class TorchFile:
    """An open checkpoint.

    Attributes:
      path: the file.
      content: the saved object: numbers, text, dict, list, tuple, and Tensor for each tensor.
      metadata: metadata of a .safetensors file, text by name.
      form: description of the format.
    """

    def __init__(
        self,
        path: pathlib.Path,
        content: Any,
        read: Callable[[Tensor], np.ndarray],
        metadata: Mapping[str, str],
        form: str = "",
    ):
        self.path, self.content, self.metadata, self.form = path, content, metadata, form
        self._read = read

    def array(self, tensor: Tensor) -> np.ndarray:
        """Returns the numbers of one of its tensors, contiguous, in their own type.

        Args:
          tensor: a tensor in `content`.

        Returns:
          Array in PyTorch's layout.

        Raises:
          UserError: the file is damaged.
        """
        with _one_line(self.path):
            return self._read(tensor)


@contextlib.contextmanager
def open_torch(path: str | pathlib.Path) -> Iterator[TorchFile]:
    """Opens a checkpoint of any of the formats.

    Args:
      path: a .pt, .pth, .safetensors or .caffemodel file.

    Returns:
      A context manager of a TorchFile.

    Raises:
      UserError: a missing or damaged file, another format, or a file that could run a program when PyTorch loads it.
    """
    path = expanded(path)
    if path.is_fifo() or path.is_socket():
        raise UserError(f"{path} is a pipe or a socket; give the path of a file")
    with contextlib.ExitStack() as stack:
        if path.suffix == caffe.SUFFIX:
            yield _open_caffe(path)
            return
        with _one_line(path):
            stream = stack.enter_context(path.open("rb"))
            start = stream.read(512)
            stream.seek(0)
            if start.startswith(_ZIP):
                file = _open_zip(path, stack.enter_context(zipfile.ZipFile(stream)))
            elif _is_safetensors(start):  # before pickles: the length of its header may begin with their first byte
                file = _open_safetensors(path, stack.enter_context(safetensors.safe_open(path, framework="np")))
            elif start.startswith(_PICKLE):
                file = _open_legacy(path, stream)
            elif start[257:262] == b"ustar" or start.startswith(b"storages\0"):
                raise UserError(f"{path} has the tar format of PyTorch before 0.2; load and save it with a newer one")
            else:
                raise UserError(f"{path} {_what(start)}: expected {_FORMATS}")
        yield file


def _what(start: bytes) -> str:
    """Returns what a file of another format is, given its first bytes: often a download that went wrong."""
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, whose content is fetched by `git lfs pull`"
    if start.lstrip().startswith(b"<"):
        return "is a web page, as of a download that was refused"
    return "is not a PyTorch checkpoint" if start else "is empty"


@contextlib.contextmanager
def _one_line(path: pathlib.Path) -> Iterator[None]:
    """Turns every exception of reading a file into a UserError."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"no file {path}: expected {_FORMATS}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; name {_FORMATS}") from None
    except Exception as error:  # the readers of zip, deflate and safetensors raise many kinds
        raise UserError(
            f"{path} cannot be read, it may be cut short or damaged ({type(error).__name__}: {first_line(error)}); "
            f"expected {_FORMATS}"
        ) from error


def _is_safetensors(start: bytes) -> bool:
    """Returns whether a file begins with the length of a header and a header in JSON."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LARGEST_HEADER


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype(jnp.bfloat16 if storage.dtype == "bfloat16" else storage.dtype)


def _check_size(storage: Storage, num_bytes: int) -> None:
    if num_bytes != storage.size * _dtype(storage).itemsize:
        raise ValueError(f"storage {storage.key} has {num_bytes} bytes, not {storage.size} numbers {storage.dtype}")


def _view(raw: bytes, tensor: Tensor, *, big_endian: bool) -> np.ndarray:
    """Returns a copy of a tensor from the bytes of its storage."""
    _check_size(tensor.storage, len(raw))
    dtype = _dtype(tensor.storage)
    numbers = np.frombuffer(raw, dtype)
    if big_endian:
        numbers = numbers.byteswap()
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    # The constructor of the record has checked that the strides stay inside the storage.
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False).copy()


def _open_zip(path: pathlib.Path, archive: zipfile.ZipFile) -> TorchFile:
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    members = [name for name in sizes if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(members) != 1:
        raise UserError(f"{path} is a zip file but not a PyTorch checkpoint: it contains {len(members)} data.pkl")
    root = members[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in sizes:
        raise UserError(f"{path} is a TorchScript program; save its weights, torch.save(model.state_dict(), PATH)")
    if sizes[members[0]] > _LARGEST_PICKLE:
        raise UserError(f"{path} contains a pickle of {sizes[members[0]]} bytes; at most {_LARGEST_PICKLE} are read")
    big_endian = sizes.get(f"{root}byteorder", 99) < 9 and archive.read(f"{root}byteorder").strip() == b"big"
    content = load_pickle(io.BytesIO(archive.read(members[0])), str(path))

    def read(tensor: Tensor) -> np.ndarray:
        name = f"{root}data/{tensor.storage.key}"
        _check_size(tensor.storage, sizes[name])  # before unpacking
        return _view(archive.read(name), tensor, big_endian=big_endian)

    return TorchFile(path, content, read, {}, "torch.save")


def _open_legacy(path: pathlib.Path, stream: BinaryIO) -> TorchFile:
    storages: dict[str, Storage] = {}
    for expected in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        if load_pickle(stream, str(path)) != expected:
            raise UserError(f"{path} is a pickle but not a PyTorch checkpoint: expected {_FORMATS}")
    load_pickle(stream, str(path))  # the writer's machine; numbers are little-endian on all
    content = load_pickle(stream, str(path), storages=storages)
    keys = load_pickle(stream, str(path))
    places, position = {}, stream.tell()
    for key in keys:
        places[key] = position + 8  # the length precedes each storage
        position += 8 + storages[key].size * _dtype(storages[key]).itemsize
    if position > stream.seek(0, io.SEEK_END):
        raise EOFError("storages are missing at its end")

    def read(tensor: Tensor) -> np.ndarray:
        key = tensor.storage.key
        stream.seek(places[key] - 8)
        size = int.from_bytes(stream.read(8), "little")
        if size != storages[key].size:
            raise ValueError(f"storage {key} has {size} numbers, not {storages[key].size}")
        return _view(stream.read(size * _dtype(storages[key]).itemsize), tensor, big_endian=False)

    return TorchFile(path, content, read, {}, "torch.save before PyTorch 1.6")


def _open_safetensors(path: pathlib.Path, file: Any) -> TorchFile:
    content = {}
    for name in file.keys():  # noqa: SIM118  not a dictionary
        part = file.get_slice(name)
        shape = tuple(part.get_shape())
        content[name] = Tensor(Storage(part.get_dtype(), name, math.prod(shape)), 0, shape, ())
    metadata = file.metadata() or {}

    def read(tensor: Tensor) -> np.ndarray:
        if tensor.storage.dtype.startswith("F8"):
            raise UserError(
                f"{path} has {tensor.storage.key} in 8-bit floating point ({tensor.storage.dtype}); save it as "
                "float16, bfloat16 or float32"
            )
        return file.get_tensor(tensor.storage.key)

    return TorchFile(path, content, read, metadata, "safetensors")


def _open_caffe(path: pathlib.Path) -> TorchFile:
    layers = caffe.read_network(path)
    with _one_line(path):
        blobs = caffe.state_dict(layers, path)
    content = {
        name: Tensor(Storage("float32", name, math.prod(blob.shape)), 0, blob.shape, ()) for name, blob in blobs.items()
    }
    return TorchFile(path, content, lambda tensor: blobs[tensor.storage.key].array(), {}, "Caffe")
