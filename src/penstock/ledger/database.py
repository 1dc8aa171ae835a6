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

from penstock.core.errors import LedgerError, LockedError, UsageError
from penstock.ledger.opening import cause, check_file, connect, connect_to_read, real, translated
from penstock.ledger.schema import APPLICATION, VERSION, migrate
from penstock.support.locks import Held, Lockfile
from penstock.support.read_only import writable

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
        """`exclusive` for whoever writes: a second one gets LockedError, until the first ends or dies. Without it, a
        ledger that cannot be written to is open for reading."""
        try:
            check_file(self.path, write=exclusive, create=create)
            if exclusive:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._lock()
            if exclusive or writable(self.path):
                if create:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                self._db = connect(self.path, create=create)
                self._prepare(self._db)
            else:
                self._db = connect_to_read(self.path)
                self._check(self._db)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise UsageError(f"cannot open the ledger {self.path}: {cause(error)}") from error
        except LedgerError as error:
            self.close()
            raise UsageError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def _prepare(self, db: sqlite3.Connection) -> None:
        self._check_program(db)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-512")
        db.execute("PRAGMA busy_timeout=10000")
        if self._version(db) == VERSION:
            return
        with self._transaction():
            version = self._version(db)  # another process may have been faster
            self._check_version(version)
            migrate(db, version)
            if version == 0:
                self.set("id", uuid.uuid4().hex)

    def _check(self, db: sqlite3.Connection) -> None:
        """Raise UsageError where the ledger would have to be written to first."""
        self._check_program(db)
        version = self._version(db)
        self._check_version(version)
        if version < VERSION:
            raise UsageError(
                f"the ledger {self.path} was written by an earlier Penstock (schema {version}; this one reads"
                f" {VERSION}) and cannot be brought up to date, as it cannot be written to: make it and its folder"
                " writable, or copy it"
            )

    def _check_program(self, db: sqlite3.Connection) -> None:
        application, tables = db.execute(
            "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
        ).fetchone()
        if tables and application != APPLICATION:
            raise UsageError(f"{self.path} is a database of another program, not a ledger")

    def _check_version(self, version: int) -> None:
        if version > VERSION:
            raise UsageError(
                f"the ledger {self.path} was written by a newer Penstock (schema {version}; this one reads up to"
                f" {VERSION}): upgrade with `pip install --upgrade penstock`"
            )

    def _version(self, db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA user_version").fetchone()[0])

    def _lock(self) -> None:
        try:
            path = real(self.path)
            self._lockfile = Lockfile(path.with_name(f"{path.name}.lock"))
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
    def _turn(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        with self._mutex, translated(f"the ledger {self.path} cannot be read or written"):
            yield self._open()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._turn() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to raise
                    db.execute("ROLLBACK")
                raise

    def _read(self, sql: str, *parameters: Any) -> list[Any]:
        with self._turn() as db:
            return db.execute(sql, parameters).fetchall()

    # ------------------------------------------------------------ settings of the ledger

    def get(self, key: str) -> str | None:
        rows = self._read("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else None

    def set(self, key: str, value: str) -> None:
        with self._turn() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def in_sync(self) -> float | None:
        """All that the source knew of by then is in the index, in seconds since 1970. None where nobody knows."""
        noted = self.get("in_sync")
        return float(noted) if noted else None

    def _note_in_sync(self, db: sqlite3.Connection, moment: float) -> None:
        if moment:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('in_sync', ?)", (repr(moment),))

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
