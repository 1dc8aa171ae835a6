"""What a feed says, on its way to the scan.

It is taken in by a thread of its own, so that the scan works on all that is there and waits for no more. Changes of a
document that is still being worked on are put off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from penstock.core.errors import StageError
from penstock.core.records import Change, Checkpoint, Delete, Upsert
from penstock.engine.channel import Broken, Channel, Closed, Empty, Ended
from penstock.engine.control import Control, InFlight

CHANGE_BYTES = 200
"""What a change takes that has no item."""
INTERVAL = 0.02
"""Seconds between two tries to take up what was put off."""


@dataclass(frozen=True, slots=True)
class Listen:
    """The listen stage: the only thread that waits for the feed."""

    changes: Iterable[Change]
    inbox: Channel[Change]
    control: Control

    def work(self) -> None:
        try:
            for change in map(stamped, self.changes):
                if self.control.stop.is_set():
                    return
                self.inbox.put(change, change.item.nbytes if isinstance(change, Upsert) else CHANGE_BYTES)
        except (Broken, Closed):
            raise
        except Exception as error:
            # What was named before goes all the way: a source that breaks off now and then still gets on.
            self.control.note(StageError("scan", None, error))


def stamped(change: Change) -> Change:
    """With the time at which it came, where it has none of its own."""
    if isinstance(change, Upsert) and change.item.heard is None:
        return Upsert(replace(change.item, heard=time.monotonic()))
    if isinstance(change, Checkpoint) and change.at is None:
        return replace(change, at=time.time())
    return change


def arriving(inbox: Channel[Change], again: Callable[[], bool]) -> Iterator[Change | None]:
    """The changes as they come, and None when no other is there yet: once, or from time to time while `again`."""
    try:
        while True:
            try:
                change, size = inbox.get(wait=False)
            except Empty:
                yield None
                try:
                    change, size = inbox.get(timeout=INTERVAL if again() else None)
                except Empty:
                    continue
            inbox.release(size)
            yield change
    except Ended:
        return


@dataclass(slots=True)
class PutOff:
    """Changes of documents that are still being worked on. Of several of one document the last stands for all."""

    _changes: dict[str, tuple[Upsert | Delete, list[int]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, uri: str, change: Upsert | Delete, epoch: int) -> None:
        _, epochs = self._changes.get(uri, (None, []))
        epochs.append(epoch)
        self._changes[uri] = change, epochs

    def take(self, in_flight: InFlight) -> Iterator[tuple[Upsert | Delete, list[int]]]:
        """Those whose documents are free by now, which they are no longer, with the epochs in which they came."""
        for uri in list(self._changes):
            change, _ = self._changes[uri]
            if in_flight.enter(uri, change.item.heard if isinstance(change, Upsert) else None):
                yield self._changes.pop(uri)
