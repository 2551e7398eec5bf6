"""Reads the pickle inside a PyTorch checkpoint as data: nothing that it names is imported, nothing is called.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program names. Here the
standard library only decodes the instructions (pickletools.genops); a machine of our own carries them out, and its
stack never holds anything but numbers, text, plain containers and the records of objects.py. So nothing can run,
whatever the file names. An object of a class that is not one of objects.BUILDERS, and the result of any other call,
is a placeholder, Inert; weights are read from beside it.

Two things are refused nevertheless, because a file that holds them is hostile: a name that programs are run with, such
as os.system, and the registry of extensions, which stands for names that are not in the file.

Source: Python's pickletools, which documents every instruction.
"""

import pickletools
from typing import Any, BinaryIO

from arinv.errors import UserError
from arinv.models.pytorch import objects
from arinv.models.pytorch.objects import Global, Inert, Storage

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_GETS, _PUTS = {"GET", "BINGET", "LONG_BINGET"}, {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_IGNORED = {"PROTO", "FRAME"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}


def load(stream: BinaryIO, source: str, *, storages: dict[str, Storage] | None = None) -> Any:
    """Returns what one pickle holds, and leaves the stream right behind it.

    Args:
      stream: at the first byte of the pickle.
      source: name of the file, for messages.
      storages: gets every storage that the pickle mentions, by key.

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
    except Exception as error:  # whatever can be wrong with an instruction or its operands
        reason = (str(error).splitlines() or [""])[0][:100]
        raise UserError(f"{source} is damaged or no PyTorch checkpoint ({type(error).__name__}: {reason})") from error


class _Machine:
    """Stack, marks and memo of one pickle; a method do_NAME for each instruction that is no literal."""

    def __init__(self, source: str, storages: dict[str, Storage]):
        self.stack: list = []
        self._below: list[list] = []  # the stack under each mark
        self._memo: dict[int, Any] = {}
        self._source, self._storages = source, storages

    def step(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
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
            f"{self._source} holds {what[:200]}, which could run a program when PyTorch loads the file; nothing was "
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

    do_empty_set, do_frozenset = do_empty_list, do_list  # as lists: nothing in them is hashed

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
            raise ValueError("items of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            objects.set_item(pairs, key, value)

    def do_append(self) -> None:
        self._extend(self._pop(1))

    def do_appends(self) -> None:
        self._extend(self.do_pop_mark())

    do_additems = do_appends

    def _extend(self, items: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Inert):
            raise ValueError("items of something that is no list")

    def do_global(self, text: str) -> None:
        module, _, name = text.partition(" ")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        found = objects.find(module, name)
        if objects.is_harmful(found):
            self._refuse(f"the name {found}")
        self.stack.append(found)

    def do_stack_global(self) -> None:
        module, name = self._pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is no text")
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
        """Puts the result of a call onto the stack: what a builder returns, else a placeholder."""
        if not isinstance(args, tuple):
            raise ValueError("a call without arguments")
        if not isinstance(function, Global):  # which alone may be hashed: tuples of tuples take forever
            self.stack.append(_placeholder(function))
        elif function in objects.CALLS_ANOTHER:
            self._call(*(args[place] for place in objects.CALLS_ANOTHER[function]))
        elif function in objects.MAKES_ANOTHER:
            self._make(args[0])
        elif function in objects.BUILDERS:
            self.stack.append(objects.BUILDERS[function](*args))
        else:
            self.stack.append(_placeholder(function))

    def do_newobj(self) -> None:
        self._make(self._pop(2)[0])

    def do_newobj_ex(self) -> None:
        self._make(self._pop(3)[0])

    def _make(self, cls: Any) -> None:
        """Puts an object that is made without a call of its class onto the stack: a container, or a placeholder."""
        builder = objects.BUILDERS.get(cls) if isinstance(cls, Global) else None
        self.stack.append(builder() if builder in (objects.dictionary, objects.sequence) else _placeholder(cls))

    def do_build(self) -> None:
        """Drops the attributes of an object."""
        self.stack.pop()

    def do_binpersid(self) -> None:
        identity = self.stack.pop()
        if not isinstance(identity, tuple) or len(identity) < 2 or identity[0] not in ("storage", "module"):
            raise ValueError("an identity that is no storage")
        if identity[0] == "module":  # a class with its source code, in old files
            self.stack.append(identity[1])
        elif len(identity) > 5 and identity[5] is not None:
            self.stack.append(Inert("a view of a storage"))  # PyTorch before 0.4
        else:
            _, storage_type, key, _, size = identity[:5]
            storage = objects.storage(storage_type, key, size)
            if isinstance(storage, Storage):
                self._storages[key] = storage
            self.stack.append(storage)


def _placeholder(made_by: Any) -> Inert:
    return Inert(str(made_by) if isinstance(made_by, Global) else getattr(made_by, "name", "an object of the file"))
