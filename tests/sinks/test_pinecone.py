"""`pinecone://` keeps the promises of a sink: the official client over a strict emulator."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import (
    MissingExtra,
    Rejected,
    SinkError,
    SinkUnavailable,
    SpaceMismatch,
    Transient,
    UsageError,
)
from penstock.core.records import VECTOR, Dense, Point, Sparse
from penstock.core.schema import Manifest
from penstock.sinks.pinecone import PineconeIndex, PineconeSink, wire
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite, holds, point, respec, silent_port, unreachable
from tests.sinks.overlapping import Overlapping

pytest.importorskip("pinecone")
pytest.importorskip("orjson")

from penstock.testing.emulators.pinecone import MOST_VALUES, PineconeServer

SECRET = "pcsk_s3cr3t-s3cr3t"
MANIFEST = SinkSuite().manifest
Endpoint = tuple[str, PineconeServer]


@pytest.fixture(scope="module")
def server() -> Iterator[PineconeServer]:
    with PineconeServer(SECRET) as server:
        yield server


@pytest.fixture
def endpoint(server: PineconeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """The url of a namespace in an index that does not exist yet, and the server."""
    server.forget()
    server.positions, server.lag = True, 0.01
    monkeypatch.setenv("PINECONE_API_KEY", SECRET)
    yield f"pinecone://my-index/notes?cloud=aws&region=us-east-1&host=127.0.0.1:{server.port}", server
    server.refused.clear()
    server.requests.clear()


def opened(url: str, **space: Any) -> PineconeSink:
    sink = PineconeSink(url)
    sink.open(Manifest(respec(MANIFEST.schema, **space)))
    return sink


class TestPinecone(SinkSuite):
    secret = SECRET

    @pytest.fixture
    def make_sink(self, endpoint: Endpoint) -> MakeSink:
        return lambda: PineconeSink(endpoint[0])

    @pytest.fixture
    def make_index(self, endpoint: Endpoint) -> MakeIndex:
        return lambda: PineconeIndex(endpoint[0])


@pytest.mark.heavy
class TestSparse(Overlapping, TestPinecone):
    """Sparse vectors, in a sparse index."""


def sparse(n: int, indices: Sequence[int], values: Sequence[float]) -> Point:
    return replace(point(n), vectors={VECTOR: Sparse(np.array(indices, np.int32), np.array(values, np.float32))})


def test_sparse_vectors_of_any_size(endpoint: Endpoint) -> None:
    """Negative, subnormal and very large values, in any order, at any index, come back unchanged and are deleted."""
    points = [sparse(1, [0, 7, 2**31 - 1], [-0.1, 1e-45, 3e38]), sparse(2, [4], [0.3])]
    with opened(endpoint[0], kind="Sparse", metric="dot") as sink, PineconeIndex(endpoint[0]) as index:
        sink.write([*points, sparse(3, [9, 3], [0.25, 0.5])])
        holds(sink, [*points, sparse(3, [3, 9], [0.5, 0.25])])
        index.open()
        hits = index.search(Sparse(np.array([9, 5], np.int32), np.array([2, 0], np.float32)))
        assert [(h.chunk.id, h.score) for h in hits] == [(point(3).id, 0.5)]
        assert index.search(Sparse(np.array([9], np.int32), np.zeros(1, np.float32))) == []
        with pytest.raises(UsageError, match="1,000"):
            index.search(points[1].vectors[VECTOR], k=1001)
        sink.delete([points[1].id])
        sink.flush()
        assert sink.fetch([points[1].id]) == []
        assert index.search(points[1].vectors[VECTOR]) == []


def test_invalid_sparse_vectors_are_named(endpoint: Endpoint) -> None:
    """A zero, no values, a repeated index, NaN and too many values are rejected by id; the rest is written."""
    bad = [
        sparse(2, [1, 2], [0.0, 1.0]),
        sparse(3, [], []),
        sparse(4, [1, 1], [1.0, 1.0]),
        sparse(5, [1], [float("nan")]),
        sparse(6, range(MOST_VALUES + 1), [1.0] * (MOST_VALUES + 1)),
    ]
    with opened(endpoint[0], kind="Sparse") as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([sparse(1, [1], [1.0]), *bad])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [sparse(1, [1], [1.0])])


def test_unsupported_kinds(endpoint: Endpoint) -> None:
    """Multivectors, sparse vectors by l2 or in a dense index, and dense ones in a sparse index are refused."""
    url, server = endpoint
    for space in ({"kind": "MultiVector"}, {"kind": "Sparse", "metric": "l2"}):
        with pytest.raises(UsageError):
            opened(url, **space)
    assert server.indexes == {}
    bare = url.replace("cloud=aws&region=us-east-1&", "")
    with pytest.raises(SinkError, match="create it for sparse vectors, with the metric dotproduct, or say where"):
        opened(bare, kind="Sparse")
    with opened(url, kind="Sparse"), pytest.raises(SpaceMismatch, match="takes sparse vectors by dotproduct; this run"):
        opened(url.replace("/notes", "/others"))
    server.forget()
    with opened(url, metric="dot"), pytest.raises(SpaceMismatch, match="takes dense vectors of 8 dimensions by dotpro"):
        opened(url.replace("/notes", "/others"), kind="Sparse")


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


# ---------------------------------------------------------------- writing


def test_single_points_refused(endpoint: Endpoint) -> None:
    """Points that Pinecone never takes are rejected by id with the reason; the others are written."""
    url, server = endpoint
    zero = Point(point(2).chunk, {VECTOR: Dense(np.zeros(8, np.float32))})
    long, far = point(3, text="x" * 41_000), point(4, page=2**53 + 1)
    server.refused.add(point(6).id)
    with opened(url) as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([point(1), zero, long, far, point(5), point(6), point(7)])
        reasons = raised.value.reasons
        assert reasons.keys() == {zero.id, long.id, far.id, point(6).id}
        assert "all zeros" in reasons[zero.id]
        assert "40,000" in reasons[long.id]
        assert "2^53" in reasons[far.id]
        holds(sink, [point(1), point(5), point(7)])


def test_requests_are_of_a_good_size(endpoint: Endpoint) -> None:
    """Long texts go in several requests, each of at most 2 MB."""
    url, server = endpoint
    with opened(url) as sink:
        points = [point(n, text="\U0001f30a" * 7_500) for n in range(150)]
        server.requests.clear()
        sink.write(points)
        sizes = [size for _, path, size in server.requests if path == "/vectors/upsert"]
        assert 3 <= len(sizes) <= 4
        assert max(sizes) <= 2_000_000
        holds(sink, points)


def test_a_flush_waits(endpoint: Endpoint) -> None:
    """After it all is seen that was not before; with and without positions in the log."""
    url, server = endpoint
    for positions in (True, False):
        server.forget()
        server.lag, server.positions = 0.1, positions
        with opened(url) as sink, PineconeIndex(url) as index:
            index.open()
            sink.write([point(1), point(2)])
            assert sink.count() == 0
            sink.flush()
            assert index.count() == 2
            sink.delete([point(1).id])
            assert len(index.search(point(1).vectors[VECTOR])) == 2
            sink.flush()
            assert [hit.chunk.ordinal for hit in index.search(point(1).vectors[VECTOR])] == [2]
            assert list(index.fetch([point(1).id])) == []


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


def test_any_string_is_an_id(endpoint: Endpoint) -> None:
    """Empty, long and odd ids are written, fetched, listed and deleted."""
    ids = ["", "x" * 513, "\u00e4" * 300, " ", "a/b?c#d&e=f%", "\x00", '"', "\U0001f30a", "sha256-x", "\x7f"]
    points = [Point(replace(point(n).chunk, id=id), point(n).vectors) for n, id in enumerate(ids)]
    with opened(endpoint[0]) as sink:
        sink.write(points)
        holds(sink, points)
        sink.delete([*ids[:5], "\ud800"])
        holds(sink, points[5:])
        assert list(sink.fetch(["\ud800"])) == []


def test_vectors_come_back_to_the_bit(endpoint: Endpoint) -> None:
    """Of any length: subnormal, large and negative zero."""
    odd = np.array([1e-45, -0.0, 3.4e18, 1 / 3, -1e-30, 16777217, 0.1, 2**-149], dtype=np.float32)
    rng = np.random.default_rng(1)
    many = rng.integers(0, 0x7F000000, (500, 8), dtype=np.uint32).view(np.float32)
    points = [Point(point(n).chunk, {VECTOR: Dense(v)}) for n, v in enumerate([odd, *many])]
    with opened(endpoint[0]) as sink:
        sink.write(points)
        holds(sink, points)


# ---------------------------------------------------------------- search


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_every_metric(endpoint: Endpoint, metric: str) -> None:
    """Scores are larger for nearer, in order, in one request and, for a large k, in two."""
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((60, 8)).astype(np.float32) * 3
    query = rng.standard_normal(8).astype(np.float32)
    with opened(endpoint[0], metric=metric) as sink:
        sink.write([Point(point(n, page=n % 5).chunk, {VECTOR: Dense(row)}) for n, row in enumerate(matrix)])
        sink.flush()
    meant = matrix.astype(np.float64) @ query
    if metric == "cosine":
        meant /= np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
    elif metric == "l2":
        meant = -((matrix.astype(np.float64) - query) ** 2).sum(axis=1)
    with PineconeIndex(endpoint[0]) as index:
        index.open()
        for k in (7, 50):
            nearest = sorted(range(60), key=lambda n: -meant[n])[:k]
            hits = index.search(Dense(query), k=k)
            assert [hit.chunk.ordinal for hit in hits] == nearest
            assert [hit.score for hit in hits] == pytest.approx([meant[n] for n in nearest], rel=1e-5)


def test_invalid_searches(endpoint: Endpoint) -> None:
    """A k beyond the limit, a query without direction, an order of texts and a number beyond 2^53 are refused."""
    opened(endpoint[0]).close()
    query = point(1).vectors[VECTOR]
    with PineconeIndex(endpoint[0]) as index:
        index.open()
        assert index.search(query, k=0) == []
        assert index.search(query) == []
        with pytest.raises(UsageError, match="10,000"):
            index.search(query, k=10_001)
        with pytest.raises(UsageError, match="order"):
            index.search(query, where={"uri": {"$gt": "a"}})
        with pytest.raises(UsageError, match="2\\^53"):
            index.search(query, where={"page": 2**60})
        for values in (np.zeros(8, np.float32), np.full(8, np.nan, np.float32)):
            with pytest.raises(SinkError, match="nothing is near"):
                index.search(Dense(values))
