"""The pickle of a PyTorch checkpoint as data: its names are not imported and not called.

A pickle is a program for a stack machine, and Python's machine calls any function that the program names. This module
only decodes the instructions (pickletools.genops) and executes them on a machine whose stack contains numbers, text,
plain containers and the records below. An object of a class that is not in BUILDERS, and the result of any other call,
is a placeholder, Inert; weights beside it are read.

Two contents raise an error, because a checkpoint has no use for them: names of functions that run programs, such as
os.system, and the registry of extensions, which refers to names outside of the file.

Source: Python's pickletools, which documents every instruction.
"""

import _compat_pickle
import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from arinv.errors import UserError, first_line


class Global(NamedTuple):
    """The name of a class or function."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Storage(NamedTuple):
    """A flat run of numbers somewhere in the file.

    Attributes:
      dtype: NumPy's name of their type, or "bfloat16".
      key: name of the storage.
      size: number of numbers.
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
    """A placeholder of an object whose class or function was neither imported nor called.

    Attributes:
      name: name of its class, or of the function that would return it.
      items: the items that the file sets in the object, as in a subclass of dict.
    """

    name: str
    items: dict = dataclasses.field(default_factory=dict)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_GETS, _PUTS = {"GET", "BINGET", "LONG_BINGET"}, {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_IGNORED = {"PROTO", "FRAME"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}


def load_pickle(stream: BinaryIO, source: str, *, storages: dict[str, Storage] | None = None) -> Any:
    """Returns the object of one pickle, and moves the stream to its end.

    Args:
      stream: binary stream at the first byte of the pickle.
      source: name of the file, for messages.
      storages: filled with every storage of the pickle, by key.

    Returns:
      Numbers, text, dict, list and tuple; Tensor, Global and Inert. Keys of dictionaries are text or numbers.

    Raises:
      UserError: the pickle is damaged, or it would run a program if PyTorch loaded it.
    """
    machine = _Machine(source, {} if storages is None else storages)
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name == "STOP":
                return machine.stack.pop()
            machine.step(instruction.name, argument)
    except UserError:
        raise
    except Exception as error:  # of any kind: an instruction or its operands are invalid
        raise UserError(
            f"{source} is damaged or not a PyTorch checkpoint ({type(error).__name__}: {first_line(error)})"
        ) from error


class _Machine:
    """Stack, marks and memo of one pickle, and a method do_NAME for each instruction except literals."""

    def __init__(self, source: str, storages: dict[str, Storage]):
        self.stack: list = []
        self._below: list[list] = []  # the stack under each mark
        self._memo: dict[int, Any] = {}
        self._source, self._storages = source, storages

    def step(self, name: str, argument: Any) -> None:
        """Executes one instruction."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _GETS:
            self.stack.append(self._memo[argument])
        elif name in _PUTS:
            self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
        elif name in _EXTENSIONS:
            self._refuse(f"the instruction {name}")
        elif name not in _IGNORED:
            getattr(self, f"do_{name.lower()}")(*([] if argument is None else [argument]))

    def _refuse(self, what: str) -> None:
        what = what if what.isprintable() else repr(what)
        raise UserError(
            f"{self._source} contains {what[:200]}, which could run a program when PyTorch loads the file; nothing was "
            "run. Get the weights from a source that you trust, as torch.save(model.state_dict(), PATH) writes them"
        )

    def _pop(self, count: int) -> list:
        """Returns the last items, the first of them first."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def do_mark(self) -> None:
        self._below.append(self.stack)
        self.stack = []

    def do_pop_mark(self) -> list:
        items, self.stack = self.stack, self._below.pop()
        return items

    def do_pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.do_pop_mark()

    def do_dup(self) -> None:
        self.stack.append(self.stack[-1])

    def do_empty_list(self) -> None:
        self.stack.append([])

    def do_list(self) -> None:
        items = self.do_pop_mark()
        self.stack.append(items)

    do_empty_set, do_frozenset = do_empty_list, do_list  # as lists: their items are not hashed

    def do_empty_tuple(self) -> None:
        self.stack.append(())

    def do_tuple(self) -> None:
        items = self.do_pop_mark()
        self.stack.append(tuple(items))

    def do_tuple1(self) -> None:
        self.stack.append(tuple(self._pop(1)))

    def do_tuple2(self) -> None:
        self.stack.append(tuple(self._pop(2)))

    def do_tuple3(self) -> None:
        self.stack.append(tuple(self._pop(3)))

    def do_empty_dict(self) -> None:
        self.stack.append({})

    def do_dict(self) -> None:
        items = self.do_pop_mark()
        self.stack.append({})
        self._set_items(items)

    def do_setitem(self) -> None:
        self._set_items(self._pop(2))

    def do_setitems(self) -> None:
        self._set_items(self.do_pop_mark())

    def _set_items(self, items: list) -> None:
        target = self.stack[-1]
        pairs = target.items if isinstance(target, Inert) else target
        if not isinstance(pairs, dict):
            raise ValueError("items of an object that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            set_item(pairs, key, value)

    def do_append(self) -> None:
        self._extend(self._pop(1))

    def do_appends(self) -> None:
        self._extend(self.do_pop_mark())

    do_additems = do_appends

    def _extend(self, items: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Inert):
            raise ValueError("items of an object that is not a list")

    def do_global(self, text: str) -> None:
        module, _, name = text.partition(" ")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        record = resolve_name(module, name)
        if is_harmful(record):
            self._refuse(f"the name {record}")
        self.stack.append(record)

    def do_stack_global(self) -> None:
        module, name = self._pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is not text")
        self._name(module, name)

    def do_reduce(self) -> None:
        self._call(*self._pop(2))

    def do_inst(self, text: str) -> None:
        args = tuple(self.do_pop_mark())
        self.do_global(text)
        self._call(self.stack.pop(), args)

    def do_obj(self) -> None:
        cls, *args = self.do_pop_mark()
        self._call(cls, tuple(args))

    def _call(self, function: Any, args: Any) -> None:
        """Pushes the result of a call: that of a builder, else a placeholder."""
        if not isinstance(args, tuple):
            raise ValueError("a call without arguments")
        if not isinstance(function, Global):  # hashing other objects may take unbounded time
            self.stack.append(_placeholder(function))
        elif function in CALLS_ANOTHER:
            self._call(*(args[place] for place in CALLS_ANOTHER[function]))
        elif function in MAKES_ANOTHER:
            self._make(args[0])
        elif function in BUILDERS:
            self.stack.append(BUILDERS[function](*args))
        else:
            self.stack.append(_placeholder(function))

    def do_newobj(self) -> None:
        self._make(self._pop(2)[0])

    def do_newobj_ex(self) -> None:
        self._make(self._pop(3)[0])

    def _make(self, cls: Any) -> None:
        """Pushes an object that is created without a call of its class: a container, or a placeholder."""
        builder = BUILDERS.get(cls) if isinstance(cls, Global) else None
        self.stack.append(builder() if builder in (dictionary, sequence) else _placeholder(cls))

    def do_build(self) -> None:
        """Drops the attributes of an object."""
        self.stack.pop()

    def do_binpersid(self) -> None:
        identity = self.stack.pop()
        if not isinstance(identity, tuple) or len(identity) < 2 or identity[0] not in ("storage", "module"):
            raise ValueError("a persistent identity that is not a storage")
        if identity[0] == "module":  # a class with its source code, in old files
            self.stack.append(identity[1])
        elif len(identity) > 5 and identity[5] is not None:
            self.stack.append(Inert("a view of a storage"))  # PyTorch before 0.4
        else:
            _, storage_type, key, _, size = identity[:5]
            storage = make_storage(storage_type, key, size)
            if isinstance(storage, Storage):
                self._storages[key] = storage
            self.stack.append(storage)


def _placeholder(function: Any) -> Inert:
    return Inert(str(function) if isinstance(function, Global) else getattr(function, "name", "an object of the file"))


_DTYPES = {
    **{"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "bfloat16", "Bool": "?"},
    **{"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Untyped": "u1"},
    **{"ComplexFloat": "c8", "ComplexDouble": "c16", "QInt8": "i1", "QUInt8": "u1", "QInt32": "i4"},
}
_UNSIGNED = {"uint16": "u2", "uint32": "u4", "uint64": "u8"}
_LARGEST_REPEATED = 1 << 26  # numbers of a tensor that has a stride of 0
_KEYS = (str, bytes, int, float, type(None))


def make_storage(storage_type: Any, name: Any, size: Any) -> Storage | Inert:
    """Returns the record of a storage, or an Inert for a type without a counterpart.

    Raises:
      ValueError: a name or size of another type.
    """
    kind = storage_type.name.removesuffix("Storage") if isinstance(storage_type, Global) else ""
    if kind not in _DTYPES:
        return Inert(f"a storage of type {storage_type}")
    if not isinstance(name, str) or type(size) is not int or size < 0:
        raise ValueError("a storage without name or size")
    return Storage(_DTYPES[kind], name, size)


def set_item(target: dict, name: Any, value: Any) -> None:
    """Sets an item whose key is text or a number; drops others, whose hash may take unbounded time."""
    if isinstance(name, _KEYS):
        target[name] = value


def dictionary(pairs: Any = None, *_: Any) -> dict:
    """Returns a dictionary of a list of pairs, or an empty one."""
    items: dict = {}
    for name, value in pairs if isinstance(pairs, list | tuple) else ():
        set_item(items, name, value)
    return items


def sequence(items: Any = ()) -> list:
    """Returns a list of a list or tuple; also for sets, so that their items are not hashed."""
    return list(items) if isinstance(items, list | tuple) else []


def _tensor(source, offset, shape, strides, requires_grad=False, hooks=None, metadata=None) -> Tensor | Inert:
    if not isinstance(source, Storage) or metadata:  # metadata: marks of conjugate and negative numbers
        return Inert("a tensor of another kind")
    if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)):
        raise ValueError("shape and strides of a tensor do not match")
    if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
        raise ValueError("offset, shape and strides of a tensor must be numbers of 0 or more")
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
    record = Global("builtins", name) if isinstance(name, str) else None
    return record if record in BUILDERS else Inert("a type")


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


# dill's names of types; only plain containers are built.
BUILDERS |= dict.fromkeys(_names("dill._dill dill.dill", "_load_type"), _plain_type)
# Calls of another function: name -> places of the function and of its arguments among the arguments.
CALLS_ANOTHER = dict.fromkeys(_names("torch._tensor", "_rebuild_from_type _rebuild_from_type_v2"), (0, 2))
# Calls that return an object of the class in their first argument.
MAKES_ANOTHER = _names("copyreg", "_reconstructor __newobj__ __newobj_ex__")

_RUN_PROGRAMS = {
    *("os", "posix", "nt", "subprocess", "pty", "commands", "popen2", "runpy", "importlib", "imp", "ctypes", "_ctypes"),
    *("shutil", "webbrowser", "multiprocessing", "pickle", "_pickle", "marshal", "pdb", "bdb", "cProfile", "timeit"),
}
_EVALUATE = {"eval", "exec", "execfile", "compile", "open", "file", "input", "__import__", "breakpoint"}


def resolve_name(module: str, name: str) -> Global:
    """Returns the record of a name, with names of Python 2 replaced by those of Python 3."""
    renamed = _compat_pickle.NAME_MAPPING.get((module, name))
    return Global(*renamed) if renamed else Global(_compat_pickle.IMPORT_MAPPING.get(module, module), name)


def is_harmful(record: Global) -> bool:
    """Returns whether a name can run programs.

    Classes of other packages are not harmful, because settings may be saved beside weights; names such as os.system
    are, also through a module of another package.

    Args:
      record: name of a class or function in a pickle.
    """
    *outer, last = record.name.split(".")
    if record.module == "builtins" and (*outer, last)[0] in _EVALUATE:
        return True
    return record.module.split(".")[0] in _RUN_PROGRAMS or not _RUN_PROGRAMS.isdisjoint(outer)
