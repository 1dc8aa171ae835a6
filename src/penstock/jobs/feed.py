"""The changes of a feed that is followed, and between them what is to be tried again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.core.contracts import Source
from penstock.core.records import Change, Checkpoint
from penstock.core.retry import Pauses
from penstock.engine.incoming import stamped
from penstock.jobs.changes import FIRST_PAUSE, LISTED, LONGEST_PAUSE, TICK, Memory, State
from penstock.jobs.requests import looked_up, removals
from penstock.jobs.retries import Retries


@dataclass(slots=True)
class Feed:
    """A feed is asked again, from where it was, whenever it breaks off or ends. Iterate it in one thread; `stop` and
    `list_now` are called by others."""

    source: Source
    memory: Memory
    state: State = field(default_factory=lambda: State(feed=True))
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _told: deque[Change] = field(default_factory=deque)
    _retries: Retries = field(init=False)
    _read_again: bool = False
    _stopped: bool = False

    def __post_init__(self) -> None:
        self._retries = Retries(self.memory)

    def __iter__(self) -> Iterator[Change]:
        reader = threading.Thread(target=self._read, name="penstock-feed", daemon=True)
        reader.start()
        ticker = time.monotonic()
        try:
            while not self._stopped:
                if time.monotonic() >= ticker:
                    yield from self._again()
                    ticker = time.monotonic() + TICK
                with self._changed:
                    self._changed.wait_for(lambda: self._told or self._stopped, max(0.0, ticker - time.monotonic()))
                    change = self._told.popleft() if self._told and not self._stopped else None
                    self._changed.notify_all()
                if change is not None:
                    yield change
        finally:
            self.stop()
            reader.join()  # the source is not closed under it

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.source.stop()

    def list_now(self) -> None:
        """There is nothing to list: have documents read again that lack points."""
        self._read_again = True

    def describe(self) -> dict[str, Any]:
        return {**asdict(self.state), "next_listing": None, "hints": len(self._told), "quiet": False}

    def _again(self) -> Iterator[Change]:
        yield from removals(self.memory)
        # A feed that tells them itself tells nothing older after them.
        due = [uri for uri in self._retries.due() if not self.source.again(uri)]
        yield from looked_up(self.source, due)
        if self._read_again:
            self._read_again = False
            yield from looked_up(self.source, self.memory.half_done())

    def _read(self) -> None:
        """Take in what the feed says."""
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        cursor = self.memory.cursor(self.source.name)
        self.source.live = True
        while not self._stopped:
            try:
                for change in map(stamped, self.source.changes(cursor)):
                    self.state.heard, self.state.away = time.time(), ""
                    pauses.reset()
                    if not self._put(change):
                        return
                    if isinstance(change, Checkpoint):
                        cursor = change.cursor
            except Exception as error:  # whatever a source raises: it is asked again, from where it was
                self.state.away = f"the source is away: {error}"
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, pauses.next())

    def _put(self, change: Change) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._told) < LISTED or self._stopped)
            self._told.append(change)
            self._changed.notify_all()
            return not self._stopped
