"""`verify`: prove that parts are complete, or list what is missing. Holds one part at a time in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from penstock.core.contracts import Source
from penstock.core.errors import SourceError
from penstock.core.records import Unreadable, Upsert
from penstock.shards import store as stores
from penstock.shards.folder import Done, Folder, shard_of
from penstock.shards.format import DUPLICATE, EMBEDDED, FAILED, NOTED, STATES, Digest, Entry, Listed, Part
from penstock.support import scratch

NAMED = 100
"""Troubles and failures that are listed, at most."""


@dataclass(frozen=True, slots=True)
class Verified:
    url: str
    shards: int
    finished: int
    parts: int
    rows: int
    total: int
    """Rows that there should be, by the records of finished shards."""
    counts: Mapping[str, int]
    """Inputs by state: `embedded`, `duplicate`, `failed`, `skipped`."""
    alike: int
    """Images whose content was embedded in another shard as well."""
    troubles: tuple[str, ...]
    """Everything that is wrong; NAMED of them at most."""
    wrong: int
    """How many troubles there are."""
    failures: tuple[tuple[str, str], ...]
    """Inputs that failed, or that could be read in part only, and why; NAMED of them at most."""

    @property
    def ok(self) -> bool:
        """The parts are complete. Inputs may have failed: they are accounted for."""
        return not self.wrong

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


def verify(
    out: str | os.PathLike[str],
    progress: Callable[[Verified], None] | None = None,
    *,
    source: Source | None = None,
    storage: Mapping[str, Any] | None = None,
) -> Verified:
    """Read every part, and compare it with the records of the shards.

    Every shard is finished; every part that counts exists, to the bit; ids and inputs occur once, in the shard they
    belong to; and the inputs accounted for are exactly those that the source listed, by a digest. A `source` is listed
    again and compared by name: inputs that came and went since are troubles.
    """
    folder = Folder.open(stores.at(out, storage))
    with closing(_Proof(folder, progress)) as proof:
        return proof.run(source)


class _Proof:
    def __init__(self, folder: Folder, progress: Callable[[Verified], None] | None) -> None:
        self._folder, self._progress = folder, progress
        self._finished = self._parts = self._rows = self._total = self._wrong = 0
        self._counts = dict.fromkeys(STATES, 0)
        self._troubles: list[str] = []
        self._failures: list[tuple[str, str]] = []
        self._db = scratch.database(
            "CREATE TABLE inputs (shard INTEGER, uri TEXT, state TEXT NOT NULL, why TEXT NOT NULL,"
            " part INTEGER NOT NULL, PRIMARY KEY (shard, uri)) WITHOUT ROWID;"
            "CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE contents (hash TEXT PRIMARY KEY) WITHOUT ROWID;",
            cache=8 << 20,
        )
        self._alike = 0

    def close(self) -> None:
        self._db.close()

    def run(self, source: Source | None) -> Verified:
        listed: set[str] = set()
        finished = self._folder.finished()
        for shard in range(1, self._folder.shards + 1):
            done = self._done(shard, finished.get(shard, ""))
            if done is None:
                continue
            self._finished += 1
            self._total += sum(part.rows for part in done.parts)
            listed |= {part.name for part in done.parts}
            self._shard(done)
            if source is None:
                self._db.execute("DELETE FROM inputs")  # no other shard has the same input
        for name in self._folder.part_names():
            if name not in listed and int(name[5:9]) in finished:
                self._trouble(f"{name} does not count, as its writer had lost the lease: remove it")
        if source is not None:
            self._compare(source)
        return self._so_far()

    def _done(self, shard: int, name: str) -> Done | None:
        try:
            done = self._folder.record(shard, name) if name else None
        except SourceError as error:
            self._trouble(str(error))
            return None
        if done is None:
            self._trouble(f"shard {shard} of {self._folder.shards} is not finished")
        return done

    def _shard(self, done: Done) -> None:
        shard = done.shard
        for listed in done.parts:
            try:
                part = self._folder.read(listed.name)
            except SourceError as error:
                self._trouble(str(error))
                continue
            self._part(shard, listed, part)
            if self._progress:
                self._progress(self._so_far())
        counts = dict.fromkeys(STATES, 0)
        digest = Digest()
        for uri, state, why in self._db.execute("SELECT uri, state, why FROM inputs WHERE shard = ?", (shard,)):
            counts[state] += 1
            digest.add(uri)
            if state == DUPLICATE and not self._is_embedded(shard, why):
                self._trouble(f"{uri} has the content of {why}, which is not embedded")
            elif state == FAILED:
                self._fail([(uri, why)])
        if (digest.count, str(digest)) != (done.inputs, done.digest):
            self._trouble(f"shard {shard}: the {digest.count} inputs accounted for are not the {done.inputs} listed")
        elif counts != done.counts:
            self._trouble(f"shard {shard}: {counts} by the parts, {dict(done.counts)} by the record of the shard")
        self._counts = {state: self._counts[state] + counts[state] for state in STATES}

    def _part(self, shard: int, listed: Listed, part: Part) -> None:
        self._parts += 1
        self._rows += len(part.table)
        if part.sha256 != listed.sha256:
            self._trouble(f"{listed.name} has changed since its shard was finished")
        fingerprints = set(part.table.column("model").unique().to_pylist())
        if fingerprints - {self._folder.space.fingerprint}:
            self._trouble(f"{listed.name} holds vectors of another model")
        ids, uris, contents = (part.table.column(name).to_pylist() for name in ("id", "uri", "content_hash"))
        entries = [Entry(uri, EMBEDDED, "") for uri in uris]
        entries += [entry for entry in part.entries if entry.state != NOTED]
        self._fail((entry.uri, entry.why) for entry in part.entries if entry.state == NOTED)
        for entry in entries:
            if shard_of(entry.uri, self._folder.shards) != shard:
                self._trouble(f"{listed.name}: {entry.uri} does not belong to shard {shard}")
        self._db.execute("BEGIN")
        if twice := self._known("INSERT OR IGNORE INTO ids VALUES (?)", [(id,) for id in ids]):
            self._trouble(f"{listed.name}: {twice} of its ids occur twice")
        self._alike += self._known("INSERT OR IGNORE INTO contents VALUES (?)", [(one,) for one in contents if one])
        rows = [(shard, entry.uri, entry.state, entry.why, self._parts) for entry in entries]
        if self._known("INSERT OR IGNORE INTO inputs VALUES (?, ?, ?, ?, ?)", rows):
            self._again(listed.name, shard, entries)
        self._db.execute("COMMIT")

    def _known(self, insert: str, rows: list[tuple[Any, ...]]) -> int:
        """Insert rows; gives how many were known before."""
        before = self._db.total_changes
        self._db.executemany(insert, rows)
        return len(rows) - (self._db.total_changes - before)

    def _again(self, name: str, shard: int, entries: list[Entry]) -> None:
        """Check the inputs of a part that are known already: those that failed may have been tried again, no others."""
        met: set[str] = set()
        for entry in entries:
            key = (shard, entry.uri)
            before = self._db.execute("SELECT state, part FROM inputs WHERE shard = ? AND uri = ?", key).fetchone()
            if before[1] != self._parts and before[0] == FAILED:
                row = (shard, entry.uri, entry.state, entry.why, self._parts)
                self._db.execute("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?)", row)
            elif before[1] != self._parts or entry.uri in met:
                self._trouble(f"{name}: {entry.uri} is accounted for twice")
            met.add(entry.uri)

    def _is_embedded(self, shard: int, uri: str) -> bool:
        row = self._db.execute("SELECT state FROM inputs WHERE shard = ? AND uri = ?", (shard, uri)).fetchone()
        return row is not None and row[0] == EMBEDDED

    def _compare(self, source: Source) -> None:
        """Delete the inputs that the source still lists: the others are gone from it."""
        complete = False
        with source:
            source.open()
            for change in source.changes():
                match change:
                    case Upsert(item):
                        if not self._remove(item.uri):
                            self._trouble(f"{item.uri} is in the source and not accounted for")
                    case Unreadable(uri, cause, listing=True):
                        self._trouble(f"{uri} cannot be listed: {cause}")
                    case Unreadable(uri):
                        self._remove(uri)
                        self._remove_beneath(uri)
                    case _:
                        complete = True
        if complete:
            for (uri,) in self._db.execute("SELECT uri FROM inputs"):
                self._trouble(f"{uri} is accounted for, and not in the source any more")

    def _remove(self, uri: str) -> bool:
        key = (shard_of(uri, self._folder.shards), uri)
        return bool(self._db.execute("DELETE FROM inputs WHERE shard = ? AND uri = ?", key).rowcount)

    def _remove_beneath(self, uri: str) -> None:
        """Delete the inputs in an archive: damaged since, it lists none of them."""
        beneath = uri.rstrip("/")
        keys = [(shard, f"{beneath}/", f"{beneath}0") for shard in range(1, self._folder.shards + 1)]
        self._db.executemany("DELETE FROM inputs WHERE shard = ? AND uri > ? AND uri < ?", keys)

    def _fail(self, failures: Iterable[tuple[str, str]]) -> None:
        self._failures += islice(failures, NAMED - len(self._failures))

    def _trouble(self, what: str) -> None:
        self._wrong += 1
        if len(self._troubles) < NAMED:
            self._troubles.append(what)

    def _so_far(self) -> Verified:
        return Verified(
            url=self._folder.store.url,
            shards=self._folder.shards,
            finished=self._finished,
            parts=self._parts,
            rows=self._rows,
            total=self._total,
            counts=dict(self._counts),
            alike=self._alike,
            troubles=tuple(self._troubles),
            wrong=self._wrong,
            failures=tuple(self._failures),
        )
