"""Metadata as hashed terms, and bounds: for stores that find a text in a list of texts, and order single values.

A term is a short hash: of a field that has a value, or of a field and one of its values with its type. Hence values of
any length and fields of any name are compared. Of the values of a field that are in an order, the least and the
greatest are enough: some value is greater than another if the greatest is.
"""

from __future__ import annotations

import sys
from base64 import b32encode
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from penstock.core.fields import Path, Scalar, kind, leaves

Order = Callable[[Scalar], float | str | None]
"""What a store has in place of a value, in the same order; None for a value that is in no order."""


@lru_cache(4096)
def present(path: Path) -> str:
    """The term of chunks that have a value at the path."""
    return _hash(f"{path!r}")


def equal(path: Path, value: Scalar) -> str:
    """The term of chunks that have this value at the path."""
    return _hash(f"{path!r}={_typed(value)}")


def of_type(*, image: bool) -> str:
    return _TYPES[image]


def of_metadata(metadata: Mapping[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for path, values in leaves(metadata):
        for length in range(1, len(path) + 1):
            found[present(path[:length])] = None
        for value in values:
            found[equal(path, value)] = None
    return list(found)


@lru_cache(4096)
def bound(path: Path, of: type) -> str:
    """The name of the bounds of a field's values of that kind."""
    return _hash(f"{path!r}<{of.__name__}")


def bounds(metadata: Mapping[str, Any], order: Order) -> dict[str, tuple[Any, Any]]:
    """The least and the greatest of each field's values, texts and numbers apart, by the name of the bounds."""
    found: dict[str, tuple[Any, Any]] = {}
    for path, values in leaves(metadata):
        for of in (float, str):
            ordered: list[Any] = [one for value in values if kind(value) is of and (one := order(value)) is not None]
            if ordered:
                found[bound(path, of)] = min(ordered), max(ordered)
    return found


def double(number: float) -> float | None:
    """The number as a finite double, None for NaN."""
    most = sys.float_info.max
    return float(max(-most, min(most, number))) if number == number else None


def _typed(value: Scalar) -> str:
    """1 and 1.0 are the same value; 1, True and "1" are three."""
    if isinstance(value, str):
        return f"s{value}"
    if isinstance(value, bool):
        return f"b{value}"
    return f"n{int(value) if isinstance(value, int) or value.is_integer() else value!r}"


def _hash(text: str) -> str:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).digest()
    return b32encode(digest).decode("ascii").lower()


_TYPES = (equal((), "text"), equal((), "image"))
