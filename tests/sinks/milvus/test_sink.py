"""`milvus://` keeps the promises of a sink, in a file of Milvus Lite and over a server's protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penstock.core.errors import Rejected, SinkError, SpaceMismatch, UsageError
from penstock.core.records import VECTOR, Dense, Point, Sparse
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks.milvus import MilvusIndex, MilvusSink
from penstock.sinks.milvus.points import VARCHAR
from penstock.testing.sink_suite import (
    Aliased,
    MakeIndex,
    MakeSink,
    SinkSuite,
    holds,
    point,
    respec,
    same,
)
from tests.sinks.milvus import KEY, MANIFEST, SPARSE
from tests.sinks.mixed import keeps_and_finds, mixed, schema
from tests.sinks.overlapping import Overlapping

grpc = pytest.importorskip("grpc")
MilvusClient = pytest.importorskip("pymilvus").MilvusClient
pytest.importorskip("milvus_lite")


class TestFile(SinkSuite):
    collection = "notes"
    shared = False
    finds_prefixes = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: MilvusSink(f"milvus://{tmp_path}/in dex/notes.db/{self.collection}")

    @pytest.fixture
    def make_index(self, tmp_path: Path) -> MakeIndex:
        return lambda: MilvusIndex(f"milvus://{tmp_path}/in dex/notes.db/{self.collection}")

    @pytest.fixture
    def aliased(self, tmp_path: Path) -> Aliased:
        def stands_for(alias: str) -> int:
            kept = json.loads((tmp_path / "in dex/notes.db/aliases.json").read_text())
            return [self.collection, f"{self.collection}_1"].index(kept[alias])

        return stands_for


UNLOCKED = "this server is Milvus Lite's, whose collections are created and changed without a lock"


class TestServer(SinkSuite):
    secret = KEY
    finds_prefixes = False

    @pytest.fixture
    def make_sink(self, url: str, monkeypatch: pytest.MonkeyPatch) -> MakeSink:
        monkeypatch.setenv("MILVUS_TOKEN", KEY)
        return lambda: MilvusSink(url)

    @pytest.fixture
    def make_index(self, url: str) -> MakeIndex:
        return lambda: MilvusIndex(url)

    @pytest.fixture
    def aliased(self, url: str) -> Aliased:
        server, _, name = url.replace("milvus:", "http:").rpartition("/")

        def stands_for(alias: str) -> int:
            client = MilvusClient(server, dedicated=True)
            found = client.describe_alias(alias)["collection_name"]
            client.close()
            return [name, f"{name}_1"].index(found)

        return stands_for

    def test_one_of_several_creates_the_index(self, make_sink: MakeSink) -> None:
        pytest.skip(UNLOCKED)

    def test_another_space_is_refused_though_it_began_at_once(self, make_sink: MakeSink) -> None:
        pytest.skip(UNLOCKED)

    def test_one_of_several_exchanges_the_manifest(self, make_sink: MakeSink) -> None:
        pytest.skip(UNLOCKED)

    def test_no_registration_is_lost(self, make_sink: MakeSink) -> None:
        pytest.skip(UNLOCKED)


class TestSparseFile(Overlapping, TestFile):
    """Sparse vectors, as a file has them."""

    # The client remembers what a collection is by the server's port and its name, and ports come again.
    collection = "sparse"


@pytest.mark.heavy
class TestSparseServer(Overlapping, TestServer):
    """Sparse vectors, as a server has them."""


def sparse(n: int, indices: Sequence[int], values: Sequence[float]) -> Point:
    return replace(point(n), vectors={VECTOR: Sparse(np.array(indices, np.int32), np.array(values, np.float32))})


def test_sparse_vectors_of_any_size(url: str) -> None:
    """Subnormal and 20,000 values, in any order, at any index: as they were; and nothing is found by nothing."""
    last, many = 2**31 - 1, np.random.default_rng(3).random(20_000, dtype=np.float32) + 0.1
    points = [sparse(1, [0, 7, last], [0.1, 1e-45, 3e38]), sparse(2, range(0, 40_000, 2), many)]
    with MilvusSink(url) as sink, MilvusIndex(url) as index:
        sink.open(SPARSE)
        sink.write([*points, sparse(3, [9, 3], [0.25, 0.5])])
        holds(sink, [*points, sparse(3, [3, 9], [0.5, 0.25])])
        index.open()
        hits = index.search(Sparse(np.array([9, 5], np.int32), np.array([2, 0], np.float32)))
        assert [(h.chunk.id, h.score) for h in hits] == [(point(3).id, 0.5)]
        assert index.search(Sparse(np.array([9], np.int32), np.zeros(1, np.float32))) == []
        with pytest.raises(SinkError, match="negative"):
            index.search(Sparse(np.array([9], np.int32), -np.ones(1, np.float32)))
        sink.drop()


def test_sparse_vectors_that_cannot_be_kept_are_named(url: str) -> None:
    """A value below or of zero, no value, an index twice, NaN: by id, and the rest is written."""
    bad = [
        sparse(2, [1, 2], [-1.0, 1.0]),
        sparse(3, [1, 2], [0.0, 1.0]),
        sparse(4, [], []),
        sparse(5, [1, 1], [1.0, 1.0]),
        sparse(6, [1], [float("nan")]),
    ]
    with MilvusSink(url) as sink:
        sink.open(SPARSE)
        with pytest.raises(Rejected) as raised:
            sink.write([sparse(1, [1], [1.0]), *bad])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [sparse(1, [1], [1.0])])
        sink.drop()


def test_an_alias_replaces_no_collection_and_goes_with_its_generation(url: str) -> None:
    """A collection of its name is left alone; removing the generation removes its alias."""
    with MilvusSink(url) as sink, MilvusSink(url).generation(1) as beside, MilvusSink(f"{url}_live") as theirs:
        sink.open(MANIFEST)
        beside.open(MANIFEST)
        theirs.open(MANIFEST)
        with pytest.raises(SinkError, match="conflicts with an existing collection"):
            sink.alias(1)
        theirs.drop()
        assert sink.alias(1) == url.rpartition("/")[2] + "_live"
        assert theirs.manifest() == MANIFEST
        with pytest.raises(SinkError, match="an alias"):
            theirs.drop()
        beside.drop()
        theirs.open(MANIFEST)
        theirs.drop()


def test_values_longer_than_a_field(url: str) -> None:
    """Texts, headings, metadata and images around the limit of a VARCHAR, and far beyond it, to the character."""
    points = [point(n, text="x" * (VARCHAR - 3 + n)) for n in range(6)]
    points += [point(10 + n, text="x" * n + "🌊é" * 60_000, headings=("H" * 70_000, "漢" * 50_000)) for n in range(4)]
    points.append(point(20, metadata={"k": ["v" * 300_000]}, image=bytes(range(256)) * 1000))
    with MilvusSink(url) as sink:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
    with MilvusIndex(url) as index:
        index.open()
        query = points[0].vectors[VECTOR]
        found = index.search(query, k=20, where={"text": {"$gt": "x" * 60_000}})
        meant = [p.id for p in points if p.chunk.text > "x" * 60_000]
        assert sorted(hit.chunk.id for hit in found) == meant
        with pytest.raises(UsageError, match="bytes at most"):
            index.search(query, where={"text": "x" * VARCHAR})


def test_ids_are_any_strings(url: str) -> None:
    """Quotes, escapes, line ends, NUL, nothing; an id without UTF-8 is never found."""
    odd = ["", "a'b", 'a"b', "a\\", "a\\n", "a\nb", "a\r\tb", "\x00", "漢字 🌊", "$meta", "%", "id in []", "z" * 60_000]
    points = [replace(point(n), chunk=replace(point(n).chunk, id=id, text=id)) for n, id in enumerate(odd)]
    with MilvusSink(url) as sink, MilvusIndex(url) as index:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
        index.open()
        for p in points:
            assert [hit.chunk.id for hit in index.search(p.vectors[VECTOR], where={"id": p.id, "text": p.id})] == [p.id]
        assert list(sink.fetch(["\ud800"])) == []
        with pytest.raises(UsageError):
            index.search(points[0].vectors[VECTOR], where={"id": "\ud800"})
        sink.delete([*odd[:-1], "\ud800"])
        holds(sink, points[-1:])


def test_points_that_cannot_be_written_are_named(url: str) -> None:
    """Uris longer than a field, numbers beyond 64 bits; the others are written."""
    good = point(1)
    bad = [point(2, uri="u" * (VARCHAR + 1)), point(3, page=1 << 63)]
    with MilvusSink(url) as sink:
        sink.open(MANIFEST)
        with pytest.raises(Rejected) as raised:
            sink.write([bad[0], good, bad[1]])
        assert raised.value.reasons.keys() == {p.id for p in bad}
        holds(sink, [good])


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_too_few_results_are_searched_for_exactly(metric: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that an approximate index leaves out are compared one by one, with the same scores; lengths are kept."""
    rng = np.random.default_rng(0)
    vectors = [Dense((rng.standard_normal(8) * (n + 1)).astype(np.float32)) for n in range(40)]
    points = [Point(point(n, page=n % 4).chunk, {VECTOR: vector}) for n, vector in enumerate(vectors)]
    with MilvusSink(url) as sink, MilvusIndex(url) as index:
        sink.open(Manifest(respec(MANIFEST.schema, metric=metric)))
        sink.write(points)
        for found in sink.fetch([p.id for p in points]):
            same(found, points[found.chunk.ordinal])
        index.open()
        asked = [(query, where) for query in vectors[:5] for where in (None, {"page": 3})]
        whole = [index.search(query, k=8, where=where) for query, where in asked]
        collection = index._handle
        assert collection is not None
        search = collection.client.search
        monkeypatch.setattr(collection.client, "search", lambda **asked: [search(**asked)[0][:2]])
        again = [index.search(query, k=8, where=where) for query, where in asked]
    for one, other in zip(whole, again, strict=True):
        assert len(one) == 8
        assert [hit.chunk for hit in one] == [hit.chunk for hit in other]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], rel=1e-4, abs=1e-4)


