"""Fields of metadata as tokens, all in one property, so that a collection's schema does not grow with their names.

There is a token for each field that is there, and one for each of its values. For the order of numbers and of times the
least and the greatest of a field are indexed by their beginnings: those that are beyond some value begin with one of a
few hundred. All but the beginnings are hashes, since Weaviate trims the texts that it indexes, and of one length.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from penstock.core.fields import Path, Scalar, kind, leaves, seconds
from penstock.sinks.terms import double

ALWAYS = "-"
"""A token of every object: servers differ in how they treat a property that is absent."""
_DIGITS = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_SIZE = 11
"""Digits of 6 bits that a number of 64 bits has."""
_TOP = 1 << 63


def tokens(metadata: Mapping[str, Any]) -> list[str]:
    """The tokens of an object with that metadata."""
    found: dict[str, None] = {ALWAYS: None}
    for path, values in leaves(metadata):
        found |= dict.fromkeys(present(path[:length]) for length in range(1, len(path) + 1))
        found |= dict.fromkeys(equal(path, value) for value in values)
        for order in (Order.of_numbers(path), Order.of_times(path)):
            if positions := [position for value in values if (position := order.position(value)) is not None]:
                found |= dict.fromkeys(order.tokens(min(positions), max(positions)))
    return list(found)


@lru_cache(4096)
def present(path: Path) -> str:
    """The token of objects that have the field."""
    return _hash(path)


def equal(path: Path, value: Scalar) -> str:
    """The token of objects whose field has the value."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return _hash((path, kind(value).__name__, str(int(value) if whole else value)))


@dataclass(frozen=True, slots=True)
class Order:
    """The tokens by which the values of a field that are in one order are found."""

    start: str
    times: bool
    """Else of numbers."""

    @classmethod
    def of_numbers(cls, path: Path) -> Order:
        return cls(f"{present(path)[:12]}n", times=False)

    @classmethod
    def of_times(cls, path: Path) -> Order:
        return cls(f"{present(path)[:12]}t", times=True)

    def position(self, value: Scalar) -> int | None:
        """A number of 64 bits, in the order of the values; None for one of another type."""
        number = seconds(value) if self.times else value
        if number is None or isinstance(number, str | bool) or number != number:
            return None
        return _position(number)

    def tokens(self, least: int, greatest: int) -> Iterator[str]:
        yield self.start
        if least == greatest:
            yield from self._beginnings("=", least)
        else:
            yield from self._beginnings("<", least)
            yield from self._beginnings(">", greatest)

    def _beginnings(self, end: str, position: int) -> Iterator[str]:
        digits = _digits(position)
        return (f"{self.start}{end}{digits[:length]}" for length in range(1, _SIZE + 1))

    def beyond(self, sign: str, asked: int, end: str) -> list[str]:
        """Tokens: objects whose least value (the `end` "<") or greatest (">") is as asked have one of them."""
        digits = _digits(asked)
        found = [digits] if "=" in sign else []
        for length, digit in enumerate(digits):
            place = _DIGITS.index(digit)
            others = _DIGITS[:place] if sign.startswith("<") else _DIGITS[place + 1 :]
            found += [digits[:length] + other for other in others]
        return [f"{self.start}{one}{beginning}" for one in ("=", end) for beginning in found]


def _hash(named: Path | tuple[Path, str, str]) -> str:
    return urlsafe_b64encode(hashlib.sha256(json.dumps(named).encode()).digest()[:15]).decode()


def _digits(position: int) -> str:
    return "".join(_DIGITS[position >> shift & 63] for shift in range(6 * (_SIZE - 1), -1, -6))


def _position(value: float) -> int:
    """By the bits of the double: of an integer between two doubles, those of the one farther from zero."""
    number = double(value)
    if isinstance(value, int) and abs(number) < abs(value):
        number = math.nextafter(number, math.copysign(math.inf, number))
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))
    return int(~bits & (2 * _TOP - 1) if bits & _TOP else bits | _TOP)
