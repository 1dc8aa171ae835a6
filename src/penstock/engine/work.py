"""Documents, chunks and points on their way between the stages, and the events that the committer accounts for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from penstock.core.errors import ParseError, SourceError, Transient, Unsupported, Vanished
from penstock.core.records import Chunk, Item, Point, Vector
from penstock.engine.journal import Begun, ChunkEntry, Failure, Known, Match


class Document:
    """One document on its way. Its fields from `total` on belong to the commit stage."""

    __slots__ = (
        *("__weakref__", "item", "begun", "epochs", "known", "facts", "heard"),
        *("total", "settled", "failed", "passing", "skipped", "vanished"),
    )

    def __init__(self, item: Item, begun: Begun, epochs: Sequence[int], known: Known | None = None) -> None:
        """`known`: as it was before, where only its metadata has changed since."""
        self.item, self.begun, self.epochs, self.known = item, begun, epochs, known
        self.facts: dict[str, Any] = {}
        self.heard = time.monotonic() if item.heard is None else item.heard
        self.total: int | None = None
        self.settled = 0
        self.failed = self.passing = self.skipped = self.vanished = False

    def failure(
        self, stage: str, cause: str, *, permanent: bool = True, place: str = "", traceback: str = ""
    ) -> Failure:
        """A failure of this attempt at the document."""
        uri, attempt = self.item.uri, self.begun.attempt
        return Failure(uri, stage, cause, permanent=permanent, place=place, attempt=attempt, traceback=traceback)


def unread(document: Document, error: BaseException, sent: int = 0) -> Failed | None:
    """How a document ends that cannot be read, after so many chunks were sent; None where that is not its own fault."""
    if isinstance(error, ParseError):
        failure = document.failure("parse", str(error))
        return Failed(document, failure, ends=sent, skipped=isinstance(error, Unsupported))
    if isinstance(error, SourceError | Transient | OSError):
        cause = f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
        vanished = isinstance(error, Vanished) and not sent
        return Failed(document, document.failure("read", cause, permanent=False), ends=sent, vanished=vanished)
    return None


class Prepared(NamedTuple):
    """A chunk on its way to be embedded."""

    document: Document
    entry: ChunkEntry
    chunk: Chunk
    nbytes: int
    length: int


class Embedded(NamedTuple):
    """A point on its way to the sink."""

    document: Document
    entry: ChunkEntry
    point: Point
    nbytes: int
    matches: tuple[Match, ...] = ()
    """What standing queries find in it, where it was embedded in this run."""


def embedded(prepared: Prepared, vectors: Mapping[str, Vector]) -> Embedded:
    """The point of a chunk. An image is not kept with it: that there was one is."""
    chunk = prepared.chunk if prepared.chunk.image is None else replace(prepared.chunk, image=b"")
    point = Point(chunk, vectors)
    return Embedded(prepared.document, prepared.entry, point, point.nbytes)


OnTheWay = TypeVar("OnTheWay", Prepared, Embedded)


def by_document(batch: Sequence[OnTheWay]) -> list[list[OnTheWay]]:
    documents: dict[Document, list[OnTheWay]] = {}
    for one in batch:
        documents.setdefault(one.document, []).append(one)
    return list(documents.values())


# ---------------------------------------------------------------- events


def match_size(match: Match) -> int:
    return 400 + len(match.text) + len(match.about)


class Written(NamedTuple):
    """The sink took these. Text and vectors are left behind: they are no longer charged to any channel."""

    entries: Sequence[ChunkEntry]
    settled: Mapping[Document, int]
    """How many there are of each document."""
    matches: Sequence[Match] = ()


class Kept(NamedTuple):
    """The index has these chunks of the document already, unchanged."""

    document: Document
    ids: Sequence[bytes]


class Parsed(NamedTuple):
    """The document was read to its end, and sent so many chunks."""

    document: Document
    total: int


class Failed(NamedTuple):
    """Something of a document failed: chunks that were sent (`settles`), a part, or the whole reading (`ends`)."""

    document: Document
    failure: Failure
    settles: int = 0
    ends: int | None = None
    """For a document that could not be read to its end: how many chunks it had sent by then."""
    skipped: bool = False
    vanished: bool = False
    """It was not there any more, and nothing of it was sent."""


class Gone(NamedTuple):
    """The source said that the document is gone."""

    uri: str
    epochs: Sequence[int]


class Idle(NamedTuple):
    """Changes that had been put off call for no work."""

    epochs: Sequence[int]


class Boundary(NamedTuple):
    """A cursor, or the end of a listing: it counts once all that the source named before has been settled."""

    epoch: int
    begun: int
    """How many documents and deletions the source named since the boundary before."""
    cursor: str | None
    listing: int = 0
    """The number that the listing which ends here was seen by."""
    in_sync: float = 0.0
    """By the wall clock: all that the source knew of by then was named before this. 0: nobody knows."""


Event = Written | Kept | Parsed | Failed | Gone | Idle | Boundary


def event_size(event: Event) -> int:
    match event:
        case Written(many, _, matches):
            return 300 * len(many) + sum(map(match_size, matches))
        case Kept(_, many):
            return 300 * len(many)
        case Failed(_, failure):
            return 400 + len(failure.traceback)
    return 400
