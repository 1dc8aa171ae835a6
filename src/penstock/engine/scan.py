"""The scan stage: what the source says, compared with the journal; what is new or changed is sent on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from penstock.core.errors import StageError
from penstock.core.records import Change, Checkpoint, Delete, Item, ListingEnd, Unreadable, Upsert
from penstock.engine.channel import Broken, Channel, Closed, Ended
from penstock.engine.classify import ParserCode, built_in, classify
from penstock.engine.control import Control
from penstock.engine.journal import Failure, View
from penstock.engine.work import Boundary, Document, Event, Gone

PAGE, PAGE_SECONDS = 256, 0.1
"""Items that are compared together, at most, and how long they wait for each other."""


class Queued:
    """What is known to be left: bytes of items that were listed and not read to their end, and tokens of chunks that
    were cut and not embedded."""

    def __init__(self) -> None:
        self.bytes = self.tokens = 0
        self._lock = threading.Lock()

    def add(self, *, bytes: int = 0, tokens: int = 0) -> None:
        with self._lock:
            self.bytes += bytes
            self.tokens += tokens


@dataclass(slots=True)
class Scan:
    changes: Iterable[Change]
    view: View
    run: int
    feed: bool
    force: bool
    """Read every item, whatever the journal knows of it."""
    items: Channel[Document]
    send: Callable[[Event], None]
    control: Control
    queued: Queued
    since: int = 0
    """Documents that were last read by a run before this one are read again."""
    parser_code: ParserCode = built_in
    listing: bool = True

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
        epoch = begun = 0
        page: list[Item] = []
        since = time.monotonic()
        # A feed may sleep between two changes: nothing is kept waiting for company there.
        size = 1 if self.feed else PAGE
        for change in self.changes:
            if self.control.stop.is_set():
                return
            if isinstance(change, Upsert):
                page.append(change.item)
                if len(page) < size and time.monotonic() - since < PAGE_SECONDS:
                    continue
            begun += self._compare(page, epoch)
            page, since = [], time.monotonic()
            match change:
                case Delete(uri):
                    self.control.in_flight.enter(uri, wait=True)
                    self.send(Gone(uri, epoch))
                    begun += 1
                case Unreadable(uri) if self.view.removed([uri]):
                    self.control.counters.add(listed=1, barred=1)
                case Unreadable(uri, cause):
                    self.view.mark_seen_under(uri, self.run)
                    self.view.record([Failure(uri, "list", cause, permanent=False)], self.run)
                    self.control.counters.add(gaps=1)
                case ListingEnd() | Checkpoint():
                    cursor = change.cursor if isinstance(change, Checkpoint) else None
                    self.send(Boundary(epoch, begun, cursor))
                    epoch, begun = epoch + 1, 0
        self._compare(page, epoch)

    def _compare(self, items: Sequence[Item], epoch: int) -> int:
        """Send on what is new or changed; gives how many."""
        if not items:
            return 0
        control = self.control
        control.counters.add(listed=len(items))
        items = [item for item in items if control.in_flight.enter(item.uri, wait=self.feed)]
        page = classify(items, self.view, parser_code=self.parser_code, force=self.force, since=self.since)
        work = [item for item, _ in page.work]
        if len(work) < len(items):
            working = {item.uri for item in work}
            for item in items:
                if item.uri not in working:
                    control.in_flight.leave(item.uri)
        if settled := [known.document for known in (*page.unchanged, *page.failing)]:
            self.view.mark_seen(settled, self.run)
        control.counters.add(unchanged=len(page.unchanged), parked=len(page.failing), barred=page.removed)
        begun = self.view.begin([item.uri for item in work], self.run) if work else {}
        for item in work:
            self.queued.add(bytes=item.size or 0)
            self.items.put(Document(item, begun[item.uri], epoch), item.nbytes)
        return len(work)
