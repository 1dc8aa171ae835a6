"""The PostgreSQL server that the tests write to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.postgres import Server, running
from tests.sinks.pgvector import MANIFEST, SECRET, opened


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    temporary = tempfile.TemporaryDirectory(prefix="penstock-pg-", ignore_cleanup_errors=True)
    with temporary as folder, running(Path(folder)) as server, server.connect() as admin:
        admin.execute("CREATE EXTENSION vector")
        for user in ("writer", "reader"):
            admin.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{SECRET}'")
        admin.execute("GRANT CREATE ON SCHEMA public TO writer")
        yield server


@pytest.fixture
def table(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The url of a table that does not exist yet. The schema is emptied afterwards."""
    monkeypatch.setenv("PGPASSWORD", SECRET)
    yield server.url("notes-1")
    with server.connect() as admin:
        admin.execute("DROP SCHEMA public CASCADE; DROP EXTENSION IF EXISTS vector; CREATE SCHEMA public")
        admin.execute("CREATE EXTENSION vector")
        admin.execute("GRANT CREATE, USAGE ON SCHEMA public TO writer; GRANT USAGE ON SCHEMA public TO reader")


@pytest.fixture
def earlier(table: str, server: Server) -> str:
    """The url of an empty table as version 0.1.0.dev had them, without a view."""
    opened(table).close()
    with server.connect() as admin:
        admin.execute('DROP TABLE "notes-1" CASCADE')
        text = 'text COLLATE "C" NOT NULL'
        admin.execute(f"""
            CREATE TABLE "notes-1" ("id" {text} PRIMARY KEY, "uri" {text}, "ordinal" bigint NOT NULL, "text" {text},
                "start" bigint NOT NULL, "end" bigint NOT NULL, "page" bigint, "headings" {text}, "metadata" {text},
                "image" bytea, "vector" vector({MANIFEST.schema.vectors["vector"].dim}) NOT NULL)
                WITH (toast_tuple_target = 8160);
            ALTER TABLE "notes-1" ALTER COLUMN "vector" SET STORAGE MAIN;
            CREATE INDEX ON "notes-1" (left(uri, 500));
            ALTER TABLE "notes-1" OWNER TO writer""")
    return table
