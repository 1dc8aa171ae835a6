"""`verify`: proves that parts are complete, or says what is missing. Holds one part at a time in memory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from penstock.core.contracts import Source
from penstock.core.errors import SourceError
from penstock.core.records import Unreadable, Upsert
from penstock.shards import store as stores
from penstock.shards.folder import Done, Folder, piece_of
from penstock.shards.format import DUPLICATE, EMBEDDED, FAILED, NOTED, STATES, Digest, Entry, Listed, Part

NAMED = 100
"""Troubles and failures that are named, where there are more."""


@dataclass(frozen=True, slots=True)
class Verified:
    url: str
    pieces: int
    finished: int
    parts: int
    rows: int
    total: int
    """Rows that there should be, as far as the finished pieces say."""
    counts: Mapping[str, int]
    """Inputs: `embedded`, `duplicate`, `failed`, `skipped`."""
    alike: int
    """Images whose content is in another piece as well, where it was embedded, too."""
    troubles: tuple[str, ...]
    """What is wrong; NAMED of them at most."""
    wrong: int
    """How many there are."""
    failures: tuple[tuple[str, str], ...]
    """Inputs that failed, or of which something could not be read, and why; NAMED of them at most."""

    @property
    def ok(self) -> bool:
        """The parts are complete. There may be failures: they are accounted for."""
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
    """Read every part, and hold it against the records of the pieces.

    Every piece is finished; every part that counts is there, to the bit; ids and inputs are there once, in the piece
    they belong to; and what is accounted for is exactly what the source told, by a digest. With `source`, it is listed
    again and compared by name: what came and went since is told.
    """
    folder = Folder.there(stores.at(out, storage))
    with closing(_Proof(folder, progress)) as proof:
        return proof.run(source)


class _Proof:
    def __init__(self, folder: Folder, progress: Callable[[Verified], None] | None) -> None:
        self._folder, self._progress = folder, progress
        self._finished = self._parts = self._rows = self._total = self._wrong = 0
        self._counts = dict.fromkeys(STATES, 0)
        self._troubles: list[str] = []
        self._failures: list[tuple[str, str]] = []
        self._db = sqlite3.connect("", isolation_level=None)  # an unnamed database is a file that vanishes
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;"
            "CREATE TABLE inputs (piece INTEGER, uri TEXT, state TEXT NOT NULL, why TEXT NOT NULL,"
            " part INTEGER NOT NULL, PRIMARY KEY (piece, uri)) WITHOUT ROWID;"
            "CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE contents (hash TEXT PRIMARY KEY) WITHOUT ROWID;"
        )
        self._alike = 0

    def close(self) -> None:
        self._db.close()

    def run(self, source: Source | None) -> Verified:
        listed: set[str] = set()
        finished = self._folder.finished()
        for piece in range(1, self._folder.pieces + 1):
            done = self._done(piece, finished.get(piece, ""))
            if done is None:
                continue
            self._finished += 1
            self._total += sum(part.rows for part in done.parts)
            listed |= {part.name for part in done.parts}
            self._piece(done)
            if source is None:
                self._db.execute("DELETE FROM inputs")  # an input of another piece cannot be the same one
        for name in self._folder.part_names():
            if name not in listed and int(name[5:9]) in finished:
                self._say(f"{name} does not count: a worker wrote it that had lost its lease. Remove it")
        if source is not None:
            self._compare(source)
        return self._so_far()

    def _done(self, piece: int, name: str) -> Done | None:
        try:
            done = self._folder.record(piece, name) if name else None
        except SourceError as error:
            self._say(str(error))
            return None
        if done is None:
            self._say(f"piece {piece} of {self._folder.pieces} is not finished")
        return done

    def _piece(self, done: Done) -> None:
        piece = done.piece
        for listed in done.parts:
            try:
                part = self._folder.read(listed.name)
            except SourceError as error:
                self._say(str(error))
                continue
            self._part(piece, listed, part)
            if self._progress:
                self._progress(self._so_far())
        counts = dict.fromkeys(STATES, 0)
        digest = Digest()
        for uri, state, why in self._db.execute("SELECT uri, state, why FROM inputs WHERE piece = ?", (piece,)):
            counts[state] += 1
            digest.add(uri)
            if state == DUPLICATE and not self._is_embedded(piece, why):
                self._say(f"{uri} has the content of {why}, which is not embedded")
            elif state == FAILED:
                self._fail([(uri, why)])
        if (digest.count, str(digest)) != (done.inputs, done.digest):
            self._say(f"piece {piece}: {digest.count} inputs are accounted for, which are not the {done.inputs} told")
        elif counts != done.counts:
            self._say(f"piece {piece}: the parts say {counts}, the record of the piece {dict(done.counts)}")
        self._counts = {state: self._counts[state] + counts[state] for state in STATES}

    def _part(self, piece: int, listed: Listed, part: Part) -> None:
        self._parts += 1
        self._rows += len(part.table)
        if part.sha256 != listed.sha256:
            self._say(f"{listed.name} is not as it was when the piece was finished")
        fingerprints = set(part.table.column("model").unique().to_pylist())
        if fingerprints - {self._folder.space.fingerprint}:
            self._say(f"{listed.name} holds vectors of another model")
        ids, uris, contents = (part.table.column(name).to_pylist() for name in ("id", "uri", "content_hash"))
        entries = [Entry(uri, EMBEDDED, "") for uri in uris]
        entries += [entry for entry in part.entries if entry.state != NOTED]
        self._fail((entry.uri, entry.why) for entry in part.entries if entry.state == NOTED)
        for entry in entries:
            if piece_of(entry.uri, self._folder.pieces) != piece:
                self._say(f"{listed.name}: {entry.uri} does not belong to piece {piece}")
        self._db.execute("BEGIN")
        if twice := self._known("INSERT OR IGNORE INTO ids VALUES (?)", [(id,) for id in ids]):
            self._say(f"{listed.name}: {twice} of its ids are there twice")
        self._alike += self._known("INSERT OR IGNORE INTO contents VALUES (?)", [(one,) for one in contents if one])
        told = [(piece, entry.uri, entry.state, entry.why, self._parts) for entry in entries]
        if self._known("INSERT OR IGNORE INTO inputs VALUES (?, ?, ?, ?, ?)", told):
            self._again(listed.name, piece, entries)
        self._db.execute("COMMIT")

    def _known(self, insert: str, rows: list[tuple[Any, ...]]) -> int:
        """How many of these were there before."""
        before = self._db.total_changes
        self._db.executemany(insert, rows)
        return len(rows) - (self._db.total_changes - before)

    def _again(self, name: str, piece: int, entries: list[Entry]) -> None:
        """Some of a part's inputs are known. Those that failed may have been tried again; no others."""
        met: set[str] = set()
        for entry in entries:
            key = (piece, entry.uri)
            before = self._db.execute("SELECT state, part FROM inputs WHERE piece = ? AND uri = ?", key).fetchone()
            if before[1] != self._parts and before[0] == FAILED:
                told = (piece, entry.uri, entry.state, entry.why, self._parts)
                self._db.execute("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?)", told)
            elif before[1] != self._parts or entry.uri in met:
                self._say(f"{name}: {entry.uri} is accounted for twice")
            met.add(entry.uri)

    def _is_embedded(self, piece: int, uri: str) -> bool:
        found = self._db.execute("SELECT state FROM inputs WHERE piece = ? AND uri = ?", (piece, uri)).fetchone()
        return found is not None and found[0] == EMBEDDED

    def _compare(self, source: Source) -> None:
        """Deletes what the source still tells: what is left is gone from it."""
        complete = False
        with source:
            source.open()
            for change in source.changes():
                match change:
                    case Upsert(item):
                        if not self._met(item.uri):
                            self._say(f"{item.uri} is in the source and not accounted for")
                    case Unreadable(uri, cause, listing=True):
                        self._say(f"{uri} cannot be listed: {cause}")
                    case Unreadable(uri):
                        self._met(uri)
                        self._met_beneath(uri)
                    case _:
                        complete = True
        if complete:
            for (uri,) in self._db.execute("SELECT uri FROM inputs"):
                self._say(f"{uri} is accounted for, and not in the source any more")

    def _met(self, uri: str) -> bool:
        key = (piece_of(uri, self._folder.pieces), uri)
        return bool(self._db.execute("DELETE FROM inputs WHERE piece = ? AND uri = ?", key).rowcount)

    def _met_beneath(self, uri: str) -> None:
        """An archive that has been damaged since tells nothing of what it held."""
        beneath = uri.rstrip("/")
        keys = [(piece, f"{beneath}/", f"{beneath}0") for piece in range(1, self._folder.pieces + 1)]
        self._db.executemany("DELETE FROM inputs WHERE piece = ? AND uri > ? AND uri < ?", keys)

    def _fail(self, failures: Iterable[tuple[str, str]]) -> None:
        self._failures += islice(failures, NAMED - len(self._failures))

    def _say(self, what: str) -> None:
        self._wrong += 1
        if len(self._troubles) < NAMED:
            self._troubles.append(what)

    def _so_far(self) -> Verified:
        return Verified(
            url=self._folder.store.url,
            pieces=self._folder.pieces,
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
