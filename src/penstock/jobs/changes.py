"""The changes of a source that is followed: listings from time to time, and between them what was heard."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from penstock.core.contracts import Hints, Source, Watch
from penstock.core.errors import SourceError
from penstock.core.records import Change, Checkpoint, Delete, ListingBegin, ListingEnd, Upsert
from penstock.core.retry import Pauses
from penstock.jobs.heard import Heard
from penstock.jobs.requests import Removing, removals
from penstock.jobs.retries import Failed, Retries

LISTED = 256
"""Changes of a listing that wait, at most: they grow old, and what was heard meanwhile goes first."""
PAGE, QUICK = 64, 0.001
"""Changes of a listing that are passed on together, at most, and seconds between two that are."""
GIVES_WAY = 0.1
"""Seconds for which a listing stands still after something was heard, and goes on before it does so again."""
UNHEARD, SHARE = 60.0, 20
"""Seconds between two listings, at most, where not all is heard: but so many times as long as a listing takes."""
HINTS = 100_000
"""Uris that wait to be looked up, at most: with more of them the source is listed instead."""
GONE = 1.0
"""Seconds after which what is gone may be deleted: it may have moved, and then the new name is to be there first."""
BENEATH = 10_000
"""Documents beneath one uri that are deleted by what was heard, at most; where there are more, a listing decides."""
DOUBT = 1.0
"""Seconds from a doubt to the listing that settles it, so that one settles several."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a source that is away is tried again."""
POLL = 0.05
"""Seconds between two looks whether what was sent on is in the index."""
NEVER = float("inf")
TICK = 1.0
"""Seconds between two looks at the ledger, at what is to be tried again."""


class Memory(Removing, Failed, Protocol):
    """What is asked of the ledger."""

    def uris_under(self, uri: str, limit: int) -> list[str]: ...

    def half_done(self) -> Iterator[str]:
        """Documents that are worked on, or lack points."""
        ...

    def cursor(self, source: str) -> str | None: ...


@dataclass
class State:
    """How it stands, for whoever asks."""

    feed: bool = False
    """The source tells what happens, and is not listed."""
    watching: bool = False
    trouble: str = ""
    """Why not all is heard."""
    away: str = ""
    """Why the source cannot be listed."""
    heard: float | None = None
    """When something was heard last, by the wall clock."""
    listed: float | None = None
    """When the last complete listing began, by the wall clock."""


