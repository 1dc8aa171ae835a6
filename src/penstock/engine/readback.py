"""The read-back stage: vectors that the index has already, fetched by id, so that they go past the model.

Chunks of many documents are fetched together: a store that looks through its table for them does so once. As the packer
does, it takes what waits and waits for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from penstock.core.errors import StageError
from penstock.core.pieces import PieceSize
from penstock.core.records import Chunk, Point
from penstock.engine.channel import Channel, Empty, Ended
from penstock.engine.control import Control
from penstock.engine.scan import Queued
from penstock.engine.work import Embedded, Event, Prepared, Written, embedded


class Move(NamedTuple):
    """A chunk whose vectors the index has, under this id or another."""

    prepared: Prepared
    id: bytes


class TakesMoves(Protocol):
    def put(self, moves: Sequence[Move]) -> None: ...


@dataclass(slots=True)
class Refer:
    """In the place of ReadBack, where the index is elsewhere: the moves themselves are kept."""

    refer: Callable[[Sequence[Move]], None]
    send: Callable[[Event], None]

    def put(self, moves: Sequence[Move]) -> None:
        self.refer(moves)
        prepared = [move.prepared for move in moves]
        self.send(Written([one.entry for one in prepared], Counter([one.document for one in prepared])))


@dataclass(slots=True)
class ReadBack:
    fetch: Callable[[Sequence[str]], Sequence[Point]]
    size: PieceSize
    moves: Channel[list[Move]]
    chunks: Channel[list[Prepared]]
    points: Channel[list[Embedded]]
    control: Control
    queued: Queued

    def put(self, moves: Sequence[Move]) -> None:
        """Charged with the points that are to come, by the size of those that were read before."""
        start = 0
        while start < len(moves):
            some = list(moves[start : start + self.size.rows])
            texts = sum(move.prepared.nbytes for move in some)
            self.moves.put(some, texts + len(some) * self.size.point)
            start += len(some)

    def work(self) -> None:
        while True:
            moves, size = self.moves.get()
            moves = list(moves)
            while len(moves) < self.size.rows:
                try:
                    more, room = self.moves.get(wait=False)
                except (Empty, Ended):
                    break  # an end is met again by the next call
                moves += more
                size += room
            start = 0
            while start < len(moves) and not self.control.stop.is_set():
                some = moves[start : start + self.size.rows]
                self._page(some)
                start += len(some)
            del moves
            self.moves.release(size)

    def _page(self, moves: Sequence[Move]) -> None:
        """Send those on to the sink of which the index has the vectors, the others to the model."""
        ids = sorted({move.id.hex() for move in moves})
        try:
            points = self.control.retry.call("read back", lambda: self.fetch(ids))
        except Exception as error:  # a driver's error may be an OSError, and is not the document's
            raise StageError("read back", moves[0].prepared.chunk.uri, error) from error
        stored = {point.id: point for point in points}
        self.size.learn(points)
        found: list[Embedded] = []
        lost: list[Prepared] = []
        for one, id in moves:
            point = stored.get(id.hex())
            if point is not None and _same(point.chunk, one.chunk):
                found.append(embedded(one, point.vectors))
            else:
                lost.append(one)
        if found:
            self.points.put(found, sum(one.nbytes for one in found))
            self.control.counters.add(moved=len(found))
        if lost:
            self.queued.add(tokens=sum(one.length for one in lost))
            self.chunks.put(lost, sum(one.nbytes for one in lost))


def _same(stored: Chunk, chunk: Chunk) -> bool:
    """An image is not kept, so its hash has to do, by which it was found."""
    return stored.text == chunk.text and (stored.image is None) == (chunk.image is None)
