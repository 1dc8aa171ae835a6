"""The PostgreSQL server that the tests write to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.postgres import Server, running
from tests.sinks.pgvector import SECRET


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
