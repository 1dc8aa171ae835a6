"""Filters by metadata in `milvus://`: the fields of a server, limits, and collections of earlier versions."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from penstock.core.errors import Rejected, UsageError
from penstock.core.records import VECTOR, Metadata
from penstock.core.schema import IndexSchema, Manifest
from penstock.sinks.milvus import MilvusIndex, MilvusSink, wire
from penstock.sinks.milvus.filters import LONGEST_ORDERED
from penstock.sinks.milvus.points import MOST_TERMS, collection_schema
from penstock.testing.filter_suite import Filtering
from penstock.testing.points import MakeIndex, MakeSink
from penstock.testing.sink_suite import holds, point
from penstock.testing.words_suite import Words
from tests.sinks.counted import equal_counts, too_many_values
from tests.sinks.milvus import MANIFEST

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")


class TestArray(Filtering, Words):
    """Terms in an array, and words for BM25, as on a server that is not Milvus Lite, but without the array's index,
    which Lite lacks."""

    has_words = True
    finds_prefixes = False

    @pytest.fixture(autouse=True)
    def terms_in_an_array(self, monkeypatch: pytest.MonkeyPatch) -> None:
        load = wire.Collection.load

        def load_vectors(collection: wire.Collection, schema: IndexSchema) -> None:
            load(collection, replace(schema, filterable=False))

        monkeypatch.setattr(wire, "is_lite", lambda version: False)
        monkeypatch.setattr(wire.Collection, "load", load_vectors)

    @pytest.fixture
    def make_sink(self, url: str) -> MakeSink:
        return lambda: MilvusSink(url)

    @pytest.fixture
    def make_index(self, url: str) -> MakeIndex:
        return lambda: MilvusIndex(url)


@pytest.mark.parametrize(("number", "expected"), [(3, True), (4, False)])
def test_words_take_no_room_from_vectors(number: int, expected: bool) -> None:
    """A server takes four vector fields, one of which words may be."""
    schema = IndexSchema({f"v{n}": MANIFEST.schema.only for n in range(number)})
    fields = collection_schema(schema, lite=False, words=True)
    assert ("words" in {field.name for field in fields.fields}) is expected


@pytest.mark.parametrize(("version", "expected"), [("2.4.23", False), ("v2.5.0", True), ("2.10.1-gpu", True)])
def test_servers_that_make_words(url: str, monkeypatch: pytest.MonkeyPatch, version: str, expected: bool) -> None:
    """From 2.5 on; Milvus Lite would rank what is new last."""
    with closing(MilvusSink(url)._connect()) as collection:
        assert not collection.fills_words
        client = collection.client
        monkeypatch.setattr(client, "get_server_version", lambda **_: version)
        with closing(MilvusSink(url, client)._connect()) as served:
            assert served.fills_words is expected


def test_values_of_any_size(url: str) -> None:
    """Long texts are equal as a whole, and in an order by their beginning; numbers beyond doubles are told
    apart."""
    long = "x" * LONGEST_ORDERED
    given: list[Metadata] = [
        {"k": long},
        {"k": long + "a"},
        {"k": long + "b" * 70_000},
        {"k": [10**400, -1.5, float("inf")], "\x00": "\x00"},
        {"k": (1 << 53) + 1},
        {"k": 1 << 53},
        {f"field {n}": n for n in range(1500)},
    ]
    points = [point(n, metadata=metadata) for n, metadata in enumerate(given)]
    with MilvusSink(url) as sink, MilvusIndex(url) as index:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
        index.open()

        def found(where: Metadata) -> list[int]:
            hits = index.search(points[0].vectors[VECTOR], k=100, where=where)
            return sorted(hit.chunk.ordinal for hit in hits)

        assert found({"k": long}) == [0]
        assert found({"k": long + "a"}) == [1]
        assert found({"k": long + "b" * 70_000}) == [2]
        assert found({"k": {"$gt": long}}) == [1, 2]
        assert found({"k": {"$lte": long}}) == [0]
        assert found({"k": {"$lt": "x" * 255 + "y"}}) == [0, 1, 2]
        assert found({"k": {"$gt": 1e308}}) == found({"k": {"$lt": 0}}) == [3]
        assert found({"k": 1 << 53}) == [5]
        assert found({"k": {"$nin": list(range(2000))}}) == list(range(7))
        assert found({"\x00": "\x00"}) == [3]
        assert found({"field 1499": {"$gte": 1499}}) == [6]
        with pytest.raises(UsageError, match="256 characters"):
            index.search(points[0].vectors[VECTOR], where={"k": {"$gt": long + "a"}})
        assert index.facets(["field 7", "type"]) == {"field 7": [(7, 1)], "type": [("text", 7)]}
        counts = index.facets(["k"])["k"]
        assert (long + "b" * 70_000, 1) in counts


def test_metadata_with_too_many_values(url: str) -> None:
    """The point is named, with the reason, and the others are written."""
    bad = [
        point(1, metadata={"k": list(range(MOST_TERMS))}),
        point(2, metadata={f"{n}": "x" * 200 for n in range(500)}),
    ]
    with MilvusSink(url) as sink:
        sink.open(MANIFEST)
        with pytest.raises(Rejected) as raised:
            sink.write([bad[0], point(3, metadata={"k": list(range(MOST_TERMS - 2))}), bad[1]])
        assert "3,800 fields and values" in raised.value.reasons[bad[0].id]
        assert "65,000 bytes" in raised.value.reasons[bad[1].id]
        holds(sink, [point(3, metadata={"k": list(range(MOST_TERMS - 2))})])


def test_a_collection_of_an_earlier_version(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no fields for filters: it is written to and searched, and filters by metadata and type are refused."""
    with MilvusSink(url) as sink:
        whole = wire.Collection.create

        def create(collection: wire.Collection, schema: object, manifest: Manifest) -> Manifest:
            fields = getattr(schema, "fields")  # noqa: B009
            fields[:] = [field for field in fields if field.name not in ("terms", "bounds")]
            return whole(collection, schema, manifest)

        monkeypatch.setattr(wire.Collection, "create", create)
        sink.open(Manifest(replace(MANIFEST.schema, filterable=False)))
    points = [point(n, page=n, metadata={"department": "hr"}) for n in range(3)]
    with MilvusSink(url) as sink, MilvusIndex(url) as index:
        sink.open(MANIFEST)
        sink.write(points)
        holds(sink, points)
        index.open()
        query = points[0].vectors[VECTOR]
        assert [hit.chunk.ordinal for hit in index.search(query, where={"page": 2})] == [2]
        for where in ({"department": "hr"}, {"type": "text"}, {"$not": {"type": "image"}}):
            with pytest.raises(UsageError, match="penstock reindex"):
                index.search(query, where=where)
        for name in ("department", "type"):
            with pytest.raises(UsageError, match="penstock reindex"):
                index.facets([name])


def test_values_of_equal_counts(url: str) -> None:
    with MilvusSink(url) as sink, MilvusIndex(url) as index:
        sink.open(MANIFEST)
        index.open()
        equal_counts(sink, index)


def test_a_field_of_too_many_values(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with MilvusSink(url) as sink, MilvusIndex(url) as index:
        sink.open(MANIFEST)
        index.open()
        too_many_values(sink, index, monkeypatch)
