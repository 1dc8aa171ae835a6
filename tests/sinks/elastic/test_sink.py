"""`elastic://` and `opensearch://` keep the promises of a sink: the official clients over a strict emulator."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import (
    PenstockError,
    Rejected,
    SinkError,
    UsageError,
)
from penstock.core.filter_parser import DEPTH, parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Dense, MultiVector, Point, Sparse, Vector
from penstock.sinks.elastic import ElasticIndex, ElasticSink, wire
from penstock.sinks.elastic import index as searching
from penstock.testing.sink_suite import (
    Aliased,
    MakeIndex,
    MakeSink,
    SinkSuite,
    holds,
    point,
    similarity,
)
from tests.sinks.elastic import SECRET, Endpoint, opened
from tests.sinks.overlapping import Overlapping, sparse
from tests.sinks.wordless import without_words

pytest.importorskip("elasticsearch")
pytest.importorskip("opensearchpy")
pytest.importorskip("orjson")


class TestElastic(SinkSuite):
    """Both products, each by its client."""

    secret = SECRET
    has_words = True

    @pytest.fixture
    def make_sink(self, endpoint: Endpoint) -> MakeSink:
        return lambda: ElasticSink(endpoint[0])

    @pytest.fixture
    def make_index(self, endpoint: Endpoint) -> MakeIndex:
        return lambda: ElasticIndex(endpoint[0])

    @pytest.fixture
    def aliased(self, endpoint: Endpoint) -> Aliased:
        return lambda alias: [{"notes"}, {"notes_1"}].index(endpoint[1].aliases[alias])


class TestMultiVector(TestElastic):
    kind = MultiVector

    @pytest.fixture(autouse=True)
    def has_them(self, endpoint: Endpoint) -> None:
        if endpoint[1].flavor == "opensearch":
            pytest.skip("OpenSearch takes dense vectors only")


class TestSparse(Overlapping, TestMultiVector):
    """Sparse vectors: those of Elasticsearch."""


# ---------------------------------------------------------------- many vectors, and sparse ones


def test_the_nearest_though_weights_are_cut_off(elasticsearch: Endpoint) -> None:
    """3,000 that the store scores as equal, or in the wrong order, are ranked by their exact products."""
    weights = 0.75 + np.arange(3000) * 1e-6
    points = [sparse(n, [1, 2], [w, 0.25 + 1e-5 * (n % 7)]) for n, w in enumerate(weights)]
    query = Sparse(np.array([1, 2], np.int32), np.array([1.0, 0.5], np.float32))
    wanted = sorted(points, key=lambda p: -similarity(query, p.vectors[VECTOR]))[:20]
    with opened(elasticsearch[0], kind="Sparse", metric="dot") as sink, ElasticIndex(elasticsearch[0]) as index:
        for start in range(0, 3000, sink.max_rows):
            sink.write(points[start : start + sink.max_rows])
        sink.flush()
        index.open()
        assert [hit.chunk.id for hit in index.search(query, k=20)] == [p.id for p in wanted]


def test_sparse_vectors_of_any_size(elasticsearch: Endpoint) -> None:
    """No values, zeros, subnormal and very large ones, in any order, at any index, come back unchanged."""
    points = [sparse(1, [], []), sparse(2, [0, 7, 9, 2**31 - 1], [0.0, 1e-45, 0.1, 3e38])]
    with opened(elasticsearch[0], kind="Sparse") as sink, ElasticIndex(elasticsearch[0]) as index:
        sink.write([*points, sparse(3, [8, 3], [0.25, 0.5])])
        holds(sink, [*points, sparse(3, [3, 8], [0.5, 0.25])])
        index.open()
        hits = index.search(Sparse(np.array([8, 5], np.int32), np.array([2, 0], np.float32)))
        assert [(h.chunk.id, h.score) for h in hits] == [(point(3).id, 0.5)]
        assert index.search(Sparse(np.array([8], np.int32), np.zeros(1, np.float32))) == []
        with pytest.raises(SinkError, match="negative"):
            index.search(Sparse(np.array([8], np.int32), -np.ones(1, np.float32)))


@pytest.mark.parametrize("kind", [Sparse, MultiVector])
def test_invalid_vectors_are_named(elasticsearch: Endpoint, kind: type[Vector]) -> None:
    """A negative value, a repeated index, no rows or NaN are rejected by id, and the rest is written."""
    if kind is Sparse:
        bad = [sparse(2, [1, 2], [-1, 1]), sparse(3, [1, 1], [1, 1]), sparse(4, [1], [float("nan")])]
    else:
        shapes = [np.empty((0, 8), np.float32), np.full((2, 8), np.nan, np.float32)]
        bad = [replace(point(n), vectors={VECTOR: MultiVector(v)}) for n, v in enumerate(shapes, 2)]
    good = point(1, kind=kind)
    with opened(elasticsearch[0], kind=kind.__name__) as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([*bad, good])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [good])


def test_many_vectors_of_other_lengths(elasticsearch: Endpoint) -> None:
    """They come back unchanged, zeros too; a cosine is compared at length 1, a product is not."""
    values = np.array([[3, 4], [0, 0], [-2, 0]], np.float32)
    long = [replace(point(1), vectors={VECTOR: MultiVector(values)})]
    query = MultiVector(np.array([[0, 5], [-1, 0]], np.float32))
    for metric, score in (("cosine", 1.8), ("dot", 22.0)):
        with opened(elasticsearch[0], kind="MultiVector", metric=metric, dim=2) as sink:
            sink.write(long)
            holds(sink, long)
            with ElasticIndex(elasticsearch[0]) as index:
                index.open()
                assert [hit.score for hit in index.search(query)] == pytest.approx([score])
                with pytest.raises(SinkError, match="zeros"):
                    index.search(MultiVector(np.empty((0, 2), np.float32)))
            sink.drop()


@pytest.mark.parametrize("kind", ["Sparse", "MultiVector"])
def test_unsupported_kinds(endpoint: Endpoint, kind: str) -> None:
    """The metric l2, OpenSearch, an old version and a missing licence are refused before anything is created."""
    url, server = endpoint
    dense_only = server.flavor == "opensearch"
    assert ElasticSink(url).accepts == ({Dense} if dense_only else {Dense, MultiVector, Sparse})
    with pytest.raises(UsageError, match="takes Dense" if dense_only else "not 'l2'"):
        opened(url, kind=kind, metric="l2")
    with pytest.raises(UsageError, match="takes Dense") if dense_only else nullcontext():
        opened(url, kind=kind).drop()
    if not dense_only:
        server.number = "8.14.3"
        with pytest.raises(UsageError, match=r"from 8\.1[58] on; it is 8\.14\.3"):
            opened(url, kind=kind)
        server.number, server.licensed = "", False
        with pytest.raises(SinkError, match="licence") if kind == "MultiVector" else nullcontext():
            opened(url, kind=kind).drop()
    assert server.indices == {}


# ---------------------------------------------------------------- named vectors


def test_fields_of_vectors(endpoint: Endpoint) -> None:
    """A vector without a name has the fields that it always had; others have their names in theirs."""
    url, server = endpoint
    opened(url).close()
    assert {"vector", "bits"} < server.indices["notes"].fields.keys()
    with ElasticSink(f"{url}-2") as sink:
        sink.open(SinkSuite().named)
        fields = {"vector_title", "bits_title", "vector_body", "bits_body"}
        assert fields < server.indices["notes-2"].fields.keys()
        assert not {"vector", "bits"} & server.indices["notes-2"].fields.keys()


def test_a_search_reads_one_vector(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of the vectors that are not compared stay in the store; by the graph as well."""
    suite = SinkSuite()
    points = suite.named_points(*range(30))
    read: list[set[str]] = []
    ask = wire.Server.search

    def search(self: Any, body: Any) -> list[Any]:
        hits = ask(self, body)
        read.extend({field for field in hit["_source"] if field.startswith(("vector", "bits"))} for hit in hits)
        return hits

    with ElasticSink(endpoint[0]) as sink, ElasticIndex(endpoint[0]) as index:
        sink.open(suite.named)
        sink.write(points)
        sink.flush()
        index.open()
        monkeypatch.setattr(wire.Server, "search", search)
        for exact in (100, 0):
            monkeypatch.setattr(searching, "EXACT", exact)
            for name in ("title", "body"):
                [hit] = index.search(points[3].vectors[name], k=1, using=name)
                assert hit.chunk == points[3].chunk
                assert read.pop() == {f"bits_{name}"}
                assert not read


