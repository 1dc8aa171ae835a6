"""What was taken out of the index for good: a document, or a folder with all beneath it.

A removal is *pending* until the documents beneath it are out, so that a run can finish one that was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from penstock.ledger.database import UNDER, Database, pages, under

PAGE = 500

_PENDING = (
    "FROM removals r CROSS JOIN documents d ON d.uri = r.uri OR (d.uri >= r.uri || '/' AND d.uri < r.uri || '0')"
    " WHERE r.pending"
)


class Removal(NamedTuple):
    uri: str
    since: float


class Removals(Database):
    def add_removals(self, uris: Sequence[str], since: float | None = None) -> None:
        """Keep these and all beneath them out from now on. Their documents are still to be deleted."""
        with self._transaction() as db:
            for uri in uris:
                db.execute("INSERT OR IGNORE INTO removals VALUES (?, ?, true)", (uri, since or time.time()))

    def undo_removals(self, uri: str) -> None:
        """Let in again what was removed at or beneath this uri."""
        with self._transaction() as db:
            db.execute(f"DELETE FROM removals WHERE {UNDER}", under(uri))

    def removals_under(self, uri: str) -> list[str]:
        return [row[0] for row in self._read(f"SELECT uri FROM removals WHERE {UNDER}", *under(uri))]

    def removals(self) -> Iterator[Removal]:
        """By uri, a page at a time."""
        after = ""
        while rows := self._read("SELECT uri, since FROM removals WHERE uri > ? ORDER BY uri LIMIT ?", after, PAGE):
            yield from map(Removal._make, rows)
            after = rows[-1][0]

    def removed(self, uris: Sequence[str]) -> set[str]:
        """Of these uris, those that were removed, by themselves or with a folder above them."""
        if not self._read("SELECT 1 FROM removals LIMIT 1"):
            return set()
        above = {uri: [uri, *_folders(uri)] for uri in uris}
        removed: set[str] = set()
        for page in pages(sorted({each for one in above.values() for each in one}), PAGE):
            marks = ",".join("?" * len(page))
            removed.update(uri for (uri,) in self._read(f"SELECT uri FROM removals WHERE uri IN ({marks})", *page))
        return {uri for uri, folders in above.items() if not removed.isdisjoint(folders)}

    def removal_of(self, uri: str) -> Removal | None:
        """The removal that keeps this uri out: its own, or that of the nearest folder above it."""
        for each in (uri, *_folders(uri)):
            if rows := self._read("SELECT uri, since FROM removals WHERE uri = ?", each):
                return Removal(*rows[0])
        return None

    def pending_documents(self, limit: int) -> list[int]:
        """Documents that were removed and are not out yet."""
        return [document for (document,) in self._read(f"SELECT d.id {_PENDING} LIMIT ?", limit)]

    def pending_uris(self, limit: int) -> list[str]:
        return [uri for (uri,) in self._read(f"SELECT DISTINCT d.uri {_PENDING} LIMIT ?", limit)]

    def pending_removals(self, uris: Sequence[str]) -> bool:
        """Whether one of these is not out yet."""
        marks = ",".join("?" * len(uris))
        return bool(self._read(f"SELECT 1 FROM removals WHERE pending AND uri IN ({marks}) LIMIT 1", *uris))

    def settle_removals(self) -> None:
        """The documents of pending removals are out: their failures are cleared as well."""
        if not self._read("SELECT 1 FROM removals WHERE pending LIMIT 1"):
            return
        with self._transaction() as db:
            for (uri,) in db.execute("SELECT uri FROM removals WHERE pending").fetchall():
                db.execute(f"DELETE FROM failures WHERE {UNDER}", under(uri))
            db.execute(f"UPDATE removals SET pending = false WHERE pending AND uri NOT IN (SELECT r.uri {_PENDING})")


def _folders(uri: str) -> Iterator[str]:
    at = len(uri)
    while (at := uri.rfind("/", 0, at)) > 0:
        yield uri[:at]