def test_a_run_cut_off_while_it_created_the_collection(url: str) -> None:
    """The collection exists, an index of it does not: the next run creates it, as does whoever searches first."""
    of = schema({Dense, Sparse})
    for manifest, field in ((MANIFEST, VECTOR), (Manifest(of), "vector_terms")):
        with MilvusSink(url) as sink:
            sink.open(manifest)
            collection = sink._handle
            assert collection is not None
            collection.client.release_collection(collection.name)
            collection.client.drop_index(collection.name, field)
        with MilvusSink(url) as sink:
            with pytest.raises(SpaceMismatch):
                sink.open(Manifest(respec(MANIFEST.schema, dim=16)))
            sink.open(manifest)
            points = [point(1)] if manifest is MANIFEST else [mixed(1, of)]
            sink.write(points)
            holds(sink, points)
            sink.drop()


def test_vectors_of_several_kinds(url: str) -> None:
    """Dense and sparse ones, named and not, each in a field and with an index of its own."""
    keeps_and_finds(MilvusSink(url), MilvusIndex(url), schema(MilvusSink.accepts))
    collection = MilvusSink(url)._connect()
    described = collection.client.describe_collection(collection.name)
    fields = {field["name"] for field in described["fields"] if field["name"].startswith("vector")}
    assert fields == {"vector", "vector_dense", "vector_vector_dense", "vector_terms"}
    assert len(collection.client.list_indexes(collection.name)) == len(fields)
    collection.close()


def test_more_vectors_than_milvus_has_fields_for(url: str) -> None:
    """Refused before anything is created."""
    spec = MANIFEST.schema.only
    with MilvusSink(url) as sink:
        with pytest.raises(UsageError, match="at most 10 vectors"):
            sink.open(Manifest(IndexSchema({f"n{n}": spec for n in range(11)})))
        assert sink.manifest() is None
        sink.open(Manifest(IndexSchema({f"n{n}": spec for n in range(10)})))
        sink.drop()