def test_a_bad_vector_of_several(endpoint: Endpoint) -> None:
    """A point is rejected for any of its vectors, and the others are written."""
    suite = SinkSuite()
    good, bad, zero = suite.named_points(1, 2, 3)
    bad.vectors["body"].values[0] = np.nan
    zero.vectors["title"].values[:] = 0
    with ElasticSink(endpoint[0]) as sink:
        sink.open(suite.named)
        with pytest.raises(Rejected) as raised:
            sink.write([good, bad, zero])
        assert raised.value.reasons.keys() == {bad.id, zero.id}
        assert "'body'" in raised.value.reasons[bad.id]
        holds(sink, [good])


# ---------------------------------------------------------------- round trips


def test_nothing_is_seen_before_a_flush(endpoint: Endpoint) -> None:
    """The emulator is as strict as the stores: a sink that forgot to refresh would fail its suite."""
    url, _ = endpoint
    with opened(url) as sink:
        sink.write([point(1)])
        assert sink.count() == 0
        assert list(sink.ids()) == []
        sink.flush()
        assert sink.count() == 1


def test_any_string_is_an_id(endpoint: Endpoint) -> None:
    """Empty, long and odd ids are written, fetched, listed and deleted."""
    url, _ = endpoint
    ids = ["", "x" * 513, "ä" * 300, " ", "a/b?c#d", "\x00", '"', "🌊", "_id", "sha256-x"]
    points = [replace_id(n, id) for n, id in enumerate(ids)]
    with opened(url) as sink:
        sink.write(points)
        holds(sink, points)
        sink.delete([*ids[:5], "\ud800"])
        holds(sink, points[5:])
        assert sink.fetch(["\ud800"]) == []


