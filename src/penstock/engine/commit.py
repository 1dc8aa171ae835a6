"""The commit stage: from acknowledgements to commits.

It is one thread that alone keeps the accounts: the others send it events. A document is complete when it has been
read to its end and every chunk it sent has been settled (written, or failed). Documents complete in any order, and a
boundary is honoured once all before it has been settled. The order of every commit is the promise:

    flush the sink -> acknowledge in the journal -> retract stale chunks -> delete their points -> forget them -> finish

A crash between any two leaves work that the next run repeats without harm.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from penstock.core.contracts import Sink
from penstock.core.deletions import DeletionLimit, Missing
from penstock.core.errors import MassDeletion
from penstock.engine.channel import Channel, Empty, Ended
from penstock.engine.company import Company
from penstock.engine.control import Control
from penstock.engine.deletion import Deletion
from penstock.engine.freshness import Fresh
from penstock.engine.journal import DONE, FAILED, OPEN, SKIPPED, Ending, Journal
from penstock.engine.work import Boundary, Document, Event, Failed, Gone, Idle, Kept, Parsed, Written

Hold = Callable[[Missing | None], bool]
"""What is done where the listing of a source that is followed lacks more than may go: called with how much that is, and
with None where it may go. Gives whether it goes."""


class Errand(Protocol):
    """Something that is done while nothing is written or committed."""

    due: bool

    def run(self) -> None: ...


COMMITS = 100
"""Commits after which a store is maintained, and after twice as many even while it is busy: each leaves a fragment in
some of them."""
MANY = 25_000
"""Rows that count as COMMITS, however few commits they come in: an index of the store is yet to have them."""
ROWS = 16_384
"""Entries that are committed together, at most."""


@dataclass(slots=True)
class Committer:
    inbox: Channel[Event]
    journal: Journal
    sink: Sink
    ready: Callable[[], object]
    slots: AbstractContextManager[object]
    """Held around calls that write to the sink: no more of them at once than it has writers."""
    run: int
    control: Control
    source: str
    max_delete: DeletionLimit | None
    hold: Hold | None
    company: Company
    maintain: Callable[[bool], bool] | None = None
    """Maintains the store of a flow that goes on for long: beside others that write, or else while nobody does. Gives
    whether no more is needed."""
    errand: Errand | None = None
    writers: int = 1
    """How many `slots` there are."""
    complete: bool = False
    """The source was listed whole, and what is gone from it is out."""
    _holding: bool = False
    """Deletions are held: the index is not as the source."""
    _commits: int = 0
    """Since the store was maintained."""
    _rows: int = 0
    """... that were written, until they count."""
    _deletion: Deletion = field(init=False)
    _settled: dict[int, int] = field(default_factory=dict)
    _boundaries: deque[Boundary] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._deletion = Deletion(self.journal, self.sink, self.ready, self.slots, self.control)

    def work(self) -> None:
        while True:
            events, size, ended = self._gather()
            if events:
                began = time.monotonic()
                self._commit(events)
                self.company.cost = time.monotonic() - began
                self.inbox.release(size)
                self._upkeep()
            if ended:
                return

    def _upkeep(self) -> None:
        """Maintain the store after many commits: when nothing is on its way, or else after twice as many."""
        if self.errand is not None and self.errand.due:
            with self._alone():
                self.errand.run()
        if self.maintain is None or self._commits < COMMITS:
            return
        idle = self.company.idle is None or self.company.idle()
        if idle or self._commits >= 2 * COMMITS:
            self._commits = 0
            if not self.maintain(True):
                with self._alone():
                    self.maintain(False)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While nothing is written."""
        with ExitStack() as stack:
            for _ in range(self.writers):
                stack.enter_context(self.slots)
            yield

    def _gather(self) -> tuple[list[Event], int, bool]:
        """The events that come within the linger time, so that a flush and a transaction serve many."""
        events: list[Event] = []
        total, rows = 0, 0
        until = 0.0
        while rows < ROWS and total < self.inbox.capacity // 2:
            try:
                event, size = self.company.next(self.inbox, until) if events else self.inbox.get()
            except Ended:
                return events, total, True
            except Empty:
                break
            until = until or time.monotonic() + self.company.seconds()
            events.append(event)
            total += size
            rows += len(event.entries) if isinstance(event, Written) else 1
        return events, total, False

    def _commit(self, events: Sequence[Event]) -> None:
        acked = [row for event in events if isinstance(event, Written) for row in event.entries]
        if acked:
            with self.slots:
                self.control.retry.call("flush", self.sink.flush)
            self._commits += 1
            self._rows += len(acked)
            if self._rows >= MANY:
                self._commits, self._rows = max(self._commits, COMMITS), 0
            matches = [match for event in events if isinstance(event, Written) for match in event.matches]
            matches.sort(key=lambda match: -match.score)
            self.journal.acknowledge(acked, self.run, matches)
            self.control.counters.add(written=len(acked))
        # Of a source that is followed, what vanished is looked for again or deleted, and is no failure.
        followed = self.hold is not None
        failures = [one.failure for one in events if isinstance(one, Failed) and not (followed and one.vanished)]
        if failures:
            self.journal.record(failures, self.run)

        touched: dict[int, Document] = {}
        gone: list[Gone] = []
        for event in events:
            match event:
                case Written(_, settled, _):
                    for document, count in settled.items():
                        document.settled += count
                        touched[id(document)] = document
                case Kept(document, ids):
                    self.journal.keep(document.begun.document, document.begun.attempt, ids)
                case Parsed(document, total):
                    document.total = total
                    touched[id(document)] = document
                case Failed(document, _, _, ends=0, vanished=True) if followed:
                    document.vanished, document.total = True, 0
                    touched[id(document)] = document
                case Failed(document, failure, settles, ends, skipped):
                    document.settled += settles
                    complete = ends is not None or settles > 0
                    document.failed |= complete and not skipped
                    document.skipped |= skipped
                    document.passing |= complete and not failure.permanent
                    if ends is not None:
                        document.total = ends
                    touched[id(document)] = document
                case Gone():
                    gone.append(event)
                case Idle(epochs):
                    self._settle(epochs)
                case Boundary():
                    self._boundaries.append(event)
        if gone:
            self._commits += 1
            self._deletion.delete(
                [known.document for known in self.journal.known([event.uri for event in gone]).values()]
            )
            for event in gone:
                self._settle(event.epochs, event.uri)
        self._finish([document for document in touched.values() if document.settled == document.total])
        cursor: str | None = None
        in_sync = 0.0
        while self._boundaries and self._settled.get(self._boundaries[0].epoch, 0) == self._boundaries[0].begun:
            boundary = self._boundaries.popleft()
            self._settled.pop(boundary.epoch, None)
            self.control.boundaries_honoured += 1
            if boundary.cursor is None:
                self._end_listing(boundary.listing, boundary.in_sync)
            else:
                cursor, in_sync = boundary.cursor, 0.0 if self._holding else boundary.in_sync
        if cursor is not None:  # the last one stands for all
            self.journal.save_cursor(self.source, cursor, in_sync)

    def _finish(self, documents: Sequence[Document]) -> None:
        endings = []
        changed = []
        if never := [one.begun.document for one in documents if one.vanished and not one.begun.had]:
            self.journal.remove(never)  # nothing of them was in the index
        for document in documents:
            if document.vanished:
                state = OPEN
            elif document.failed:
                state = OPEN if document.passing else FAILED
                self.control.counters.add(failed=1)
            elif document.skipped and document.begun.had and self.journal.stale([document.begun.document], 1):
                # It was read before: what the index has of it is neither taken out nor passed over in silence.
                state = FAILED
                self.control.counters.add(failed=1)
            elif document.skipped:
                state = SKIPPED
                self.control.counters.add(skipped=1)
            else:
                state = DONE
                if document.begun.had:
                    changed.append(document.begun.document)
                self.control.counters.add(documents=1, added=0 if document.begun.ended else 1)
            endings.append(
                Ending(
                    document=document.begun.document,
                    attempt=document.begun.attempt,
                    uri=document.item.uri,
                    fingerprint=document.item.fingerprint,
                    state=state,
                    facts=document.facts,
                    revision=document.item.revision,
                    read=document.known is None or bool(document.facts),
                    fresh=self._fresh(document) if state == DONE else None,
                )
            )
        self._deletion.remove_stale(changed)
        if endings:
            self.journal.finish(endings)
        for document in documents:
            self._settle(document.epochs, document.item.uri)

    def _fresh(self, document: Document) -> Fresh:
        return self.control.freshness.of(document.item, document.heard, new=not document.begun.had)

    def _settle(self, epochs: Sequence[int], uri: str | None = None) -> None:
        for epoch in epochs:
            self._settled[epoch] = self._settled.get(epoch, 0) + 1
        if uri is not None:
            self.control.in_flight.leave(uri)

    def _end_listing(self, listing: int, in_sync: float) -> None:
        """Take out what a complete listing did not name."""
        missing = self.journal.missing(listing)
        exceeded = self.max_delete is not None and self.max_delete.exceeded(missing)
        if (hold := self.hold) is not None:
            self._holding = not self.control.retry.call("ledger", lambda: hold(missing if exceeded else None))
            if self._holding:
                return
        elif exceeded:
            raise MassDeletion(
                f"the source no longer has {missing.documents:,} documents with {missing.chunks:,} of {missing.of:,}"
                f" chunks, and at most {self.max_delete} may go at once: nothing of them was deleted. If it is right"
                " that they go, run again with --allow-mass-delete. Another source that fills the same index takes a"
                " --namespace"
            )
        self.control.counters.add(leaving=missing.unseen)
        after = 0
        while page := self.journal.unseen(listing, after):
            if self.control.stop.is_set():
                return
            # One that came back is being worked on, or was seen, since the page was read: it stays.
            entered = {number: uri for number, uri in page if self.control.in_flight.enter(uri)}
            try:
                gone = [number for number, _ in self.journal.unseen(listing, after) if number in entered]
                self._deletion.delete(gone)
            finally:
                for uri in entered.values():
                    self.control.in_flight.leave(uri)
            after = page[-1][0]
        self.journal.clear_listing(listing, in_sync)
        self.complete = True
