"""Reads the pickle inside a PyTorch checkpoint as data: nothing that it names is imported, nothing is called.

A pickle is a program for a stack machine, and Python's own machine calls whatever the program names. Here the
standard library only decodes the instructions (pickletools.genops); a machine of our own carries them out, and its
stack never holds anything but numbers, text, plain containers and the records of objects.py. So nothing can
run. What would run something if PyTorch loaded it is refused on top of that: a call of any function that is not
listed in objects.py, a name of Python's library that is not listed there, a call of something that the file
makes itself, an object that is given a function where a later instruction would call it, and the registry of
extensions. Objects of other packages' classes that are made without a call, such as settings, are Inert; what those
classes would do with their state elsewhere is not our concern, here they are never imported.

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
_REFUSED = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID"}
# Attributes of an object that later instructions would call.
_CALLED_LATER = ("__setstate__", "append", "extend", "add", "__setitem__")


def load(stream: BinaryIO, source: str, *, storages: dict[str, Storage] | None = None) -> Any:
    """Returns what one pickle holds, and leaves the stream right behind it.

    Args:
      stream: at the first byte of the pickle.
      source: name of the file, for messages.
      storages: gets every storage that the pickle mentions, by key.

    Returns:
      Numbers, text, dict, list and tuple; Tensor, Global and Inert. Keys of dictionaries are text or numbers.

    Raises:
      UserError: the pickle is damaged, or it would run something if PyTorch loaded it.
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
        elif name in _REFUSED:
            self._refuse(f"the instruction {name}")
        elif name not in _IGNORED:
            getattr(self, f"do_{name.lower()}")(*([] if argument is None else [argument]))

    def _refuse(self, what: str) -> None:
        what = what if what.isprintable() else repr(what)
        raise UserError(
            f"{self._source} holds {what[:200]}, which is no tensor and no plain container and could run a program "
            "when it is loaded; nothing was run. Save the weights alone, by torch.save(model.state_dict(), PATH)"
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
        if isinstance(self.stack[-1], dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                objects.set_item(self.stack[-1], key, value)
        elif not isinstance(self.stack[-1], Inert):
            raise ValueError("items of something that is no dictionary")

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
        if found is None:
            self._refuse(f"the name {module}.{name}")
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
        """Puts the result of a call onto the stack, if it is one of those that are allowed."""
        if not isinstance(function, Global):
            self._refuse("a call of something that the file itself makes")
        if not isinstance(args, tuple):
            raise ValueError("a call without arguments")
        for part in args:
            self._look_for_hooks(part)
        if function in objects.CALLS_ANOTHER:
            self._call(*(args[place] for place in objects.CALLS_ANOTHER[function]))
        elif function in objects.MAKES_ANOTHER:
            base = args[1] if function.name == "_reconstructor" else None  # whose __init__ is called
            if base is not None and base not in objects.BUILDERS and base not in objects.HARMLESS:
                self._refuse(f"a call of {base}")
            self._make(args[0])
        elif function in objects.BUILDERS:
            self.stack.append(objects.BUILDERS[function](*args))
        elif function in objects.HARMLESS:
            self.stack.append(Inert(str(function)))
        else:
            self._refuse(f"a call of {function}")

    def do_newobj(self) -> None:
        self._make(self._pop(2)[0])

    def do_newobj_ex(self) -> None:
        self._make(self._pop(3)[0])

    def _make(self, cls: Any) -> None:
        """Puts an object that is made without a call of its class onto the stack: a container, or an Inert."""
        if not isinstance(cls, Global):
            self._refuse("an object of a class that the file itself makes")
        builder = objects.BUILDERS.get(cls)
        self.stack.append(builder() if builder in (objects.dictionary, objects.sequence) else Inert(str(cls)))

    def do_build(self) -> None:
        """Drops the attributes of an object."""
        self._look_for_hooks(self.stack.pop())

    def _look_for_hooks(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if not isinstance(part, dict):
                continue
            if "__dict__" in part:
                self._refuse("an object with its own __dict__")
            for name in _CALLED_LATER:
                if isinstance(part.get(name), Global | Inert):
                    self._refuse(f"an object with its own {name}")

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
