"""What a listing has told, kept on disk."""

from __future__ import annotations

import hashlib
import pickle
import sqlite3

from penstock.core.records import Unreadable, Upsert


def mark_of(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


class Told:
    """What a listing has told, in a temporary file: its memory stays as it is, however long the listing."""

    def __init__(self) -> None:
        self.complete = True
        """False if whole files are missing."""
        # An unnamed database is a file that vanishes with the connection.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4096;"
            "CREATE TABLE names (uri BLOB PRIMARY KEY, mark BLOB NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE changes (uri BLOB PRIMARY KEY, change BLOB NOT NULL);"
            "BEGIN"
        )

    def before(self, uri: str, mark: bytes = b"") -> bytes | None:
        """The mark that the uri was told with before; None the first time."""
        if self._db.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (mark_of(uri), mark)).rowcount:
            return None
        found: bytes = self._db.execute("SELECT mark FROM names WHERE uri = ?", (mark_of(uri),)).fetchone()[0]
        return found

    def keep(self, change: Upsert | Unreadable) -> None:
        uri = change.item.uri if isinstance(change, Upsert) else change.uri
        kept = pickle.dumps(change, pickle.HIGHEST_PROTOCOL)
        self._db.execute("INSERT OR REPLACE INTO changes VALUES (?, ?)", (mark_of(uri), kept))

    def kept(self, uri: str) -> Upsert | Unreadable | None:
        found = self._db.execute("SELECT change FROM changes WHERE uri = ?", (mark_of(uri),)).fetchone()
        # Written by this process, into a file that has no name.
        change: Upsert | Unreadable | None = pickle.loads(found[0]) if found else None
        return change

    def close(self) -> None:
        self._db.close()
