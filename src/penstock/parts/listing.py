"""A piece's share of what a source tells."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterable, Iterator

from penstock.contracts import Source
from penstock.parts.folder import piece_of
from penstock.records import Change, Delete, Unreadable, Upsert


def share(changes: Iterable[Change], piece: int, pieces: int) -> Iterator[Change]:
    """The changes of one piece, and what concerns all: whether the listing is complete."""
    return (change for change in changes if _whose(change, pieces) in (piece, None))


def _whose(change: Change, pieces: int) -> int | None:
    match change:
        case Upsert(item):
            return piece_of(item.uri, pieces)
        case Unreadable(uri, _, False) | Delete(uri):
            return piece_of(uri, pieces)
    return None


class Listing:
    """A source listed once for all pieces, in a temporary file: a worker that claims may get any of them."""

    def __init__(self, source: Source, pieces: int) -> None:
        self._source, self._pieces = source, pieces
        self._db: sqlite3.Connection | None = None

    def of(self, piece: int) -> Iterator[Change]:
        if self._db is None:
            self._db = self._list()
        after = 0
        while rows := self._db.execute(
            "SELECT number, change FROM changes WHERE piece IN (?, 0) AND number > ? ORDER BY number LIMIT 256",
            (piece, after),
        ).fetchall():
            for _, change in rows:
                yield pickle.loads(change)  # written by this process, into a file that has no name
            after = rows[-1][0]

    def _list(self) -> sqlite3.Connection:
        db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4096;")
        db.execute("CREATE TABLE changes (number INTEGER PRIMARY KEY, piece INTEGER NOT NULL, change BLOB NOT NULL)")
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO changes (piece, change) VALUES (?, ?)",
            (
                (_whose(change, self._pieces) or 0, pickle.dumps(change, pickle.HIGHEST_PROTOCOL))
                for change in self._source.changes()
            ),
        )
        db.execute("CREATE INDEX by_piece ON changes (piece, number)")
        db.execute("COMMIT")
        return db

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
