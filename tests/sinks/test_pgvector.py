"""`pgvector://` keeps the promises of a sink, in a PostgreSQL of its own: the one of the package pgserver, as the user
`nobody` where the tests run as root, since PostgreSQL refuses to be root's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import MissingExtra, Rejected, SinkError, SpaceMismatch, Transient, UsageError
from penstock.records import VECTOR, Dense, Manifest, Space
from penstock.sinks import pgvector
from penstock.sinks.pgvector import PgvectorIndex, PgvectorSink
from penstock.testing.sink_suite import FILTERS, MakeIndex, MakeSink, SinkSuite, holds, point

psycopg = pytest.importorskip("psycopg")
PACKAGE = find_spec("pgserver")
if PACKAGE is None or os.name == "nt":
    pytest.skip("needs PostgreSQL with pgvector: pip install pgserver", allow_module_level=True)

SECRET = "the pass word"
MANIFEST = Manifest(Space("a model", 8, "f" * 32, "256 tokens"), owner="ledger 1")


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]

    def url(self, table: str, database: str = "postgres", user: str = "writer") -> str:
        return f"pgvector://{user}@127.0.0.1:{self.port}/{database}/{table}"

    def connect(self, **options: Any) -> Any:
        given = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "dbname": "postgres", "autocommit": True}
        return psycopg.connect(**(given | options))


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server of its own in that folder. Root's runs as `nobody`, from a copy of the program that it can read."""
    assert PACKAGE is not None
    assert PACKAGE.submodule_search_locations
    package = Path(PACKAGE.submodule_search_locations[0])
    data = folder / "data"
    data.mkdir()
    who: dict[str, Any] = {}
    if os.getuid() == 0:
        import pwd

        nobody = pwd.getpwnam("nobody")
        who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for part in (package, package.with_name("pgserver.libs")):
            if part.exists():
                shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("include", "*.a", "*.py*"))
        package = folder / "pgserver"
        folder.chmod(0o755)
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
    programs = package / "pginstall" / "bin"
    made = subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        cwd=folder,
        capture_output=True,
        timeout=60,
        **who,
    )
    assert made.returncode == 0, made.stderr.decode()
    host = "host all {} 127.0.0.1/32 {}\n"
    (data / "pg_hba.conf").write_text(host.format("writer,reader", "scram-sha-256") + host.format("postgres", "trust"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = (f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *(word for setting in settings for word in ("-c", setting))],
            cwd=folder,
            stdout=log,
            stderr=log,
            **who,
        )
    server = Server(port, process)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                server.connect().close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="penstock-pg-", ignore_cleanup_errors=True) as folder:
        with running(Path(folder)) as server, server.connect() as admin:
            admin.execute("CREATE EXTENSION vector")
            for user in ("writer", "reader"):
                admin.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{SECRET}'")
            admin.execute("GRANT CREATE ON SCHEMA public TO writer")
            yield server


