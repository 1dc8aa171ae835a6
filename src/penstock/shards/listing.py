"""The changes of a source that belong to one shard."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING

from penstock.core.contracts import Source
from penstock.core.records import Change, Delete, ListingEnd, Unreadable, Upsert
from penstock.shards.folder import container_of, shard_of
from penstock.support import scratch

if TYPE_CHECKING:
    import sqlite3


def share(source: Source, shard: int, shards: int) -> Iterator[Change]:
    """The changes of one shard, and those that concern all: whether the listing is complete."""
    source.select_container = lambda uri: not container_of(uri) or shard_of(uri, shards) == shard
    return (change for change in source.changes() if _shard(change, shards) in (shard, None))


def _shard(change: Change, shards: int) -> int | None:
    match change:
        case Upsert(item):
            return shard_of(item.uri, shards)
        case Unreadable(uri, _, False) | Delete(uri):
            return shard_of(uri, shards)
    return None


def _in_container(change: Change) -> bool:
    """Whether a change is of a container, or concerns all."""
    match change:
        case Upsert(item):
            return container_of(item.uri) is not None
        case Unreadable(uri, _, listing):
            return listing or container_of(uri) is not None
    return False


class Listing:
    """A source listed once for all shards, in a temporary file, as a worker that claims may get any of them. Containers
    are not in it: each is listed with its shard."""

    def __init__(self, source: Source, shards: int) -> None:
        self._source, self._shards = source, shards
        self._containers = self._complete = False
        self._db: sqlite3.Connection | None = None

    def of(self, shard: int) -> Iterator[Change]:
        if self._db is None:
            self._db = self._list()
        after = 0
        while rows := self._db.execute(
            "SELECT number, change FROM changes WHERE shard IN (?, 0) AND number > ? ORDER BY number LIMIT 256",
            (shard, after),
        ).fetchall():
            for _, pickled in rows:
                change = pickle.loads(pickled)  # written by this process, into a file that has no name
                if not (self._containers and _in_container(change)):
                    yield change
            after = rows[-1][0]
        if self._containers:
            # Complete if both listings were: the one without containers, and that of the shard's containers.
            changes = share(self._source, shard, self._shards)
            yield from (c for c in changes if (self._complete if isinstance(c, ListingEnd) else _in_container(c)))
        elif self._complete:
            yield ListingEnd()

    def _list(self) -> sqlite3.Connection:
        db = scratch.database(
            "CREATE TABLE changes (number INTEGER PRIMARY KEY, shard INTEGER NOT NULL, change BLOB NOT NULL)"
        )
        self._source.select_container = self._not_in_container
        rows = (
            (_shard(change, self._shards) or 0, pickle.dumps(change, pickle.HIGHEST_PROTOCOL)) for change in self._all()
        )
        try:
            db.execute("BEGIN")
            db.executemany("INSERT INTO changes (shard, change) VALUES (?, ?)", rows)
            db.execute("CREATE INDEX by_shard ON changes (shard, number)")
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _all(self) -> Iterator[Change]:
        for change in self._source.changes():
            if isinstance(change, ListingEnd):
                self._complete = True
            else:
                yield change

    def _not_in_container(self, uri: str) -> bool:
        self._containers = self._containers or container_of(uri) is not None
        return container_of(uri) is None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
