"""Growable bitset: which documents were met, in an eighth of a byte a document."""

from __future__ import annotations

from collections.abc import Iterable


class Bits:
    """A set of numbers from 0 on, a bit each."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._count = 0

    def update(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            at, bit = number >> 3, 1 << (number & 7)
            if at >= len(self._bytes):
                self._bytes.extend(bytes(at + 1 - len(self._bytes) + len(self._bytes) // 8))
            if not self._bytes[at] & bit:
                self._bytes[at] |= bit
                self._count += 1

    def __contains__(self, number: object) -> bool:
        assert isinstance(number, int)
        at = number >> 3
        return at < len(self._bytes) and bool(self._bytes[at] & 1 << (number & 7))

    def __len__(self) -> int:
        return self._count
