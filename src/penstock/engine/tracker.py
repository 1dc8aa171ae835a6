"""From acknowledgements to commits.

The commit stage is one thread, and it alone keeps the accounts: the others send it events. A document is complete
when it has been parsed to its end and every chunk it sent has been settled (written, or failed). There is no
reorder buffer: documents complete in any order, and a mark is honoured once all before it has been settled.

The order of every commit is the promise:
    flush the sink -> acknowledge in the ledger -> retract stale chunks -> delete their points -> forget them -> finish
A crash between any two leaves work that the next run repeats without harm.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock.core.contracts import Sink
from penstock.core.errors import MassDeletion
from penstock.core.records import Chunk, Item, Point
from penstock.core.retry import Retry
from penstock.engine.channel import Broken, Channel, Empty, Ended
from penstock.engine.progress import Counters
from penstock.ledger import DONE, FAILED, OPEN, SKIPPED, Begun, Ending, Failure, Ledger, Row


class Document:
    """One document on its way. Its fields from `total` on belong to the commit stage."""

    __slots__ = ("begun", "epoch", "facts", "failed", "item", "passing", "settled", "since", "skipped", "total")

    def __init__(self, item: Item, begun: Begun, epoch: int) -> None:
        self.item, self.begun, self.epoch = item, begun, epoch
        self.since = time.time()
        self.facts: dict[str, int | str] = {}
        self.total: int | None = None
        self.settled = 0
        self.failed = self.passing = self.skipped = False


class Load(NamedTuple):
    """A chunk on its way to be embedded."""

    document: Document
    row: Row
    chunk: Chunk
    nbytes: int
    length: int


class Filled(NamedTuple):
    """A point on its way to the sink."""

    document: Document
    row: Row
    point: Point
    nbytes: int


class Acked(NamedTuple):
    """The sink took these. Text and vectors are left behind: they are no longer charged to any channel."""

    rows: Sequence[Row]
    settled: Mapping[Document, int]
    """How many there are of each document."""


class Kept(NamedTuple):
    """The index has these chunks of the document already, as they are."""

    document: Document
    ids: Sequence[bytes]


class Parsed(NamedTuple):
    """The document was read to its end, and sent so many chunks."""

    document: Document
    total: int


class Failed(NamedTuple):
    """Something of a document failed: a chunk that was sent (`settles=1`), a part, or the whole reading (`ends`)."""

    document: Document
    failure: Failure
    settles: int = 0
    ends: int | None = None
    """For a document that could not be read to its end: how many chunks it had sent by then."""
    skipped: bool = False


class Gone(NamedTuple):
    """The source said that the document is gone."""

    uri: str
    epoch: int


class Marked(NamedTuple):
    epoch: int
    begun: int
    """How many documents and deletions the source told since the mark before."""
    cursor: str | None


Event = Acked | Kept | Parsed | Failed | Gone | Marked


def event_size(event: Event) -> int:
    match event:
        case Acked(many, _) | Kept(_, many):
            return 300 * len(many)
    return 400


class InFlight:
    """The uris that are on their way: a second version of a document waits for the first."""

    def __init__(self) -> None:
        self._uris: set[str] = set()
        self._changed = threading.Condition()
        self._open = True

    def enter(self, uri: str, wait: bool) -> bool:
        """False if it is on its way already and is not waited for. Raises Broken when the run is stopped:
        what comes next must not overtake what is still being written."""
        with self._changed:
            if uri in self._uris and not wait:
                return False
            self._changed.wait_for(lambda: uri not in self._uris or not self._open)
            if not self._open:
                raise Broken("stopped")
            self._uris.add(uri)
            return True

    def leave(self, uri: str) -> None:
        with self._changed:
            self._uris.discard(uri)
            self._changed.notify_all()

    def release_all(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()


@dataclass(slots=True)
class Committer:
    inbox: Channel[Event]
    ledger: Ledger
    sink: Sink
    ready: Callable[[], object]
    gate: AbstractContextManager[object]
    """Held around calls that write to the sink: no more of them at once than it has writers."""
    run: int
    counters: Counters
    in_flight: InFlight
    retry: Retry
    source: str
    allow_mass_delete: bool
    interrupted: Callable[[], bool]
    linger: float = 0.5
    rows: int = 16_384
    complete: bool = False
    began: float = field(default_factory=time.time)
    _settled: dict[int, int] = field(default_factory=dict)
    _marks: deque[Marked] = field(default_factory=deque)

    def work(self) -> None:
        while True:
            events, size, ended = self._gather()
            if events:
                self._commit(events)
                self.inbox.release(size)
            if ended:
                return

    def _gather(self) -> tuple[list[Event], int, bool]:
        """What comes within the linger time, so that a flush and a transaction serve many."""
        events: list[Event] = []
        total, rows = 0, 0
        until = None
        while rows < self.rows and total < self.inbox.capacity // 2:
            try:
                event, size = self.inbox.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except Ended:
                return events, total, True
            except Empty:
                break
            until = until or time.monotonic() + self.linger
            events.append(event)
            total += size
            rows += len(event.rows) if isinstance(event, Acked) else 1
        return events, total, False

    def _commit(self, events: Sequence[Event]) -> None:
        acked = [row for event in events if isinstance(event, Acked) for row in event.rows]
        if acked:
            with self.gate:
                self.retry.call("flush", self.sink.flush)
            self.ledger.acknowledge(acked, self.run)
            self.counters.add(written=len(acked))
        failures = [event.failure for event in events if isinstance(event, Failed)]
        if failures:
            self.ledger.record(failures)

        touched: dict[int, Document] = {}
        for event in events:
            match event:
                case Acked(_, settled):
                    for document, count in settled.items():
                        document.settled += count
                        touched[id(document)] = document
                case Kept(document, ids):
                    self.ledger.keep(document.begun.document, document.begun.attempt, ids)
                case Parsed(document, total):
                    document.total = total
                    touched[id(document)] = document
                case Failed(document, failure, settles, ends, skipped):
                    document.settled += settles
                    whole = ends is not None or settles > 0
                    document.failed |= whole and not skipped
                    document.skipped |= skipped
                    document.passing |= whole and not failure.permanent
                    if ends is not None:
                        document.total = ends
                    touched[id(document)] = document
                case Gone(uri, epoch):
                    self._delete(uri)
                    self._settle(epoch, uri)
                case Marked():
                    self._marks.append(event)
        self._finish([document for document in touched.values() if document.settled == document.total])
        while self._marks and self._settled.get(self._marks[0].epoch, 0) == self._marks[0].begun:
            self._honour(self._marks.popleft())

    def _finish(self, documents: Sequence[Document]) -> None:
        endings = []
        for document in documents:
            facts = document.facts
            if document.failed:
                state = OPEN if document.passing else FAILED
                self.counters.add(failed=1)
            elif document.skipped and document.begun.had and self.ledger.stale(document.begun.document, 1):
                # It was read before: what the index has of it is neither taken out nor passed over in silence.
                state = FAILED
                self.counters.add(failed=1)
            elif document.skipped:
                state = SKIPPED
                self.counters.add(skipped=1)
            else:
                state = DONE
                if document.begun.had:
                    self._remove_stale(document.begun.document)
                self.counters.add(documents=1, added=0 if document.begun.had else 1)
            endings.append(
                Ending(
                    document.begun.document, document.item.uri, document.item.fingerprint, state, facts, document.since
                )
            )
        if endings:
            self.ledger.finish(endings)
        for document in documents:
            self._settle(document.epoch, document.item.uri)

    def _settle(self, epoch: int, uri: str) -> None:
        self._settled[epoch] = self._settled.get(epoch, 0) + 1
        self.in_flight.leave(uri)

    def _remove_stale(self, number: int) -> None:
        """Take the chunks out that the document no longer has: out of the index first, then out of the ledger."""
        while stale := self.ledger.stale(number, self.sink.max_rows):
            self.ready()
            ids = [id.hex() for id in stale]
            self.ledger.retract(number, stale)
            with self.gate:
                self.retry.call("delete", lambda: self.sink.delete(ids))  # noqa: B023
                self.retry.call("flush", self.sink.flush)
            self.ledger.forget(number, stale)
            self.counters.add(removed=len(stale))

    def _delete(self, uri: str) -> None:
        known = self.ledger.known([uri]).get(uri)
        if known:
            self.ledger.outdate(known.document)
            self._remove_stale(known.document)
            self.ledger.remove(known.document)
            self.counters.add(deleted=1)

    def _honour(self, mark: Marked) -> None:
        self._settled.pop(mark.epoch, None)
        if mark.cursor is not None:
            self.ledger.save_cursor(self.source, mark.cursor)
            return
        gone, total = self.ledger.unseen_share(self.run)
        if gone * 2 > total and not self.allow_mass_delete:
            raise MassDeletion(
                f"{gone} of {total} chunks are of documents that the source no longer has; nothing of them was deleted."
                " If that is right, run again with --allow-mass-delete"
            )
        after = 0
        while page := self.ledger.unseen(self.run, after):
            for number, uri in page:
                if self.interrupted():
                    return
                self._delete(uri)
                after = number
        self.ledger.clear_listing(self.began)
        self.complete = True
