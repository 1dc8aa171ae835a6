"""Refusals, faults and foreign indexes, as `pinecone://` reports them."""

from __future__ import annotations

import sys
import time

import pytest

from penstock.core.errors import (
    MissingExtra,
    SinkError,
    SinkUnavailable,
    SpaceMismatch,
    Transient,
    UsageError,
)
from penstock.core.schema import Manifest
from penstock.sinks.pinecone import PineconeIndex, PineconeSink, wire
from penstock.testing.sink_suite import holds, point, respec, silent_port, unreachable
from tests.sinks.pinecone import MANIFEST, SECRET, Endpoint, opened

pytest.importorskip("pinecone")
pytest.importorskip("orjson")


# ---------------------------------------------------------------- urls and keys


@pytest.mark.parametrize(
    "url",
    [
        "pinecone://notes",
        "pinecone://My_index/notes",
        "pinecone://" + "x" * 46 + "/notes",
        "pinecone://me@index/notes",
        "pinecone://index/__default__",
        "pinecone://index/penstock-manifests",
        "pinecone://index/notes?cloud=aws",
        "pinecone://index/notes?host=http://x",
        "pinecone://index/notes?ssl=1",
        "pinecone:///srv/notes",
    ],
)
def test_invalid_urls(url: str) -> None:
    """They are refused before a request is sent."""
    with pytest.raises(UsageError):
        PineconeSink(url)


def test_plain_http_is_for_this_machine_only() -> None:
    """The key is sent unencrypted to no other host."""

    def controller(host: str) -> str:
        return wire._controller(wire.parse(f"pinecone://index/notes?host={host}"))

    assert controller("localhost:5080") == "http://localhost:5080"
    assert controller("[::1]:5080") == "http://[::1]:5080"
    assert controller("localhost:5080&tls=1") == "https://localhost:5080"
    assert controller("localhost.example.com:5080") == "https://localhost.example.com:5080"
    assert controller("10.0.0.1") == "https://10.0.0.1"


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the install line."""
    monkeypatch.setitem(sys.modules, "pinecone", None)
    with pytest.raises(MissingExtra, match=r"penstock\[pinecone\]"):
        PineconeSink("pinecone://index/notes").manifest()


@pytest.mark.parametrize("key", ["", "k\u00e9y", "key\n"])
def test_an_invalid_key(endpoint: Endpoint, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, before a request is sent."""
    monkeypatch.setenv("PINECONE_API_KEY", key)
    with pytest.raises(UsageError, match="PINECONE_API_KEY"):
        PineconeSink(endpoint[0]).manifest()
    assert endpoint[1].requests == []


