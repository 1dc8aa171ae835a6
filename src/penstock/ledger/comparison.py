"""Ledger and index held against each other by ids, on disk, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from penstock.ledger.database import blob, text_of
from penstock.ledger.opening import translated
from penstock.support import scratch


class Comparison:
    """Ledger and index, side by side: a temporary database next to the ledger's."""

    def __init__(self, path: Path, pages: Iterable[Sequence[str]]) -> None:
        self._path = path
        with self._failing():
            self._open()
        try:
            self._fill(pages)
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._db = scratch.database(
            "CREATE TABLE held (id BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE known (id BLOB PRIMARY KEY, document INTEGER NOT NULL, acked INTEGER, digest INTEGER)"
            " WITHOUT ROWID;"
        )

    def _fill(self, pages: Iterable[Sequence[str]]) -> None:
        self.total = 0
        with self._failing():
            self._db.execute("ATTACH ? AS ledger", (os.fsencode(self._path),))
            self._db.execute("BEGIN")
        for page in pages:
            self.total += len(page)
            with self._failing():
                self._db.executemany(
                    "INSERT INTO held VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                    [(blob(id),) for id in page],
                )
        with self._failing():
            self._db.execute("COMMIT")
            self._db.execute("INSERT INTO known SELECT id, document, acked, digest FROM ledger.chunks")

    def _failing(self) -> AbstractContextManager[None]:
        """Around each statement: its errors say what failed. The disk may be that of temporary files."""
        return translated(f"the ledger {self._path} cannot be compared with the index, in a temporary file")

    def missing(self, url: str = "") -> Iterator[tuple[int, bytes]]:
        """(document, id) acknowledged, and not in the index; of one sink of several, but what it refused."""
        yield from self._rows(
            "SELECT document, id FROM known WHERE acked > 0 AND id NOT IN (SELECT id FROM held)"
            " AND id NOT IN (SELECT id FROM ledger.refused WHERE url = ?) ORDER BY document",
            url,
        )

    def orphans(self) -> Iterator[str]:
        """In the index, and unknown to the ledger."""
        for (id,) in self._rows("SELECT id FROM held WHERE id NOT IN (SELECT id FROM known)"):
            yield text_of(id)

    def differing(self, digests: Mapping[str, int]) -> list[tuple[int, bytes]]:
        """(document, id) of those of these ids of which the ledger has another digest."""
        found: list[tuple[int, bytes]] = []
        for id, digest in digests.items():
            sql = "SELECT document, id FROM known WHERE id = ? AND acked > 0 AND digest <> ?"
            found += self._rows(sql, blob(id), digest)
        return found

    def doubled(self) -> Iterator[str]:
        for (id,) in self._rows("SELECT id FROM held WHERE times > 1"):
            yield text_of(id)

    def _rows(self, sql: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
        with self._failing():
            rows = self._db.execute(sql, parameters)
        while True:
            with self._failing():
                page = rows.fetchmany(500)
            if not page:
                return
            yield from page

    def close(self) -> None:
        self._db.close()
