"""Ledger and index held against each other by ids, on disk, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from penstock.ledger.database import blob, text_of
from penstock.support import scratch


class Comparison:
    """Ledger and index, side by side: a temporary database next to the ledger's."""

    def __init__(self, path: Path, pages: Iterable[Sequence[str]]) -> None:
        self._db = scratch.database(
            "CREATE TABLE held (id BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE known (id BLOB PRIMARY KEY, document INTEGER NOT NULL, acked INTEGER, digest INTEGER)"
            " WITHOUT ROWID;"
        )
        self._db.execute("ATTACH ? AS ledger", (str(path),))
        self.total = 0
        self._db.execute("BEGIN")
        for page in pages:
            self.total += len(page)
            self._db.executemany(
                "INSERT INTO held VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                [(blob(id),) for id in page],
            )
        self._db.execute("COMMIT")
        self._db.execute("INSERT INTO known SELECT id, document, acked, digest FROM ledger.chunks")

    def missing(self, url: str = "") -> Iterator[tuple[int, bytes]]:
        """(document, id) acknowledged, and not in the index; of one sink of several, but what it refused."""
        yield from self._db.execute(
            "SELECT document, id FROM known WHERE acked > 0 AND id NOT IN (SELECT id FROM held)"
            " AND id NOT IN (SELECT id FROM ledger.refused WHERE url = ?) ORDER BY document",
            (url,),
        )

    def orphans(self) -> Iterator[str]:
        """In the index, and unknown to the ledger."""
        for (id,) in self._db.execute("SELECT id FROM held WHERE id NOT IN (SELECT id FROM known)"):
            yield text_of(id)

    def document_of(self, id: str) -> int | None:
        rows = self._db.execute("SELECT document FROM known WHERE id = ?", (blob(id),)).fetchall()
        return rows[0][0] if rows else None

    def differing(self, digests: Mapping[str, int]) -> list[tuple[int, bytes]]:
        """(document, id) of those of these ids of which the ledger has another digest."""
        found = []
        for id, digest in digests.items():
            sql = "SELECT document, id FROM known WHERE id = ? AND acked > 0 AND digest <> ?"
            found += self._db.execute(sql, (blob(id), digest)).fetchall()
        return found

    def doubled(self) -> Iterator[str]:
        for (id,) in self._db.execute("SELECT id FROM held WHERE times > 1"):
            yield text_of(id)

    def close(self) -> None:
        self._db.close()
