"""Writes the parts of one piece. What is embedded is never further from the store than the part in hand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from penstock.core.errors import EmbedError, Rejected, SinkError, Transient
from penstock.core.records import Point
from penstock.core.schema import IndexSchema
from penstock.engine.channel import Broken
from penstock.shards.accounts import Accounts
from penstock.shards.folder import Done, Folder, facts_of
from penstock.shards.format import DUPLICATE, FAILED, NOTED, Draft, Entry, Listed, Part, Row
from penstock.shards.leases import LeaseLost

PART_BYTES = 32 << 20
"""Of vectors and texts, about: a part is cut before it holds more."""
ENTRIES = 4
"""Times as many entries as rows may be in a part."""


class Writer:
    """Takes vectors and accounts, and makes parts of them.

    `admit(n)` is called before n chunks are embedded. No more than `rows` of them are ever embedded and in no part, so
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
        self._draft = Draft(folder.space)
        self._entries: list[Entry] = []
        self._whole: tuple[Listed, bytes] | None = None
        """A part that could not be put there yet."""
        self._reserved = 0
        self._released = False
        self._flying: dict[str, str] = {}
        """Contents on their way through the model: digest -> uri; and the other way round."""
        self._digests: dict[str, str] = {}
        self._waiting: dict[str, list[str]] = {}
        """Who has the same content as one of those."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

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

    def admit(self, count: int) -> None:
        """Wait for room for so many rows, or make it. More rows than a part holds pass alone. Raises Broken once the
        flow has failed: rows that were admitted may not come then."""
        with self._changed:
            while True:
                if self._released:
                    raise Broken("the flow has failed")
                rows, reserved = self._held(), self._reserved
                if rows and (rows + reserved + count > self.rows or self._large()):
                    self._cut()
                elif not rows and reserved and reserved + count > self.rows:
                    self._changed.wait()
                else:
                    break
            self._reserved += count

    def withdraw(self, count: int) -> None:
        """So many rows that were admitted will not come."""
        with self._changed:
            self._reserved -= count
            self._changed.notify_all()

    def release(self) -> None:
        """The flow has failed: nobody waits in `admit` any longer."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

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
                self._draft.add(row)
                self._accounts.embedded(row.uri, row.content_hash)
                for uri in self._landed(row.uri):
                    self._account(Entry(uri, DUPLICATE, row.uri))
            self._reserved -= len(points)
            self._changed.notify_all()
        if reasons:
            raise Rejected(reasons)

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

    def _held(self) -> int:
        """Rows that are in no part yet."""
        return self._draft.rows + (self._whole[0].rows if self._whole else 0)

    def _large(self) -> bool:
        return self._whole is not None or self._draft.nbytes >= PART_BYTES

    def _cut(self) -> None:
        """Put the part there: the one that could not be put before, if there is one, else the one in hand."""
        self._check()
        if self._whole is None:
            self._whole = self._finished()
        part, data = self._whole
        self._folder.store.put(part.name, data)
        self._check_after(part.name)
        self.parts.append(part)
        self.written += 1
        self._whole = None

    def _finished(self) -> tuple[Listed, bytes]:
        facts = facts_of(self.piece, self.term, self._number, self._folder.space)
        name = self._folder.part_name(self.piece, self.term, self._number)
        draft, entries = self._draft, self._entries
        data = draft.finished(entries, facts)
        self._draft, self._entries = Draft(self._folder.space), []
        self._number += 1
        return Listed(name, draft.rows, hashlib.sha256(data).hexdigest(), len(entries)), data

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
            while self._held() or self._entries:
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

    def close(self) -> None:
        """What is in no part is let go."""
        self._draft.close()


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