def replace_id(n: int, id: str) -> Point:
    original = point(n)
    return Point(replace(original.chunk, id=id), original.vectors)


def test_vectors_come_back_to_the_bit(endpoint: Endpoint) -> None:
    """Of any length, though the store keeps unit vectors and lengths: subnormal, large and negative zero."""
    url, _ = endpoint
    odd = np.array([1e-45, -0.0, 3.4e18, 1 / 3, -1e-30, 16777217, 0.1, 2**-149], dtype=np.float32)
    points = [Point(point(1).chunk, {VECTOR: Dense(odd)}), point(2)]
    with opened(url) as sink:
        sink.write(points)
        holds(sink, points)


# ---------------------------------------------------------------- search


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("exact", [True, False])
def test_every_metric(endpoint: Endpoint, metric: str, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are those of the vectors themselves, in order, by exact comparison and by the graph."""
    url, server = endpoint
    monkeypatch.setattr(searching, "EXACT", 10_000 if exact else 3)
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((60, 8)).astype(np.float32) * 3
    query = rng.standard_normal(8).astype(np.float32)
    with opened(url, metric=metric) as sink:
        sink.write([Point(point(n, page=n % 5).chunk, {VECTOR: Dense(row)}) for n, row in enumerate(matrix)])
        sink.flush()
    meant = matrix.astype(np.float64) @ query
    if metric == "cosine":
        meant /= np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
    elif metric == "l2":
        meant = -((matrix.astype(np.float64) - query) ** 2).sum(axis=1)
    with ElasticIndex(url) as index:
        index.open()
        for where in (None, {"page": {"$lt": 3}}):
            left = [n for n in range(60) if where is None or n % 5 < 3]
            hits = index.search(Dense(query), k=7, where=where)
            nearest = sorted(left, key=lambda n: -meant[n])[:7]
            assert [hit.chunk.ordinal for hit in hits] == nearest
            assert [hit.score for hit in hits] == pytest.approx([meant[n] for n in nearest], abs=1e-5)
    scripted = sum("_search" in path for _, path in server.requests)
    assert scripted == 2


def test_a_graph_that_finds_too_few(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every vector is compared with, so that k hits come back."""
    url, server = endpoint
    monkeypatch.setattr(searching, "EXACT", 3)
    with opened(url) as sink:
        sink.write([point(n) for n in range(50)])
        sink.flush()
    server.recall = 0.1
    with ElasticIndex(url) as index:
        index.open()
        assert len(index.search(point(1).vectors[VECTOR], k=40)) == 40


@pytest.mark.parametrize(("precision", "graph"), [("int8", "int8_hnsw"), ("bits", "bbq_hnsw")])
def test_graphs_of_dense_vectors_in_fewer_bits(
    elasticsearch: Endpoint, precision: str, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off by default. An index that exists gets them, and whoever opens it without the option leaves them. A search
    compares more than it gives exactly."""
    monkeypatch.setattr(searching, "EXACT", 3)
    url, server = elasticsearch
    points = [point(n) for n in range(60)]
    query = point(9, version=1).vectors[VECTOR]
    with opened(url) as sink:
        sink.write(points)
        sink.flush()
        assert server.indices["notes"].fields["vector"]["index_options"] == {"type": "hnsw"}
    for one in (f"{url}?quantization={precision}", url):
        with opened(one) as sink, ElasticIndex(one) as index:
            assert server.indices["notes"].fields["vector"]["index_options"] == {"type": graph}
            holds(sink, points)
            index.open()
            hits = index.search(query, k=2)
            wanted = sorted((similarity(query, p.vectors[VECTOR]) for p in points), reverse=True)[:2]
            assert [hit.score for hit in hits] == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(UsageError, match=r"invalid quantization 'int4'.*expected int8 or bits"):
        ElasticSink(f"{url}?quantization=int4")
    with pytest.raises(UsageError, match="unknown option 'quantization'"):
        ElasticSink("opensearch://localhost/notes?quantization=int8")
    with pytest.raises(UsageError, match="is for dense vectors"):
        opened(f"{url}-late?quantization=int8", kind="MultiVector")


def test_texts_are_compared_by_digest(endpoint: Endpoint) -> None:
    """Equality, membership and inequality are exact for texts of any length; an order is refused."""
    url, _ = endpoint
    points = [point(1, text="x" * 100_000), point(2, text="x" * 100_000 + "y"), point(3, text="")]
    with opened(url) as sink:
        sink.write(points)
        sink.flush()
    with ElasticIndex(url) as index:
        index.open()
        for where in ({"text": "x" * 100_000}, {"text": {"$ne": ""}}, {"text": ["", "z"]}, {"text": None}):
            wanted = parse_filter(where)
            assert wanted is not None
            found = index.search(point(1).vectors[VECTOR], where=where)
            assert {h.chunk.id for h in found} == {p.id for p in points if passes(p.chunk, wanted)}
        with pytest.raises(UsageError, match="equal one"):
            index.search(point(1).vectors[VECTOR], where={"text": {"$lt": "x"}})


def test_invalid_searches(endpoint: Endpoint) -> None:
    """A k beyond the limit, a query without direction and a removed index are refused."""
    url, server = endpoint
    opened(url).close()
    with ElasticIndex(url) as index:
        index.open()
        query = point(1).vectors[VECTOR]
        assert index.search(query, k=0) == []
        assert index.search(query) == []
        with pytest.raises(UsageError, match="10,000"):
            index.search(query, k=10_001)
        for values in (np.zeros(8, np.float32), np.full(8, np.nan, np.float32)):
            with pytest.raises(SinkError, match="nothing is near"):
                index.search(Dense(values))
        server.indices.clear()
        with pytest.raises(PenstockError, match="no such index"):
            index.search(query)


def test_deep_filters(endpoint: Endpoint) -> None:
    """The deepest filter that is allowed passes both products' limits."""
    url, _ = endpoint
    where: dict[str, Any] = {"page": 3}
    for n in range(DEPTH - 3):
        where = {"$not": where} if n % 3 else {"$and": [where]}
    with opened(url) as sink:
        sink.write([point(n, page=n) for n in range(5)])
        sink.flush()
    with ElasticIndex(url) as index:
        index.open()
        assert [hit.chunk.page for hit in index.search(point(1).vectors[VECTOR], where=where)] == [3]


def test_compares_texts_as_code_points(endpoint: Endpoint) -> None:
    """Ranges of uris order by code points, not by UTF-16."""
    url, _ = endpoint
    points = [point(1, uri="\uffee"), point(2, uri="\U0001f30a"), point(3, uri="a")]
    with opened(url) as sink:
        sink.write(points)
        sink.flush()
    with ElasticIndex(url) as index:
        index.open()
        found = index.search(point(1).vectors[VECTOR], where={"uri": {"$gt": "\uffee"}})
        assert [hit.chunk.ordinal for hit in found] == [2]


def test_an_index_without_words(endpoint: Endpoint) -> None:
    """One of an earlier version."""
    url, server = endpoint

    def age() -> None:
        server.indices["notes"].fields["text"] = {"type": "text", "index": False}

    without_words(ElasticSink(url), ElasticIndex(url), age)
