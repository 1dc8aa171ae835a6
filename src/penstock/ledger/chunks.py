"""Chunks in the ledger: intended before they can reach the sink, acknowledged after its flush.

Whatever a crash leaves in the index, the ledger knows the id and can take it out when the document has moved on. A
chunk bears the last attempt at its document in which it occurred: once the document has been read to its end, those
that bear an older attempt are stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from penstock.engine.journal import ChunkEntry, Match, Stale
from penstock.ledger.alerts import record
from penstock.ledger.database import ROWS, Database, one_step, pages


class Chunks(Database):
    def digests(self, document: int, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Of these chunks of a document, those that are acknowledged, with their digests."""
        found: dict[bytes, int] = {}
        for page in pages(ids, ROWS):
            marks = ",".join("?" * len(page))
            with self._turn() as db:
                for id, digest in one_step(
                    db,
                    f"hex(id), digest FROM chunks WHERE document = ? AND acked > 0 AND id IN ({marks})",
                    document,
                    *page,
                ):
                    found[bytes.fromhex(id)] = digest
        return found

    def intend(self, entries: Sequence[ChunkEntry]) -> None:
        """These may be in the sink from now on.

        What the sink has beside a vector is in doubt until the acknowledgement: no digest equals 0.
        """
        with self._transaction() as db:
            for page in pages(entries, ROWS):
                values = ",".join(["(?,?,?,?,?,0)"] * len(page))
                db.execute(
                    f"INSERT INTO chunks VALUES {values} ON CONFLICT DO UPDATE SET"
                    " attempt = excluded.attempt, digest = 0",
                    [*chain.from_iterable(page)],
                )

    def keep(self, document: int, attempt: int, ids: Sequence[bytes]) -> None:
        """These chunks occur in the document again, unchanged."""
        with self._transaction() as db:
            for page in pages(ids, 500):
                marks = ",".join("?" * len(page))
                db.execute(
                    f"UPDATE chunks SET attempt = ? WHERE document = ? AND id IN ({marks})", (attempt, document, *page)
                )

    def same_content(self, contents: Sequence[int], before: int) -> dict[int, bytes]:
        """For each content that a run before this one brought into the index: the id of a chunk that holds it."""
        found: dict[int, bytes] = {}
        for page in pages(contents, ROWS):
            marks = ",".join("?" * len(page))
            with self._turn() as db:
                for content, id in one_step(
                    db,
                    f"content, hex(id) FROM chunks WHERE content IN ({marks}) AND acked BETWEEN 1 AND ?",
                    *page,
                    before - 1,
                ):
                    found[content] = bytes.fromhex(id)
        return found

    def contents(self, before: int, limit: int = ROWS) -> Iterator[list[tuple[int, bytes]]]:
        """What runs before this one brought into the index: contents in their order, with the id of a chunk each."""
        after = -(1 << 63)
        sql = (
            "SELECT content, min(id) FROM chunks WHERE content >= ? AND acked BETWEEN 1 AND ?"
            " GROUP BY content ORDER BY content LIMIT ?"
        )
        while after < 1 << 63 and (rows := self._read(sql, after, before - 1, limit)):
            yield rows
            after = rows[-1][0] + 1

    def acknowledge(self, entries: Sequence[ChunkEntry], run: int, matches: Sequence[Match] = ()) -> None:
        """The sink has these for good."""
        with self._transaction() as db:
            for page in pages(entries, ROWS):
                values = ",".join([f"(?,?,?,?,?,{run:d})"] * len(page))
                db.execute(
                    f"INSERT INTO chunks VALUES {values} ON CONFLICT DO UPDATE SET"
                    " attempt = excluded.attempt, acked = excluded.acked, digest = excluded.digest",
                    [*chain.from_iterable(page)],
                )
            record(db, matches)

    def stale(self, documents: Sequence[int], limit: int) -> list[Stale]:
        """Chunks of these documents that did not occur in the last attempt at theirs, `limit` at most."""
        found: list[Stale] = []
        for page in pages(documents, ROWS):
            marks = ",".join("?" * len(page))
            stale = (
                "SELECT c.document, c.id FROM documents d JOIN chunks c ON c.document = d.id"
                f" WHERE d.id IN ({marks}) AND c.attempt < d.attempt LIMIT ?"
            )
            with self._turn() as db:
                rows = one_step(db, f"document, hex(id) FROM ({stale})", *page, limit - len(found))
            found += [Stale(document, bytes.fromhex(id)) for document, id in rows]
            if len(found) == limit:
                break
        return found

    def retract(self, chunks: Sequence[Stale]) -> None:
        """These may be missing from the sink from now on."""
        with self._transaction() as db:
            for page in pages(chunks, ROWS):
                db.execute(f"UPDATE chunks SET acked = 0 WHERE {_any_of(page)}", [*chain.from_iterable(page)])

    def forget(self, chunks: Sequence[Stale]) -> None:
        """These are out of the sink."""
        with self._transaction() as db:
            for page in pages(chunks, ROWS):
                db.execute(f"DELETE FROM chunks WHERE {_any_of(page)}", [*chain.from_iterable(page)])
                marks = ",".join("?" * len(page))
                db.execute(f"DELETE FROM refused WHERE id IN ({marks})", [chunk.id for chunk in page])

    def some_acknowledged(self, run: int, limit: int) -> list[tuple[int, bytes]]:
        """(document, id) of some chunks that this run acknowledged, or else any run."""
        sql = "SELECT document, id FROM chunks WHERE acked {} ? LIMIT ?"
        return self._read(sql.format("="), run, limit) or self._read(sql.format(">"), 0, limit)

    def indexed(self, documents: Sequence[int]) -> dict[int, int]:
        """How many acknowledged chunks each of these documents has, where it has any."""
        found: dict[int, int] = {}
        for page in pages(documents, ROWS):
            marks = ",".join("?" * len(page))
            found |= self._read(
                f"SELECT document, count(*) FROM chunks WHERE document IN ({marks}) AND acked > 0 GROUP BY document",
                *page,
            )
        return found

    def ids(self, document: int, limit: int = 500) -> Iterator[list[str]]:
        """The ids of a document's acknowledged chunks, in pages."""
        after = b""
        sql = "SELECT id FROM chunks WHERE document = ? AND id > ? AND acked > 0 ORDER BY id LIMIT ?"
        while rows := self._read(sql, document, after, limit):
            yield [id.hex() for (id,) in rows]
            after = rows[-1][0]

    def entries(self, document: int, attempt: int, limit: int = ROWS) -> Iterator[list[ChunkEntry]]:
        """A document's acknowledged chunks, as entries of that attempt, in pages."""
        after = b""
        sql = (
            "SELECT document, id, content, digest FROM chunks"
            " WHERE document = ? AND id > ? AND acked > 0 ORDER BY id LIMIT ?"
        )
        while rows := self._read(sql, document, after, limit):
            yield [ChunkEntry(number, id, content, digest, attempt) for number, id, content, digest in rows]
            after = rows[-1][1]

    def acknowledged(self, document: int, id: bytes) -> bool:
        return bool(self._read("SELECT 1 FROM chunks WHERE document = ? AND id = ? AND acked > 0", document, id))

    def origin(self, id: bytes) -> tuple[str, int] | None:
        """The uri of a chunk's document and the run that acknowledged it (0 for none). Reads the whole table, as people
        ask this, one chunk at a time."""
        rows = self._read(
            "SELECT d.uri, c.acked FROM chunks c JOIN documents d ON d.id = c.document WHERE c.id = ?", id
        )
        return (rows[0][0], rows[0][1]) if rows else None


def _any_of(chunks: Sequence[Stale]) -> str:
    """A condition that SQLite looks up; for `(document, id) IN (VALUES ...)` it reads the whole table."""
    return " OR ".join(["(document = ? AND id = ?)"] * len(chunks))
