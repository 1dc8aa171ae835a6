"""The ledger: what is in the index, and how far every document is. SQLite, one file a pipeline.

Every id is written down as *intended* before it can reach the sink, and as *acknowledged* after the sink's flush.
So whatever a crash leaves in the index, the ledger knows the id and can take it out again when the document has
moved on. A chunk row bears the last attempt at its document that found it there; when a document has been parsed to its
end, the rows that still bear an older attempt are stale.

One connection behind a lock, in WAL mode. Rows travel in statements of many rows, not in executemany: SQLite lets go
of the interpreter lock once a *step*, and a thread that asks for it back among busy ones waits up to 5 ms each time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from penstock.core.errors import LockedError, UsageError
from penstock.support.locks import Held, Lockfile

SCHEMA_VERSION = 1
APPLICATION = int.from_bytes(b"pens", "big")
"""Written into the file's header: other programs' databases have a user_version, too."""
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, ended REAL, status TEXT NOT NULL, space TEXT, report TEXT);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE, fingerprint TEXT, state TEXT NOT NULL, seen INTEGER NOT NULL,
    run INTEGER NOT NULL, attempt INTEGER NOT NULL,
    parser TEXT, media_type TEXT, bytes INTEGER, chunks INTEGER, tokens INTEGER);
CREATE TABLE chunks (
    document INTEGER NOT NULL, id BLOB NOT NULL, content INTEGER NOT NULL, digest INTEGER NOT NULL,
    attempt INTEGER NOT NULL, acked INTEGER NOT NULL, PRIMARY KEY (document, id)) WITHOUT ROWID;
CREATE TABLE failures (
    uri TEXT NOT NULL, stage TEXT NOT NULL, place TEXT NOT NULL, cause TEXT NOT NULL, permanent INTEGER NOT NULL,
    attempts INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL, PRIMARY KEY (uri, stage, place)) WITHOUT ROWID;
CREATE TABLE cursors (source TEXT PRIMARY KEY, cursor TEXT NOT NULL) WITHOUT ROWID;
"""
FAN_OUT = """
CREATE TABLE IF NOT EXISTS members (url TEXT PRIMARY KEY, since INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undeleted (url TEXT NOT NULL, id BLOB NOT NULL, PRIMARY KEY (url, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (
    id BLOB NOT NULL, url TEXT NOT NULL, uri TEXT NOT NULL, cause TEXT NOT NULL, PRIMARY KEY (id, url)) WITHOUT ROWID;
"""
"""Of sinks that are filled together: how far each is, what is yet to be deleted from it, and what it cannot take. Made
where they are not there yet, as older ledgers lack them."""

OPEN, DONE, FAILED, SKIPPED = "open", "done", "failed", "skipped"
ROWS = 128
"""Rows a statement, at most."""


class Row(NamedTuple):
    """A chunk as the ledger sees it, in the order of its table."""

    document: int
    id: bytes
    content: int
    """63 bits of a hash of what is embedded: equal where a vector may be used again."""
    digest: int
    """63 bits of a hash of what goes with it: position, page, headings, metadata. Never 0."""
    attempt: int
    """Which attempt at the document found it last."""


class Known(NamedTuple):
    document: int
    fingerprint: str | None
    state: str
    seen: int

    def settled(self, fingerprint: str) -> bool:
        """Nothing is to be done while the document has this fingerprint: the rule of runs, plans and verifications."""
        return self.fingerprint == fingerprint and self.state in (DONE, SKIPPED, FAILED)


class Begun(NamedTuple):
    document: int
    attempt: int
    had: bool
    """There were earlier attempts, so it may have chunks."""


class Ending(NamedTuple):
    """How a document's way through a run ended."""

    document: int
    uri: str
    fingerprint: str
    state: str
    facts: Mapping[str, Any]
    began: float


@dataclass(frozen=True, slots=True)
class Failure:
    uri: str
    stage: str
    cause: str
    attempts: int = 1
    permanent: bool = True
    """True where only a change of the document or of Penstock can help: not tried again by itself."""
    place: str = ""
    """The page, or the chunk id, if not the whole document failed."""
    first: float = 0.0
    last: float = 0.0


