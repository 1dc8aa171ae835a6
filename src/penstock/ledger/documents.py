"""Documents in the ledger: what is known of each, and how work on it ended."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from penstock.core.deletions import NOTHING_MISSING, Missing
from penstock.engine.journal import DONE, FAILED, OPEN, SKIPPED, Begun, Ending, Known
from penstock.ledger.database import UNDER, Database, one_step, pages, under


@dataclass(frozen=True, slots=True)
class Counts:
    """How much the ledger holds."""

    documents: int
    done: int
    open: int
    failed: int
    skipped: int
    chunks: int
    acknowledged: int
    failures: int
    accepted: int
    """Of the failures."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it ended last."""

    id: int
    uri: str
    fingerprint: str | None
    state: str
    seen: int
    run: int
    parser: str | None
    media_type: str | None
    bytes: int | None
    chunks: int | None
    tokens: int | None
    searchable: float | None
    """When it became so as it is, in seconds since 1970."""
    since_heard: float | None
    """How many seconds that was after it was heard of."""
    since_changed: float | None
    """... and after it was changed, where that is known."""


_FACTS = ("parser", "media_type", "parser_code", "bytes", "chunks", "tokens")
_SET_FACTS = ", ".join(f"{name} = ?" for name in _FACTS)
ACCEPTED = "(failures.accepted IS coalesce(documents.fingerprint, ''))"
"""Whether a failure is accepted: for the version of its document that the ledger knows."""
_FIELDS = tuple(field.name for field in fields(Document))
_UNFINISHED = f"(d.state <> '{DONE}' OR d.uri IN (SELECT uri FROM failures))"


