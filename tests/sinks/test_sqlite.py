"""`sqlite://` keeps the promises of a sink."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import SinkError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import Chunk, MultiVector
from penstock.sinks.sqlite import SqliteIndex, SqliteSink
from penstock.sinks.sqlite.filters import condition
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite
from tests.sinks.asked import METADATA, WHERE
from tests.sinks.counted import equal_counts

apsw = pytest.importorskip("apsw")
pytest.importorskip("sqlite_vec")


class TestSqlite(SinkSuite):
    has_words = True

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: SqliteSink(f"sqlite://{tmp_path}/in dex/notes.db")

    @pytest.fixture
    def make_index(self, tmp_path: Path) -> MakeIndex:
        return lambda: SqliteIndex(f"sqlite://{tmp_path}/in dex/notes.db")


class TestSqliteMultiVector(TestSqlite):
    kind = MultiVector


@given(st.lists(METADATA, max_size=4), WHERE, st.booleans())
def test_filters_of_metadata_mean_what_they_mean(several: list[dict[str, Any]], where: Any, negated: bool) -> None:
    """Whatever the metadata and the filter are."""
    wanted = parse_filter({"$not": where} if negated else where)
    assert wanted is not None
    chunks = [Chunk(str(n), "", n, "", (0, 0), metadata=metadata) for n, metadata in enumerate(several)]
    values: list[Any] = []
    asked = condition(wanted, values)
    with closing(apsw.Connection(":memory:")) as file:
        file.execute("CREATE TABLE chunks (ordinal INTEGER, metadata TEXT)")
        file.executemany("INSERT INTO chunks VALUES (?, ?)", [(c.ordinal, json.dumps(c.metadata)) for c in chunks])
        found = [n for (n,) in file.execute(f"SELECT ordinal FROM chunks WHERE {asked} ORDER BY ordinal", values)]
    assert found == [chunk.ordinal for chunk in chunks if passes(chunk, wanted)]


def test_values_of_equal_counts(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/notes.db"
    with SqliteSink(url) as sink, SqliteIndex(url) as index:
        sink.open(TestSqlite().manifest)
        index.open()
        equal_counts(sink, index)


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    """A file that holds someone else's tables is refused, and stays as it was."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "theirs.db")) as file:
        file.execute("CREATE TABLE bills (amount)")
    with SqliteSink(f"sqlite://{tmp_path}/theirs.db") as sink, pytest.raises(SinkError, match="not Penstock's"):
        sink.open(TestSqlite().manifest)
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as file:
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("bills",)]


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    """Garbage instead of a database: one clear line."""
    (tmp_path / "x.db").write_bytes(b"hello" * 1000)
    sink = SqliteSink(f"sqlite://{tmp_path}/x.db")
    with pytest.raises(SinkError, match="cannot be read"):
        sink.manifest()


def test_looking_at_the_manifest_lets_go_of_no_lock(tmp_path: Path) -> None:
    """Another process must not take the file to itself while it is read here: that was a crash of both."""
    url = f"sqlite://{tmp_path}/notes.db"
    with SqliteSink(url) as sink:
        sink.open(TestSqlite().manifest)
    take = (
        "import sqlite3, sys; file = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "print(file.execute('PRAGMA journal_mode = DELETE').fetchone())"
    )
    with SqliteIndex(url) as index:
        index.open()
        assert index.count() == 0
        assert index.manifest() == TestSqlite().manifest
        command = [sys.executable, "-c", take, str(tmp_path / "notes.db")]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "database is locked" in other.stderr
