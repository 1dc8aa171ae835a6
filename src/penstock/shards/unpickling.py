"""Read pickled vectors of other programs, without running any code that a pickle names.

It may call five names only, all of them stand-ins of this module that keep the parts of an array. Nothing of numpy is
called by it.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from penstock.support.unpickling import Hostile, Inert, Unpickler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOATS = {"f2": 2, "f4": 4, "f8": 8}
_DEPTH = 100


def loads(data: bytes) -> Any:
    """Numbers, texts, bytes, lists, tuples and mappings of them, with arrays of floats. Anything else is refused."""
    try:
        return _plain(_Unpickler(io.BytesIO(data)).load(), _DEPTH)
    except Hostile:
        raise
    # Crafted bytes make an unpickler raise anything.
    except Exception as error:
        raise Hostile(f"the pickle cannot be read: {type(error).__name__}: {error}") from error


class _Array(Inert):
    __slots__ = ("_state",)
    _state: object

    def __setstate__(self, state: object) -> None:  # type: ignore[override]
        self._state = state

    def array(self) -> NDArray[np.float32]:
        import numpy as np

        match getattr(self, "_state", None):
            case (int(), tuple(shape), _Dtype() as kind, bool() | int(), bytes(raw)):
                sized = all(isinstance(side, int) and 0 <= side <= len(raw) for side in shape)
                if not sized or math.prod(shape) * FLOATS[kind.code] != len(raw):
                    raise Hostile("the pickle holds an array of another size than it says")
                values: NDArray[np.float32] = np.frombuffer(raw, kind.order + kind.code).reshape(shape)
                return values.astype(np.float32)
        raise Hostile("the pickle holds an array that is not of floats")


class _Dtype(Inert):
    __slots__ = ("code", "order")

    def __init__(self, code: object) -> None:
        if code not in FLOATS:
            raise Hostile(f"the pickle holds an array of {str(code)[:20]!r}, which are no floats")
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: object) -> None:  # type: ignore[override]
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                self.order = order
            case _:
                raise Hostile("the pickle holds an array with fields")


class _Call(Inert):
    """A function that a pickle may call."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any) -> Any:
        if self._name == "dtype":
            return _Dtype(args[0] if args else None)
        if self._name == "encode":  # bytes in pickles of Python 2
            if len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1":
                return args[0].encode("latin1")
        elif self._name == "_frombuffer":
            match args:
                case (bytes() | bytearray() as raw, _Dtype() as kind, tuple(shape), "C"):
                    array = _Array()
                    array.__setstate__((1, shape, kind, False, bytes(raw)))
                    return array
        elif self._name == "_reconstruct":
            return _Array()
        raise Hostile(f"the pickle calls {self._name}")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _Unpickler(Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise Hostile(f"the pickle names {module}.{name}, which is no array of floats")
        return _Call(name)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, _Array):
        return value.array()
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    if not depth:
        raise Hostile("the pickle is nested too deeply")
    if isinstance(value, list | tuple):
        return [_plain(part, depth - 1) for part in value]
    if isinstance(value, dict):
        return {str(key): _plain(part, depth - 1) for key, part in value.items()}
    raise Hostile(f"the pickle holds a {type(value).__name__}")
