"""Up to when all that was heard of a source, and listed, has been passed on to the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace

from penstock.core.records import Change, Checkpoint, Item, ListingEnd

BUSY, IDLE = 1.0, 60.0
"""Seconds between two notes in the ledger of how far the index is, while there are changes and while there are none."""
NEVER = float("-inf")


class Heard:
    """Times are by the monotonic clock. One thread adds, another one passes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        """When something was heard of uris that have not been passed on."""
        self._doubted = self._began = 0.0
        self._listed = NEVER
        self._passed_on = self._noted = NEVER

    def add(self, uris: Iterable[str]) -> None:
        now = time.monotonic()
        with self._lock:
            for uri in uris:
                self._since.setdefault(uri, now)

    def stamp(self, item: Item) -> Item:
        """The item with the time at which it was heard of."""
        with self._lock:
            heard = self._since.pop(item.uri, None)
        return item if heard is None else replace(item, heard=heard)

    def doubt(self) -> None:
        """Something may have been missed: only a listing that begins from now on makes up for it."""
        self._doubted = time.monotonic()

    def begin_listing(self) -> None:
        self._began = time.monotonic()

    def passing_on(self, changes: Iterable[Change]) -> Iterator[Change]:
        """The changes, on their way to the engine."""
        for change in changes:
            if isinstance(change, ListingEnd):
                self._listed = self._began
            if not isinstance(change, Checkpoint):
                self._passed_on = time.monotonic()
            yield change

    @property
    def sound(self) -> bool:
        """A listing was passed on whole, and nothing may have been missed since it began."""
        return self._listed > self._doubted

    @property
    def quiet(self) -> bool:
        """All that was heard of was passed on, a while ago."""
        return self.sound and not self._since and time.monotonic() - self._passed_on > BUSY

    @property
    def waiting(self) -> int:
        return len(self._since)

    def note_due(self) -> bool:
        """Whether it is time for a mark among the changes, by which the ledger notes how far the index is."""
        now = time.monotonic()
        if not self.sound or now - self._noted < (BUSY if self._passed_on > self._noted else IDLE):
            return False
        self._noted = now
        return True

    def in_sync(self, pending: Iterable[Container[str]]) -> float:
        """By the wall clock: all that was heard of by then has been passed on, but for what is `pending` in one of
        these. 0 where nobody knows."""
        now = time.monotonic()
        kept = list(pending)
        with self._lock:
            self._since = {uri: at for uri, at in self._since.items() if any(uri in one for one in kept)}
            oldest = min(self._since.values(), default=now)
        return time.time() - (now - oldest) if self.sound else 0.0
