"""Reading pickles without running any code that they name.

A pickle is a program, and its writer decides what it calls. An Unpickler hands out stand-ins for the few names that it
knows, and refuses all others.
"""

from __future__ import annotations

import pickle
import sys
from abc import abstractmethod
from typing import Any, ClassVar, NoReturn


class Hostile(ValueError):
    """The pickle holds what it is not read for."""


class Inert:
    """An object whose state no pickle can set."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise Hostile("the pickle sets the state of an object")


def _bytearray(unpickler: Any) -> None:
    """Read the bytes before reserving memory: the length is whatever the pickle says."""
    size = int.from_bytes(unpickler.read(8), "little")
    raw = unpickler.read(min(size, sys.maxsize))
    if len(raw) != size:
        raise Hostile("the pickle is cut short")
    unpickler.append(bytearray(raw))


def _refuse(unpickler: Any) -> NoReturn:
    raise Hostile("the pickle holds a set")


def _setitem(unpickler: Any) -> None:
    value, key = unpickler.stack.pop(), unpickler.stack.pop()
    unpickler.stack[-1][_checked(key)] = value


def _setitems(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    mapping = unpickler.stack[-1]
    for key, value in zip(items[::2], items[1::2], strict=True):
        mapping[_checked(key)] = value


def _dict(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    unpickler.append({_checked(key): value for key, value in zip(items[::2], items[1::2], strict=True)})


def _checked(key: object) -> object:
    """A key whose hash is no work: that of a tuple in a tuple in a tuple ... overflows the stack of the process."""
    if type(key) not in (str, int, float, bytes, bool, type(None)):
        raise Hostile(f"the pickle has a key of type {type(key).__name__}")
    return key


class Unpickler(pickle._Unpickler):
    """Python's unpickler: that in C reserves memory for any memo index that a pickle names."""

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _bytearray,
        pickle.SETITEM[0]: _setitem,
        pickle.SETITEMS[0]: _setitems,
        pickle.DICT[0]: _dict,
        **dict.fromkeys((pickle.EMPTY_SET[0], pickle.ADDITEMS[0], pickle.FROZENSET[0]), _refuse),
    }

    @abstractmethod
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for that name. Raises Hostile."""

    def persistent_load(self, pid: object) -> Any:
        raise Hostile("the pickle refers to something outside of it")
