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


class Unpickler(pickle._Unpickler):
    """Python's unpickler: that in C reserves memory for any memo index that a pickle names."""

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _bytearray}

    @abstractmethod
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for that name. Raises Hostile."""

    def persistent_load(self, pid: object) -> Any:
        raise Hostile("the pickle refers to something outside of it")
