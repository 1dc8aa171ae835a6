"""The fetch stage, of sources whose documents come slowly, as from the web.

Many are fetched at once, by threads of their own, so that a slow one does not hold up the reading of others.
"""

from __future__ import annotations

import io
import os
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

from penstock.core.records import Item
from penstock.engine.channel import Broken, Channel, Closed
from penstock.engine.control import Control
from penstock.engine.scan import Queued
from penstock.engine.work import Document, Event, unread

IN_MEMORY = 1 << 20
"""Bytes of a document that are kept in memory; a larger one goes into a file."""
PIECE = 1 << 16


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


@dataclass(frozen=True, slots=True)
class Fetch:
    items: Channel[Document]
    fetched: Channel[Document]
    send: Callable[[Event], None]
    control: Control
    queued: Queued

    def work(self) -> None:
        for document in self.items:
            if not self.control.stop.is_set():
                self._fetch(document)

    def _fetch(self, document: Document) -> None:
        item = document.item
        if document.known is not None:  # of which nothing need be read
            self.fetched.put(document, item.nbytes)
            return
        try:
            opener = copied(item, document)
        except (Broken, Closed):
            raise
        except Exception as error:
            if self.control.stop.is_set():  # it may have been given up, which is nobody's failure
                self.queued.add(documents=-1, bytes=-(item.size or 0))
                return
            if (ends := unread(document, error)) is not None:
                self.queued.add(documents=-1, bytes=-(item.size or 0))
                self.send(ends)
            else:  # what no contract names: it is raised again where it is told of components
                self.fetched.put(document, item.nbytes)
            return
        document.item = replace(item, opener=opener)
        self.fetched.put(document, item.nbytes + (len(opener.content) if isinstance(opener, Bytes) else 0))
