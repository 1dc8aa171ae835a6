"""Opening the ledger's file: what it is, whether it can be written to, and words for what SQLite says of it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.core.errors import LedgerError, UsageError
from penstock.support.read_only import has_log, read_only_options

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room on its disk, and run the command again",
    sqlite3.SQLITE_IOERR: "make room on its disk, or check the disk, and run the command again",
    sqlite3.SQLITE_CORRUPT: "restore it from a backup; without one, remove it and run `penstock ingest` with --adopt",
    sqlite3.SQLITE_NOTADB: "restore it from a backup; without one, remove it and run `penstock ingest` with --adopt",
    sqlite3.SQLITE_READONLY: "it can only be looked at: make the file and its folder writable",
    sqlite3.SQLITE_BUSY: "another process is writing to it: try again later",
}
"""What to do, by SQLite's primary code."""


def check_file(path: Path, *, write: bool, create: bool) -> None:
    """Raise UsageError where there is no ledger, or something that is none: SQLite would wait for a pipe, and read a
    device for ever."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if create:
            return
        raise UsageError(f"no ledger at {path}: nothing has been ingested there") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for matches, kind in _KINDS if matches(status.st_mode)), "something else")
        raise UsageError(f"cannot open the ledger {path}: it is {kind}, not a file")
    if write and status.st_nlink > 1:
        raise UsageError(
            f"the ledger {path} has {status.st_nlink} names (hard links), under each of which SQLite keeps another log:"
            " remove the others, or copy it to a file of its own"
        )
    if not create and status.st_size == 0 and not has_log(path):
        raise UsageError(f"no ledger at {path}: the file is empty")


def check_path(path: Path) -> None:
    """Raise UsageError where nothing can be at that path, as its name is too long or a folder above it is closed."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UsageError(f"cannot open the ledger {path}: {error.strerror}") from error


def real(path: Path) -> Path:
    """The file that a symbolic link leads to: what lies beside a ledger, its lock and other generations, lies there."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection to a ledger that can be written to; without `create` one that is gone by now is not made anew."""
    return _connected(path, "mode=rwc" if create else "mode=rw")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection to a ledger that cannot be written to."""
    return _connected(path, read_only_options(path))


def _connected(path: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
    )


@contextmanager
def translated(failed: str) -> Iterator[None]:
    """Have what SQLite raises say what failed, and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(f"{failed}: {cause(error)}") from error


def cause(error: Exception) -> str:
    """What SQLite or the system says, and what to do."""
    if not isinstance(error, sqlite3.Error):
        return str(error)
    remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return f"{error}: {remedy}" if remedy else str(error)
