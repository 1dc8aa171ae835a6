"""Names for chunks: the same in every run, on every machine, whatever else the document holds.

content = hash(text or image)
id      = hash(document uri, content, occurrence)      the n-th chunk of that content in the document
          begins with its namespace's prefix, if it has one: the id alone says whose a point is
digest  = hash(position, page, headings, metadata)     may change while the vector stays good
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING

from penstock.core.metadata import VOLATILE
from penstock.core.records import NOTHING, Chunk, Item, Metadata, Piece
from penstock.engine.journal import Begun, ChunkEntry
from penstock.support import scratch

if TYPE_CHECKING:
    import sqlite3


def content_of(raw: bytes, image: bytes | None) -> bytes:
    hashed = blake2b(raw, digest_size=16)
    if image is not None:
        hashed.update(image)
    return hashed.digest()


def number_of(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big", signed=True)


def setting_of(page: int | None, headings: tuple[str, ...], metadata: str) -> int:
    """A hash of what neighbours mostly have in common; of the metadata as it is written."""
    text = "\x1f".join([str(page), *headings]) + metadata
    return number_of(blake2b(text.encode(errors="replace"), digest_size=8).digest())


def written(metadata: Metadata) -> str:
    return "\x1e" + json.dumps(dict(metadata), sort_keys=True, default=str) if metadata else ""


def digest_of(ordinal: int, span: tuple[int, int], setting: int) -> int:
    """Of numbers, by arithmetic: a hash takes several times as long. The factors are those of splitmix and xxhash."""
    mixed = setting + ordinal * 0x9E3779B97F4A7C15 + span[0] * 0xC2B2AE3D27D4EB4F + span[1] * 0x165667B19E3779F9
    return mixed & 0x7FFFFFFFFFFFFFFF or 1


PREFIX = 4
"""Bytes. The 12 that are left tell 10**10 chunks apart but for one chance in 10**9."""


def id_prefix(namespace: str) -> bytes:
    return blake2b(namespace.encode(), digest_size=PREFIX).digest() if namespace else b""


def shows(chunk: Chunk, image: bytes) -> bool:
    """Whether a chunk of one image was made of this image, in whatever namespace."""
    named = blake2b(chunk.uri.encode(), digest_size=16)
    named.update(content_of(chunk.text.encode(), image))
    return chunk.id.endswith(named.hexdigest()[2 * PREFIX :])


def entry_of_stored(chunk: Chunk, begun: Begun) -> ChunkEntry:
    """The journal's entry for a chunk that was read back from an index."""
    content = number_of(content_of(chunk.text.encode(), chunk.image))
    return ChunkEntry(begun.document, bytes.fromhex(chunk.id), content, digest_of_stored(chunk), begun.attempt)


def digest_of_stored(chunk: Chunk) -> int:
    stable = {name: value for name, value in chunk.metadata.items() if name not in VOLATILE}
    return digest_of(chunk.ordinal, chunk.span, setting_of(chunk.page, chunk.headings, written(stable)))


class Namer:
    """Makes the chunks of one document of its pieces, in order."""

    def __init__(
        self,
        item: Item,
        begun: Begun,
        prefix: bytes = b"",
        *,
        standard: Metadata = NOTHING,
        given: Metadata = NOTHING,
    ) -> None:
        """`standard` is the metadata that any document has, `given` what the user gives it: see core.metadata."""
        self._item, self._given = item, given
        self._standard = standard
        self._stable = {name: value for name, value in standard.items() if name not in VOLATILE}
        self._document, self._attempt = begun.document, begun.attempt
        self._prefix = prefix
        self._base = blake2b(item.uri.encode(), digest_size=16)
        self._occurrences = Occurrences()
        self._ordinal = 0
        self._last: Piece | None = None
        self._metadata: Metadata = {}
        self._written = ""
        self._setting = 0

    def name(self, piece: Piece) -> tuple[Chunk, ChunkEntry]:
        text = piece.text
        try:
            raw = text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, from a JSON escape: no store takes it
            raw = text.encode(errors="replace")
            text = raw.decode()
        content = content_of(raw, piece.image)
        number = number_of(content)
        named = self._base.copy()
        named.update(content)
        occurrence = self._occurrences.count(number)
        if occurrence:
            named.update(occurrence.to_bytes(8, "big"))
        id = self._prefix + named.digest()[len(self._prefix) :]
        self._settle(piece)
        ordinal, span = self._ordinal, piece.span
        self._ordinal += 1
        chunk = Chunk(
            id.hex(),
            self._item.uri,
            ordinal,
            text,
            span,
            piece.page,
            piece.headings,
            self._metadata,
            piece.tokens,
            piece.image,
        )
        return chunk, ChunkEntry(self._document, id, number, digest_of(ordinal, span, self._setting), self._attempt)

    def _settle(self, piece: Piece) -> None:
        """Merge the metadata and write the setting down, unless it is that of the piece before."""
        last = self._last
        if (
            last is None
            or piece.metadata is not last.metadata
            or piece.headings is not last.headings
            or piece.page != last.page
        ):
            if last is None or piece.metadata is not last.metadata:
                own = {**self._item.metadata, **piece.metadata, **self._given}
                self._metadata = {**self._standard, **own}
                self._written = written({**self._stable, **own})
            self._setting = setting_of(piece.page, piece.headings, self._written)
        self._last = piece


class Occurrences:
    """Counts how often each number came before. Beyond `limit` numbers it goes on in a temporary file."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._counts: dict[int, int] = {}
        self._spilled: sqlite3.Connection | None = None

    def count(self, number: int) -> int:
        before = self._counts.get(number)
        if before is None:
            before = self._recall(number) if self._spilled else 0
            if len(self._counts) >= self._limit:
                self._spill()
        self._counts[number] = before + 1
        return before

    def _recall(self, number: int) -> int:
        assert self._spilled is not None
        row = self._spilled.execute("SELECT times FROM counts WHERE number = ?", (number,)).fetchone()
        return int(row[0]) if row else 0

    def _spill(self) -> None:
        if self._spilled is None:
            self._spilled = scratch.database(
                "CREATE TABLE counts (number INTEGER PRIMARY KEY, times INTEGER)", cache=2 << 20
            )
        self._spilled.execute("BEGIN")
        self._spilled.executemany("INSERT OR REPLACE INTO counts VALUES (?, ?)", sorted(self._counts.items()))
        self._spilled.execute("COMMIT")
        self._counts.clear()
