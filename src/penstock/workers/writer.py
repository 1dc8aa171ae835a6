"""Writes the parts of one shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from penstock.core.errors import Rejected, SinkError, Transient
from penstock.core.records import Point
from penstock.core.schema import IndexSchema
from penstock.engine.journal import ChunkEntry
from penstock.shards.admitting import Admitting
from penstock.workers.part import Outcome, Part, Row
from penstock.workers.place import PartName, Place

ROWS = 512
"""Rows of a part, at most: as many may have to be embedded again after a kill."""
PART_BYTES = 16 << 20
AGE = 5.0
"""Seconds after which a part is cut: what is made is searched soon, and not lost."""


class PartWriter(Admitting):
    """Collects rows and endings. A kill loses the current part: no ending outlives rows that came before it."""

    def __init__(
        self,
        place: Place,
        schema: IndexSchema,
        shard: int,
        term: int,
        *,
        check: Callable[[], None],
        rows: int = ROWS,
        age: float = AGE,
    ) -> None:
        """`check` raises LeaseLost once another worker has the shard."""
        super().__init__(rows)
        self._place, self._schema, self._shard, self._term = place, schema, shard, term
        self._check, self._age = check, age
        self._number = 1
        self._begun = 0.0
        self._part = Part(schema)
        self._finished: tuple[PartName, bytes, int] | None = None
        """A part that is to be put to the place, with its rows: the place was away."""

    def add_points(self, points: Sequence[Point], entries: Mapping[str, ChunkEntry]) -> None:
        """Add points that were admitted. Raises Rejected for those that cannot be kept: the others are."""
        reasons: dict[str, str] = {}
        with self._changed:
            for point in points:
                entry = entries[point.id]
                row = Row(
                    entry.document,
                    entry.id,
                    entry.content,
                    entry.digest,
                    point.chunk.length,
                    point.chunk,
                    point.vectors,
                )
                try:
                    self._add(row)
                except (ValueError, TypeError, RecursionError, SinkError) as error:
                    reasons[point.id] = str(error)
            self.withdraw(len(points))
        if reasons:
            raise Rejected(reasons)

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Add rows without vectors."""
        with self._lock:
            for row in rows:
                self._add(row)
            self._cut_if_large()

    def end(self, outcome: Outcome) -> None:
        with self._lock:
            self._begin()
            self._part.outcomes.append(outcome)
            self._cut_if_large()

    def flush(self) -> None:
        with self._lock:
            while self._part or self._finished is not None:
                self._cut()

    def _add(self, row: Row) -> None:
        self._begin()
        self._part.add(row)

    def _begin(self) -> None:
        if not self._part:
            self._begun = time.monotonic()

    def _held(self) -> int:
        return self._part.rows + (self._finished[2] if self._finished is not None else 0)

    def _large(self) -> bool:
        if self._finished is not None:
            return True
        old = time.monotonic() - self._begun >= self._age
        return bool(self._part) and (old or self._part.nbytes >= PART_BYTES)

    def _cut_if_large(self) -> None:
        if self._large():
            with suppress(Transient):  # the next cut puts it there
                self._cut()

    def _cut(self) -> None:
        self._check()
        if self._finished is None:
            facts = {"shard": self._shard, "term": self._term, "number": self._number}
            name = PartName(self._shard, self._term, self._number)
            self._finished = name, self._part.encode(facts), self._part.rows
            self._number += 1
            self._part = Part(self._schema)
        name, data, _ = self._finished
        self._place.store.put(str(name), data)
        self._finished = None
        self._check()  # lost just before the put: then the part does not count
