"""What could not be listed, read, parsed, embedded or written.

A failure is accepted for a version of its document: once the document has another fingerprint, it is not any more.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence

from penstock.core.errors import UsageError
from penstock.engine.journal import DONE, FAILED, OPEN, SKIPPED, Failure
from penstock.ledger.database import UNDER, Database, pages, storable, under
from penstock.ledger.documents import ACCEPTED

FIRST_TRY, LONGEST_PAUSE = 30.0, 3600.0
"""Seconds before a passing failure is tried again: twice as long each time."""
CLAIMED = 600.0
"""Seconds after which what was to be tried again is so once more, if nothing came of it."""

_ROWS = "FROM failures LEFT JOIN documents USING (uri)"
_NEXT = f"excluded.last + min({LONGEST_PAUSE}, (excluded.next - excluded.last) * (1 << min(attempts, 20)))"
"""Of one that has failed before."""
_COUNTS = f"documents.state IS NOT '{SKIPPED}'"
"""A document that is passed over, as nothing reads its type, is listed with its cause, but is no failure of a run."""


class Failures(Database):
    def due(self, limit: int) -> dict[str, int]:
        """Documents whose passing failures are to be tried again by now, each of them given once, with the tries so
        far. They are open from then on, so that they are worked on though they are as they were."""
        now = time.time()
        # Those of a time that is still to come were noted before the clock was set back.
        rows = self._read(
            f"SELECT uri, max(attempts) FROM failures JOIN documents USING (uri) WHERE state IN ('{OPEN}', '{DONE}')"
            " AND NOT permanent AND (next <= ? OR last > ?) GROUP BY uri ORDER BY min(next) LIMIT ?",
            now,
            now + 1,
            limit,
        )
        if rows:
            with self._transaction() as db:
                for uri, _ in rows:
                    claimed = (now + CLAIMED, now, uri)
                    db.execute("UPDATE failures SET next = ?, last = min(last, ?) WHERE uri = ?", claimed)
                    db.execute("UPDATE documents SET state = ? WHERE uri = ?", (OPEN, uri))
        return dict(rows)

    def tries(self, uris: Sequence[str]) -> dict[str, int]:
        """How often each of these documents has failed since it was in the index as it is, if it has."""
        found: dict[str, int] = {}
        for page in pages(uris, 500):
            marks = ",".join("?" * len(page))
            found |= self._read(
                f"SELECT uri, max(attempts) FROM failures WHERE stage <> 'list' AND uri IN ({marks}) GROUP BY uri",
                *page,
            )
        return found

    def retry_now(self, now: float) -> int:
        """Have a run that follows its source try at once what failed or was skipped; gives how many documents that
        is."""
        with self._transaction() as db:
            db.execute(
                "UPDATE failures SET next = 0, permanent = false, last = min(last, ?) WHERE uri IN"
                " (SELECT uri FROM documents)",
                (now,),
            )
            sql = "UPDATE documents SET state = ? WHERE uri IN (SELECT uri FROM failures)"
            return db.execute(sql, (OPEN,)).rowcount

    def untried(self, since: float) -> int:
        """How many documents with failures have not been tried since then."""
        sql = "SELECT count(DISTINCT uri) FROM failures JOIN documents USING (uri) WHERE last <= ?"
        return int(self._read(sql, since)[0][0])

    def tried_in_vain(self, since: float) -> int:
        """How many documents have failed since then."""
        sql = "SELECT count(DISTINCT uri) FROM failures JOIN documents USING (uri) WHERE last > ?"
        return int(self._read(sql, since)[0][0])

    def clear_listing(self, run: int, in_sync: float = 0.0) -> None:
        """The listing of this run was complete: clear the failures to list of earlier runs."""
        with self._transaction() as db:
            db.execute("DELETE FROM failures WHERE stage = 'list' AND run < ?", (run,))
            self._note_in_sync(db, in_sync)

    def retries(self) -> tuple[int, float | None]:
        """How many documents a run that follows their source is to try again, and when the first one is due."""
        (row,) = self._read(
            f"SELECT count(DISTINCT uri), min(next) {_ROWS} WHERE state IN ('{OPEN}', '{DONE}') AND NOT permanent"
        )
        return row[0], row[1]

    def record(self, failures: Iterable[Failure], run: int) -> None:
        now = time.time()
        with self._transaction() as db:
            for f in failures:
                db.execute(
                    "INSERT INTO failures"
                    " (uri, stage, place, cause, permanent, attempts, first, last, attempt, run, traceback, next)"
                    " VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " cause = excluded.cause, permanent = excluded.permanent, attempts = attempts + 1,"
                    " last = excluded.last, attempt = excluded.attempt, run = excluded.run,"
                    f" traceback = excluded.traceback, next = {_NEXT}",
                    (
                        *(f.uri, f.stage, storable(f.place), storable(f.cause[:2000]), f.permanent),
                        *(now, now, f.attempt, run, f.traceback, now + FIRST_TRY * random.uniform(0.7, 1.0)),
                    ),
                )

    def failed_under(self, uri: str) -> bool:
        """Whether something at or beneath this uri failed."""
        return bool(self._read(f"SELECT 1 FROM failures WHERE {UNDER} LIMIT 1", *under(uri)))

    def failures(self, uri: str | None = None) -> Iterator[Failure]:
        """All of them, or those of a document, by uri."""
        return self._failures("? IS NULL OR uri = ?", uri, uri)

    def noted(self, after: int) -> Iterator[Failure]:
        """Those that runs after this one have noted, by uri."""
        return self._failures(f"failures.run > ? AND {_COUNTS}", after)

    def pressing(self, after: int) -> Iterator[Failure]:
        """Those for which a run is not all well, by uri: they are not accepted, and were noted after that run, or their
        documents are not in the index as they are in the source."""
        pressing = f"NOT {ACCEPTED} AND {_COUNTS} AND (failures.run > ? OR documents.state IN (?, ?))"
        return self._failures(pressing, after, OPEN, FAILED)

    def _failures(self, condition: str, *values: object) -> Iterator[Failure]:
        last = ("", "", "")
        while True:
            rows = self._read(
                "SELECT uri, stage, cause, attempts, permanent, place, first, last, failures.attempt,"
                f" {ACCEPTED}, traceback {_ROWS} WHERE (uri, stage, place) > (?, ?, ?) AND ({condition})"
                " ORDER BY uri, stage, place LIMIT 500",
                *last,
                *values,
            )
            for row in rows:
                yield Failure(*(*row[:4], bool(row[4]), *row[5:9], bool(row[9]), row[10]))
            if not rows:
                return
            last = (rows[-1][0], rows[-1][1], rows[-1][5])

    # ------------------------------------------------------------ failures that somebody lives with

    def accept_failures(self, uris: Iterable[str] | None = None) -> int:
        """Accept the failures of these documents, or all, as they are; gives how many. UsageError, and none is
        accepted, where one of the documents has no failure."""
        return self._mark("coalesce((SELECT fingerprint FROM documents WHERE uri = failures.uri), '')", uris)

    def unaccept_failures(self, uris: Iterable[str]) -> int:
        """Have the failures of these documents count again; gives how many. UsageError where one has none."""
        return self._mark("NULL", uris)

    def _mark(self, accepted: str, uris: Iterable[str] | None) -> int:
        update = f"UPDATE failures SET accepted = {accepted}"
        with self._transaction() as db:
            if uris is None:
                return db.execute(update).rowcount
            count = 0
            for uri in uris:
                if not (marked := db.execute(f"{update} WHERE uri = ?", (uri,)).rowcount):
                    raise UsageError(f"no failure of {uri}: `penstock failures` lists what there is")
                count += marked
            return count

    def accepted_documents(self, *states: str) -> int:
        """How many documents in these states have failures, all of which are accepted."""
        marks = ",".join("?" * len(states))
        sql = f"SELECT 1 {_ROWS} WHERE state IN ({marks}) GROUP BY uri HAVING min({ACCEPTED})"
        return int(self._read(f"SELECT count(*) FROM ({sql})", *states)[0][0])

    def accepted(self, uri: str) -> bool:
        """Whether the document has failures, all of which are accepted."""
        return bool(self._read(f"SELECT min({ACCEPTED}) {_ROWS} WHERE uri = ?", uri)[0][0])

    def unaccepted(self, run: int) -> int:
        """How many failures this run has noted that are not accepted."""
        sql = f"SELECT count(*) {_ROWS} WHERE failures.run = ? AND NOT {ACCEPTED} AND {_COUNTS}"
        return int(self._read(sql, run)[0][0])
