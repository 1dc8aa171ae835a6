"""Filters by metadata in `pinecone://`: the limit of a record, dates, and namespaces of earlier versions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.core.errors import Rejected, UsageError
from penstock.core.records import VECTOR, Metadata
from penstock.core.schema import Manifest
from penstock.sinks.pinecone import PineconeIndex, PineconeSink
from penstock.sinks.pinecone.records import METADATA
from penstock.testing.sink_suite import holds, point
from tests.sinks.pinecone import MANIFEST, Endpoint, opened

pytest.importorskip("pinecone")
pytest.importorskip("orjson")


def test_values_of_any_size(endpoint: Endpoint) -> None:
    """Long texts are equal as a whole, numbers beyond doubles are told apart, and odd names are fields like others."""
    long = "x" * 10_000
    given: list[Metadata] = [
        {"k": long},
        {"k": long + "a"},
        {"k": [10**400, -1.5]},
        {"k": (1 << 53) + 1},
        {"k": 1 << 53},
        {"$k": {"terms": "a", "": 0}},
    ]
    points = [point(n, metadata=metadata) for n, metadata in enumerate(given)]
    with opened(endpoint[0]) as sink, PineconeIndex(endpoint[0]) as index:
        sink.write(points)
        holds(sink, points)
        index.open()

        def found(where: Metadata) -> list[int]:
            hits = index.search(points[0].vectors[VECTOR], k=100, where=where)
            return sorted(hit.chunk.ordinal for hit in hits)

        assert found({"k": long}) == [0]
        assert found({"k": {"$nin": [long, long + "a"]}}) == [2, 3, 4, 5]
        assert found({"k": {"$gt": 1e308}}) == found({"k": {"$lt": 0}}) == [2]
        assert found({"k": 1 << 53}) == [4]
        assert found({"k": list(range(10_000))}) == []
        with pytest.raises(UsageError, match="k: Pinecone does not order texts"):
            index.search(points[0].vectors[VECTOR], where={"k": {"$gt": "a"}})


def test_a_record_that_filters_make_too_large_is_named(endpoint: Endpoint) -> None:
    """With both sizes; the others are written."""
    many: Metadata = {f"field {n}": n for n in range(300)}
    short, long = (point(n, text="x" * size, metadata=many) for n, size in enumerate((5_000, METADATA - 6_000)))
    with opened(endpoint[0]) as sink:
        with pytest.raises(Rejected) as raised:
            sink.write([long, short])
        assert raised.value.reasons.keys() == {long.id}
        assert "to filter by them; Pinecone takes 40,000" in raised.value.reasons[long.id]
        holds(sink, [short])


def test_a_namespace_of_an_earlier_version(endpoint: Endpoint) -> None:
    """Its records have no fields for filters: they are written and searched as before, also by their type."""
    url, server = endpoint
    with PineconeSink(url) as sink:
        sink.open(Manifest(replace(MANIFEST.schema, filterable=False)))
    points = [point(n, page=n, image=b"" if n else None, metadata={"department": "hr"}) for n in range(3)]
    with opened(url) as sink, PineconeIndex(url) as index:
        sink.write(points)
        holds(sink, points)
        log = server.indexes["my-index"].namespaces["notes"].log
        assert all("terms" not in record[1] for _, changes in log for record in changes.values() if record)
        index.open()
        query = points[0].vectors[VECTOR]
        assert sorted(hit.chunk.ordinal for hit in index.search(query, where={"type": "image"})) == [1, 2]
        assert [hit.chunk.ordinal for hit in index.search(query, where={"page": 2, "type": "image"})] == [2]
        with pytest.raises(UsageError, match="penstock reindex"):
            index.search(query, where={"department": "hr"})
        with pytest.raises(UsageError, match="cannot count"):
            index.facets(["department"])
