"""Refusals, faults and foreign servers, as `qdrant://` reports them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from penstock.core.errors import MissingExtra, Rejected, SinkError, TooLarge, Transient, UsageError
from penstock.core.records import VECTOR, MultiVector, Point
from penstock.core.schema import Manifest
from penstock.sinks.qdrant import QdrantIndex, QdrantSink, wire
from penstock.testing.emulators import qdrant as emulating
from penstock.testing.emulators.qdrant import Emulator
from penstock.testing.sink_suite import (
    DIM,
    holds,
    point,
    respec,
    silent_port,
    unreachable,
)
from tests.sinks.qdrant import DENSE, SECRET, at

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")


def test_one_bad_point_does_not_stop_the_others(url: str) -> None:
    """A point that Qdrant refuses is named; the rest of the batch is written."""
    points = [point(n, kind=MultiVector) for n in range(9)]
    empty = Point(points[4].chunk, {VECTOR: MultiVector(np.empty((0, DIM), np.float32))})
    with QdrantSink(url) as sink:
        sink.open(Manifest(respec(DENSE.schema, kind="MultiVector")))
        with pytest.raises(Rejected) as raised:
            sink.write([*points[:4], empty, *points[5:]])
        assert raised.value.reasons.keys() == {empty.id}
        holds(sink, points[:4] + points[5:])


def test_a_batch_that_is_refused_altogether_ends_the_run(server: Emulator) -> None:
    """If every point is refused, the cause is not the points."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        server.collections["notes"].vectors.clear()
        with pytest.raises(SinkError, match="Not existing vector name") as raised:
            sink.write([point(1), point(2)])
        assert not isinstance(raised.value, Rejected)


@pytest.mark.parametrize(
    "wrong",
    [
        "qdrant://",
        "qdrant://host",
        "qdrant://host/a/b",
        "qdrant://host:port/notes",
        "qdrant://host/notes?speed=1",
        "qdrant://user@host/notes",
        "qdrant://user:secret@host/notes",
        "qdrant://host/a%2Fb",
        "qdrant://./stores/a:b",
        "qdrant://./..",
        f"qdrant://host/{'x' * 256}",
    ],
)
def test_invalid_urls(wrong: str) -> None:
    """They are refused at once, without the password."""
    for make in (QdrantSink, QdrantIndex):
        with pytest.raises(UsageError) as raised:
            make(wrong)
        assert "secret" not in str(raised.value)


def test_a_missing_driver(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingExtra, match=r"penstock\[qdrant\]"):
        QdrantSink(url).open(DENSE)


def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later try may succeed."""
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    with silent_port() as port:
        url = f"qdrant://127.0.0.1:{port}/notes"
        unreachable(QdrantSink(url), QdrantIndex(url), SECRET)
        with pytest.raises(Transient, match="cannot be reached"):
            QdrantSink(url).manifest()


def test_a_server_that_does_not_answer_is_transient(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call ends in time, and the request that was given up does nothing later."""
    monkeypatch.setattr(wire, "TIMEOUT", 1)
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        server.stall(1.5)
        with pytest.raises(Transient, match="ReadTimeout"):
            sink.write([point(1)])
        time.sleep(1)
        assert sink.count() == 0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_transient(server: Emulator, status: int) -> None:
    """The same call succeeds later, whichever it was; the error has the seconds that the server asks for."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        calls: list[Callable[[], object]] = [
            lambda: sink.write([point(1)]),
            lambda: sink.delete(["x"]),
            sink.count,
            sink.manifest,
            lambda: list(sink.ids()),
            lambda: sink.fetch(["x"]),
            lambda: sink.replace_manifest(DENSE),
        ]
        for call in calls:
            server.fail(status)
            with pytest.raises(Transient) as raised:
                call()
            assert raised.value.retry_after == (1 if status == 429 else None)
            call()
        holds(sink, [point(1)])


def test_too_large_a_request(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine then tries smaller batches."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        monkeypatch.setattr(emulating, "LARGEST", 2000)
        with pytest.raises(TooLarge):
            sink.write([point(n) for n in range(20)])
        sink.write([point(1)])
        holds(sink, [point(1)])


@pytest.mark.parametrize(("secret", "error"), [("wrong-key", SinkError), ("", SinkError), ("a\nb-key", UsageError)])
def test_a_wrong_key_is_not_shown(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, secret: str, error: type[Exception]
) -> None:
    """One line says where the key belongs, without the key; nothing is created."""
    monkeypatch.setenv("QDRANT_API_KEY", secret)
    for call in (QdrantSink(at(server)).manifest, lambda: QdrantSink(at(server)).open(DENSE)):
        with pytest.raises(error, match="QDRANT_API_KEY") as raised:
            call()
        assert not isinstance(raised.value, Transient)
        assert "-key" not in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not server.collections


def test_another_collection_is_left_alone(url: str, folder: Path, server: Emulator) -> None:
    """One that is not Penstock's is refused, and stays as it was."""
    from qdrant_client import QdrantClient, models

    size = {"theirs": models.VectorParams(size=3, distance=models.Distance.COSINE)}
    if "127.0.0.1" in url:
        client = QdrantClient(
            host="127.0.0.1", port=server.port, https=False, api_key=SECRET, check_compatibility=False
        )
    else:
        client = QdrantClient(path=str(folder))
    client.create_collection("notes", vectors_config=size)
    client.close()
    sink = QdrantSink(url)
    for call in (sink.manifest, lambda: sink.open(DENSE), sink.drop, QdrantIndex(url).open):
        with pytest.raises(SinkError, match="not Penstock's"):
            call()
    if "127.0.0.1" in url:
        assert server.collections["notes"].metadata is None
        assert not server.collections["notes"].indexes