@pytest.fixture
def table(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The url of a table that is not there yet; afterwards nothing is."""
    monkeypatch.setenv("PGPASSWORD", SECRET)
    yield server.url("notes-1")
    with server.connect() as admin:
        admin.execute("DROP SCHEMA public CASCADE; DROP EXTENSION IF EXISTS vector; CREATE SCHEMA public")
        admin.execute("CREATE EXTENSION vector")
        admin.execute("GRANT CREATE, USAGE ON SCHEMA public TO writer; GRANT USAGE ON SCHEMA public TO reader")


class TestPgvector(SinkSuite):
    secret = SECRET

    @pytest.fixture
    def make_sink(self, table: str) -> MakeSink:
        return lambda: PgvectorSink(table)

    @pytest.fixture
    def make_index(self, table: str) -> MakeIndex:
        return lambda: PgvectorIndex(table)


def opened(url: str, manifest: Manifest = MANIFEST) -> PgvectorSink:
    sink = PgvectorSink(url)
    sink.open(manifest)
    return sink


# ---------------------------------------------------------------- what comes back


def test_control_characters_keep_their_order(table: str) -> None:
    """NUL and its neighbour, in ids, uris and texts: to the letter, and in the order of code points."""
    odd = ["", "\0", "\0\0", "\0\1", "\1", "\1\0", "\1\1", "\1\2", "\2", "a\0", "a\1b", "Z", "a", "ä", "🌊"]
    points = [replace(p, chunk=replace(p.chunk, id=t, uri=t, text=t)) for t, p in zip(odd, map(point, range(99)))]
    with opened(table) as sink, PgvectorIndex(table) as index:
        sink.write(points)
        holds(sink, points)
        assert [id for page in sink.ids() for id in page] == sorted(odd)
        index.open()
        query = points[0].vectors[VECTOR]
        for text in odd:
            for field in ("id", "uri", "text"):
                assert [h.chunk.id for h in index.search(query, where={field: text})] == [text]
                assert [h.chunk.id for h in index.search(query, where={field: [text, "?"]})] == [text]
                below = index.search(query, k=99, where={field: {"$lt": text}})
                assert {h.chunk.id for h in below} == {other for other in odd if other < text}
        sink.delete(odd[1:])
        holds(sink, points[:1])


def test_what_cannot_be_kept_is_named(table: str) -> None:
    """An id too long for an index, or one that is no text: refused by name, the others written."""
    good, long = point(1), point(2)
    bad = replace(long, chunk=replace(long.chunk, id="ü" * 2000))
    lone = replace(long, chunk=replace(long.chunk, id="\ud800"))
    with opened(table) as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([bad, good, lone])
        assert raised.value.reasons.keys() == {bad.id, lone.id}
        sink.delete([lone.id, bad.id])
        assert sink.fetch([lone.id, bad.id]) == []
        holds(sink, [good])


def test_vectors_and_uris_of_any_size(table: str) -> None:
    """Subnormal numbers, zeros of both signs and the largest; 2,500 dimensions; uris of 9,000 bytes."""
    space = replace(MANIFEST.space, dim=2500, metric="l2")
    values = np.random.default_rng(1).standard_normal((2, 2500), dtype=np.float32)
    values[0, :5] = [-0.0, 0.0, 1e-45, 3.4e38, -1e-39]
    rng = np.random.default_rng(2)
    uris = ["x:" + rng.bytes(4500).hex(), "x:" + "ü" * 4500]
    points = [
        replace(p, chunk=replace(p.chunk, uri=uri, text=rng.bytes(3000).hex()), vectors={VECTOR: Dense(v)})
        for p, uri, v in zip([point(1), point(2)], uris, values, strict=True)
    ]
    with opened(table, Manifest(space)) as sink, PgvectorIndex(table) as index:
        sink.write(points)
        holds(sink, points)
        sink.maintain()
        index.open()
        for p, uri in zip(points, uris, strict=True):
            assert [h.chunk.id for h in index.search(Dense(values[1]), where={"uri": uri})] == [p.id]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_scores(table: str, metric: str) -> None:
    """Larger for nearer: the cosine itself, 0 where there is no direction; the product; the distance below zero."""
    vectors = [(1, 0), (3, 4), (0, 0), (-2, 0)]
    points = [replace(point(n), vectors={VECTOR: Dense(np.array(v, dtype=np.float32))}) for n, v in enumerate(vectors)]
    meant = {
        "cosine": [(0, 1.0), (1, 0.6), (2, 0.0), (3, -1.0)],
        "dot": [(1, 6.0), (0, 2.0), (2, 0.0), (3, -4.0)],
        "l2": [(0, -1.0), (2, -2.0), (3, -4.0), (1, -(17**0.5))],
    }[metric]
    with opened(table, Manifest(replace(MANIFEST.space, dim=2, metric=metric))) as sink, PgvectorIndex(table) as index:
        sink.write(points)
        index.open()
        for where in (None, {"page": None}):
            hits = index.search(Dense(np.array([2, 0], dtype=np.float32)), where=where)
            assert [(h.chunk.ordinal, pytest.approx(h.score, abs=1e-6)) for h in hits] == meant
