"""Runs in the ledger."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.core.errors import LedgerError
from penstock.ledger.database import Database


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is going on, has ended or died."""

    id: int
    started: float
    ended: float | None
    status: str
    space: str | None
    """The fingerprints of the vectors it made."""
    report: Mapping[str, Any]


_INDEX = "CREATE INDEX IF NOT EXISTS chunks_content ON chunks (content)"


class Runs(Database):
    def begin_run(self, space: str) -> int:
        with self._transaction() as db:
            db.execute("UPDATE runs SET status = 'died', ended = ? WHERE ended IS NULL", (time.time(),))
            run = _next(db)
            sql = "INSERT INTO runs (id, started, status, space) VALUES (?, ?, 'running', ?)"
            db.execute(sql, (run, time.time(), space))
            if run > 1:
                # Nobody asks for the contents of earlier runs in the first, which goes faster without.
                db.execute(_INDEX)
            return run

    def next_listing(self) -> int:
        """A number above all earlier ones, of runs and listings, for what is seen from now on."""
        with self._transaction() as db:
            number = _next(db)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('listing', ?)", (str(number),))
            db.execute(_INDEX)
            return number

    def end_run(self, run: int, status: str, report: Mapping[str, Any]) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET ended = ?, status = ?, report = ? WHERE id = ?",
                (time.time(), status, json.dumps(report), run),
            )

    def run(self, id: int) -> Run | None:
        """The run of that number, or in which the listing of that number was."""
        return next(iter(self._runs("WHERE id <= ? ORDER BY id DESC LIMIT 1", id)), None)

    def runs(self, limit: int = 20) -> list[Run]:
        """The latest, newest first."""
        return self._runs("ORDER BY id DESC LIMIT ?", limit)

    def _runs(self, condition: str, value: int) -> list[Run]:
        rows = self._read(f"SELECT id, started, ended, status, space, report FROM runs {condition}", value)
        return [
            Run(id, started, ended, status, space, self._report(id, report))
            for id, started, ended, status, space, report in rows
        ]

    def _report(self, run: int, text: str | None) -> dict[str, Any]:
        try:
            report = json.loads(text or "{}")
        except (ValueError, TypeError, RecursionError):
            report = None
        if not isinstance(report, dict):
            raise LedgerError(f"the ledger {self.path} is damaged: the report of run {run} is none")
        return report


def _next(db: sqlite3.Connection) -> int:
    (number,) = db.execute(
        "SELECT max(coalesce((SELECT max(id) FROM runs), 0),"
        " coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'listing'), 0)) + 1"
    ).fetchone()
    return int(number)
