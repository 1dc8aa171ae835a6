"""The ledger's SQLite file: one connection behind a lock, in WAL mode, and statements of many rows.

Rows do not travel in `executemany`: SQLite lets go of the interpreter lock once a *step*, and a thread that asks for
it back among busy ones waits up to 5 ms each time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from penstock.core.errors import LockedError, UsageError
from penstock.ledger.schema import APPLICATION, VERSION, migrate
from penstock.support.locks import Held, Lockfile

ROWS = 128
"""Rows a statement, at most."""


class Database:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._db: sqlite3.Connection | None = None
        self._mutex = threading.RLock()
        self._lockfile: Lockfile | None = None

    @classmethod
    def reader(cls, path: str | os.PathLike[str]) -> Self:
        """The ledger at that path, open beside whoever writes it. UsageError where there is none."""
        ledger = cls(path)
        ledger.open(exclusive=False, create=False)
        return ledger

    @classmethod
    def writer(cls, path: str | os.PathLike[str]) -> Self:
        """The ledger at that path, new or not, open for this process alone. LockedError where another writes it."""
        ledger = cls(path)
        ledger.open()
        return ledger

    def open(self, *, exclusive: bool = True, create: bool = True) -> None:
        """`exclusive` for whoever writes: a second one gets LockedError, until the first ends or dies."""
        if not create and not self.path.exists():
            raise UsageError(f"no ledger at {self.path}: nothing has been ingested there")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if exclusive:
                self._lock()
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=64)
            self._prepare(self._db)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise UsageError(f"cannot open the ledger {self.path}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _prepare(self, db: sqlite3.Connection) -> None:
        application, tables = db.execute(
            "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
        ).fetchone()
        if tables and application != APPLICATION:
            raise UsageError(f"{self.path} is a database of another program, not a ledger")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-512")
        db.execute("PRAGMA busy_timeout=10000")
        if self._version(db) == VERSION:
            return
        with self._transaction():
            version = self._version(db)  # another process may have been faster
            if version > VERSION:
                raise UsageError(
                    f"the ledger {self.path} was written by a newer Penstock (schema {version}; this one reads up to"
                    f" {VERSION}): upgrade with `pip install --upgrade penstock`"
                )
            migrate(db, version)
            if version == 0:
                self.set("id", uuid.uuid4().hex)

    def _version(self, db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA user_version").fetchone()[0])

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------ statements

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
                with suppress(sqlite3.Error):  # the first error is the one to raise
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _read(self, sql: str, *parameters: Any) -> list[Any]:
        with self._mutex:
            return self._open().execute(sql, parameters).fetchall()

    # ------------------------------------------------------------ settings of the ledger

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
        """The generation that the index is at now. What counts is the manifest; this is for commands that ask the
        ledger alone."""
        return int(self.get("current") or 0)

    def lead_to(self, generation: int) -> None:
        if self.current != generation:
            self.set("current", str(generation))


def one_step(db: sqlite3.Connection, select: str, *parameters: Any) -> list[list[Any]]:
    """The rows of a SELECT as one JSON value, so that the interpreter lock changes hands once, not once a row."""
    columns, _, rest = select.partition(" FROM ")
    row = db.execute(f"SELECT json_group_array(json_array({columns})) FROM {rest}", parameters).fetchone()
    rows: list[list[Any]] = json.loads(row[0])
    return rows


def pages(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Pieces of `size` rows, then of half of it, and so on: few lengths, so few statements, each of which takes memory
    in proportion to its rows."""
    start = 0
    while start < len(rows):
        while start + size > len(rows):
            size = (size + 1) // 2
        yield rows[start : start + size]
        start += size


def blob(id: str) -> bytes | str:
    try:
        return bytes.fromhex(id)
    except ValueError:
        return id  # not one of ours: an orphan under its own name


def text_of(id: bytes | str) -> str:
    return id.hex() if isinstance(id, bytes) else id


def storable(text: str) -> str:
    """Messages of the operating system hold file names, which need not be UTF-8."""
    return text.encode(errors="replace").decode()


UNDER = "(uri = ? OR (uri >= ? AND uri < ?))"
"""A condition for what is at or beneath a uri: see `under`."""


def under(uri: str) -> tuple[str, str, str]:
    beneath = uri.rstrip("/")
    return uri, f"{beneath}/", f"{beneath}0"  # "0" comes right after "/"
