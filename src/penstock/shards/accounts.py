"""The state of every input of a shard, in a temporary file: read from the parts, which are the record."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from penstock.shards.format import EMBEDDED, FAILED, NOTED, STATES, Digest, Entry, Part
from penstock.support import scratch

_SCHEMA = """
CREATE TABLE inputs (uri TEXT PRIMARY KEY, state TEXT, final INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE twins (uri TEXT NOT NULL, twin TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE contents (hash TEXT PRIMARY KEY, uri TEXT NOT NULL) WITHOUT ROWID;
"""


class Accounts:
    def __init__(self, *, again: bool = False) -> None:
        """`again`: try every failed input again, not only those whose failure may pass."""
        self._again = again
        self._lock = threading.Lock()
        self._db = scratch.database(_SCHEMA, cache=1 << 20)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # ------------------------------------------------------------ earlier parts

    def take_in(self, part: Part) -> bool:
        """Take in a part of an earlier worker. False, and nothing is, if one of its images is embedded already."""
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
        row = self._db.execute("SELECT 1 FROM inputs WHERE uri = ? AND state = ?", (uri, EMBEDDED)).fetchone()
        return row is not None

    def add(self, uri: str) -> bool:
        """Add an input that the source lists. False if its state is final."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO inputs VALUES (?, NULL, 0)", (uri,))
            (final,) = self._db.execute("SELECT final FROM inputs WHERE uri = ?", (uri,)).fetchone()
            return not final

    def first(self, digest: str) -> str | None:
        """The uri of the embedded image with this content."""
        with self._lock:
            row = self._db.execute("SELECT uri FROM contents WHERE hash = ?", (digest,)).fetchone()
            return row[0] if row else None

    # ------------------------------------------------------------ states

    def embedded(self, uri: str, digest: str | None) -> None:
        with self._lock:
            self._settle([(uri, EMBEDDED, True)])
            if digest:
                self._db.execute("INSERT OR IGNORE INTO contents VALUES (?, ?)", (digest, uri))

    def settle(self, entry: Entry) -> None:
        with self._lock:
            self._settle([(entry.uri, entry.state, entry.final)])

    def add_twin(self, uri: str, twin: str) -> None:
        """An input that failed as another one did, whose content it has."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO twins VALUES (?, ?)", (uri, twin))

    def failed(self, uris: Iterable[str]) -> set[str]:
        """Those of these inputs that failed for good, and their twins."""
        query = (
            "SELECT uri FROM inputs WHERE state = ? AND final"
            " AND (uri = ? OR uri IN (SELECT twin FROM twins WHERE uri = ?))"
        )
        with self._lock:
            return {row[0] for uri in uris for row in self._db.execute(query, (FAILED, uri, uri))}

    def _settle(self, rows: Iterable[tuple[str, str, bool]]) -> None:
        self._db.executemany(
            "INSERT INTO inputs VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state,"
            " final = excluded.final",
            rows,
        )

    # ------------------------------------------------------------ sums

    def counts(self) -> dict[str, int]:
        with self._lock:
            counts = dict(self._db.execute("SELECT state, count(*) FROM inputs GROUP BY state"))
        return {state: counts.get(state, 0) for state in STATES}

    def open(self) -> int:
        """Count the inputs without a state."""
        with self._lock:
            count: int = self._db.execute("SELECT count(*) FROM inputs WHERE state IS NULL").fetchone()[0]
            return count

    def digest(self) -> Digest:
        digest = Digest()
        with self._lock:
            for (uri,) in self._db.execute("SELECT uri FROM inputs"):
                digest.add(uri)
        return digest
