"""Writes the parts of one shard. A kill loses the current part at most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from penstock.core.errors import EmbedError, Rejected, SinkError, Transient
from penstock.core.records import Point
from penstock.core.schema import IndexSchema
from penstock.shards.accounts import Accounts
from penstock.shards.admitting import Admitting
from penstock.shards.folder import Done, Folder, facts_of
from penstock.shards.format import DUPLICATE, FAILED, NOTED, Entry, Listed, Part, PartBuilder, Row
from penstock.shards.leases import LeaseLost

PART_BYTES = 32 << 20
"""Of vectors and texts: a part is cut once it holds about as many."""
ENTRIES = 4
"""A part holds at most this many times as many entries as rows."""


class Writer(Admitting):
    """Collects points and entries, and writes them as parts.

    `admit(n)` is called before n chunks are embedded. No more than `rows` of them are ever embedded and in no part, so
    that a kill costs at most as many: where there is no room for more, the current part is cut first.
    """

    def __init__(
        self,
        folder: Folder,
        shard: int,
        term: int,
        rows: int,
        accounts: Accounts,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises LeaseLost once another worker has the shard."""
        super().__init__(rows)
        self.shard, self.term = shard, term
        self.parts: list[Listed] = []
        self.written = 0
        self._folder, self._accounts, self._check = folder, accounts, check
        self._number = 1
        self._part = PartBuilder(folder.space)
        self._entries: list[Entry] = []
        self._finished: tuple[Listed, bytes] | None = None
        """A part that is to be put into the folder: the store was away."""
        self._in_flight: dict[str, str] = {}
        """Contents on their way through the model: digest -> uri."""
        self._digests: dict[str, str] = {}
        """The same: uri -> digest."""
        self._twins: dict[str, list[str]] = {}
        """Other inputs with one of those contents."""

    def take_in(self, part: Part) -> None:
        """Take in a part of an earlier worker. It counts unless its images are in another part already: then its
        writer had lost the lease."""
        if self._accounts.take_in(part):
            self.parts.append(Listed(part.name, len(part.table), part.sha256, len(part.entries)))

    # ------------------------------------------------------------ contents

    def first(self, uri: str, digest: str) -> bool:
        """True if this content is new; else the input is accounted for as a duplicate."""
        with self._lock:
            if digest in self._in_flight:
                self._twins.setdefault(digest, []).append(uri)
            elif (other := self._accounts.first(digest)) is not None:
                if other != uri:  # listed twice
                    self._account(Entry(uri, DUPLICATE, other))
            else:
                self._in_flight[digest], self._digests[uri] = uri, digest
                return True
        return False

    def _leave(self, uri: str) -> list[str]:
        digest = self._digests.pop(uri, "")
        self._in_flight.pop(digest, None)
        return self._twins.pop(digest, [])

    # ------------------------------------------------------------ rows

    def add(self, points: Sequence[Point]) -> None:
        """Add points that were admitted. Raises Rejected for those whose vector cannot be kept: the others are."""
        rows: list[Row] = []
        reasons: dict[str, str] = {}
        for point in points:
            try:
                rows.append(_row(point, self._folder.schema))
            except EmbedError as error:
                reasons[point.id] = str(error)
            except SinkError:
                raise
            except Exception as error:  # a vector of a function of the user's may be anything
                reasons[point.id] = f"its vector cannot be kept: {type(error).__name__}: {error}"
        with self._changed:
            for row in rows:
                self._part.add(row)
                self._accounts.embedded(row.uri, row.content_hash)
                for uri in self._leave(row.uri):
                    self._account(Entry(uri, DUPLICATE, row.uri))
            self.withdraw(len(points))
        if reasons:
            raise Rejected(reasons)

    def account(self, entry: Entry) -> None:
        with self._lock:
            self._account(entry)
            for uri in self._leave(entry.uri):
                self._account(Entry(uri, FAILED, f"as {entry.uri}: {entry.why}", entry.final))
                self._accounts.add_twin(entry.uri, uri)

    def reopen(self, uris: Sequence[str]) -> None:
        """Let the next worker try these inputs again, those that failed for good: it was a component that failed."""
        with self._lock:
            again = self._accounts.failed(uris)
            for number, entry in enumerate(self._entries):
                if entry.uri in again and entry.state == FAILED:
                    again.discard(entry.uri)
                    self._entries[number] = entry._replace(final=False)
                    self._accounts.settle(self._entries[number])
            for uri in sorted(again):  # those in a part already
                self._account(Entry(uri, FAILED, "the model, a parser or the chunker failed", final=False))

    def _account(self, entry: Entry) -> None:
        self._entries.append(entry)
        if entry.state != NOTED:
            self._accounts.settle(entry)
        if len(self._entries) >= ENTRIES * self.rows:
            with suppress(Transient):  # the next cut writes it
                self._cut()

    def _held(self) -> int:
        """Count the rows that are in no part of the folder yet."""
        return self._part.rows + (self._finished[0].rows if self._finished else 0)

    def _large(self) -> bool:
        return self._finished is not None or self._part.nbytes >= PART_BYTES

    def _cut(self) -> None:
        """Put a part into the folder: the finished one, if there is one, else the current one."""
        self._check()
        if self._finished is None:
            self._finished = self._finish()
        part, data = self._finished
        self._folder.store.put(part.name, data)
        self._check_after(part.name)
        self.parts.append(part)
        self.written += 1
        self._finished = None

    def _finish(self) -> tuple[Listed, bytes]:
        facts = facts_of(self.shard, self.term, self._number, self._folder.space)
        name = self._folder.part_name(self.shard, self.term, self._number)
        part, entries = self._part, self._entries
        data = part.finish(entries, facts)
        self._part, self._entries = PartBuilder(self._folder.space), []
        self._number += 1
        return Listed(name, part.rows, hashlib.sha256(data).hexdigest(), len(entries)), data

    def _check_after(self, name: str) -> None:
        """Raise LeaseLost if the lease was lost just before the put. The worker that finishes the shard removes parts
        that do not count; if it has finished already, remove ours."""
        try:
            self._check()
        except LeaseLost:
            done = self._folder.done(self.shard)
            if done is not None and done.term > self.term and name not in {part.name for part in done.parts}:
                self._folder.store.remove(name)
            raise

    def flush(self) -> None:
        with self._lock:
            while self._held() or self._entries:
                self._cut()

    def finish(self) -> Done:
        """Write the record of the shard, and remove parts that do not count."""
        self.flush()
        self._check()
        digest = self._accounts.digest()
        counts = self._accounts.counts()
        done = Done(self.shard, self.term, digest.count, str(digest), counts, self.parts)
        self._folder.finish(done)
        listed = {part.name for part in self.parts}
        for name in self._folder.part_names(self.shard):
            if name not in listed:
                self._folder.store.remove(name)
        return done

    def close(self) -> None:
        """Drop the current part."""
        self._part.close()


def _row(point: Point, schema: IndexSchema) -> Row:
    import numpy as np

    chunk, dim = point.chunk, schema.only.dim
    values: Any = np.ascontiguousarray(point.vectors[schema.only_name].values, np.float32)
    if values.shape != (dim,):
        raise SinkError(f"a vector of shape {values.shape}; the model says it has {dim} dimensions")
    if not np.isfinite(values).all():
        raise EmbedError("its vector holds NaN or infinity")
    rest = dict(chunk.metadata)
    digest, width, height = (rest.pop(name, None) for name in ("content_hash", "width", "height"))
    metadata = (
        json.dumps(rest, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
    )  # no lone surrogates
    return Row(chunk.id, chunk.uri, digest, width, height, chunk.text, metadata, values)
