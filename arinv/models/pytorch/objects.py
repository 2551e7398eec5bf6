"""What a PyTorch checkpoint may hold: records that stand for its objects, and the names that it may call.

A checkpoint names classes and functions by module and name. None is ever imported or looked up. A few build something
of ours, tensors and plain containers (BUILDERS); the others here are known to do no harm when a file that holds them
is loaded by PyTorch, and give an Inert (HARMLESS). Every other call is refused by pickle.py.

Source: torch.save, torch._utils and dill for the names.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

_DTYPES = {
    **{"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bfloat16", "Bool": "?"},
    **{"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Untyped": "u1"},
    **{"ComplexFloat": "c8", "ComplexDouble": "c16", "QInt8": "i1", "QUInt8": "u1", "QInt32": "i4"},
}
_UNSIGNED = {"uint16": "u2", "uint32": "u4", "uint64": "u8"}
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
    """Stands for an object that was not made."""

    name: str


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
    return Tensor(source, offset, shape, strides)


def _tensor_of_dtype(source, offset, shape, strides, requires_grad, hooks, dtype, metadata=None) -> Tensor | Inert:
    name = _UNSIGNED.get(dtype.name) if isinstance(dtype, Global) else None
    if name is None or not isinstance(source, Storage):
        return Inert("a tensor of another kind")
    return _tensor(Storage(name, source.key, source.size // int(name[1])), offset, shape, strides)


def _plain_type(name: str) -> Global | Inert:
    found = Global("builtins", name)
    return found if found in HARMLESS or found in BUILDERS else Inert(f"the type {name}")


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


_UTILS = "_rebuild_sparse_tensor _rebuild_sparse_csr_tensor _rebuild_qtensor _rebuild_nested_tensor \
_rebuild_meta_tensor_no_storage _rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor"
_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
HARMLESS = (
    _names("torch", "device dtype")
    | _names("torch.serialization", "_get_layout")
    | _names("torch._utils", _UTILS)
    | _names("numpy", "dtype ndarray")
    | _names("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar")
    | _names("numpy.core.numeric numpy._core.numeric", "_frombuffer")
    | _names("numpy.random._pickle", "__generator_ctor __bit_generator_ctor __randomstate_ctor")
    | _names("_codecs", "encode")
    | _names("builtins", "int float complex bool str bytes bytearray slice range object")
    | _names("argparse", "Namespace")
    | _names("types", "SimpleNamespace")
    | _names("collections", "Counter deque")
    | _names("datetime", "datetime date time timedelta timezone")
    | _names("decimal", "Decimal")
    | _names("fractions", "Fraction")
    | _names("uuid", "UUID")
    | _names("pathlib pathlib._local", _PATHS)
    # dill stores a function by value with these: it is made, not called.
    | _names("dill._dill dill.dill", "_create_function _create_code _create_cell")
)
# Names of types in dill's own words, of which those of plain values may be called.
BUILDERS |= dict.fromkeys(_names("dill._dill dill.dill", "_load_type"), _plain_type)
# Calls that stand for another call: name -> places of the function and of its arguments among their own.
CALLS_ANOTHER = {
    **dict.fromkeys(_names("torch._tensor", "_rebuild_from_type_v2"), (0, 2)),
    **dict.fromkeys(_names("torch._tensor", "_rebuild_from_type"), (0, 2)),
    **dict.fromkeys(_names("dill._dill dill.dill", "_create_array"), (0, 1)),
}
# Calls that make an object of the class that is their first argument.
MAKES_ANOTHER = _names("copyreg", "_reconstructor __newobj__ __newobj_ex__")

_CALLABLE = {*BUILDERS, *HARMLESS, *CALLS_ANOTHER, *MAKES_ANOTHER}
_MENTIONED = _names("builtins", "type") | _names("__main__", "__dict__")  # by dill
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_LIBRARY = sys.stdlib_module_names | {"commands", "popen2", "os2emxpath", "urllib2", "imp", "distutils"}


def find(module: str, name: str) -> Global | None:
    """Returns the record of a name, or None for one that may not even be mentioned.

    Python's own library holds what attacks are made of, so of its names only those listed here may stand in a file.
    Those of other packages may (a class of settings, say), as long as nobody calls them.
    """
    found = Global(_PYTHON_2.get(module, module), name)
    if found in _CALLABLE or found in _MENTIONED:
        return found
    reaches_through = "." in name and not name[0].isupper()  # the name os.system of a module that imports os
    return None if reaches_through or found.module.split(".")[0] in _LIBRARY else found
