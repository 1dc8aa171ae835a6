"""Refusals, faults and foreign servers, as `milvus://` reports them."""

from __future__ import annotations

import base64
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import MissingExtra, SinkError, Transient, UsageError
from penstock.core.schema import Manifest
from penstock.sinks.milvus import MilvusIndex, MilvusSink, wire
from penstock.testing.lifecycle_suite import write_flush_and_die
from penstock.testing.sink_suite import (
    holds,
    point,
    respec,
    silent_port,
    unreachable,
)
from tests.sinks.milvus import KEY, MANIFEST, SPARSE, message

grpc = pytest.importorskip("grpc")
MilvusClient = pytest.importorskip("pymilvus").MilvusClient
pytest.importorskip("milvus_lite")


@pytest.mark.parametrize("other", [{"kind": "MultiVector"}, {"metric": "l2"}])
def test_unsupported_kinds(url: str, other: dict[str, str]) -> None:
    """Many vectors a point, sparse ones by distance: refused before anything is created."""
    with MilvusSink(url) as sink:
        with pytest.raises(UsageError) as raised:
            sink.open(Manifest(respec(SPARSE.schema, **other)))
        message(raised)
        assert sink.manifest() is None


class Refusing(grpc.GenericRpcHandler):
    """A server that answers everything with one status, and keeps the keys that it was sent."""

    def __init__(self, status: grpc.StatusCode | None, details: str) -> None:
        self.status, self.details, self.keys, self.let_go = status, details, set[str](), threading.Event()

    def service(self, call: Any) -> Any:
        self.keys |= {str(value) for key, value in call.invocation_metadata if key == "authorization"}
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, _request: bytes, context: Any) -> None:
        if self.status is None:
            self.let_go.wait(20)
        context.abort(self.status or grpc.StatusCode.CANCELLED, self.details)


@contextmanager
def refusing(
    status: grpc.StatusCode | None, details: str = "auth check failure\nin two lines"
) -> Iterator[tuple[str, Refusing]]:
    handler = Refusing(status, details)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"milvus://127.0.0.1:{port}/notes", handler
        finally:
            handler.let_go.set()
            server.stop(0).wait(5)


@pytest.mark.parametrize(
    "url",
    [
        "milvus://host",
        "milvus://host/two/names",
        "milvus://host/my-notes",
        "milvus://host/1st",
        "milvus://host/" + "n" * 256,
        "milvus://host:port/notes",
        "milvus://user@host/notes",
        "milvus://user:password@host/notes",
        "milvus://host/notes?ssl=1",
        "milvus://./notes",
        "milvus://./notes.db",
        "milvus://./folder/notes",
        "milvus://./notes.db/notes?tls=1",
        "qdrant://host/notes",
    ],
)
def test_invalid_urls(url: str) -> None:
    """They are refused at once, without a driver."""
    with pytest.raises(UsageError) as raised:
        MilvusSink(url)
    message(raised)


@pytest.mark.parametrize("missing", ["pymilvus", "milvus_lite.adapter.grpc.server"])
def test_a_missing_driver(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it, and nothing is created."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=r"penstock\[milvus\]"):
        MilvusSink(f"milvus://{tmp_path}/notes.db/notes").open(MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens, which may change."""
    monkeypatch.setenv("MILVUS_TOKEN", KEY)
    with silent_port() as port:
        url = f"milvus://127.0.0.1:{port}/notes"
        unreachable(MilvusSink(url), MilvusIndex(url), KEY)
        with pytest.raises(Transient):
            MilvusSink(url).manifest()


def test_a_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that listens and never answers."""
    monkeypatch.setattr(wire, "CONNECT", 1)
    started = time.monotonic()
    with refusing(None) as (url, _), pytest.raises(Transient):
        MilvusIndex(url).open()
    assert time.monotonic() - started < 15


def test_a_refused_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key goes to the server, and the message names its variable."""
    monkeypatch.setenv("MILVUS_TOKEN", KEY)
    with refusing(grpc.StatusCode.UNAUTHENTICATED) as (url, handler):
        with pytest.raises(SinkError, match="set MILVUS_TOKEN") as raised:
            MilvusSink(url).open(MANIFEST)
        assert not isinstance(raised.value, Transient)
        message(raised)
    assert handler.keys == {base64.b64encode(KEY.encode()).decode()}


def test_a_server_that_allows_fewer_vectors() -> None:
    """Its reason comes with the setting that it is about."""
    reason = "maximum vector field's number should be limited to 4"
    with refusing(grpc.StatusCode.INVALID_ARGUMENT, reason) as (url, _):
        with pytest.raises(SinkError, match=r"limited to 4; .*proxy\.maxVectorFieldNum") as raised:
            MilvusSink(url).open(MANIFEST)
        assert not isinstance(raised.value, Transient)


def test_another_collection_is_left_alone(url: str) -> None:
    """One that is not Penstock's is refused; a user's client is used and not closed."""
    client = MilvusClient(url.replace("milvus:", "http:").rpartition("/")[0], dedicated=True)
    name = url.rpartition("/")[2]
    client.create_collection(name, dimension=8)
    client.insert(name, [{"id": 1, "vector": [0.0] * 8}])
    with MilvusSink(url, client=client) as sink:
        for call in (lambda: sink.open(MANIFEST), sink.manifest, sink.drop):
            with pytest.raises(SinkError, match="not Penstock's"):
                call()
    assert [row["id"] for row in client.query(name, "id > 0", ["id"], consistency_level="Strong")] == [1]
    client.drop_collection(name)
    with MilvusSink(url, client=client) as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
        holds(sink, [point(1)])
    assert client.has_collection(name)
    client.close()


def test_dropping_where_there_is_no_file_creates_none(tmp_path: Path) -> None:
    """Nor does a name that is too long for generations."""
    MilvusSink(f"milvus://{tmp_path}/notes.db/notes").drop()
    with pytest.raises(UsageError, match="Milvus allows"):
        MilvusSink(f"milvus://{tmp_path}/notes.db/{'n' * 252}").generation(1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    """A file of the older Milvus Lite, or a folder of someone's."""
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    (tmp_path / "theirs.db").mkdir()
    (tmp_path / "theirs.db" / "x").touch()
    for name in ("old", "theirs"):
        with pytest.raises(SinkError, match="not a database of Milvus Lite"):
            MilvusSink(f"milvus://{tmp_path}/{name}.db/notes").open(MANIFEST)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["old.db", "theirs.db", "x"]


def test_a_file_has_one_process(tmp_path: Path) -> None:
    """Another is refused while it is open here; when it is closed, and when a process was killed, it opens."""
    url = f"milvus://{tmp_path}/notes.db/notes"
    child = "import pickle, sys; sink, manifest, task = pickle.load(sys.stdin.buffer); sink.open(manifest); task(sink)"
    task = pickle.dumps((MilvusSink(url), MANIFEST, write_flush_and_die))

    def run() -> subprocess.CompletedProcess[bytes]:
        path = os.pathsep.join(filter(None, sys.path))
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([sys.executable, "-c", child], input=task, capture_output=True, env=env, timeout=60)

    with MilvusSink(url) as sink:
        sink.open(MANIFEST)
        done = run()
        assert b"one in at a time" in done.stderr.splitlines()[-1]
    assert run().returncode == -signal.SIGKILL
    with MilvusSink(url) as sink:
        sink.open(MANIFEST)
        holds(sink, [point(n) for n in range(100)])
