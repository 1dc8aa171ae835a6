"""The scan stage: what the source says, compared with the journal; what is new or changed is sent on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from penstock.core.errors import StageError
from penstock.core.records import Change, Checkpoint, Delete, Item, ListingBegin, ListingEnd, Unreadable, Upsert
from penstock.engine.channel import Broken, Channel, Closed, Ended
from penstock.engine.classify import ParserCode, built_in, classify
from penstock.engine.control import Control
from penstock.engine.incoming import INTERVAL, PutOff
from penstock.engine.journal import Failure, View
from penstock.engine.work import Boundary, Document, Event, Gone, Idle

PAGE, PAGE_SECONDS = 256, 0.1
"""Items that are compared together, at most, and how long they wait for each other."""


MAX_BOUNDARIES = 1000
"""Boundaries that wait to be honoured, at most. Of a feed with more of them the next cursor stands for several."""


class Queued:
    """What is known to be left: documents that are at hand and bytes of items that were listed and not read to their
    end, and tokens of chunks that were cut and not embedded."""

    def __init__(self) -> None:
        self.documents = self.bytes = self.tokens = 0
        self._lock = threading.Lock()

    def add(self, *, documents: int = 0, bytes: int = 0, tokens: int = 0) -> None:
        with self._lock:
            self.documents += documents
            self.bytes += bytes
            self.tokens += tokens

    @property
    def idle(self) -> bool:
        """Nothing that is at hand is on its way to be embedded."""
        return not (self.documents or self.tokens)


@dataclass(slots=True)
class Scan:
    changes: Iterable[Change | None]
    """None: no other is there yet, so that nothing need be kept waiting for company."""
    view: View
    run: int
    feed: bool
    """Documents may change again while they are worked on."""
    force: bool
    """Read every item, whatever the journal knows of it."""
    items: Channel[Document]
    """Of documents to be fetched, or to be read at once where nothing fetches."""
    at_hand: Channel[Document]
    """Of documents that need not be fetched."""
    revisions: Channel[Document]
    """Of documents of which only the metadata has changed."""
    send: Callable[[Event], None]
    control: Control
    queued: Queued
    since: int = 0
    """Documents that were last read by a run before this one are read again."""
    parser_code: ParserCode = built_in
    put_off: PutOff = field(default_factory=PutOff)
    listing: bool = True
    _listing_since: float = field(default_factory=time.time)
    """When the source began to be listed, by the wall clock."""
    _epoch: int = 0
    _begun: int = 0
    """Documents and deletions of this epoch: since the last boundary."""
    _cursor: str | None = None
    """Of a checkpoint that was passed over."""

    def __post_init__(self) -> None:
        self.control.listing = self.run

    def work(self) -> None:
        try:
            self._listen()
        except (Broken, Ended):
            raise
        except Closed:
            if not self.control.stop.is_set():
                raise
        except Exception as error:
            # What was named before goes all the way: a source that breaks off now and then still gets on.
            self.control.note(StageError("scan", None, error))
        finally:
            self.listing = False

    def _listen(self) -> None:
        page: list[Item] = []
        since = time.monotonic()
        for change in self.changes:
            if self.control.stop.is_set():
                return
            if isinstance(change, Upsert):
                page.append(change.item)
                if len(page) < PAGE and time.monotonic() - since < PAGE_SECONDS:
                    continue
            self._begin(page)
            page, since = [], time.monotonic()
            if self.put_off:
                self._resume()
            if change is not None and not isinstance(change, Upsert):
                self._take(change)
        self._begin(page)
        while self.put_off and not self.control.stop.wait(INTERVAL):
            self._resume()
        if self._cursor is not None:
            self._end_epoch(self._cursor)

    def _take(self, change: Delete | Unreadable | ListingBegin | ListingEnd | Checkpoint) -> None:
        match change:
            case Delete(uri):
                self._begun += 1
                if self.control.in_flight.enter(uri):
                    self.send(Gone(uri, [self._epoch]))
                else:
                    self.put_off.add(uri, change, self._epoch)
            case Unreadable(uri) if self.view.removed([uri]):
                self.control.counters.add(listed=1, barred=1)
            case Unreadable(uri, cause):
                self.view.mark_seen_under(uri, self.control.listing)
                self.view.record([Failure(uri, "list", cause, permanent=False)], self.control.listing)
                self.control.counters.add(gaps=1)
            case ListingBegin(at):
                self._listing_since = at or 0.0
                self._next_listing()
            case ListingEnd():
                self._end_epoch(None, self._listing_since)
                if self.feed:  # what comes before the next listing begins is not of it
                    self._next_listing()
            case Checkpoint(cursor, at):
                self._cursor = cursor
                if self.control.boundaries_sent - self.control.boundaries_honoured < MAX_BOUNDARIES:
                    self._end_epoch(cursor, at or 0.0)

    def _end_epoch(self, cursor: str | None, in_sync: float = 0.0) -> None:
        self.control.boundaries_sent += 1
        self.send(Boundary(self._epoch, self._begun, cursor, self.control.listing, in_sync))
        self._epoch, self._begun, self._cursor = self._epoch + 1, 0, None

    def _next_listing(self) -> None:
        self.control.listing = self.view.next_listing()

    def _begin(self, items: Sequence[Item]) -> None:
        """Have those worked on that are new or changed."""
        self.control.counters.add(listed=len(items))
        free = []
        for item in items:
            if self.control.in_flight.enter(item.uri, item.heard):
                free.append(item)
            elif self.feed:
                self._begun += 1
                self.put_off.add(item.uri, Upsert(item), self._epoch)
        epochs = [self._epoch]
        self._begun += len(self._compare(free, dict.fromkeys((item.uri for item in free), epochs)))

    def _resume(self) -> None:
        """Take up what was put off and can be worked on by now."""
        items: list[Item] = []
        epochs = {}
        for change, came in self.put_off.take(self.control.in_flight):
            if isinstance(change, Delete):
                self.send(Gone(change.uri, came))
            else:
                items.append(change.item)
                epochs[change.item.uri] = came
        begun = self._compare(items, epochs)
        for uri in epochs.keys() - begun:
            self.send(Idle(epochs[uri]))

    def _compare(self, items: Sequence[Item], epochs: Mapping[str, Sequence[int]]) -> set[str]:
        """Send on what is new or changed; gives the uris. The others are in flight no longer."""
        if not items:
            return set()
        control = self.control
        page = classify(items, self.view, parser_code=self.parser_code, force=self.force, since=self.since)
        revised = {item.uri: known for item, known in page.revised}
        work = [item for item, _ in (*page.work, *page.revised)]
        working = {item.uri for item in work}
        for item in items:
            if item.uri not in working:
                control.in_flight.leave(item.uri)
        if settled := [known.document for known in (*page.unchanged, *page.failing)]:
            self.view.mark_seen(settled, self.control.listing)
        control.counters.add(unchanged=len(page.unchanged), parked=len(page.failing), barred=page.removed)
        begun = self.view.begin([item.uri for item in work], self.control.listing) if work else {}
        for item in work:
            document = Document(item, begun[item.uri], epochs[item.uri], revised.get(item.uri))
            channel = self.at_hand if item.at_hand else self.items
            if document.known is not None:
                channel = self.revisions
            # What is still to be fetched may take long: nothing waits for its company.
            fetched = channel is self.items and channel is not self.at_hand
            self.queued.add(documents=0 if fetched else 1, bytes=item.size or 0)
            channel.put(document, item.nbytes)
        return working
