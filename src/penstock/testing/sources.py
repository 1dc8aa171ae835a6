"""Sources that do as a test says, so that a test of recovery reads as a list.

    ListSource({"doc:a": b"text", "doc:b": UNREADABLE, "here": CUT, "doc:c": b"more"})      a state source
    FeedSource([document("doc:a", b"text"), Delete("doc:b"), ABORT, document("doc:c", b"more")])      a feed

Among the documents may stand
    ABORT         SourceError in the middle of the stream, once
    PAUSE         a tenth of a second; `Pause(seconds)` for more
    CUT           (lists) the listing ends here, without a ListingEnd
    UNREADABLE    (lists) a document that is there and cannot be read
    UNLISTED      (lists) a folder that cannot be listed: the listing goes on and is not complete
    UNOPENABLE    (lists) a document that is listed, and fails when it is opened
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO

from penstock.core.contracts import Source
from penstock.core.errors import SourceError
from penstock.core.records import Change, Checkpoint, Delete, Item, ListingEnd, Unreadable, Upsert


class Sentinel(Enum):
    ABORT = "abort"
    CUT = "cut"
    UNREADABLE = "unreadable"
    UNLISTED = "unlisted"
    UNOPENABLE = "unopenable"


@dataclass(frozen=True)
class Pause:
    seconds: float = 0.1


ABORT = Sentinel.ABORT
CUT = Sentinel.CUT
UNREADABLE = Sentinel.UNREADABLE
UNLISTED = Sentinel.UNLISTED
UNOPENABLE = Sentinel.UNOPENABLE
PAUSE = Pause()

Entry = bytes | Sentinel | Pause


@dataclass(frozen=True, slots=True)
class Bytes:
    """Opens what a test gave. `opened` notes it, in the process where the item was made."""

    uri: str
    content: bytes | None
    opened: list[str] | None = field(default=None, repr=False, compare=False)

    def __call__(self) -> BinaryIO:
        if self.opened is not None:
            self.opened.append(self.uri)
        if self.content is None:
            raise OSError(f"{self.uri} is set not to open")
        return io.BytesIO(self.content)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.uri, self.content)


def document(uri: str, content: bytes, *, media_type: str | None = None) -> Upsert:
    """An Upsert whose fingerprint is a hash of the content."""
    return Upsert(Item(uri, _hash(content), Bytes(uri, content), len(content), media_type))


class ListSource(Source):
    """A state source from a dict, uri to bytes or sentinel, listed in the dict's order. Change `entries` as you like
    between and during runs. `opened` is every uri that was opened, in order."""

    def __init__(self, entries: Mapping[str, Entry] | None = None, *, name: str = "list:") -> None:
        self.entries: dict[str, Entry] = dict(entries or {})
        self.opened: list[str] = []
        self._name = name
        self._touched: Counter[str] = Counter()
        self._aborted: set[str] = set()

    @property
    def name(self) -> str:
        return self._name

    def touch(self, uri: str) -> None:
        """Another fingerprint for the same content."""
        self._touched[uri] += 1

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        complete = True
        for uri, entry in list(self.entries.items()):
            match entry:
                case Sentinel.ABORT:
                    if uri not in self._aborted:
                        self._aborted.add(uri)
                        raise SourceError(f"aborted at {uri}")
                case Sentinel.CUT:
                    return
                case Sentinel.UNREADABLE:
                    yield Unreadable(uri, "set to be unreadable")
                case Sentinel.UNLISTED:
                    complete = False
                    yield Unreadable(uri, "set not to be listed", listing=True)
                case Pause():
                    time.sleep(entry.seconds)
                case _:
                    yield Upsert(self._item(uri, None if isinstance(entry, Sentinel) else entry))
        if complete:
            yield ListingEnd()

    def lookup(self, uri: str) -> Item | None:
        entry = self.entries.get(uri)
        if entry is None:
            return None
        if entry is UNOPENABLE:
            return self._item(uri, None)
        if isinstance(entry, bytes):
            return self._item(uri, entry)
        raise SourceError(f"{uri} is {entry}")

    def _item(self, uri: str, content: bytes | None) -> Item:
        touched = self._touched[uri]
        fingerprint = _hash(content or b"") + (f"-{touched}" if touched else "")
        return Item(uri, fingerprint, Bytes(uri, content, self.opened), len(content or b""))


class FeedSource(Source):
    """A feed from a list of changes. The cursor counts entries; a Checkpoint follows every `marks` changes and
    the last one.

    `changes(cursor)` goes on after the cursor, and ends with the list: append to `script` and call it again.
    """

    feed = True

    def __init__(
        self, script: Sequence[Upsert | Delete | Unreadable | Sentinel | Pause], *, marks: int = 1, name: str = "feed:"
    ) -> None:
        self.script = list(script)
        self._marks = marks
        self._name = name
        self._aborted: set[int] = set()

    @property
    def name(self) -> str:
        return self._name

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        since_mark = 0
        at = int(cursor or 0)
        while at < len(self.script):
            entry = self.script[at]
            at += 1
            if isinstance(entry, Pause):
                time.sleep(entry.seconds)
            elif entry is ABORT:
                if at not in self._aborted:
                    self._aborted.add(at)
                    raise SourceError(f"aborted at {at}")
            elif isinstance(entry, Sentinel):
                raise SourceError(f"a feed knows no {entry}")
            else:
                yield entry
                since_mark += 1
                if since_mark == self._marks:
                    since_mark = 0
                    yield Checkpoint(str(at))
        if since_mark:
            yield Checkpoint(str(at))

    def lookup(self, uri: str) -> Item | None:
        for entry in reversed(self.script):
            if isinstance(entry, Upsert) and entry.item.uri == uri:
                return entry.item
            if isinstance(entry, Delete) and entry.uri == uri:
                return None
        return None


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
