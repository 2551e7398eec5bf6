"""What a PyTorch checkpoint may hold: records that stand for its objects, and the names that build them.

A checkpoint names classes and functions by module and name. None is ever imported, looked up or called. A few names
build something of ours, tensors and plain containers (BUILDERS); any other gives a placeholder, an Inert. Names that
run programs when PyTorch loads the file (HARMFUL) are not needed for that, as nothing runs here: pickle.py refuses
files that hold them because their user should hear of it.

Source: torch.save, torch._utils and dill for the names; _compat_pickle for those of Python 2, which protocol 2, the
default of torch.save, writes.
"""

import _compat_pickle
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

_DTYPES = {
    **{"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bfloat16", "Bool": "?"},
    **{"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Untyped": "u1"},
    **{"ComplexFloat": "c8", "ComplexDouble": "c16", "QInt8": "i1", "QUInt8": "u1", "QInt32": "i4"},
}
_UNSIGNED = {"uint16": "u2", "uint32": "u4", "uint64": "u8"}
_LARGEST_REPEATED = 1 << 26  # numbers of a tensor that has a stride of 0
_KEYS = (str, bytes, int, float, type(None))


class Global(NamedTuple):
    """The name of a class or function."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Storage(NamedTuple):
    """A flat run of numbers somewhere in the file.

    Attributes:
      dtype: numpy's name of their type, or "bfloat16".
      key: the storage's own name.
      size: how many there are.
    """

    dtype: str
    key: str
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; `offset` and `strides` count numbers, as in PyTorch."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Inert:
    """Placeholder of an object whose class or function was neither imported nor called.

    Attributes:
      name: of its class, or of the function that would return it.
      items: those that the file sets in it, as in a class of dictionaries.
    """

    name: str
    items: dict = dataclasses.field(default_factory=dict)


def storage(storage_type: Any, name: Any, size: Any) -> Storage | Inert:
    """Returns the record of a storage, or an Inert for a type without a counterpart.

    Raises:
      ValueError: no name or size.
    """
    kind = storage_type.name.removesuffix("Storage") if isinstance(storage_type, Global) else ""
    if kind not in _DTYPES:
        return Inert(f"a storage of type {storage_type}")
    if not isinstance(name, str) or type(size) is not int or size < 0:
        raise ValueError("a storage without name or size")
    return Storage(_DTYPES[kind], name, size)


def set_item(target: dict, name: Any, value: Any) -> None:
    """Sets an item whose key is text or a number; drops others, which name no weight and may take forever to hash."""
    if isinstance(name, _KEYS):
        target[name] = value


def dictionary(pairs: Any = None, *_: Any) -> dict:
    """Returns a dictionary of a list of pairs, or an empty one."""
    made: dict = {}
    for name, value in pairs if isinstance(pairs, list | tuple) else ():
        set_item(made, name, value)
    return made


def sequence(items: Any = ()) -> list:
    """Returns a list of a list or tuple; sets become lists too, so that nothing in them is hashed."""
    return list(items) if isinstance(items, list | tuple) else []


def _tensor(source, offset, shape, strides, requires_grad=False, hooks=None, metadata=None) -> Tensor | Inert:
    if not isinstance(source, Storage) or metadata:  # metadata: marks of conjugate and negative numbers
        return Inert("a tensor of another kind")
    if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)):
        raise ValueError("shape and strides of a tensor do not match")
    if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
        raise ValueError("the shape of a tensor is no row of numbers")
    end = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    if math.prod(shape) and end > source.size:
        raise ValueError("a tensor reaches beyond its storage")
    if math.prod(shape) > max(source.size, _LARGEST_REPEATED):
        raise ValueError("a tensor repeats its storage too often")
    return Tensor(source, offset, shape, strides)


def _tensor_of_dtype(source, offset, shape, strides, requires_grad, hooks, dtype, metadata=None) -> Tensor | Inert:
    name = _UNSIGNED.get(dtype.name) if isinstance(dtype, Global) else None
    if name is None or not isinstance(source, Storage):
        return Inert("a tensor of another kind")
    return _tensor(Storage(name, source.key, source.size // int(name[1])), offset, shape, strides)


def _plain_type(name: Any) -> Global | Inert:
    found = Global("builtins", name) if isinstance(name, str) else None
    return found if found in BUILDERS else Inert("a type")


BUILDERS: dict[Global, Callable] = {
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    Global("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    Global("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    Global("torch", "Size"): lambda shape=(): tuple(sequence(shape)),
    Global("collections", "OrderedDict"): dictionary,
    Global("collections", "defaultdict"): lambda factory=None, *pairs: dictionary(*pairs),
    Global("builtins", "dict"): dictionary,
    Global("builtins", "list"): sequence,
    Global("builtins", "set"): sequence,
    Global("builtins", "frozenset"): sequence,
    Global("builtins", "tuple"): lambda items=(): tuple(sequence(items)),
}


def _names(modules: str, names: str) -> set[Global]:
    return {Global(module, name) for module in modules.split() for name in names.split()}


# Names of types in dill's own words, of which those of plain containers may be built.
BUILDERS |= dict.fromkeys(_names("dill._dill dill.dill", "_load_type"), _plain_type)
# Calls that stand for another call: name -> places of the function and of its arguments among their own.
CALLS_ANOTHER = dict.fromkeys(_names("torch._tensor", "_rebuild_from_type _rebuild_from_type_v2"), (0, 2))
# Calls that make an object of the class that is their first argument.
MAKES_ANOTHER = _names("copyreg", "_reconstructor __newobj__ __newobj_ex__")

_RUN_PROGRAMS = {
    *("os", "posix", "nt", "subprocess", "pty", "commands", "popen2", "runpy", "importlib", "imp", "ctypes", "_ctypes"),
    *("shutil", "webbrowser", "multiprocessing", "pickle", "_pickle", "marshal", "pdb", "bdb", "cProfile", "timeit"),
}
_EVALUATE = {"eval", "exec", "execfile", "compile", "open", "file", "input", "__import__", "breakpoint"}


def find(module: str, name: str) -> Global:
    """Returns the record of a name, Python 3's where the file has Python 2's."""
    found = _compat_pickle.NAME_MAPPING.get((module, name))
    return Global(*found) if found else Global(_compat_pickle.IMPORT_MAPPING.get(module, module), name)


def is_harmful(found: Global) -> bool:
    """Returns whether a name is one that programs are run with: no checkpoint has a use for it.

    Those of packages are not, as a class of settings may lie beside any weights; a name such as os.system that is
    reached through a module of another package is.
    """
    *outer, last = found.name.split(".")
    if found.module == "builtins" and (*outer, last)[0] in _EVALUATE:
        return True
    return found.module.split(".")[0] in _RUN_PROGRAMS or not _RUN_PROGRAMS.isdisjoint(outer)
