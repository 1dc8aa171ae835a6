"""Scratch databases hold what memory has no room for, and leave nothing behind."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from penstock.support import scratch


def test_it_spills_and_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than its cache goes to a file that no folder names."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    with closing(scratch.database("CREATE TABLE pages (data BLOB)", cache=1 << 20)) as db:
        db.execute("BEGIN")
        db.executemany("INSERT INTO pages VALUES (?)", ((bytes(1 << 16),) for _ in range(128)))
        db.execute("COMMIT")
        assert db.execute("SELECT sum(length(data)) FROM pages").fetchone() == (8 << 20,)
        assert os.listdir(tmp_path) == []


def test_each_is_a_database_of_its_own() -> None:
    """Two at a time know nothing of each other."""
    with closing(scratch.database("CREATE TABLE a (x)")), closing(scratch.database()) as other:
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_another_thread_may_use_it() -> None:
    """In turns, as a stage and whoever closes it do."""
    with closing(scratch.database("CREATE TABLE a (x)")) as db:
        thread = threading.Thread(target=lambda: db.execute("INSERT INTO a VALUES (1)"))
        thread.start()
        thread.join()
        assert db.execute("SELECT x FROM a").fetchall() == [(1,)]


def test_a_wrong_schema_is_an_error() -> None:
    """And leaves no connection open."""
    with pytest.raises(sqlite3.Error):
        scratch.database("CREATE TABLE")
