"""Runs in the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


class Runs(Database):
    def begin_run(self, space: str) -> int:
        with self._transaction() as db:
            db.execute("UPDATE runs SET status = 'died', ended = ? WHERE ended IS NULL", (time.time(),))
            sql = "INSERT INTO runs (started, status, space) VALUES (?, 'running', ?)"
            run = int(db.execute(sql, (time.time(), space)).lastrowid or 0)
            if run > 1:
                # Nobody asks for the contents of earlier runs in the first, which goes faster without.
                db.execute("CREATE INDEX IF NOT EXISTS chunks_content ON chunks (content)")
            return run

    def end_run(self, run: int, status: str, report: Mapping[str, Any]) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET ended = ?, status = ?, report = ? WHERE id = ?",
                (time.time(), status, json.dumps(report), run),
            )

    def run(self, id: int) -> Run | None:
        return next(iter(self._runs("WHERE id = ?", id)), None)

    def runs(self, limit: int = 20) -> list[Run]:
        """The latest, newest first."""
        return self._runs("ORDER BY id DESC LIMIT ?", limit)

    def _runs(self, condition: str, value: int) -> list[Run]:
        rows = self._read(f"SELECT id, started, ended, status, space, report FROM runs {condition}", value)
        return [
            Run(id, started, ended, status, space, json.loads(report or "{}"))
            for id, started, ended, status, space, report in rows
        ]
