"""Refusals, faults and foreign servers, as `weaviate://` reports them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from penstock.core.errors import MissingExtra, Rejected, SinkError, TooLarge, Transient, UsageError
from penstock.core.schema import Manifest
from penstock.testing.sink_suite import (
    holds,
    point,
    respec,
    silent_port,
    unreachable,
)
from tests.sinks.weaviate import DENSE, SECRET, at, vector_of

pytest.importorskip("weaviate")
import grpc

from penstock.sinks.lengths import key
from penstock.sinks.weaviate import WeaviateIndex, WeaviateSink, wire
from penstock.testing.emulators.weaviate import Emulator
from penstock.testing.emulators.weaviate_objects import Collection
from penstock.testing.emulators.weaviate_schema import Refusal, completed


@pytest.mark.parametrize("other", [{"kind": "Sparse"}, {"kind": "MultiVector", "metric": "l2"}])
def test_unsupported_kinds(server: Emulator, other: dict[str, str]) -> None:
    """Sparse vectors, and many by distance: refused before any request."""
    with WeaviateSink(at(server)) as sink, pytest.raises(UsageError):
        sink.open(Manifest(respec(DENSE.schema, **other)))
    assert server.requests == []


def test_one_bad_point_does_not_stop_the_others(server: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """A point that Weaviate refuses is named; so is one whose numbers it does not keep; the rest is written. The log
    has no text of it."""
    points = [point(n, text="not for the log") for n in range(9)]
    points[5] = replace(points[5], chunk=replace(points[5].chunk, span=(2**60, 2**60 + 1)))
    server.refused[key(points[4].id)] = "simulated per-object error"
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        with pytest.raises(Rejected) as raised:
            sink.write(points)
        assert raised.value.reasons.keys() == {points[4].id, points[5].id}
        holds(sink, points[:4] + points[6:])
        assert "Failed to send 1 objects" in caplog.text
        assert "not for the log" not in caplog.text
        with pytest.raises(Rejected, match="simulated"):
            sink.write(points[4:5])


def test_a_batch_that_is_refused_altogether_ends_the_run(server: Emulator) -> None:
    """If every point is refused, the cause is not the points."""
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        server.collections["Notes"].schema["properties"].clear()
        with pytest.raises(SinkError, match="no such prop") as raised:
            sink.write([point(1), point(2)])
        assert not isinstance(raised.value, Rejected)


def test_a_point_that_may_pass_later_is_transient(server: Emulator) -> None:
    """A server short of memory, or of replicas, refuses object by object."""
    server.refused[key(point(1).id)] = "broadcast: cannot reach consistency level QUORUM"
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        for batch in ([point(1)], [point(1), point(2)]):
            with pytest.raises(Transient):
                sink.write(batch)
        server.refused.clear()
        sink.write([point(1)])
        holds(sink, [point(1), point(2)])


@pytest.mark.parametrize(
    "wrong",
    [
        "weaviate://",
        "weaviate://host",
        "weaviate://./folder/notes",
        "weaviate://host/a/b",
        "weaviate://host:port/notes",
        "weaviate://host/notes?speed=1",
        "weaviate://host/notes?grpc=none",
        "weaviate://host/notes?grpc=0",
        "weaviate://host/notes?grpc=8080",
        "weaviate://user@host/notes",
        "weaviate://user:secret@host/notes",
        "weaviate://host/my-notes",
        "weaviate://host/1notes",
        "weaviate://host/ßnotes",
        f"weaviate://host/{'x' * 256}",
    ],
)
def test_invalid_urls(wrong: str) -> None:
    """They are refused at once, without the password."""
    for make in (WeaviateSink, WeaviateIndex):
        with pytest.raises(UsageError) as raised:
            make(wrong)
        assert "secret" not in str(raised.value)


def test_parts_of_a_url() -> None:
    """Names get a capital; gRPC may have a port or a host of its own."""
    assert (named := wire.parse("weaviate://h/notes_1")).name == "Notes_1"
    assert named.grpc == ("h", 50051)
    assert wire.parse("weaviate://h/Notes?grpc=7").grpc == ("h", 7)
    assert wire.parse("weaviate://h/Notes?tls=1&grpc=grpc-h:443").grpc == ("grpc-h", 443)
    assert wire.parse("weaviate://[::1]/Notes?grpc=[::2]:443").grpc == ("::2", 443)


def test_a_missing_driver(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "weaviate", None)
    with pytest.raises(MissingExtra, match=r"penstock\[weaviate\]"):
        WeaviateSink(at(server)).open(DENSE)


def test_an_unreachable_server(server: Emulator) -> None:
    """A later try may succeed. If only gRPC is unreachable, nothing is created."""
    with silent_port() as port:
        url = f"weaviate://127.0.0.1:{port}/notes"
        unreachable(WeaviateSink(url), WeaviateIndex(url), SECRET)
        with pytest.raises(Transient, match="cannot be reached"):
            WeaviateSink(url).manifest()
        with pytest.raises(Transient, match="gRPC"):
            WeaviateSink(f"weaviate://127.0.0.1:{server.port}/notes?grpc={port}").open(DENSE)
    assert not server.collections


def test_a_server_that_does_not_answer_is_transient(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call ends in time, and the request that was given up does nothing later."""
    monkeypatch.setattr(wire, "TIMEOUT", 1)
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        server.stall(1.5)
        with pytest.raises(Transient, match="DEADLINE"):
            sink.write([point(1)])
        time.sleep(1)
        assert sink.count() == 0


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"])
def test_a_busy_server_is_transient(server: Emulator, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The same call succeeds later, whichever it was."""
    monkeypatch.setattr("weaviate.retry.time", SimpleNamespace(sleep=lambda seconds: None))
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        calls: list[Callable[[], object]] = [
            lambda: sink.write([point(1)]),
            lambda: sink.delete(["x"]),
            sink.count,
            lambda: list(sink.ids()),
            lambda: sink.fetch(["x"]),
        ]
        for call in calls:
            server.fail(grpc.StatusCode[code], times=10)
            with pytest.raises(Transient):
                call()
            server._faults.clear()
            call()
        for status in (429, 503):
            for call in (sink.manifest, lambda: sink.replace_manifest(DENSE)):
                server.fail(status)
                with pytest.raises(Transient):
                    call()
                call()
        holds(sink, [point(1)])


def test_too_large_a_point(server: Emulator) -> None:
    """One point exceeds a message; batches are cut to its size."""
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        with pytest.raises(TooLarge):
            sink.write([point(1, text="x" * (11 << 20))])
        points = [point(n, text="x" * (3 << 20)) for n in range(5)]
        sink.write(points)
        holds(sink, points)


@pytest.mark.parametrize(("secret", "error"), [("wrong-key", SinkError), ("", SinkError), ("a\nb-key", UsageError)])
def test_a_wrong_key_is_not_shown(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, secret: str, error: type[Exception]
) -> None:
    """One line says where the key belongs, without the key; nothing is created."""
    monkeypatch.setenv("WEAVIATE_API_KEY", secret)
    for call in (WeaviateSink(at(server)).manifest, lambda: WeaviateSink(at(server)).open(DENSE)):
        with pytest.raises(error, match="WEAVIATE_API_KEY") as raised:
            call()
        assert not isinstance(raised.value, Transient)
        assert "-key" not in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not server.collections


@pytest.mark.parametrize("description", [None, "their notes", '{"theirs": 1}', "[1]"])
def test_another_collection_is_left_alone(server: Emulator, description: str | None) -> None:
    """One that is not Penstock's is refused, and stays as it was."""
    theirs = completed({"class": "Notes", "vectorConfig": {}} | ({"description": description} if description else {}))
    server.collections["Notes"] = Collection(dict(theirs))
    for call in (
        WeaviateSink(at(server)).manifest,
        lambda: WeaviateSink(at(server)).open(DENSE),
        WeaviateSink(at(server)).drop,
        WeaviateIndex(at(server)).open,
    ):
        with pytest.raises(SinkError, match="not Penstock's"):
            call()
    assert server.collections["Notes"].schema == theirs


class _Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(type(self).body)

    body = b"<html>hello</html>"

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[]", b'{"version": "1.20.0"}'])
def test_servers_of_other_kinds(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """Another server at that address, one too old, and one without TLS."""
    monkeypatch.delenv("WEAVIATE_API_KEY", raising=False)
    monkeypatch.setattr(_Other, "body", body)
    with HTTPServer(("127.0.0.1", 0), _Other) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            for name in ("notes", "notes?tls=1"):
                with pytest.raises(SinkError) as raised:
                    WeaviateSink(f"weaviate://127.0.0.1:{other.server_port}/{name}").manifest()
                assert not isinstance(raised.value, Transient), name
                assert "\n" not in str(raised.value)
        finally:
            other.shutdown()


def test_only_the_server_is_asked(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not look for a newer version of itself, nor for who lets users in."""
    monkeypatch.setattr("weaviate.connect.v4.PYPI_PACKAGE_URL", f"http://127.0.0.1:{server.port}/newer")
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        index.open()
        sink.write([point(1)])
        index.search(vector_of(point(1)))
    asked = {"GET /v1/meta", "GET /v1/schema/Notes", "POST /v1/schema", "BatchObjects", "Search"}
    assert set(server.requests) == asked


def test_the_emulator_is_strict(server: Emulator) -> None:
    """It refuses what Weaviate does: reserved names, ids that are no UUIDs, filters without an index, empty blobs."""
    import weaviate as driver
    from weaviate.classes.init import Auth
    from weaviate.classes.query import Filter
    from weaviate.exceptions import WeaviateBaseError

    for wrong in (
        {"class": "no-name"},
        {"class": "A", "shards": 1},
        {"class": "A", "properties": [{"name": "id", "dataType": ["text"]}]},
        {"class": "A", "properties": [{"name": "a", "dataType": ["int"], "tokenization": "field"}]},
        {"class": "A", "vectorConfig": {"dense": {"vectorizer": {"text2vec-openai": {}}}}},
    ):
        with pytest.raises(Refusal):
            completed(wrong)
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        sink.write([point(1)])
    client = driver.connect_to_local(
        "127.0.0.1", server.port, server.grpc_port, auth_credentials=Auth.api_key(SECRET), skip_init_checks=True
    )
    with client:
        notes = client.collections.use("Notes")
        calls: list[Callable[[], object]] = [
            lambda: notes.data.insert_many([{"image": ""}]),
            lambda: notes.data.insert_many([{"nothing": 1}]),
            lambda: notes.data.insert_many([{"ordinal": 1.5}]),
            lambda: notes.query.fetch_objects(filters=Filter.by_property("text").equal("x")),
            lambda: notes.query.fetch_objects(filters=Filter.by_property("page").is_none(True)),
            lambda: notes.query.fetch_objects(filters=Filter.not_(Filter.by_property("page").equal(1))),
            lambda: notes.query.fetch_objects(limit=10_001),
            lambda: notes.query.near_vector([1.0], target_vector="dense"),
        ]
        for call in calls:
            with pytest.raises((WeaviateBaseError, ValueError)):  # older clients cannot ask for booleans
                call()
