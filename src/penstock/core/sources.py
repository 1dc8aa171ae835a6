"""What a source promises, and what components with a lifecycle share; part of `penstock.core.contracts`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, NamedTuple, Self

from penstock.core.options import Option
from penstock.core.records import NOTHING, Change, Item


class Component:
    """Lifecycle shared by the four."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Hints(NamedTuple):
    """What may have changed in a source: each uri is to be looked up again, with what the index has beneath it."""

    uris: frozenset[str]
    doubt: bool
    """Something may have been missed: the source is to be listed."""


class Watch(Component, ABC):
    """Hears of changes in a state source, from when it was made."""

    @property
    def trouble(self) -> str:
        """Why it does not hear everything, if so."""
        return ""

    @abstractmethod
    def wait(self, seconds: float) -> Hints:
        """What was heard, as soon as there is something; nothing when the time has passed."""


class Source(Component, ABC):
    """Tells what is there, or what happened, as a stream of changes.

    - `changes(cursor)` yields Upsert, Delete, Unreadable and ListingEnd, lazily: it may be endless, and a corpus of
      any size is listed in constant memory. It reads no content: an Item is opened later, elsewhere, perhaps
      never.
    - A **state source** ignores the cursor and lists everything. It ends with `ListingEnd()` if, and only if, the
      listing was complete; what a complete listing does not name is deleted from the index.
    - A **feed source** tells events after the cursor and yields `Checkpoint(cursor)` now and then: the cursor is
      stored once all before it is safely in the index. Resuming after it may repeat events, and misses none.
    - What cannot be read or listed is an Unreadable, never an exception in the middle of a listing; only a
      source that cannot be listed at all (no such folder, wrong key) raises SourceError, before its first change.
      Nothing is deleted for an Unreadable, nor beneath its uri.
    - What is left alone on purpose (hidden, excluded, links) is counted in `passed_over`, so that a report can say it.
    - Its `name` is the same in every run: the ledger is filed under it.
    """

    feed: bool = False
    fetchers: int = 0
    """Documents that are fetched at once, by threads of their own, before they are read. 0: where they are read."""
    options: ClassVar[tuple[Option, ...]] = ()
    """What its constructor takes by name, besides the urls it reads."""
    live: bool = False
    """Set by a run that goes on: where all is told, `changes` of a feed waits for more then, and ends otherwise."""
    trouble: str = ""
    """Why a feed hears nothing now, if so."""
    select_container: Callable[[str], bool] | None = None
    """Where it is set, an archive or table is read only if this is true of its uri: a worker reads its share alone."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    def passed_over(self) -> Mapping[str, int]:
        """Reason -> entries that the latest listing left alone."""
        return NOTHING

    def passes_over(self, uri: str) -> str:
        """Why a listing leaves that uri alone, as in `passed_over`; nothing where it does not, or cannot tell."""
        return ""

    def open(self) -> None:
        """Connect. Raises SourceError if what the source names does not exist."""

    @abstractmethod
    def changes(self, cursor: str | None = None) -> Iterator[Change]: ...

    def watch(self) -> Watch | None:
        """Begin to hear of changes in a state source, before it is listed; None where nobody tells."""
        return None

    def again(self, uri: str) -> bool:
        """Have a feed tell this document once more, as it is then: called by another thread. False if it cannot."""
        return False

    def stop(self) -> None:
        """Have `changes` come to its end soon, wherever it waits. Called by another thread, perhaps several times, when
        the run is being stopped; a source whose thread goes on nevertheless is not closed."""

    @abstractmethod
    def lookup(self, uri: str) -> Item | None:
        """The item of that uri as it is now, for a retry; None if it is gone. SourceError if it cannot tell."""
