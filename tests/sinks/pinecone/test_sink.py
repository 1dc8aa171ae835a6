"""`pinecone://` keeps the promises of a sink: the official client over a strict emulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock.core.errors import (
    Rejected,
    SinkError,
    SpaceMismatch,
    UsageError,
)
from penstock.core.records import VECTOR, Dense, Point, Sparse
from penstock.sinks.pinecone import PineconeIndex, PineconeSink
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite, holds, point
from tests.sinks.overlapping import Overlapping, sparse
from tests.sinks.pinecone import SECRET, Endpoint, opened

pytest.importorskip("pinecone")
pytest.importorskip("orjson")

from penstock.testing.emulators.pinecone import MOST_VALUES


class TestPinecone(SinkSuite):
    secret = SECRET
    orders_texts = finds_prefixes = has_facets = False

    @pytest.fixture
    def make_sink(self, endpoint: Endpoint) -> MakeSink:
        return lambda: PineconeSink(endpoint[0])

    @pytest.fixture
    def make_index(self, endpoint: Endpoint) -> MakeIndex:
        return lambda: PineconeIndex(endpoint[0])


@pytest.mark.heavy
class TestSparse(Overlapping, TestPinecone):
    """Sparse vectors, in a sparse index."""


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
