"""Several sinks that are filled together: how far each is, and what it lacks, has to lose or refused."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from penstock.engine.journal import OPEN
from penstock.ledger.database import Database, blob, storable, text_of


class Members(Database):
    def members(self) -> dict[str, int | None]:
        """How far each sink is. None: it has all that is acknowledged, but what it refused. A number: it may lack what
        that run or a later one acknowledged."""
        return dict(self._read("SELECT url, since FROM members"))

    def enlist(self, members: Mapping[str, int | None]) -> None:
        """These are the sinks from now on. What is known of others is forgotten: they miss what comes."""
        with self._transaction() as db:
            db.execute("DELETE FROM members")
            db.executemany("INSERT INTO members VALUES (?, ?)", members.items())
            db.execute("DELETE FROM refused WHERE url NOT IN (SELECT url FROM members)")
            db.execute("DELETE FROM undeleted WHERE url NOT IN (SELECT url FROM members WHERE since IS NOT NULL)")

    def fell_behind(self, url: str, ids: Sequence[str] = ()) -> None:
        """From this run on (or the next one, between two) the sink may lack what is acknowledged; and it may hold these
        ids, which are deleted."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO members SELECT ?, coalesce(max(iif(ended IS NULL, id, id + 1)), 1) FROM runs WHERE true"
                " ON CONFLICT DO UPDATE SET since = min(coalesce(since, excluded.since), excluded.since)",
                (url,),
            )
            db.executemany("INSERT OR IGNORE INTO undeleted VALUES (?, ?)", [(url, blob(id)) for id in ids])

    def undeleted(self, url: str, limit: int) -> list[str]:
        rows = self._read("SELECT id FROM undeleted WHERE url = ? ORDER BY id LIMIT ?", url, limit)
        return [text_of(id) for (id,) in rows]

    def deleted(self, url: str, ids: Sequence[str]) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM undeleted WHERE url = ? AND id = ?", [(url, blob(id)) for id in ids])

    def missed(self, since: int, after: tuple[int, bytes], limit: int) -> list[tuple[int, bytes, bool]]:
        """(document, id, acknowledged) of what a sink that is behind since then may lack, a page at a time.

        What is in doubt is told as well: it may have been written, while that sink was away, and be acknowledged later.
        """
        rows = self._read(
            "SELECT document, id, acked > 0 FROM chunks WHERE (document, id) > (?, ?)"
            " AND (acked >= ? OR acked = 0 OR digest = 0) ORDER BY document, id LIMIT ?",
            *after,
            since,
            limit,
        )
        return [(document, id, bool(acked)) for document, id, acked in rows]

    def caught_up(self, url: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE members SET since = NULL WHERE url = ?", (url,))

    def lose(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """No sink has these (document, id) any more: the next run reads their documents again and embeds them anew."""
        with self._transaction() as db:
            for document, id in rows:
                db.execute("UPDATE chunks SET acked = 0 WHERE document = ? AND id = ?", (document, id))
                db.execute("UPDATE documents SET state = ? WHERE id = ?", (OPEN, document))

    def doubt(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """What the sink has of these (document, id) beside their vectors may be another version's: the next run reads
        their documents again and writes it anew."""
        with self._transaction() as db:
            for document, id in rows:
                db.execute("UPDATE chunks SET digest = 0 WHERE document = ? AND id = ?", (document, id))
                db.execute("UPDATE documents SET state = ? WHERE id = ?", (OPEN, document))

    def refuse(self, url: str, reasons: Mapping[str, tuple[str, str]]) -> None:
        """This sink can never hold these ids (with their documents' uris, and why); another one does."""
        now = time.time()
        with self._transaction() as db:
            for id, (uri, cause) in reasons.items():
                db.execute(
                    "INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?)", (blob(id), url, uri, storable(cause[:2000]))
                )
                (causes,) = db.execute(
                    "SELECT group_concat(url || ': ' || cause, '; ') FROM refused WHERE id = ?", (blob(id),)
                ).fetchone()
                db.execute(
                    "INSERT INTO failures (uri, stage, place, cause, permanent, attempts, first, last)"
                    " VALUES (?, 'write', ?, ?, true, 1, ?, ?) ON CONFLICT DO UPDATE SET"
                    " cause = excluded.cause, permanent = true, attempts = attempts + 1, last = excluded.last",
                    (uri, id, causes, now, now),
                )

    def accept(self, url: str, ids: Sequence[str]) -> None:
        """This sink has taken these, whatever it refused before."""
        with self._transaction() as db:
            for id in ids:
                if db.execute("DELETE FROM refused WHERE id = ? AND url = ?", (blob(id), url)).rowcount:
                    db.execute(
                        "DELETE FROM failures WHERE stage = 'write' AND place = ?"
                        " AND NOT EXISTS (SELECT 1 FROM refused WHERE id = ?)",
                        (id, blob(id)),
                    )

    def refused(self, url: str) -> int:
        """How many points the sink has refused."""
        return int(self._read("SELECT count(*) FROM refused WHERE url = ?", url)[0][0])
