"""A piece's share of what a source tells."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator

from penstock.core.contracts import Source
from penstock.core.records import Change, Delete, ListingEnd, Unreadable, Upsert
from penstock.shards.folder import piece_of, shard


def share(source: Source, piece: int, pieces: int) -> Iterator[Change]:
    """The changes of one piece, and what concerns all: whether the listing is complete."""
    source.select_container = lambda uri: not shard(uri) or piece_of(uri, pieces) == piece
    return (change for change in source.changes() if _whose(change, pieces) in (piece, None))


def _whose(change: Change, pieces: int) -> int | None:
    match change:
        case Upsert(item):
            return piece_of(item.uri, pieces)
        case Unreadable(uri, _, False) | Delete(uri):
            return piece_of(uri, pieces)
    return None


def _sharded(change: Change) -> bool:
    """Whether it is of a shard, or of all."""
    match change:
        case Upsert(item):
            return shard(item.uri) is not None
        case Unreadable(uri, _, listing):
            return listing or shard(uri) is not None
    return False


class Listing:
    """A source listed once for all pieces, in a temporary file: a worker that claims may get any of them. But for
    shards, which are listed with their piece."""

    def __init__(self, source: Source, pieces: int) -> None:
        self._source, self._pieces = source, pieces
        self._shards = self._complete = False
        self._db: sqlite3.Connection | None = None

    def of(self, piece: int) -> Iterator[Change]:
        if self._db is None:
            self._db = self._list()
        after = 0
        while rows := self._db.execute(
            "SELECT number, change FROM changes WHERE piece IN (?, 0) AND number > ? ORDER BY number LIMIT 256",
            (piece, after),
        ).fetchall():
            for _, told in rows:
                change = pickle.loads(told)  # written by this process, into a file that has no name
                if not (self._shards and _sharded(change)):
                    yield change
            after = rows[-1][0]
        if self._shards:
            # It is complete where both were: without the shards, and with those of the piece.
            changes = share(self._source, piece, self._pieces)
            yield from (c for c in changes if (self._complete if isinstance(c, ListingEnd) else _sharded(c)))
        elif self._complete:
            yield ListingEnd()

    def _list(self) -> sqlite3.Connection:
        db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4096;")
        db.execute("CREATE TABLE changes (number INTEGER PRIMARY KEY, piece INTEGER NOT NULL, change BLOB NOT NULL)")
        self._source.select_container = self._unless_shard
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO changes (piece, change) VALUES (?, ?)",
            (
                (_whose(change, self._pieces) or 0, pickle.dumps(change, pickle.HIGHEST_PROTOCOL))
                for change in self._told()
            ),
        )
        db.execute("CREATE INDEX by_piece ON changes (piece, number)")
        db.execute("COMMIT")
        return db

    def _told(self) -> Iterator[Change]:
        for change in self._source.changes():
            if isinstance(change, ListingEnd):
                self._complete = True
            else:
                yield change

    def _unless_shard(self, uri: str) -> bool:
        self._shards = self._shards or shard(uri) is not None
        return shard(uri) is None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
