"""Standing queries in the ledger, and what they found.

A match is recorded in the transaction that acknowledges its chunk, so neither is there without the other. It waits
until it is delivered, or lost; of those that do not wait the latest are kept.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.core.errors import UsageError
from penstock.engine.journal import Match
from penstock.ledger.database import Database, storable

WAITING, DELIVERED, LOST, KEPT = "waiting", "delivered", "lost", "kept"
"""States of a match. KEPT: its alert delivers nothing."""
KEEP = 10_000
"""Matches that do not wait any more and are kept, at most."""
WAIT = 100_000
"""Matches that wait to be delivered, at most: of more, the oldest are lost."""

_VERSION = "alerts"
"""In `meta`: another value whenever the alerts are others."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A standing query."""

    id: str
    name: str
    query: str
    score: float
    """The least of a match."""
    using: str | None = None
    """The vector to compare with, where the index has several."""
    where: Mapping[str, Any] | None = None
    webhook: str | None = None
    """A url, or `env:NAME`: that of an environment variable."""
    command: str | None = None
    secret: str | None = None
    """The environment variable whose value signs what is sent. Where it is None, PENSTOCK_WEBHOOK_SECRET may."""
    since: float = 0.0
    trouble: str = ""
    """Why it finds nothing, or why the last delivery failed."""
    matches: int = 0
    """How many it has found."""
    delivered: int = 0
    waiting: int = 0
    lost: int = 0
    """How many could not be delivered, and are not tried again."""
    last: float | None = None
    """When a match was delivered last."""

    @property
    def delivers(self) -> bool:
        return bool(self.webhook or self.command)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FoundMatch:
    """A match of a standing query."""

    id: int
    """Larger than those of all that were found before."""
    key: str
    alert: str
    """The name of the alert."""
    query: str
    uri: str
    chunk: str
    score: float
    text: str
    about: str
    time: float
    state: str
    attempts: int = 0

    def to_json(self) -> dict[str, Any]:
        """What receivers get as well."""
        record = {name: getattr(self, name) for name in _SHOWN}
        time = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {**record, **json.loads(self.about), "time": time}


_SHOWN = ("key", "alert", "query", "score", "uri", "chunk", "text")
_ALERT = (
    "id, name, query, score, vector_name, narrowed, webhook, command, secret, since, trouble, matches, delivered,"
    " (SELECT count(*) FROM matches WHERE alert = alerts.id AND state = 'waiting'), lost, last"
)
_FOUND = (
    "matches.id, key, name, query, uri, chunk, matches.score, text, about, time, state, attempts"
    " FROM matches JOIN alerts ON alerts.id = matches.alert"
)
_COLUMNS = "key, alert, uri, chunk, score, text, about, time, state"


def record(db: sqlite3.Connection, matches: Sequence[Match]) -> None:
    """To be called within a transaction."""
    now = time.time()
    for match in matches:
        added = db.execute(
            f"INSERT OR IGNORE INTO matches ({_COLUMNS}) SELECT ?, id, ?, ?, ?, ?, ?, ?,"
            f" iif(coalesce(webhook, command) IS NULL, '{KEPT}', '{WAITING}') FROM alerts WHERE id = ?",
            (match.key, match.uri, match.chunk, match.score, match.text, match.about, now, match.alert),
        ).rowcount
        if added:
            db.execute("UPDATE alerts SET matches = matches + 1 WHERE id = ?", (match.alert,))


