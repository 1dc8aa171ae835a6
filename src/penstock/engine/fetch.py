"""The fetch stage, of sources whose documents come slowly, as from the web.

Many are fetched at once, by threads of their own, so that a slow one does not hold up the reading of others.
"""

from __future__ import annotations

import heapq
import io
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from penstock.core.errors import Transient
from penstock.core.records import Item
from penstock.core.retry import Pauses
from penstock.engine.channel import Broken, Channel, Closed, Empty, Ended
from penstock.engine.control import Control
from penstock.engine.scan import Queued
from penstock.engine.work import Document, Event, unread

IN_MEMORY = 1 << 20
"""Bytes of a document that are kept in memory; a larger one goes into a file."""
PIECE = 1 << 16
SOONEST, LATEST = 0.1, 3.0
"""Seconds before a document that was set aside is tried again, where its source asks for no more."""
LONGEST_ASIDE = 60.0
"""Seconds for which a document is set aside at once, at most: one that is to wait longer is a failure for now."""
LOOK = 1.0
"""Seconds between two looks at what was set aside, at most."""


@dataclass(frozen=True, slots=True)
class Bytes:
    content: bytes

    def __call__(self) -> BinaryIO:
        return io.BytesIO(self.content)


@dataclass(frozen=True, slots=True)
class Spooled:
    path: str

    def __call__(self) -> BinaryIO:
        return open(self.path, "rb")


def copied(item: Item, keeper: object) -> Bytes | Spooled:
    """Read the item to its end. Raises what opening and reading it does. A file is there for as long as `keeper`."""
    with item.open() as stream:
        begins = stream.read(IN_MEMORY)
        if len(begins) < IN_MEMORY:
            return Bytes(begins)
        with tempfile.NamedTemporaryFile(prefix="penstock-", delete=False) as file:
            weakref.finalize(keeper, os.unlink, file.name)
            file.write(begins)
            while piece := stream.read(PIECE):
                file.write(piece)
        return Spooled(file.name)


@dataclass(order=True, slots=True)
class _Waiting:
    """A document that was set aside."""

    due: float
    document: Document = field(compare=False)
    size: int = field(compare=False)
    pauses: Pauses = field(compare=False)


@dataclass(slots=True)
class Fetch:
    """For several threads. A document whose source says that it should come again in a moment is set aside, so that it
    keeps no thread. It stays charged to the inbox, which bounds how many there are."""

    items: Channel[Document]
    fetched: Channel[Document]
    send: Callable[[Event], None]
    control: Control
    queued: Queued
    _aside: list[_Waiting] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        while (waiting := self._next()) is not None:
            if not self.control.stop.is_set() and self._fetch(waiting):
                continue
            self.items.release(waiting.size)

    def _next(self) -> _Waiting | None:
        """What is to be fetched now; None where no more will come. Those that were set aside go first."""
        ended = False
        while True:
            with self._lock:
                left = self._aside[0].due - time.monotonic() if self._aside else None
                if left is not None and (left <= 0 or self.control.stop.is_set()):
                    return heapq.heappop(self._aside)
            if ended and left is None:
                return None
            seconds = LOOK if left is None else min(LOOK, left)
            if ended:
                self.control.stop.wait(seconds)
                continue
            try:
                document, size = self.items.get(timeout=seconds)
            except Empty:
                continue
            except Ended:
                ended = True
                continue
            return _Waiting(0.0, document, size, Pauses(SOONEST, LATEST))

    def _fetch(self, waiting: _Waiting) -> bool:
        """False where the document is done with, and True where it was set aside."""
        document = waiting.document
        item = document.item
        try:
            opener = copied(item, document)
        except (Broken, Closed):
            raise
        except Exception as error:
            if self.control.stop.is_set():  # it may have been given up, which is nobody's failure
                self.queued.add(bytes=-(item.size or 0))
                return False
            if isinstance(error, Transient) and error.retry_after is not None and error.retry_after <= LONGEST_ASIDE:
                waiting.due = time.monotonic() + max(error.retry_after, waiting.pauses.next())
                with self._lock:
                    heapq.heappush(self._aside, waiting)
                return True
            if (ends := unread(document, error)) is not None:
                self.queued.add(bytes=-(item.size or 0))
                self.send(ends)
            else:  # what no contract names: it is raised again where it is told of components
                self.queued.add(documents=1)
                self.fetched.put(document, item.nbytes)
            return False
        document.item = replace(item, opener=opener)
        self.queued.add(documents=1)
        self.fetched.put(document, item.nbytes + (len(opener.content) if isinstance(opener, Bytes) else 0))
        return False