class Ledger:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._db: sqlite3.Connection | None = None
        self._mutex = threading.RLock()
        self._lockfile: Lockfile | None = None

    # ------------------------------------------------------------ lifecycle

    def open(self, *, exclusive: bool = True, create: bool = True) -> None:
        """`exclusive` for whoever writes: a second one gets LockedError, until the first ends or dies."""
        if not create and not self.path.exists():
            raise UsageError(f"no ledger at {self.path}: nothing has been ingested there")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if exclusive:
                self._lock()
            db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=64)
            self._db = db
            application, tables = db.execute(
                "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
            ).fetchone()
            if tables and application != APPLICATION:
                raise UsageError(f"{self.path} is a database of another program, not a ledger")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA cache_size=-512")
            db.execute("PRAGMA busy_timeout=10000")
            with self._transaction():
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    for statement in SCHEMA.split(";\n"):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id={APPLICATION}")
                    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                    self.set("id", uuid.uuid4().hex)
                elif version != SCHEMA_VERSION:
                    raise UsageError(f"the ledger {self.path} was written by another version of Penstock ({version})")
                for statement in FAN_OUT.split(";\n"):
                    db.execute(statement)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise UsageError(f"cannot open the ledger {self.path}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            self._lockfile = Lockfile(self.path.with_name(f"{self.path.name}.lock"))
        except Held as held:
            raise LockedError(f"another run ({held}) is using the ledger {self.path}") from None

    def close(self) -> None:
        with self._mutex:
            if self._db is not None:
                self._db.close()
                self._db = None
            if self._lockfile is not None:
                self._lockfile.release()
                self._lockfile = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise UsageError(f"the ledger {self.path} is closed")
        return self._db

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to tell
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _read(self, sql: str, *parameters: Any) -> list[Any]:
        with self._mutex:
            return self._open().execute(sql, parameters).fetchall()

    # ------------------------------------------------------------ facts about the whole

    def get(self, key: str) -> str | None:
        rows = self._read("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else None

    def set(self, key: str, value: str) -> None:
        with self._mutex:
            self._open().execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def id(self) -> str:
        return self.get("id") or ""

    @property
    def current(self) -> int:
        """Which of the places side by side its index is at now. What counts is the manifest; this is for those who ask
        the ledger alone."""
        return int(self.get("current") or 0)

    def lead_to(self, number: int) -> None:
        if self.current != number:
            self.set("current", str(number))

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

    def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        names = ("id", "started", "ended", "status", "space", "report")
        rows = self._read(f"SELECT {', '.join(names)} FROM runs ORDER BY id DESC LIMIT ?", limit)
        return [dict(zip(names, row, strict=True)) | {"report": json.loads(row[5] or "{}")} for row in rows]

    def cursor(self, source: str) -> str | None:
        rows = self._read("SELECT cursor FROM cursors WHERE source = ?", source)
        return rows[0][0] if rows else None

    def save_cursor(self, source: str, cursor: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (source, cursor))

    # ------------------------------------------------------------ scanning

    def known(self, uris: Sequence[str]) -> dict[str, Known]:
        marks = ",".join("?" * len(uris))
        rows = self._read(f"SELECT uri, id, fingerprint, state, seen FROM documents WHERE uri IN ({marks})", *uris)
        return {row[0]: Known(*row[1:]) for row in rows}

    def saw(self, documents: Sequence[int], run: int) -> None:
        """These are still there, unchanged."""
        with self._transaction() as db:
            for page in _pages(documents, 500):
                marks = ",".join("?" * len(page))
                db.execute(f"UPDATE documents SET seen = ? WHERE id IN ({marks})", (run, *page))

    def saw_under(self, uri: str, run: int) -> None:
        """What could not be read may still be there, and so may everything beneath it."""
        with self._transaction() as db:
            db.execute(f"UPDATE documents SET seen = ? WHERE {_UNDER}", (run, *_under(uri)))

    def under(self, uri: str) -> Iterator[int]:
        """The documents that `saw_under` is about."""
        return (document for (document,) in self._read(f"SELECT id FROM documents WHERE {_UNDER}", *_under(uri)))

    def unseen(self, run: int, after: int = 0, limit: int = 256) -> list[tuple[int, str]]:
        """Documents that a complete listing did not name, a page at a time."""
        return self._read(
            "SELECT id, uri FROM documents WHERE seen < ? AND id > ? ORDER BY id LIMIT ?", run, after, limit
        )

    def unseen_share(self, run: int) -> tuple[int, int]:
        """Chunks in the documents of `unseen`, and in all."""
        rows = self._read(
            "SELECT coalesce(sum(d.seen < ?), 0), count(*) FROM chunks c JOIN documents d ON d.id = c.document", run
        )
        return rows[0][0], rows[0][1]

    # ------------------------------------------------------------ a document's way

    def begin(self, uris: Sequence[str], run: int) -> dict[str, Begun]:
        """These documents are to be worked on."""
        begun: dict[str, Begun] = {}
        with self._transaction() as db:
            for page in _pages(uris, 250):
                marks = ",".join("?" * len(page))
                attempts = "uri, id, attempt FROM documents WHERE uri IN"
                for uri, number, attempt in _one_step(db, f"{attempts} ({marks})", *page):
                    begun[uri] = Begun(number, attempt + 1, had=True)
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
                    for uri, number, attempt in _one_step(db, f"{attempts} ({marks})", *new):
                        begun[uri] = Begun(number, attempt, had=False)
        return begun

    def had(self, document: int, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Of these chunks of a document, those that are acknowledged, with their digests."""
        found: dict[bytes, int] = {}
        for page in _pages(ids, ROWS):
            marks = ",".join("?" * len(page))
            with self._mutex:
                for id, digest in _one_step(
                    self._open(),
                    f"hex(id), digest FROM chunks WHERE document = ? AND acked > 0 AND id IN ({marks})",
                    document,
                    *page,
                ):
                    found[bytes.fromhex(id)] = digest
        return found

    def intend(self, rows: Sequence[Row]) -> None:
        """These may be in the sink from now on.

        What the sink has beside a vector is in doubt until the acknowledgement: no digest equals 0.
        """
        with self._transaction() as db:
            for page in _pages(rows, ROWS):
                values = ",".join(["(?,?,?,?,?,0)"] * len(page))
                db.execute(
                    f"INSERT INTO chunks VALUES {values} ON CONFLICT DO UPDATE SET"
                    " attempt = excluded.attempt, digest = 0",
                    [*chain.from_iterable(page)],
                )

    def keep(self, document: int, attempt: int, ids: Sequence[bytes]) -> None:
        """These chunks were found in the document again, as they are."""
        with self._transaction() as db:
            for page in _pages(ids, 500):
                marks = ",".join("?" * len(page))
                db.execute(
                    f"UPDATE chunks SET attempt = ? WHERE document = ? AND id IN ({marks})", (attempt, document, *page)
                )

    def same_content(self, contents: Sequence[int], before: int) -> dict[int, bytes]:
        """For each content that a run before this one brought into the index: the id of a chunk that holds it."""
        found: dict[int, bytes] = {}
        for page in _pages(contents, ROWS):
            marks = ",".join("?" * len(page))
            with self._mutex:
                for content, id in _one_step(
                    self._open(),
                    f"content, hex(id) FROM chunks WHERE content IN ({marks}) AND acked BETWEEN 1 AND ?",
                    *page,
                    before - 1,
                ):
                    found[content] = bytes.fromhex(id)
        return found

    def acknowledge(self, rows: Sequence[Row], run: int) -> None:
        """The sink has these for good."""
        with self._transaction() as db:
            for page in _pages(rows, ROWS):
                values = ",".join([f"(?,?,?,?,?,{run:d})"] * len(page))
                db.execute(
                    f"INSERT INTO chunks VALUES {values} ON CONFLICT DO UPDATE SET"
                    " attempt = excluded.attempt, acked = excluded.acked, digest = excluded.digest",
                    [*chain.from_iterable(page)],
                )

    def stale(self, document: int, limit: int) -> list[bytes]:
        """Ids that the last attempt at the document did not find in it any more."""
        rows = self._read(
            "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document"
            " WHERE c.document = ? AND c.attempt < d.attempt LIMIT ?",
            document,
            limit,
        )
        return [row[0] for row in rows]

    def outdate(self, document: int) -> None:
        """Make all chunks of a document that is gone stale."""
        with self._transaction() as db:
            db.execute("UPDATE documents SET state = ?, attempt = attempt + 1 WHERE id = ?", (OPEN, document))

    def retract(self, document: int, ids: Sequence[bytes]) -> None:
        """These may be missing from the sink from now on."""
        with self._transaction() as db:
            for page in _pages(ids, 500):
                marks = ",".join("?" * len(page))
                db.execute(f"UPDATE chunks SET acked = 0 WHERE document = ? AND id IN ({marks})", (document, *page))

    def forget(self, document: int, ids: Sequence[bytes]) -> None:
        with self._transaction() as db:
            for page in _pages(ids, 500):
                marks = ",".join("?" * len(page))
                db.execute(f"DELETE FROM chunks WHERE document = ? AND id IN ({marks})", (document, *page))
                db.execute(f"DELETE FROM refused WHERE id IN ({marks})", page)

    def finish(self, endings: Iterable[Ending]) -> None:
        """Documents that have come to an end; their failures of earlier attempts are history."""
        with self._transaction() as db:
            for e in endings:
                facts = [e.facts.get(name) for name in ("parser", "media_type", "bytes", "chunks", "tokens")]
                db.execute(
                    "UPDATE documents SET fingerprint = ?, state = ?, parser = ?, media_type = ?, bytes = ?,"
                    " chunks = ?, tokens = ? WHERE id = ?",
                    (e.fingerprint, e.state, *facts, e.document),
                )
                # What one sink of several refused stays a failure for as long as the others have it.
                db.execute(
                    "DELETE FROM failures WHERE uri = ? AND last < ? AND NOT"
                    " (stage = 'write' AND place IN (SELECT lower(hex(id)) FROM refused))",
                    (e.uri, e.began),
                )

    def remove(self, document: int) -> None:
        """The document is gone, and its chunks are out of the index."""
        with self._transaction() as db:
            db.execute("DELETE FROM failures WHERE uri = (SELECT uri FROM documents WHERE id = ?)", (document,))
            db.execute(
                "DELETE FROM refused WHERE EXISTS (SELECT 1 FROM chunks WHERE document = ? AND id = refused.id)",
                (document,),
            )
            db.execute("DELETE FROM chunks WHERE document = ?", (document,))
            db.execute("DELETE FROM documents WHERE id = ?", (document,))

    def reset(self) -> None:
        """Forget every document: the index is not there any more."""
        with self._transaction() as db:
            for table in ("chunks", "documents", "failures", "cursors", "members", "undeleted", "refused"):
                db.execute(f"DELETE FROM {table}")

    # ------------------------------------------------------------ several sinks, filled together

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
            db.executemany("INSERT OR IGNORE INTO undeleted VALUES (?, ?)", [(url, _blob(id)) for id in ids])

    def undeleted(self, url: str, limit: int) -> list[str]:
        rows = self._read("SELECT id FROM undeleted WHERE url = ? ORDER BY id LIMIT ?", url, limit)
        return [id.hex() if isinstance(id, bytes) else id for (id,) in rows]

    def deleted(self, url: str, ids: Sequence[str]) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM undeleted WHERE url = ? AND id = ?", [(url, _blob(id)) for id in ids])

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

    def refuse(self, url: str, reasons: Mapping[str, tuple[str, str]]) -> None:
        """This sink can never hold these ids (with their documents' uris, and why); another one does."""
        now = time.time()
        with self._transaction() as db:
            for id, (uri, cause) in reasons.items():
                told = _told(cause[:2000])
                db.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?)", (_blob(id), url, uri, told))
                (causes,) = db.execute(
                    "SELECT group_concat(url || ': ' || cause, '; ') FROM refused WHERE id = ?", (_blob(id),)
                ).fetchone()
                db.execute(
                    "INSERT INTO failures VALUES (?, 'write', ?, ?, true, 1, ?, ?) ON CONFLICT DO UPDATE SET"
                    " cause = excluded.cause, permanent = true, attempts = attempts + 1, last = excluded.last",
                    (uri, id, causes, now, now),
                )

    def accept(self, url: str, ids: Sequence[str]) -> None:
        """This sink has taken these, whatever it refused before."""
        with self._transaction() as db:
            for id in ids:
                if db.execute("DELETE FROM refused WHERE id = ? AND url = ?", (_blob(id), url)).rowcount:
                    db.execute(
                        "DELETE FROM failures WHERE stage = 'write' AND place = ?"
                        " AND NOT EXISTS (SELECT 1 FROM refused WHERE id = ?)",
                        (id, _blob(id)),
                    )

    def refused(self, url: str) -> int:
        """How many points the sink has refused."""
        return int(self._read("SELECT count(*) FROM refused WHERE url = ?", url)[0][0])

    # ------------------------------------------------------------ failures

    def clear_listing(self, before: float) -> None:
        """The listing was complete: what could not be listed before is no failure any more."""
        with self._transaction() as db:
            db.execute("DELETE FROM failures WHERE stage = 'list' AND last < ?", (before,))

    def record(self, failures: Iterable[Failure]) -> None:
        now = time.time()
        with self._transaction() as db:
            for f in failures:
                db.execute(
                    "INSERT INTO failures VALUES (?, ?, ?, ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET"
                    " cause = excluded.cause, permanent = excluded.permanent, attempts = attempts + 1,"
                    " last = excluded.last",
                    (f.uri, f.stage, _told(f.place), _told(f.cause[:2000]), f.permanent, now, now),
                )

    def failures(self, uri: str | None = None) -> Iterator[Failure]:
        after = ("", "", "")
        while True:
            rows = self._read(
                "SELECT uri, stage, cause, attempts, permanent, place, first, last FROM failures"
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

    # ------------------------------------------------------------ questions

    def counts(self) -> dict[str, int]:
        states = dict(self._read("SELECT state, count(*) FROM documents GROUP BY state"))
        totals = self._read("SELECT count(*), coalesce(sum(acked > 0), 0) FROM chunks")[0]
        failures = self._read("SELECT count(*) FROM failures")[0][0]
        return {
            "documents": sum(states.values()),
            **{state: states.get(state, 0) for state in (DONE, OPEN, FAILED, SKIPPED)},
            "chunks": totals[0],
            "acknowledged": totals[1],
            "failures": failures,
        }

    def document(self, uri: str) -> dict[str, Any] | None:
        names = (
            "id",
            "uri",
            "fingerprint",
            "state",
            "seen",
            "run",
            "parser",
            "media_type",
            "bytes",
            "chunks",
            "tokens",
        )
        rows = self._read(f"SELECT {', '.join(names)} FROM documents WHERE uri = ?", uri)
        return dict(zip(names, rows[0], strict=True)) if rows else None

    def acknowledged(self, document: int, id: bytes) -> bool:
        return bool(self._read("SELECT 1 FROM chunks WHERE document = ? AND id = ? AND acked > 0", document, id))

    def find_chunk(self, id: bytes) -> dict[str, Any] | None:
        """Where a chunk comes from. Reads the table through, as this is asked by people, one at a time."""
        rows = self._read(
            "SELECT d.uri, c.acked FROM chunks c JOIN documents d ON d.id = c.document WHERE c.id = ?", id
        )
        return dict(zip(("uri", "run"), rows[0], strict=True)) if rows else None

    def unfinished(self) -> Iterator[str]:
        """Documents that failed, even in part, were skipped or are half-done, each once, by uri, a page at a time."""
        after = ""
        while rows := self._read(
            "SELECT uri FROM documents WHERE uri > ? AND (state <> ? OR uri IN (SELECT uri FROM failures))"
            " ORDER BY uri LIMIT 500",
            after,
            DONE,
        ):
            for (after,) in rows:
                yield after

    def compare(self, pages: Iterable[Sequence[str]]) -> Comparison:
        """Hold all ids of an index, told in pages, against the acknowledged ones. On disk, in bounded memory."""
        return Comparison(self.path, pages)


class Comparison:
    """Ledger and index, side by side: a temporary database next to the ledger's."""

    def __init__(self, path: Path, pages: Iterable[Sequence[str]]) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # an unnamed database lives in a temporary file
        self._db.execute("ATTACH ? AS ledger", (str(path),))
        self._db.execute("CREATE TABLE held (id BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID")
        self.total = 0
        self._db.execute("BEGIN")
        for page in pages:
            self.total += len(page)
            self._db.executemany(
                "INSERT INTO held VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                [(_blob(id),) for id in page],
            )
        self._db.execute("COMMIT")
        self._db.execute(
            "CREATE TABLE told (id BLOB PRIMARY KEY, document INTEGER NOT NULL, acked INTEGER) WITHOUT ROWID"
        )
        self._db.execute("INSERT INTO told SELECT id, document, acked FROM ledger.chunks")

    def missing(self, url: str = "") -> Iterator[tuple[int, bytes]]:
        """(document, id) acknowledged, and not in the index; of one sink of several, but what it refused."""
        yield from self._db.execute(
            "SELECT document, id FROM told WHERE acked > 0 AND id NOT IN (SELECT id FROM held)"
            " AND id NOT IN (SELECT id FROM ledger.refused WHERE url = ?) ORDER BY document",
            (url,),
        )

    def orphans(self) -> Iterator[str]:
        """In the index, and unknown to the ledger."""
        for (id,) in self._db.execute("SELECT id FROM held WHERE id NOT IN (SELECT id FROM told)"):
            yield id.hex() if isinstance(id, bytes) else id

    def document_of(self, id: str) -> int | None:
        rows = self._db.execute("SELECT document FROM told WHERE id = ?", (_blob(id),)).fetchall()
        return rows[0][0] if rows else None

    def doubled(self) -> Iterator[str]:
        for (id,) in self._db.execute("SELECT id FROM held WHERE times > 1"):
            yield id.hex() if isinstance(id, bytes) else id

    def close(self) -> None:
        self._db.close()


_UNDER = "(uri = ? OR (uri >= ? AND uri < ?))"


def _under(uri: str) -> tuple[str, str, str]:
    beneath = uri.rstrip("/")
    return uri, f"{beneath}/", f"{beneath}0"  # "0" comes right after "/"


def _told(text: str) -> str:
    """Messages of the operating system hold file names, which need not be UTF-8."""
    return text.encode(errors="replace").decode()


def _blob(id: str) -> bytes | str:
    try:
        return bytes.fromhex(id)
    except ValueError:
        return id  # not one of ours: an orphan under its own name


def _one_step(db: sqlite3.Connection, select: str, *parameters: Any) -> list[list[Any]]:
    """The rows of a SELECT as one JSON value, so that the interpreter lock changes hands once, not once a row."""
    columns, _, rest = select.partition(" FROM ")
    row = db.execute(f"SELECT json_group_array(json_array({columns})) FROM {rest}", parameters).fetchone()
    found: list[list[Any]] = json.loads(row[0])
    return found


def _pages(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Pieces of `size` rows, then of half of it, and so on: few lengths, so few statements, each of which takes memory
    in proportion to its rows."""
    start = 0
    while start < len(rows):
        while start + size > len(rows):
            size = (size + 1) // 2
        yield rows[start : start + size]
        start += size