def test_a_server_without_metadata_is_too_old() -> None:
    """The error says so, and the collection that was created is removed again."""
    with Emulator(keeps_metadata=False) as old:
        with pytest.raises(SinkError, match=r"1\.16"):
            QdrantSink(at(old)).open(DENSE)
        assert not old.collections


class _Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if "ok" in self.path else 404)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None: ...


def test_servers_of_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server at that address, and one without TLS."""
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    with HTTPServer(("127.0.0.1", 0), _Other) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            for name in ("ok", "missing", "notes?tls=1"):
                with pytest.raises(SinkError) as raised:
                    QdrantSink(f"qdrant://127.0.0.1:{other.server_port}/{name}").manifest()
                assert not isinstance(raised.value, Transient), name
                assert "\n" not in str(raised.value)
        finally:
            other.shutdown()


_HOLD = """
import sys
from qdrant_client import QdrantClient
client = QdrantClient(path=sys.argv[1])
print(1, flush=True)
input()
"""


@pytest.mark.filterwarnings("ignore:.*[.]lock:pytest.PytestUnraisableExceptionWarning")  # the driver leaves it open
def test_a_folder_in_use(folder: Path) -> None:
    """Another process has it: one line says so; when that one ends it opens."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"1\n"
            with pytest.raises(SinkError, match="another process"):
                QdrantSink(f"qdrant://{folder}/notes").open(DENSE)
        finally:
            holder.kill()
    with QdrantSink(f"qdrant://{folder}/notes") as sink:
        sink.open(DENSE)
        assert sink.count() == 0


def test_the_emulator_is_strict(server: Emulator) -> None:
    """Fields, paths and parameters that the requests on record do not have are refused."""
    import httpx

    wrong = [
        ("PUT", "/collections/notes", {"vectors": {}, "shards": 1}, 400),
        ("PUT", "/collections/notes?waits=true", {"vectors": {}}, 400),
        ("GET", "/collections/notes", None, 404),
        ("GET", "/points", None, 404),
        ("POST", "/collections/other/points/search", {}, 404),
        ("POST", "/collections/other/points/query", {"query": [1.0]}, 400),
        ("POST", "/collections/other/points/count", {"filter": {"should_not": []}}, 400),
        ("POST", "/collections/other/points/count", {"filter": {"must": [{"nested": {"key": "a"}}]}}, 400),
        ("POST", "/collections/other/points/count", {"filter": {"must": [{"key": "a", "match": {"value": 1.5}}]}}, 400),
        ("POST", "/collections/other/points/scroll", {"with_payload": {"include": ["a"]}}, 400),
        ("PUT", "/collections/other/index", {"field_name": "a", "field_schema": {"type": "word"}}, 400),
        ("PUT", "/collections/other/points", {"points": [{"id": "no uuid", "vector": {}, "payload": {}}]}, 400),
        ("PUT", "/collections/other/points", {"points": [{"id": -1, "vector": {}, "payload": {}}]}, 400),
    ]
    with QdrantSink(at(server, "other")) as sink:
        sink.open(DENSE)
        sink.write([point(1)])
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers={"api-key": SECRET}) as client:
        for method, path, body, status in wrong:
            assert client.request(method, path, json=body).status_code == status, path
        assert client.get("/collections/other", headers={"api-key": "x"}).status_code == 401