@dataclass(slots=True)
class Changes:
    """Iterate it in one thread; `stop` and `list_now` are called by others."""

    source: Source
    memory: Memory
    every: float
    """Seconds between two listings."""
    may_delete: Callable[[int], bool] = lambda deleted: True
    """Whether so many documents may be deleted by what was heard, since the last listing; else a listing decides."""
    state: State = field(default_factory=State)
    heard: Heard = field(default_factory=Heard)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _hints: dict[str, float] = field(default_factory=dict)
    """Uris to look up, and when."""
    _soonest: float = NEVER
    _gone: dict[str, int] = field(default_factory=dict)
    """Uris that are gone, with the mark that has to be passed before they are deleted: 0 before there is one."""
    _marks: int = 0
    _retries: Retries = field(init=False)
    _run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    _listed: deque[Change] = field(default_factory=deque)
    _lister: threading.Thread | None = None
    _next_listing: float = 0.0
    _goes_on: float = 0.0
    """When a listing that stands still goes on."""
    _pauses: Pauses = field(default_factory=lambda: Pauses(FIRST_PAUSE, LONGEST_PAUSE))
    _deleted: int = 0
    _stopped: bool = False

    def __post_init__(self) -> None:
        self._retries = Retries(self.memory)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.source.stop()

    def list_now(self, within: float = 0.0) -> None:
        """`within` so many seconds, as something may have been missed."""
        if within:
            self.heard.doubt()
        with self._changed:
            self._next_listing = min(self._next_listing, time.monotonic() + within)
            self._changed.notify_all()

    def _changes(self) -> Iterator[Change]:
        self._watch()
        listed: deque[Change] = deque()
        ticker = time.monotonic()
        try:
            while True:
                with self._changed:
                    if self._stopped:
                        return
                    now = time.monotonic()
                    due = self._due(now)
                    if not listed and self._listed:
                        listed, self._listed = self._listed, listed
                        self._changed.notify_all()
                if due:
                    yield from self._look_up(due)
                elif now >= ticker:
                    ticker = now + TICK
                    yield from removals(self.memory)
                    self._hint(self._retries.due())
                    yield from self._note()
                elif listed and now >= self._goes_on:
                    while listed and not self._stopped and time.monotonic() < min(self._soonest, ticker):
                        yield listed.popleft()
                elif not listed and now >= self._next_listing and self._lister is None:
                    self._begin_listing()
                else:
                    with self._changed:
                        listing = NEVER if self._lister else self._next_listing  # one at a time: its end is told
                        soonest = min(ticker, self._goes_on if listed else listing, self._soonest)
                        if (listed or not self._listed) and not self._stopped:
                            self._changed.wait(max(0.0, soonest - time.monotonic()))
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Change]:
        return self.heard.passing_on(self._changes())

    def describe(self) -> dict[str, Any]:
        left = self._next_listing - time.monotonic()
        return {
            **asdict(self.state),
            "next_listing": None if left == NEVER else time.time() + max(0.0, left),
            "hints": self.heard.waiting,
            "quiet": self.heard.quiet and self._hears,
        }

    @property
    def _hears(self) -> bool:
        return self.state.watching and not self.state.trouble

    def _note(self) -> Iterator[Change]:
        """Have the ledger note how far the index is."""
        if self._hears and self.heard.note_due():
            yield self._mark()

    def _mark(self) -> Checkpoint:
        self._marks += 1
        in_sync = self.heard.in_sync((self._hints, self._gone)) if self._hears else 0.0
        return Checkpoint(f"{self._run} {self._marks}", in_sync)

    # ------------------------------------------------------------ what is heard

    def _watch(self) -> None:
        """Begin to hear, before anything is listed."""
        watch = None
        try:
            if (watch := self.source.watch()) is None:
                return
        except SourceError as error:
            self.state.trouble = f"changes are not heard: {error}"
        threading.Thread(target=self._hear, args=(watch,), name="penstock-watch", daemon=True).start()

    def _hear(self, watch: Watch | None) -> None:
        """Pass on what is heard, until the run is stopped. Where hearing fails, begin again, and have all listed."""
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        while not self._stopped:
            try:
                if watch is None:
                    if (watch := self.source.watch()) is None:
                        return
                    self.list_now(DOUBT)  # nothing was heard of what happened until now
                with watch:
                    self.state.watching = True
                    while not self._stopped:
                        self._pass_on(watch.wait(TICK), watch.trouble)
                        pauses.reset()
            except Exception as error:  # whatever it is, nobody must believe that it still listens
                self.state.watching, self.state.trouble = False, f"changes are not heard: {error}"
                watch = None
                self.list_now(DOUBT)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, pauses.next())

    def _pass_on(self, hints: Hints, trouble: str) -> None:
        self.state.trouble = trouble
        if hints.uris:
            self.heard.add(hints.uris)
            self._hint(hints.uris)
        if hints.uris or hints.doubt:
            self.state.heard = time.time()
        if hints.doubt:
            self.list_now(DOUBT)

    def _hint(self, uris: Iterable[str], within: float = 0.0) -> None:
        with self._changed:
            at = time.monotonic() + within
            for uri in uris:
                self._hints[uri] = at
                self._soonest = min(self._soonest, at)
            if len(self._hints) > HINTS:
                self.heard.doubt()
                self._hints.clear()
                self._gone.clear()
                self._next_listing = 0.0
            self._changed.notify_all()

    def _due(self, now: float) -> list[str]:
        """The uris to look up now, which wait no longer."""
        if now < self._soonest:
            return []
        due = [uri for uri, at in self._hints.items() if at <= now]
        for uri in due:
            del self._hints[uri]
        self._soonest = min(self._hints.values(), default=NEVER)
        return due

    def _look_up(self, uris: list[str]) -> Iterator[Change]:
        """Send on what is there at once. What is gone is looked up again after a while, and deleted when all that was
        sent on until then is in the index."""
        waiting = []
        for uri in uris:
            try:
                item = self.source.lookup(uri)
            except Exception:  # whatever a source raises
                self._gone.pop(uri, None)
                self.list_now(DOUBT)  # it cannot tell
                continue
            if item is not None:
                self._gone.pop(uri, None)
                yield Upsert(self.heard.stamp(item))
                self._give_way()
            elif uri not in self._gone:
                if self.memory.uris_under(uri, 1):  # else nothing need go, as of a draft that was renamed
                    self._gone[uri] = 0
                    self._hint([uri], GONE)
            elif not self._gone[uri]:
                waiting.append(uri)
            elif self._passed(self._gone[uri]):
                del self._gone[uri]
                yield from self._delete(uri)
            else:
                self._hint([uri], POLL)
        if waiting:
            yield self._mark()
            for uri in waiting:
                self._gone[uri] = self._marks
            self._hint(waiting, POLL)

    def _give_way(self) -> None:
        """Have a listing stand still, half of the time at most, so that a change that was heard need not share."""
        now = time.monotonic()
        if now >= self._goes_on + GIVES_WAY:
            self._goes_on = now + GIVES_WAY

    def _passed(self, mark: int) -> bool:
        run, _, number = (self.memory.cursor(self.source.name) or "").partition(" ")
        return run == self._run and int(number) >= mark

    def _delete(self, uri: str) -> Iterator[Change]:
        """What the index has at and beneath a uri that is gone; each is looked up once more."""
        known = self.memory.uris_under(uri, BENEATH + 1)
        for one in known[:BENEATH]:
            if one != uri:
                try:
                    if self.source.lookup(one) is not None:
                        continue
                except Exception:
                    self.list_now(DOUBT)  # it cannot tell
                    continue
            if not self.may_delete(self._deleted + 1):
                self.list_now(DOUBT)
                return
            self._deleted += 1
            yield Delete(one)
        if len(known) > BENEATH:
            self.list_now(DOUBT)

    # ------------------------------------------------------------ listings

    def _begin_listing(self) -> None:
        self.heard.begin_listing()
        self._next_listing = NEVER  # a doubt that comes meanwhile asks for another one
        self._lister = threading.Thread(target=self._list, name="penstock-list", daemon=True)
        self._lister.start()

    def _list(self) -> None:
        began, wait = time.time(), self.every
        last = start = time.monotonic()
        page: list[Change] = [ListingBegin(began)]
        try:
            for change in self.source.changes(None):
                page.append(change)
                before, last = last, time.monotonic()
                # Those that come quickly are passed on together: each time wakes another thread.
                if len(page) >= PAGE or last - before > QUICK:
                    if not self._put(page):
                        return
                    page = []
                if isinstance(change, ListingEnd):
                    self.state.listed, self._deleted = began, 0
            self.state.away = ""
            self._pauses.reset()
            if self.state.trouble:  # not all is heard: a listing has to find it
                wait = max(UNHEARD, SHARE * (time.monotonic() - start))
        except Exception as error:
            self.state.away = f"the source cannot be listed: {error}"
            wait = self._pauses.next()
        finally:
            self._put(page)
            with self._changed:
                self._lister = None
                self._next_listing = min(self._next_listing, time.monotonic() + min(wait, self.every))
                self._changed.notify_all()

    def _put(self, page: Sequence[Change]) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._listed) < LISTED or self._stopped)
            self._listed.extend(page)
            self._changed.notify_all()
            return not self._stopped
