"""Writes the parts of one piece. What is embedded is never further from the store than the part in hand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from penstock.errors import EmbedError, Transient
from penstock.parts.accounts import Accounts
from penstock.parts.folder import Done, Folder, facts_of
from penstock.parts.format import DUPLICATE, FAILED, NOTED, Entry, Listed, Part, Row, encode
from penstock.parts.leases import LeaseLost
from penstock.records import Chunk, Vector

PART_BYTES = 32 << 20
"""Of vectors and texts, about: a part is cut before it holds more."""
ENTRIES = 4
"""Times as many entries as rows may be in a part."""


class Writer:
    """Takes vectors and accounts, and makes parts of them.

    `room(n)` is had before n chunks are embedded. No more than `rows` of them are ever embedded and in no part, so
    that a kill costs at most as many: where there is no room for more, the part is cut first.
    """

    def __init__(
        self,
        folder: Folder,
        piece: int,
        term: int,
        rows: int,
        accounts: Accounts,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises where the piece is no longer ours."""
        self.piece, self.term, self.rows = piece, term, rows
        self.parts: list[Listed] = []
        self.written = 0
        self._folder, self._accounts, self._check = folder, accounts, check
        self._number = 1
        self._pending: list[Row] = []
        self._entries: list[Entry] = []
        self._bytes = self._reserved = 0
        self._flying: dict[str, str] = {}
        """Contents on their way through the model: digest -> uri; and the other way round."""
        self._digests: dict[str, str] = {}
        self._waiting: dict[str, list[str]] = {}
        """Who has the same content as one of those."""
        self._lock = threading.RLock()

    def take_in(self, part: Part) -> None:
        """One that an earlier worker wrote. It counts, unless its images are in another part already: then it was
        written by one that had lost its lease."""
        if self._accounts.take_in(part):
            self.parts.append(Listed(part.name, len(part.table), part.sha256, len(part.entries)))

    # ------------------------------------------------------------ contents

    def first(self, uri: str, digest: str) -> bool:
        """Whether nobody has had this content. One who comes second is accounted for by this."""
        with self._lock:
            if digest in self._flying:
                self._waiting.setdefault(digest, []).append(uri)
            elif (other := self._accounts.first(digest)) is not None:
                self._account(Entry(uri, DUPLICATE, other))
            else:
                self._flying[digest], self._digests[uri] = uri, digest
                return True
        return False

    def _landed(self, uri: str) -> list[str]:
        digest = self._digests.pop(uri, "")
        self._flying.pop(digest, None)
        return self._waiting.pop(digest, [])

    # ------------------------------------------------------------ rows

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        with self._lock:
            full = len(self._pending) + self._reserved + count > self.rows or self._bytes >= PART_BYTES
            if self._pending and full:
                self._cut()
            self._reserved += count
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= count

    def add(self, chunks: Sequence[Chunk], vectors: Sequence[Vector]) -> None:
        """All of them or none: raises EmbedError where a vector is none."""
        rows = [_row(chunk, vector, self._folder.space.dim) for chunk, vector in zip(chunks, vectors, strict=True)]
        with self._lock:
            for row in rows:
                self._pending.append(row)
                self._bytes += row.vector.nbytes + len(row.text) + len(row.metadata) + len(row.uri)
                self._accounts.embedded(row.uri, row.content_hash)
                for uri in self._landed(row.uri):
                    self._account(Entry(uri, DUPLICATE, row.uri))

    def account(self, entry: Entry) -> None:
        with self._lock:
            self._account(entry)
            for uri in self._landed(entry.uri):
                self._account(Entry(uri, FAILED, f"as {entry.uri}: {entry.why}", entry.final))

    def _account(self, entry: Entry) -> None:
        self._entries.append(entry)
        if entry.state != NOTED:
            self._accounts.settle(entry)
        if len(self._entries) >= ENTRIES * self.rows:
            with suppress(Transient):  # then with the next one
                self._cut()

    def _cut(self) -> None:
        """Put the part there. A Transient leaves everything as it is, to be tried again."""
        self._check()
        facts = facts_of(self.piece, self.term, self._number, self._folder.space)
        data = encode(self._pending, self._entries, self._folder.space, facts)
        name = self._folder.part_name(self.piece, self.term, self._number)
        self._folder.store.put(name, data)
        self._check_after(name)
        self.parts.append(Listed(name, len(self._pending), hashlib.sha256(data).hexdigest(), len(self._entries)))
        self.written += 1
        self._number += 1
        self._pending, self._entries, self._bytes = [], [], 0

    def _check_after(self, name: str) -> None:
        """The lease may have been lost between the look at it and the put. Then whoever ends the piece takes away what
        does not count; if that is done already, it is for us to do."""
        try:
            self._check()
        except LeaseLost:
            done = self._folder.done(self.piece)
            if done is not None and done.term > self.term and name not in {part.name for part in done.parts}:
                self._folder.store.remove(name)
            raise

    def flush(self) -> None:
        with self._lock:
            if self._pending or self._entries:
                self._cut()

    def finish(self) -> Done:
        """The record of the piece; and what counts no more is taken away."""
        self.flush()
        self._check()
        digest = self._accounts.digest()
        counts = self._accounts.counts()
        done = Done(self.piece, self.term, digest.count, str(digest), counts, self.parts)
        self._folder.finish(done)
        listed = {part.name for part in self.parts}
        for name in self._folder.part_names(self.piece):
            if name not in listed:
                self._folder.store.remove(name)
        return done


def _row(chunk: Chunk, vector: Vector, dim: int) -> Row:
    import numpy as np

    values: Any = np.ascontiguousarray(vector.values, np.float32)
    if values.shape != (dim,):
        raise TypeError(f"a vector of shape {values.shape}; the model says it has {dim} dimensions")
    if not np.isfinite(values).all():
        raise EmbedError("its vector holds NaN or infinity")
    rest = dict(chunk.metadata)
    digest, width, height = (rest.pop(name, None) for name in ("content_hash", "width", "height"))
    metadata = json.dumps(rest, ensure_ascii=False, default=str)
    return Row(chunk.id, chunk.uri, digest, width, height, chunk.text, metadata, values)
