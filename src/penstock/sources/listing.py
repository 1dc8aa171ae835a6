"""The uris and changes of a listing so far, kept on disk."""

from __future__ import annotations

import hashlib
import pickle
import sqlite3

from penstock.core.records import Unreadable, Upsert


def digest_of(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


class ListingLog:
    """The uris and changes of a listing, in a temporary file: memory stays as it is, however long the listing."""

    def __init__(self) -> None:
        self.complete = True
        """False if whole files are missing."""
        # An unnamed database is a file that vanishes with the connection.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4096;"
            "CREATE TABLE names (uri BLOB PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE changes (uri BLOB PRIMARY KEY, change BLOB NOT NULL);"
            "BEGIN"
        )

    def earlier(self, uri: str, digest: bytes = b"") -> bytes | None:
        """The digest that the uri was named with before; None the first time."""
        if self._db.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (digest_of(uri), digest)).rowcount:
            return None
        row = self._db.execute("SELECT digest FROM names WHERE uri = ?", (digest_of(uri),)).fetchone()
        return bytes(row[0])

    def add(self, change: Upsert | Unreadable) -> None:
        uri = change.item.uri if isinstance(change, Upsert) else change.uri
        pickled = pickle.dumps(change, pickle.HIGHEST_PROTOCOL)
        self._db.execute("INSERT OR REPLACE INTO changes VALUES (?, ?)", (digest_of(uri), pickled))

    def get(self, uri: str) -> Upsert | Unreadable | None:
        row = self._db.execute("SELECT change FROM changes WHERE uri = ?", (digest_of(uri),)).fetchone()
        # Written by this process, into a file that has no name.
        change: Upsert | Unreadable | None = pickle.loads(row[0]) if row else None
        return change

    def close(self) -> None:
        self._db.close()