class Alerts(Database):
    def add_alert(self, alert: Alert) -> None:
        """UsageError where there is one of that name."""
        where = json.dumps(alert.where, default=str) if alert.where else None
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM alerts WHERE name = ?", (alert.name,)).fetchone():
                raise UsageError(f"there is an alert named {alert.name!r}: remove it first, or choose another --name")
            db.execute(
                "INSERT INTO alerts (id, name, query, score, vector_name, narrowed, webhook, command, secret, since)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(alert.id, alert.name, alert.query, alert.score, alert.using, where),
                    *(alert.webhook, alert.command, alert.secret, alert.since),
                ),
            )
            _changed(db)

    def remove_alert(self, name: str) -> None:
        """With its matches. UsageError where there is none of that name."""
        with self._transaction() as db:
            db.execute("DELETE FROM matches WHERE alert = (SELECT id FROM alerts WHERE name = ?)", (name,))
            if not db.execute("DELETE FROM alerts WHERE name = ?", (name,)).rowcount:
                raise UsageError(f"no alert named {name!r}: `penstock alert list` shows what there is")
            _changed(db)

    def alerts(self) -> list[Alert]:
        """By name."""
        return [_alert(row) for row in self._read(f"SELECT {_ALERT} FROM alerts ORDER BY name")]

    def alert(self, id: str) -> Alert | None:
        return next((_alert(row) for row in self._read(f"SELECT {_ALERT} FROM alerts WHERE id = ?", id)), None)

    @property
    def alerts_version(self) -> str | None:
        """Another one whenever the alerts are others."""
        return self.get(_VERSION)

    def query_vector(self, alert: str, space: str) -> bytes | None:
        """The query of this alert, as a model of that space has embedded it."""
        rows = self._read("SELECT vector FROM alerts WHERE id = ? AND space = ?", alert, space)
        return rows[0][0] if rows else None

    def keep_query_vector(self, alert: str, space: str, vector: bytes) -> None:
        with self._turn() as db:
            db.execute("UPDATE alerts SET space = ?, vector = ? WHERE id = ?", (space, vector, alert))

    def note_trouble(self, alert: str, trouble: str) -> None:
        """Why it finds nothing; empty where it does."""
        with self._turn() as db:
            db.execute("UPDATE alerts SET trouble = ? WHERE id = ?", (storable(trouble[:500]), alert))

    def matches_waiting(self) -> int:
        return int(self._read("SELECT count(*) FROM matches WHERE state = 'waiting'")[0][0])

    def matches(self, after: int = 0, limit: int = 500) -> list[FoundMatch]:
        """Those that were found after the match of that number, the oldest first."""
        sql = f"SELECT {_FOUND} WHERE matches.id > ? ORDER BY matches.id LIMIT ?"
        return [FoundMatch(*row) for row in self._read(sql, after, limit)]

    def last_matches(self, number: int) -> list[FoundMatch]:
        """The latest, the oldest of them first."""
        rows = self._read(f"SELECT {_FOUND} ORDER BY matches.id DESC LIMIT ?", number)
        return [FoundMatch(*row) for row in reversed(rows)]

    # ------------------------------------------------------------ delivery

    def due_alerts(self, within: float, longest: float) -> list[str]:
        """The ids of those with matches to deliver within so many seconds. `longest`: seconds after which a delivery is
        tried again, at most: a later time was noted before the clock was set back."""
        now = time.time()
        sql = (
            "SELECT id FROM alerts WHERE (next <= ? OR next > ?)"
            " AND EXISTS (SELECT 1 FROM matches WHERE alert = alerts.id AND state = 'waiting')"
        )
        return [id for (id,) in self._read(sql, now + within, now + longest)]

    def next_delivery(self, alert: str) -> FoundMatch | None:
        """A match that was tried the fewest times, so that one which its receiver cannot take holds up no other."""
        sql = f"SELECT {_FOUND} WHERE matches.alert = ? AND state = 'waiting' ORDER BY attempts, matches.id LIMIT 1"
        return next((FoundMatch(*row) for row in self._read(sql, alert)), None)

    def note_delivered(self, match: FoundMatch) -> None:
        now = time.time()
        with self._transaction() as db:
            db.execute("UPDATE matches SET state = ? WHERE id = ?", (DELIVERED, match.id))
            db.execute(
                "UPDATE alerts SET delivered = delivered + 1, last = ?, next = 0, trouble = '' WHERE name = ?",
                (now, match.alert),
            )

    def note_undelivered(self, match: FoundMatch, cause: str, pause: float, *, lost: bool) -> None:
        """It is tried again after so many seconds, unless it is `lost`."""
        with self._transaction() as db:
            db.execute(
                "UPDATE matches SET attempts = attempts + 1, state = ? WHERE id = ?",
                (LOST if lost else WAITING, match.id),
            )
            db.execute(
                "UPDATE alerts SET lost = lost + ?, next = ?, trouble = ? WHERE name = ?",
                (lost, time.time() + pause, storable(cause[:500]), match.alert),
            )

    def trim_matches(self) -> None:
        """Let go of the oldest matches, where there are too many."""
        with self._transaction() as db:
            for id, alert in db.execute(
                "SELECT id, alert FROM matches WHERE state = 'waiting' ORDER BY id DESC LIMIT -1 OFFSET ?", (WAIT,)
            ).fetchall():
                db.execute("UPDATE matches SET state = ? WHERE id = ?", (LOST, id))
                db.execute(
                    "UPDATE alerts SET lost = lost + 1, trouble = ? WHERE id = ?",
                    (f"more than {WAIT:,} matches waited to be delivered: the oldest are lost", alert),
                )
            db.execute(
                "DELETE FROM matches WHERE id IN"
                " (SELECT id FROM matches WHERE state <> 'waiting' ORDER BY id DESC LIMIT -1 OFFSET ?)",
                (KEEP,),
            )

    # ------------------------------------------------------------ from one generation to the next

    def take_over_alerts(self, other: Alerts) -> None:
        """Have the alerts that another ledger has, in place of one's own, and what it has still to deliver."""
        columns = (
            "id, name, query, score, vector_name, narrowed, webhook, command, secret, since, space, vector, trouble,"
            " matches, delivered, lost, last, next"
        )
        rows = other._read(f"SELECT {columns} FROM alerts")
        with self._transaction() as db:
            db.execute("DELETE FROM alerts")
            marks = ",".join("?" * len(columns.split(",")))
            for row in rows:
                db.execute(f"INSERT INTO alerts ({columns}) VALUES ({marks})", row)
            _changed(db)
        self.take_over_matches(other)

    def take_over_matches(self, other: Alerts) -> None:
        """Deliver what another ledger had still to deliver."""
        columns = f"{_COLUMNS}, attempts"
        while rows := other._read(f"SELECT id, {columns} FROM matches WHERE state = 'waiting' ORDER BY id LIMIT 500"):
            with self._transaction() as db:
                marks = ",".join("?" * (len(rows[0]) - 1))
                for _, *values in rows:
                    sql = f"INSERT OR IGNORE INTO matches ({columns}) SELECT {marks} FROM alerts WHERE id = ?"
                    db.execute(sql, (*values, values[1]))
            with other._transaction() as db:
                db.execute("DELETE FROM matches WHERE state = 'waiting' AND id <= ?", (rows[-1][0],))


def _alert(row: Sequence[Any]) -> Alert:
    id, name, query, score, using, where, *others = row
    return Alert(id, name, query, score, using, json.loads(where) if where else None, *others)


def _changed(db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT INTO meta VALUES (?, '1') ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1", (_VERSION,)
    )