def test_a_wrong_key(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, not its value, in one line, and nothing is created."""
    monkeypatch.setenv("PINECONE_API_KEY", "wr0ng-wr0ng")
    with pytest.raises(SinkError, match="set PINECONE_API_KEY") as raised:
        opened(endpoint[0])
    assert not isinstance(raised.value, Transient)
    assert "wr0ng" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not endpoint[1].indexes


@pytest.mark.heavy
def test_an_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is Transient."""
    monkeypatch.setenv("PINECONE_API_KEY", SECRET)
    with silent_port() as port:
        url = f"pinecone://index/notes?host=127.0.0.1:{port}"
        began = time.monotonic()
        with pytest.raises(Transient, match="cannot be reached"):
            PineconeSink(url).manifest()
        assert time.monotonic() - began < 10
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client tries again and again, as was seen
        unreachable(PineconeSink(url), PineconeIndex(url), SECRET)


def test_a_client_of_the_users(endpoint: Endpoint) -> None:
    """It is used as it is, left open, and not sent to another process."""
    import pinecone

    client = pinecone.Pinecone(api_key=SECRET, host=endpoint[1].base)
    for _ in range(2):
        with PineconeSink(endpoint[0], client) as sink:
            sink.open(MANIFEST)
            sink.write([point(1)])
            holds(sink, [point(1)])
    getattr(client, "close", lambda: None)()  # client 8 has no close
    with pytest.raises(UsageError, match="another process"):
        PineconeSink(endpoint[0], client).__reduce__()


# ---------------------------------------------------------------- existing indexes


def test_a_missing_index(endpoint: Endpoint) -> None:
    """Without a cloud and region to create it in, the message says what to create."""
    url = endpoint[0].replace("cloud=aws&region=us-east-1&", "")
    assert PineconeSink(url).manifest() is None
    with pytest.raises(SinkError, match=r"8 dimensions and the metric cosine.*cloud=aws"):
        opened(url)
    assert not endpoint[1].indexes


def test_an_index_of_another_shape(endpoint: Endpoint) -> None:
    """Another dimension or metric is refused before anything is written."""
    opened(endpoint[0]).close()
    other = endpoint[0].replace("/notes", "/others")
    for space in ({"dim": 16}, {"metric": "dot"}):
        with pytest.raises(SpaceMismatch, match="8 dimensions by cosine"):
            opened(other, **space)
    assert endpoint[1].indexes["my-index"].namespaces.keys() == {wire.MANIFESTS}


def test_a_foreign_namespace_is_left_alone(endpoint: Endpoint) -> None:
    """It is refused, and nothing is written to it."""
    import pinecone

    opened(endpoint[0]).close()
    other = endpoint[0].replace("/notes", "/theirs")
    client = pinecone.Pinecone(api_key=SECRET, host=endpoint[1].base)
    with client.Index(host=endpoint[1].indexes["my-index"].listener.base) as theirs:
        theirs.upsert(vectors=[("a", [1.0] * 8)], namespace="theirs")
        while not theirs.fetch(ids=["a"], namespace="theirs").vectors:
            pass
    getattr(client, "close", lambda: None)()
    with pytest.raises(SinkError, match="not Penstock's"):
        opened(other)
    with pytest.raises(SinkError, match="not Penstock's"):
        PineconeSink(other).drop()
    assert PineconeSink(other).manifest() is None


def test_namespaces_of_one_index(endpoint: Endpoint) -> None:
    """Each has its own points and manifest."""
    with (
        opened(endpoint[0]) as one,
        opened(endpoint[0].replace("/notes", "/more"), model="x", fingerprint="e" * 32) as two,
    ):
        one.write([point(1)])
        two.write([point(2), point(3)])
        holds(one, [point(1)])
        holds(two, [point(2), point(3)])
        assert one.manifest() != two.manifest()


def test_a_generation_is_an_index_of_its_own(endpoint: Endpoint) -> None:
    """It may have another dimension, is removed with its last namespace, and may be created with another one."""
    url, server = endpoint
    with (
        opened(url) as sink,
        sink.generation(1) as second,
        PineconeSink(url.replace("/notes", "/more")).generation(1) as more,
    ):
        assert second.url.startswith("pinecone://my-index-1/notes?cloud=aws")
        second.open(Manifest(respec(MANIFEST.schema, dim=3)))
        more.open(Manifest(respec(MANIFEST.schema, dim=3)))
        second.write([point(1, dim=3)])
        more.write([point(2, dim=3)])
        sink.write([point(3)])
        second.drop()
        holds(more, [point(2, dim=3)])
        more.drop()
        assert server.indexes.keys() == {"my-index"}
        second.open(Manifest(respec(MANIFEST.schema, dim=16)))
        second.flush()
        holds(second, [])
        holds(sink, [point(3)])
    with pytest.raises(UsageError, match="at most 45"):
        PineconeSink("pinecone://" + "x" * 44 + "/notes").generation(1)


def test_an_index_of_the_users_stays(endpoint: Endpoint) -> None:
    """Penstock removes only its own records from an index that it did not create."""
    import pinecone

    url, server = endpoint
    client = pinecone.Pinecone(api_key=SECRET, host=server.base)
    spec = pinecone.ServerlessSpec(cloud="aws", region="us-east-1")
    client.create_index(name="my-index", dimension=8, metric="cosine", spec=spec, timeout=-1)
    time.sleep(0.05)
    with PineconeSink(url, client) as sink:
        sink.open(MANIFEST)
        sink.write([point(1)])
        sink.drop()
        assert sink.manifest() is None
        assert server.indexes.keys() == {"my-index"}
        sink.open(MANIFEST)
        holds(sink, [])
    getattr(client, "close", lambda: None)()  # client 8 has no close


# ---------------------------------------------------------------- faults


def test_a_flush_has_a_deadline(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises Transient when a write is not seen in time, and so does the next one, until it is seen."""
    url, server = endpoint
    with opened(url) as sink:
        monkeypatch.setattr(wire, "WAIT", 0.05)
        server.lag = 1000
        sink.write([point(1)])
        for _ in range(2):
            with pytest.raises(Transient, match="not seen"):
                sink.flush()
        for view in (
            server.indexes["my-index"].namespaces["notes"].searched,
            server.indexes["my-index"].namespaces["notes"].read,
        ):
            view.lag = 0
        holds(sink, [point(1)])


@pytest.mark.parametrize(
    ("status", "kind"), [(429, SinkUnavailable), (503, SinkUnavailable), (0, SinkUnavailable), (403, SinkError)]
)
def test_requests_that_fail(
    endpoint: Endpoint, status: int, kind: type[SinkError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client tries four times in all, then the error is raised; the next write succeeds."""
    pytest.importorskip("pinecone._internal.http_client", reason="client 8 does its waiting elsewhere")
    monkeypatch.setattr("pinecone._internal.http_client._retry_sleep", lambda seconds: None)
    url, server = endpoint
    with opened(url) as sink:
        server.fail(status, "/vectors/upsert", times=1 if status == 403 else 4)
        with pytest.raises(SinkError) as raised:
            sink.write([point(1)])
        assert type(raised.value) is kind
        server._faults.clear()
        sink.write([point(1)])
        holds(sink, [point(1)])


def test_a_service_says_when_to_come_back(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds of Retry-After go with the error that the client raises after its own tries."""
    pytest.importorskip("pinecone._internal.http_client", reason="client 8 keeps no headers")
    monkeypatch.setattr("pinecone._internal.http_client._retry_sleep", lambda seconds: None)
    url, server = endpoint
    with opened(url) as sink:
        server.fail(429, "/vectors/upsert", times=4, retry_after=7)
        with pytest.raises(Transient) as raised:
            sink.write([point(1)])
        server._faults.clear()
        assert raised.value.retry_after == 7
