"""What the engine writes down as it goes, and the records of it. The durable journal is the ledger.

The head of a flow needs only a `View`: what is known of some uris and chunks. The tail needs the whole `Journal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from penstock.core.deletions import Missing
from penstock.core.retry import Retry
from penstock.engine.freshness import Fresh

OPEN, DONE, FAILED, SKIPPED = "open", "done", "failed", "skipped"
"""States of a document. OPEN: it is worked on, or is to be tried again by itself."""


class ChunkEntry(NamedTuple):
    """A chunk in the journal."""

    document: int
    id: bytes
    content: int
    """63 bits of a hash of what is embedded: equal where a vector may be used again."""
    digest: int
    """63 bits of a hash of what goes with it: position, page, headings, metadata. Never 0."""
    attempt: int
    """The last attempt at the document in which it occurred."""


class Match(NamedTuple):
    """A chunk that a standing query is near to."""

    key: str
    """The same for every chunk of one version of a document, and one alert."""
    alert: str
    uri: str
    chunk: str
    score: float
    text: str
    about: str
    """Page, headings and metadata, in JSON."""


class Stale(NamedTuple):
    """A chunk that its document no longer has."""

    document: int
    id: bytes


class Known(NamedTuple):
    """A document of an earlier run."""

    document: int
    fingerprint: str | None
    state: str
    seen: int
    """The last run whose listing named it."""
    run: int
    """The last run that read it."""
    media_type: str | None = None
    """None where its type was not found out, or nothing reads it."""
    parser_code: str | None = None
    """What `classify` compares: the fingerprint of the user's own parser that read it."""
    revision: str = ""


class Begun(NamedTuple):
    """A document that is worked on."""

    document: int
    attempt: int
    had: bool
    """There were earlier attempts, so it may have chunks."""
    ended: bool = False
    """One of them came to its end."""


class Ending(NamedTuple):
    """How work on a document ended."""

    document: int
    attempt: int
    uri: str
    fingerprint: str
    state: str
    facts: Mapping[str, Any]
    revision: str = ""
    read: bool = True
    """Not where only its metadata had changed: then what was found out, and what could not be read, is as before."""
    fresh: Fresh | None = None
    """Where it is searchable as it is now."""


@dataclass(frozen=True, slots=True)
class Failure:
    uri: str
    stage: str
    cause: str
    attempts: int = 1
    permanent: bool = True
    """Only a change of the document or of Penstock can help: not tried again by itself."""
    place: str = ""
    """The page, or the chunk id, if not the whole document failed."""
    first: float = 0.0
    last: float = 0.0
    attempt: int = 0
    """The attempt at the document in which it failed; a later one that ends clears it. 0 where there was none."""
    accepted: bool = False
    """Somebody lives with it (`penstock failures --accept`), and the document is as it was then."""
    traceback: str = ""
    """Where a component raised what no contract names. Of the chunks of a document that failed together the first one
    has it."""


class View(Protocol):
    """What the head asks of the journal, and tells it before work begins."""

    def known(self, uris: Sequence[str]) -> dict[str, Known]: ...

    def removed(self, uris: Sequence[str]) -> set[str]:
        """Of these uris, those that were taken out for good, by themselves or with a folder above them."""
        ...

    def begin(self, uris: Sequence[str], run: int) -> dict[str, Begun]:
        """These documents are to be worked on."""
        ...

    def mark_seen(self, documents: Sequence[int], run: int) -> None:
        """These are still in the source, unchanged."""
        ...

    def next_listing(self) -> int:
        """Another number, above all earlier ones, for what is seen from now on."""
        ...

    def mark_seen_under(self, uri: str, run: int) -> None:
        """What could not be read may still be there, and so may everything beneath it."""
        ...

    def entries(self, document: int, attempt: int) -> Iterator[list[ChunkEntry]]:
        """Its acknowledged chunks, as entries of that attempt, in pages."""
        ...

    def digests(self, document: int, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Of these chunks of a document, those that are acknowledged, with their digests."""
        ...

    def same_content(self, contents: Sequence[int], before: int) -> dict[int, bytes]:
        """For each content that a run before this one brought into the index: the id of a chunk that holds it."""
        ...

    def record(self, failures: Iterable[Failure], run: int) -> None: ...

    def tries(self, uris: Sequence[str]) -> dict[str, int]:
        """How often each of these documents has failed since it was in the index as it is, if it has."""
        ...


class Journal(View, Protocol):
    """The accounts of a flow. Each method is one transaction."""

    def intend(self, entries: Sequence[ChunkEntry]) -> None:
        """These may be in the sink from now on."""
        ...

    def acknowledge(self, entries: Sequence[ChunkEntry], run: int, matches: Sequence[Match] = ()) -> None:
        """The sink has these for good. Of matches with one key, the first one that was ever recorded stands."""
        ...

    def keep(self, document: int, attempt: int, ids: Sequence[bytes]) -> None:
        """These chunks occur in the document again, unchanged."""
        ...

    def stale(self, documents: Sequence[int], limit: int) -> list[Stale]:
        """Chunks of these documents that did not occur in the last attempt at theirs, `limit` at most."""
        ...

    def outdate(self, documents: Sequence[int]) -> None:
        """Make all chunks of these documents, which are gone, stale."""
        ...

    def retract(self, chunks: Sequence[Stale]) -> None:
        """These may be missing from the sink from now on."""
        ...

    def forget(self, chunks: Sequence[Stale]) -> None:
        """These are out of the sink."""
        ...

    def finish(self, endings: Iterable[Ending]) -> None:
        """These documents have come to an end; their failures in earlier attempts are cleared."""
        ...

    def reopen(self, uris: Sequence[str]) -> None:
        """Those of these documents that failed for the first time are to be tried again by the next run."""
        ...

    def remove(self, documents: Sequence[int]) -> None:
        """These documents are gone, and their chunks are out of the index."""
        ...

    def unseen(self, run: int, after: int = 0) -> list[tuple[int, str]]:
        """Documents (number and uri) that a complete listing did not name, a page at a time."""
        ...

    def missing(self, run: int) -> Missing:
        """How much the documents of `unseen` are."""
        ...

    def clear_listing(self, run: int, in_sync: float = 0.0) -> None:
        """The listing of this run was complete: clear the failures to list of earlier runs. `in_sync`: when it began,
        by the wall clock; 0 where that is not known."""
        ...

    def save_cursor(self, source: str, cursor: str, in_sync: float = 0.0) -> None:
        """`in_sync`: all that the source knew of by then is in the index; 0 where that is not known."""
        ...


V = TypeVar("V", bound=View)


def waiting(journal: V, retry: Retry) -> V:
    """The same journal, whose calls wait for room where its disk is full, if `retry` waits without limit."""
    return cast(V, _Waiting(journal, retry)) if retry.unlimited else journal


class _Waiting:
    def __init__(self, journal: View, retry: Retry) -> None:
        self._journal, self._retry = journal, retry

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._journal, name)
        return lambda *values, **named: self._retry.call("ledger", partial(method, *values, **named))
