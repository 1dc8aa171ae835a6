"""Documents into shards: what workers are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from penstock.core.errors import StageError
from penstock.engine.control import Control
from penstock.engine.journal import View
from penstock.engine.work import Document
from penstock.workers import contents
from penstock.workers.place import SHARDS_A_RUN, PartName, Place, Work
from penstock.workers.shard import Listed, Shard, decode, encode, encode_known

DOCUMENTS, SHARD_BYTES = 64, 32 << 20
"""Of a shard, at most."""
FIRST, OF_A_SIZE = 16, 4
"""Documents of the first shards, so that all workers have some soon; after so many shards they are twice as large."""
COMPANY = 0.5
"""Seconds for which a document waits for others."""


class KnowsContents(View, Protocol):
    def contents(self, before: int) -> Iterator[list[tuple[int, bytes]]]:
        """What runs before this one brought into the index: contents in their order, with the id of a chunk each."""
        ...


@dataclass(slots=True)
class Slot:
    """A document of a shard."""

    listed: Listed
    document: Document | None = None
    """None where it is not worked on: of a shard that an earlier run handed out."""
    charged: int = 0
    """In the channel of items, until it is done."""
    sent: int = 0
    """Chunks that have crossed the seam, or are about to, in this attempt."""
    read: bool = False
    """It has come to its end."""


@dataclass(slots=True)
class Outstanding:
    """A shard that is not done yet."""

    number: int
    slots: Sequence[Slot]
    complete: bool = True
    """All of its documents that there will be are there."""
    term: int = 0
    """Of the parts that were taken in last."""
    taken_in: set[PartName] = field(default_factory=set)

    @property
    def uris(self) -> list[str]:
        return [slot.listed.uri for slot in self.slots]

    @property
    def working(self) -> Iterator[tuple[Slot, Document]]:
        return ((slot, slot.document) for slot in self.slots if slot.document is not None)


class Dispatcher:
    """Hands documents out, in shards of some."""

    def __init__(
        self,
        place: Place,
        work: Work,
        view: KnowsContents,
        ready: Callable[[], object],
        control: Control,
    ) -> None:
        self.place, self.work, self.view, self.control, self._ready = place, work, view, control, ready
        self._numbers = count(work.run * SHARDS_A_RUN)
        self._begun = False
        self._waiting: list[Slot] = []
        self._bytes = self._handed = 0
        self._since = 0.0
        self._adopted: list[Outstanding] = []
        self._handed_out: dict[str, Slot] = {}
        """Documents of those shards, as long as they have not been listed."""

    def adopt(self) -> list[Outstanding]:
        """The shards that an earlier run of the same pipeline has left at the place, whose parts are still good."""
        call, place = self.control.retry.call, self.place
        kept = call("read", place.work)
        if kept is not None and not kept.same(self.work):
            call("clear", place.clear)
        for number in call("list", place.shards):
            shard = self._read(number)
            if shard is None:
                continue
            outstanding = Outstanding(number, [Slot(listed) for listed in shard.documents], complete=False)
            self._handed_out |= {slot.listed.uri: slot for slot in outstanding.slots}
            self._adopted.append(outstanding)
        if self._adopted:
            self._begin()
        return self._adopted

    def _read(self, number: int) -> Shard | None:
        files = self.control.retry.call("read", lambda: self.place.read_shard(number))
        return None if files is None else decode(number, *files)

    def _begin(self) -> None:
        if not self._begun:
            retry = self.control.retry
            try:
                retry.call("open", self._ready)
            except Exception as error:
                raise StageError("dispatch", None, error) from error
            retry.call("write", lambda: contents.write(self.place, self.view.contents(self.work.run)))
            retry.call("write", lambda: self.place.begin(self.work))
            self.control.loaded()
            self._begun = True

    def add(self, document: Document, charged: int) -> bool:
        """Take a document in, with its charge. False for one that stays in the shard of an earlier run: it is as it was
        then."""
        listed = Listed(document.item.uri, document.item.fingerprint, document.item.revision)
        slot = self._handed_out.pop(listed.uri, None)
        if slot is not None and slot.listed == listed:
            slot.document = document
            return False
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(Slot(listed, document, charged))
        self._bytes += document.item.size or 0
        return True

    def listed(self) -> None:
        """No more documents will come."""
        for outstanding in self._adopted:
            outstanding.complete = True
        self._handed_out.clear()

    def next(self, *, ended: bool) -> Outstanding | None:
        """Hand out a shard of those that wait, if there are enough of them, or they have waited long enough."""
        waiting = self._waiting
        size = min(DOCUMENTS, FIRST << min(self._handed // OF_A_SIZE, 10))
        enough = len(waiting) >= size or self._bytes >= SHARD_BYTES
        if not waiting or not (enough or ended or time.monotonic() - self._since >= COMPANY):
            return None
        self._waiting, self._bytes = [], 0
        self._handed += 1
        return self.hand_out(waiting)

    def hand_out(self, slots: Sequence[Slot], *, afresh: bool = False) -> Outstanding:
        self._begin()
        number = next(self._numbers)
        known = bytearray()
        for at, slot in enumerate(slots):
            assert slot.document is not None
            begun = slot.document.begun
            if begun.had:
                known += encode_known(at, self.view.entries(begun.document, begun.attempt))
        documents = encode(number, [slot.listed for slot in slots], afresh=afresh)
        self.control.retry.call("write", lambda: self.place.put_shard(number, documents, bytes(known)))
        return Outstanding(number, slots)

    def end(self) -> None:
        """The run is over, and nothing is left of it."""
        if self._begun:
            self.control.retry.call("clear", self.place.clear)
        self.control.retry.call("write", lambda: self.place.end(self.work.run))
        self.control.retry.call("write", self.place.release)
