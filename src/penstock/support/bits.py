"""A set of numbers, a bit each: which documents were met, in an eighth of a byte a document."""

from __future__ import annotations

from collections.abc import Iterable


class Bits:
    def __init__(self) -> None:
        self._bytes = bytearray()
        self._count = 0

    def update(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            place, bit = number >> 3, 1 << (number & 7)
            if place >= len(self._bytes):
                self._bytes.extend(bytes(place + 1 - len(self._bytes) + len(self._bytes) // 8))
            if not self._bytes[place] & bit:
                self._bytes[place] |= bit
                self._count += 1

    def __len__(self) -> int:
        return self._count
