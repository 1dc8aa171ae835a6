"""Vectors that the index has already, read back by id, so that they go past the model.

What is read is charged like everything else in flight: a page is as large as its share of the budget allows, by the
size of the points that were read before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from penstock.core.errors import StageError
from penstock.core.records import Chunk, Point
from penstock.engine.channel import Channel
from penstock.engine.control import Control
from penstock.engine.work import Embedded, Prepared, embedded


class ReadBack:
    def __init__(
        self,
        fetch: Callable[[Sequence[str]], Sequence[Point]],
        max_rows: int,
        reads: Channel[None],
        points: Channel[list[Embedded]],
        control: Control,
    ) -> None:
        self._fetch, self._max_rows = fetch, max_rows
        self._reads, self._points, self._control = reads, points, control
        self._largest = 0
        """Bytes of the largest point that was read so far. Before the first is read, nothing is known of their size."""
        self._lock = threading.Lock()

    def move(self, moved: Sequence[tuple[Prepared, bytes]]) -> list[Prepared]:
        """Send chunks whose vectors the index has, under this id or another, to the sink; give those it lacks."""
        lost: list[Prepared] = []
        start = 0
        while start < len(moved):
            rows = self._rows()
            lost += self._page(moved[start : start + rows])
            start += rows
        return lost

    def _rows(self) -> int:
        if not self._largest:
            return 1
        return max(1, min(self._max_rows, self._reads.capacity // (2 * self._largest)))

    def _page(self, moved: Sequence[tuple[Prepared, bytes]]) -> list[Prepared]:
        charged = len(moved) * self._largest or self._reads.capacity
        self._reads.charge(charged)
        try:
            ids = sorted({id.hex() for _, id in moved})
            try:
                points = self._control.retry.call("read back", lambda: self._fetch(ids))
            except Exception as error:  # a driver's error may be an OSError, and is not the document's
                raise StageError("read back", moved[0][0].chunk.uri, error) from error
            stored = {point.id: point for point in points}
            with self._lock:
                self._largest = max([self._largest, *(point.nbytes for point in points)])
            found: list[Embedded] = []
            lost: list[Prepared] = []
            for one, id in moved:
                point = stored.get(id.hex())
                # An image is not kept, so its hash has to do, by which it was found.
                if (
                    point is None
                    or point.chunk.text != one.chunk.text
                    or _pictured(point.chunk) != _pictured(one.chunk)
                ):
                    lost.append(one)
                else:
                    found.append(embedded(one, point.vectors))
            if found:  # held until the sink's channel has them in its account
                self._points.put(found, sum(one.nbytes for one in found))
                self._control.counters.add(moved=len(found))
        finally:
            self._reads.release(charged)
        return lost


def _pictured(chunk: Chunk) -> bool:
    return chunk.image is not None
