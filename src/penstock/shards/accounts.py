"""What became of every input of a piece. In a temporary file: the parts are the record, and this is read from them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable

from penstock.shards.format import EMBEDDED, FAILED, NOTED, STATES, Digest, Entry, Part

_SCHEMA = """
PRAGMA journal_mode=OFF;
PRAGMA synchronous=OFF;
PRAGMA cache_size=-1024;
CREATE TABLE inputs (uri TEXT PRIMARY KEY, state TEXT, final INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE contents (hash TEXT PRIMARY KEY, uri TEXT NOT NULL) WITHOUT ROWID;
"""


class Accounts:
    def __init__(self, *, again: bool = False) -> None:
        """`again`: whatever failed is to be tried again, and not only what may pass."""
        self._again = again
        self._lock = threading.Lock()
        # An unnamed database is a file that vanishes with the connection.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # ------------------------------------------------------------ what is known

    def take_in(self, part: Part) -> bool:
        """What an earlier worker left. False, and nothing is taken in, if some of its images are known as embedded."""
        uris, hashes = (part.table.column(name).to_pylist() for name in ("uri", "content_hash"))
        with self._lock:
            if any(self._embedded(uri) for uri in uris):
                return False
            self._db.execute("BEGIN")
            self._settle((uri, EMBEDDED, True) for uri in uris)
            known = [(digest, uri) for digest, uri in zip(hashes, uris, strict=True) if digest]
            self._db.executemany("INSERT OR IGNORE INTO contents VALUES (?, ?)", known)
            entries = (entry for entry in part.entries if entry.state != NOTED)
            self._settle((e.uri, e.state, e.final and not (self._again and e.state == FAILED)) for e in entries)
            self._db.execute("COMMIT")
        return True

    def _embedded(self, uri: str) -> bool:
        found = self._db.execute("SELECT 1 FROM inputs WHERE uri = ? AND state = ?", (uri, EMBEDDED)).fetchone()
        return found is not None

    def told(self, uri: str) -> bool:
        """The source has told this one. True if there is something to do for it."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO inputs VALUES (?, NULL, 0)", (uri,))
            (final,) = self._db.execute("SELECT final FROM inputs WHERE uri = ?", (uri,)).fetchone()
            return not final

    def first(self, digest: str) -> str | None:
        """The uri of the embedded image with this content."""
        with self._lock:
            found = self._db.execute("SELECT uri FROM contents WHERE hash = ?", (digest,)).fetchone()
            return found[0] if found else None

    # ------------------------------------------------------------ what happens

    def embedded(self, uri: str, digest: str | None) -> None:
        with self._lock:
            self._settle([(uri, EMBEDDED, True)])
            if digest:
                self._db.execute("INSERT OR IGNORE INTO contents VALUES (?, ?)", (digest, uri))

    def settle(self, entry: Entry) -> None:
        with self._lock:
            self._settle([(entry.uri, entry.state, entry.final)])

    def _settle(self, rows: Iterable[tuple[str, str, bool]]) -> None:
        self._db.executemany(
            "INSERT INTO inputs VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state,"
            " final = excluded.final",
            rows,
        )

    # ------------------------------------------------------------ sums

    def counts(self) -> dict[str, int]:
        with self._lock:
            found = dict(self._db.execute("SELECT state, count(*) FROM inputs GROUP BY state"))
        return {state: found.get(state, 0) for state in STATES}

    def open(self) -> int:
        """Inputs that nothing has become of."""
        with self._lock:
            count: int = self._db.execute("SELECT count(*) FROM inputs WHERE state IS NULL").fetchone()[0]
            return count

    def digest(self) -> Digest:
        digest = Digest()
        with self._lock:
            for (uri,) in self._db.execute("SELECT uri FROM inputs"):
                digest.add(uri)
        return digest