class Documents(Database):
    def known(self, uris: Sequence[str]) -> dict[str, Known]:
        found: dict[str, Known] = {}
        for page in pages(uris, 500):
            marks = ",".join("?" * len(page))
            rows = self._read(
                "SELECT uri, id, fingerprint, state, seen, run, media_type, parser_code, revision FROM documents"
                f" WHERE uri IN ({marks})",
                *page,
            )
            found |= {row[0]: Known(*row[1:]) for row in rows}
        return found

    def mark_seen(self, documents: Sequence[int], run: int) -> None:
        """These are still in the source, unchanged."""
        with self._transaction() as db:
            for page in pages(documents, 500):
                marks = ",".join("?" * len(page))
                db.execute(f"UPDATE documents SET seen = ? WHERE id IN ({marks})", (run, *page))

    def mark_seen_under(self, uri: str, run: int) -> None:
        """What could not be read may still be there, and so may everything beneath it."""
        with self._transaction() as db:
            db.execute(f"UPDATE documents SET seen = ? WHERE {UNDER}", (run, *under(uri)))

    def under(self, uri: str) -> Iterator[int]:
        """The documents that `mark_seen_under` is about."""
        return (document for (document,) in self._read(f"SELECT id FROM documents WHERE {UNDER}", *under(uri)))

    def unseen(self, run: int, after: int = 0, limit: int = 2048) -> list[tuple[int, str]]:
        """Documents that a complete listing did not name, a page at a time."""
        return self._read(
            "SELECT id, uri FROM documents WHERE seen < ? AND id > ? ORDER BY id LIMIT ?", run, after, limit
        )

    def missing(self, run: int) -> Missing:
        """How much the documents of `unseen` are."""
        unseen = self._read("SELECT count(*) FROM documents WHERE seen < ?", run)[0][0]
        if not unseen:
            return NOTHING_MISSING
        documents, chunks = self._read(
            "SELECT count(DISTINCT d.id), count(*) FROM documents d CROSS JOIN chunks c ON c.document = d.id"
            " WHERE d.seen < ? AND NOT EXISTS (SELECT 1 FROM chunks o JOIN documents e ON e.id = o.document"
            " WHERE o.content = c.content AND e.seen >= ?)",
            run,
            run,
        )[0]
        before = self._read(
            "SELECT count(*) FROM chunks c JOIN documents d ON d.id = c.document WHERE d.run < ? OR d.attempt > 1", run
        )[0][0]
        return Missing(unseen, documents, chunks, before)

    def absent(self, present: Container[int]) -> Iterator[tuple[str, list[int]]]:
        """Uris of the documents that are not among these, and the contents of their chunks."""
        after = 0
        while rows := self._read("SELECT id, uri FROM documents WHERE id > ? ORDER BY id LIMIT 500", after):
            for after, uri in rows:
                if after not in present:
                    yield uri, [row[0] for row in self._read("SELECT content FROM chunks WHERE document = ?", after)]

    def begin(self, uris: Sequence[str], run: int) -> dict[str, Begun]:
        """These documents are to be worked on."""
        begun: dict[str, Begun] = {}
        with self._transaction() as db:
            for page in pages(uris, 250):
                marks = ",".join("?" * len(page))
                attempts = "uri, id, attempt, fingerprint IS NOT NULL FROM documents WHERE uri IN"
                for uri, number, attempt, ended in one_step(db, f"{attempts} ({marks})", *page):
                    begun[uri] = Begun(number, attempt + 1, had=True, ended=bool(ended))
                db.execute(
                    f"UPDATE documents SET state = ?, seen = ?, run = ?, attempt = attempt + 1 WHERE uri IN ({marks})",
                    (OPEN, run, run, *page),
                )
                new = [uri for uri in page if uri not in begun]
                if new:
                    values = ",".join(["(?,?,?,?,1)"] * len(new))
                    db.execute(
                        f"INSERT INTO documents (uri, state, seen, run, attempt) VALUES {values}",
                        [field for uri in new for field in (uri, OPEN, run, run)],
                    )
                    marks = ",".join("?" * len(new))
                    for uri, number, attempt, _ in one_step(db, f"{attempts} ({marks})", *new):
                        begun[uri] = Begun(number, attempt, had=False)
        return begun

    def outdate(self, documents: Sequence[int]) -> None:
        """Make all chunks of these documents, which are gone, stale."""
        with self._transaction() as db:
            for page in pages(documents, 500):
                marks = ",".join("?" * len(page))
                db.execute(
                    f"UPDATE documents SET state = ?, attempt = attempt + 1 WHERE id IN ({marks})", (OPEN, *page)
                )

    def finish(self, endings: Iterable[Ending]) -> None:
        """These documents have come to an end; their failures in earlier attempts are cleared."""
        with self._transaction() as db:
            for e in endings:
                columns = "fingerprint = ?, state = ?, revision = ?"
                values: list[object] = [e.fingerprint, e.state, e.revision]
                if e.fresh is not None:
                    columns += ", searchable = ?, since_heard = ?, since_changed = ?"
                    values += e.fresh
                if e.read:
                    columns += f", {_SET_FACTS}"
                    values += [e.facts.get(name) for name in _FACTS]
                db.execute(f"UPDATE documents SET {columns} WHERE id = ?", (*values, e.document))
                if not e.read:
                    continue
                # What one sink of several refused stays a failure for as long as the others have it.
                db.execute(
                    "DELETE FROM failures WHERE uri = ? AND attempt < ? AND NOT"
                    " (stage = 'write' AND place IN (SELECT lower(hex(id)) FROM refused))",
                    (e.uri, e.attempt),
                )

    def reopen(self, uris: Sequence[str]) -> None:
        """Those of these documents that failed for the first time are to be tried again by the next run."""
        with self._transaction() as db:
            for page in pages(uris, 250):
                marks = ",".join("?" * len(page))
                db.execute(
                    f"UPDATE documents SET state = ? WHERE uri IN ({marks})"
                    " AND uri NOT IN (SELECT uri FROM failures WHERE attempts > 1)",
                    (OPEN, *page),
                )

    def remove(self, documents: Sequence[int]) -> None:
        """These documents are gone, and their chunks are out of the index."""
        with self._transaction() as db:
            for page in pages(documents, 500):
                marks = ",".join("?" * len(page))
                db.execute(f"DELETE FROM failures WHERE uri IN (SELECT uri FROM documents WHERE id IN ({marks}))", page)
                db.execute(f"DELETE FROM refused WHERE id IN (SELECT id FROM chunks WHERE document IN ({marks}))", page)
                db.execute(f"DELETE FROM chunks WHERE document IN ({marks})", page)
                db.execute(f"DELETE FROM documents WHERE id IN ({marks})", page)

    def reset(self) -> None:
        """Forget every document: the index is not there any more."""
        with self._transaction() as db:
            for table in ("chunks", "documents", "failures", "cursors", "members", "undeleted", "refused"):
                db.execute(f"DELETE FROM {table}")
            db.execute("DELETE FROM meta WHERE key = 'in_sync'")
            db.execute("UPDATE removals SET pending = true")  # an index that is taken over may hold such documents

    def counts(self) -> Counts:
        states = dict(self._read("SELECT state, count(*) FROM documents GROUP BY state"))
        totals = self._read("SELECT count(*), coalesce(sum(acked > 0), 0) FROM chunks")[0]
        failures, accepted = self._read(
            f"SELECT count(*), coalesce(sum({ACCEPTED}), 0) FROM failures LEFT JOIN documents USING (uri)"
        )[0]
        return Counts(
            documents=sum(states.values()),
            **{state: states.get(state, 0) for state in (DONE, OPEN, FAILED, SKIPPED)},
            chunks=totals[0],
            acknowledged=totals[1],
            failures=failures,
            accepted=accepted,
        )

    def listed(self, after: str, limit: int, *, failing: bool = False) -> list[tuple[Document, float | None]]:
        """Documents by uri, a page at a time, and when the run began that worked on each last. `failing`: those of
        `unfinished`."""
        columns = ", ".join(f"d.{field}" for field in _FIELDS)
        rows = self._read(
            f"SELECT {columns}, (SELECT started FROM runs WHERE id <= d.run ORDER BY id DESC LIMIT 1) FROM documents d"
            f" WHERE d.uri > ? {f'AND {_UNFINISHED}' if failing else ''} ORDER BY d.uri LIMIT ?",
            after,
            limit,
        )
        return [(Document(*row[:-1]), row[-1]) for row in rows]

    def extent(self, uri: str) -> tuple[int, int]:
        """How many documents there are at and beneath a uri, and how many chunks they have."""
        (rows,) = self._read(
            "SELECT count(*), coalesce(sum((SELECT count(*) FROM chunks WHERE document = documents.id)), 0)"
            f" FROM documents WHERE {UNDER}",
            *under(uri),
        )
        return rows[0], rows[1]

    def uris_under(self, uri: str, limit: int) -> list[str]:
        return [row[0] for row in self._read(f"SELECT uri FROM documents WHERE {UNDER} LIMIT ?", *under(uri), limit)]

    def document(self, uri: str) -> Document | None:
        rows = self._read(f"SELECT {', '.join(_FIELDS)} FROM documents WHERE uri = ?", uri)
        return Document(*rows[0]) if rows else None

    def unfinished(self) -> Iterator[str]:
        """Documents that failed, even in part, were skipped or are half-done, each once, by uri, a page at a time."""
        after = ""
        while rows := self._read(
            f"SELECT uri FROM documents d WHERE uri > ? AND {_UNFINISHED} ORDER BY uri LIMIT 500",
            after,
        ):
            for (after,) in rows:
                yield after

    def open_uris(self) -> Iterator[str]:
        """Documents that are worked on, or are to be tried again by themselves."""
        after = ""
        sql = "SELECT uri FROM documents WHERE uri > ? AND state = ? ORDER BY uri LIMIT 500"
        while rows := self._read(sql, after, OPEN):
            for (after,) in rows:
                yield after

    def half_done(self) -> Iterator[str]:
        """Documents that are worked on or lack points, and did not fail."""
        after = ""
        while rows := self._read(
            "SELECT uri FROM documents WHERE uri > ? AND state = ? AND uri NOT IN (SELECT uri FROM failures)"
            " ORDER BY uri LIMIT 500",
            after,
            OPEN,
        ):
            for (after,) in rows:
                yield after

    def cursor(self, source: str) -> str | None:
        rows = self._read("SELECT cursor FROM cursors WHERE source = ?", source)
        return rows[0][0] if rows else None

    def save_cursor(self, source: str, cursor: str, in_sync: float = 0.0) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (source, cursor))
            self._note_in_sync(db, in_sync)
