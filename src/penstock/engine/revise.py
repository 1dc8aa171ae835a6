"""Documents of which only the metadata has changed: their points are read back, and written with the new fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType

from penstock.core.errors import StageError
from penstock.core.metadata import standard
from penstock.core.pieces import PieceSize
from penstock.core.records import Metadata, Point
from penstock.engine.channel import Channel, Empty, Ended
from penstock.engine.control import Control
from penstock.engine.identity import digest_of_stored
from penstock.engine.journal import ChunkEntry, View
from penstock.engine.work import Document, Embedded, Event, Kept

PAGE = 16
"""Points of a document that are read back together."""
TOGETHER = 32
"""Documents that are worked on together, at most."""
Points = Mapping[str, Point]
NO_POINTS: Points = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Revise:
    fetch: Callable[[Sequence[str]], Sequence[Point]]
    size: PieceSize
    view: View
    inbox: Channel[Document]
    points: Channel[list[Embedded]]
    send: Callable[[Event], None]
    control: Control

    def batches(self) -> Iterator[list[Document]]:
        """The documents of the inbox, as many together as are there. Each batch is charged until the next one."""
        while True:
            try:
                document, size = self.inbox.get()
            except Ended:
                return
            documents = [document]
            try:
                while len(documents) < min(TOGETHER, self.size.rows):
                    document, more = self.inbox.get(wait=False)
                    documents.append(document)
                    size += more
            except (Empty, Ended):
                pass  # an end is met again by the next one
            try:
                yield documents
            finally:
                self.inbox.release(size)

    def read(self, documents: Sequence[Document]) -> Points:
        """The first points of each of these documents, read together: as many as there is room for."""
        ids: list[str] = []
        for document in documents:
            for entries in islice(self.view.entries(document.begun.document, document.begun.attempt), 1):
                ids += [entry.id.hex() for entry in entries[:PAGE]]
            if len(ids) >= self.size.rows:
                break
        ids = ids[: self.size.rows]
        return {point.id: point for point in self._read(documents[0], ids)} if ids else NO_POINTS

    def __call__(self, document: Document, given: Metadata, read: Points, sent: list[int]) -> bool:
        """Count in `sent` what was sent. False where points are missing. `read`: points that were read before."""
        for entries in self.view.entries(document.begun.document, document.begun.attempt):
            start = 0
            while start < len(entries):
                page = entries[start : start + min(PAGE, self.size.rows)]
                start += len(page)
                ids = [entry.id.hex() for entry in page]
                points = {id: read[id] for id in ids if id in read}
                if missing := [id for id in ids if id not in read]:
                    points |= {point.id: point for point in self._read(document, missing)}
                if len(points) < len(page):
                    return False
                sent[0] += self._send(document, page, points, given)
        return True

    def _read(self, document: Document, ids: Sequence[str]) -> Sequence[Point]:
        try:
            points = self.control.retry.call("read back", lambda: self.fetch(ids))
        except Exception as error:  # a driver's error may be an OSError, and is not the document's
            raise StageError("read back", document.item.uri, error) from error
        self.size.learn(points)
        return points

    def _send(
        self, document: Document, page: Sequence[ChunkEntry], points: Mapping[str, Point], given: Metadata
    ) -> int:
        assert document.known is not None
        item, media_type = document.item, document.known.media_type or ""
        fields = {**standard(item, media_type), **item.metadata, **given}
        changed: list[Embedded] = []
        same: list[bytes] = []
        for known in page:
            point = points[known.id.hex()]
            merged = {**point.chunk.metadata, **fields}
            chunk = replace(point.chunk, metadata={name: one for name, one in merged.items() if one is not None})
            entry = known._replace(digest=digest_of_stored(chunk))
            if entry == known:
                same.append(entry.id)
            else:
                one = Point(chunk, point.vectors)
                changed.append(Embedded(document, entry, one, one.nbytes))
        if same:
            self.send(Kept(document, same))
            self.control.counters.add(kept=len(same))
        if changed:
            self.points.put(changed, sum(one.nbytes for one in changed))
            self.control.counters.add(moved=len(changed))
        return len(changed)
