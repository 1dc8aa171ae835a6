"""What could not be listed, read, parsed, embedded or written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from penstock.engine.journal import Failure
from penstock.ledger.database import UNDER, Database, storable, under


class Failures(Database):
    def clear_listing(self, run: int) -> None:
        """The listing of this run was complete: clear the failures to list of earlier runs."""
        with self._transaction() as db:
            db.execute("DELETE FROM failures WHERE stage = 'list' AND run < ?", (run,))

    def record(self, failures: Iterable[Failure], run: int) -> None:
        now = time.time()
        with self._transaction() as db:
            for f in failures:
                db.execute(
                    "INSERT INTO failures VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " cause = excluded.cause, permanent = excluded.permanent, attempts = attempts + 1,"
                    " last = excluded.last, attempt = excluded.attempt, run = excluded.run",
                    (
                        *(f.uri, f.stage, storable(f.place), storable(f.cause[:2000]), f.permanent),
                        *(now, now, f.attempt, run),
                    ),
                )

    def failed_under(self, uri: str) -> bool:
        """Whether something at or beneath this uri failed."""
        return bool(self._read(f"SELECT 1 FROM failures WHERE {UNDER} LIMIT 1", *under(uri)))

    def failures(self, uri: str | None = None) -> Iterator[Failure]:
        after = ("", "", "")
        while True:
            rows = self._read(
                "SELECT uri, stage, cause, attempts, permanent, place, first, last, attempt FROM failures"
                " WHERE (uri, stage, place) > (?, ?, ?) AND (?4 IS NULL OR uri = ?4)"
                " ORDER BY uri, stage, place LIMIT 500",
                *after,
                uri,
            )
            for row in rows:
                yield Failure(row[0], row[1], row[2], row[3], bool(row[4]), *row[5:])
            if not rows:
                return
            after = (rows[-1][0], rows[-1][1], rows[-1][5])
