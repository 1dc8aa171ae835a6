"""Points in pieces bounded by bytes: the one rule for how many are read from a store, or given to it, at once.

A point may be 2 KB of one dense vector or 2 MB of the vectors of a page, so a number of rows bounds no memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from penstock.core.records import Point
from penstock.core.schema import VectorSpec

PIECE = 8 << 20
"""Bytes of points that are read or copied at once, about."""
TEXT, SEVERAL = 4 << 10, 512 << 10
"""Bytes that the text of a point, and vectors of any number, are taken to be before one was read."""
FIRST, GROWTH = 16, 8
"""Points that are read at first, and so many times as many as before later: the first may not be like the others."""


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


S = TypeVar("S", bound=Sized)
T = TypeVar("T")


def expected(vectors: Mapping[str, VectorSpec]) -> int:
    """Bytes that such vectors of a point are taken to be before there is one."""
    several = SEVERAL if any(spec.kind == "MultiVector" for spec in vectors.values()) else 0
    return several + sum(4 * spec.dim for spec in vectors.values() if spec.kind == "Dense")


def piece_bytes(budget: int) -> int:
    """The bytes of a piece where so much memory may be used in all."""
    return min(PIECE, budget // 16)


class PieceSize:
    """How many points to read at once, by the largest that was read lately. For several threads.

    `vectors`: what they have, from which their size is guessed before the first is read. `rows`: the most that a store
    is asked for. `room`: bytes of a piece, about; one larger point is read alone.
    """

    def __init__(self, vectors: Mapping[str, VectorSpec], rows: int, room: int = PIECE) -> None:
        self._room = room
        self._guess = TEXT + expected(vectors)
        # Where vectors are of any number, pages of a thousand may come after many that are small.
        self._most = min(rows, max(1, 4 * room // SEVERAL)) if self._guess > SEVERAL else rows
        self._largest = self._read = 0
        self._lock = threading.Lock()

    @property
    def point(self) -> int:
        """Bytes of the largest point lately."""
        return self._largest or self._guess

    @property
    def rows(self) -> int:
        """How many to read next."""
        return max(1, min(self._most, self._room // self.point, GROWTH * self._read or FIRST))

    def learn(self, points: Sequence[Sized]) -> None:
        """Learn from an answer."""
        largest = max((point.nbytes for point in points), default=0)
        with self._lock:
            # One large point does not make all reads after it small.
            self._largest, self._read = max(largest, self._largest // 2), max(self._read, len(points))

    def read(self, fetch: Callable[[Sequence[str]], Sequence[Point]], ids: Sequence[str]) -> Iterator[Sequence[Point]]:
        """The points of these ids, a piece at a time."""
        start = 0
        while start < len(ids):
            some = ids[start : start + self.rows]
            points = fetch(some)
            self.learn(points)
            start += len(some)
            yield points
            del points


def portions(items: Iterable[S], rows: int, nbytes: int) -> Iterator[list[S]]:
    """The same in lists of at most so many rows and bytes; one that is larger is alone."""
    return grouped(items, rows, nbytes, lambda one: one.nbytes)


def grouped(items: Iterable[T], rows: int | None, most: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """The same in lists of at most so many rows, whose sizes are `most` together; one that is larger is alone."""
    part: list[T] = []
    held = 0
    for one in items:
        own = size(one)
        if part and (held + own > most or len(part) == rows):
            yield part
            part, held = [], 0
        part.append(one)
        held += own
    if part:
        yield part
