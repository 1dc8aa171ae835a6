"""Takes chunks out of the index, in the order that a crash cannot harm: retract, delete, flush, forget, remove."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from penstock.core.contracts import Sink
from penstock.engine.control import Control
from penstock.engine.journal import Journal

ROWS = 16_384
"""Chunks that go together, at most."""


@dataclass(frozen=True, slots=True)
class Deletion:
    journal: Journal
    sink: Sink
    ready: Callable[[], object]
    """Called before anything is deleted, often: opens the sink the first time."""
    slots: AbstractContextManager[object]
    """Held around calls that write to the sink."""
    control: Control

    def remove_stale(self, documents: Sequence[int]) -> None:
        """Take the chunks out that these documents no longer have: out of the index first, then out of the ledger."""
        while stale := self.journal.stale(documents, ROWS):
            self.ready()
            self.journal.retract(stale)
            with self.slots:
                for start in range(0, len(stale), self.sink.max_rows):
                    ids = [chunk.id.hex() for chunk in stale[start : start + self.sink.max_rows]]
                    self.control.retry.call("delete", partial(self.sink.delete, ids))
                self.control.retry.call("flush", self.sink.flush)
            self.journal.forget(stale)
            self.control.counters.add(removed=len(stale))

    def delete(self, documents: Sequence[int]) -> None:
        """Take these documents out, with all their chunks."""
        if documents:
            self.journal.outdate(documents)
            self.remove_stale(documents)
            self.journal.remove(documents)
            self.control.counters.add(deleted=len(documents))
