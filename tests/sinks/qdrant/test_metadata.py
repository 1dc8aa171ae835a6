"""How `qdrant://` keeps metadata to filter by them: whatever their fields are, and in older collections not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from penstock.core.errors import UsageError
from penstock.core.records import VECTOR, Metadata
from penstock.core.schema import Manifest
from penstock.sinks.lengths import key
from penstock.sinks.qdrant import QdrantIndex, QdrantSink
from penstock.sinks.qdrant.fields import NUMBERS
from penstock.sinks.terms import LONGEST, TERMS, term
from penstock.testing.emulators.qdrant import Emulator
from penstock.testing.sink_suite import holds, point
from tests.sinks.qdrant import DENSE, at

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")

OLD = Manifest(replace(DENSE.schema, filterable=False))


def found(index: QdrantIndex, where: Metadata) -> list[int]:
    return sorted(hit.chunk.ordinal for hit in index.search(point(1).vectors[VECTOR], k=100, where=where))


def test_fields_of_any_name(url: str) -> None:
    """Names with the signs that terms are made of, and long ones, are fields apart; so are their values."""
    names = ["a", "a=", 'a="b', "=image", "=", "a\0b", "é 🌊", "x" * 64, "x" * 65, "x" * 66, "7", "$"]
    points = [point(n, metadata={name: "b", "same": n}) for n, name in enumerate(names[:-1])]
    points += [point(90, metadata={"a.c": 1}), point(91, metadata={"a": {"c": 1}}), point(92, metadata={"": 1, "$": 1})]
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        sink.write(points)
        holds(sink, points)
        index.open()
        for n, name in enumerate(names[1:-1], 1):
            assert found(index, {name: "b"}) == found(index, {name: {"$exists": True}}) == [n], name
        assert found(index, {"a": "b"}) == [0]
        assert found(index, {"a": {"$exists": True}}) == [0, 91]
        assert found(index, {"a.c": {"$gte": 1}}) == found(index, {"a.c": 1}) == [91]
        assert found(index, {"type": "image"}) == []


def test_long_texts(url: str) -> None:
    """They are equal only to themselves, and found by what they begin with as far as that is kept."""
    long = "x" * LONGEST
    values = [long[:-1], long, f"{long}y", f"{long}z", term(("a",), f"{long}y").partition('"')[2], "x" * 10_000]
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        sink.write([point(n, metadata={"a": value}) for n, value in enumerate(values)])
        index.open()
        for n, value in enumerate(values):
            assert found(index, {"a": value}) == [n]
        assert found(index, {"a": {"$prefix": long}}) == [1, 2, 3, 4, 5]
        with pytest.raises(UsageError, match="512 characters"):
            found(index, {"a": {"$prefix": f"{long}y"}})
        assert dict(index.facets(["a"])["a"]) == dict.fromkeys(values, 1)


def test_numbers_of_any_size(url: str) -> None:
    """Those that no double holds, and infinity, are written; they are in the order of numbers."""
    values: Sequence[float] = [-0.0, 2**53, 2**63 - 1, 10**400, -(10**400), float("inf"), 1e300, float("nan")]
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(DENSE)
        sink.write([point(n, metadata={"a": value}) for n, value in enumerate(values)])
        index.open()
        assert found(index, {"a": 0}) == found(index, {"a": 0.0}) == [0]
        assert found(index, {"a": 2**53}) == found(index, {"a": 2.0**53}) == [1]
        assert found(index, {"a": 1e300}) == [6]
        assert found(index, {"a": {"$gt": 1e18}}) == [2, 3, 5, 6]
        assert found(index, {"a": {"$lt": 0}}) == [4]


def test_a_collection_of_an_earlier_version(url: str, request: pytest.FixtureRequest) -> None:
    """It is written and read as before. Its metadata are not filtered by, its types are."""
    points = [point(n, metadata={"a": 1}, image=b"" if n else None) for n in range(3)]
    with QdrantSink(url) as sink, QdrantIndex(url) as index:
        sink.open(OLD)
        sink.write(points)
        holds(sink, points)
        index.open()
        for where in ({"a": 1}, {"$not": {"b": None}}):
            with pytest.raises(UsageError, match="penstock reindex"):
                found(index, where)
        with pytest.raises(UsageError, match="penstock reindex"):
            index.facets(["a"])
        assert found(index, {"type": "text"}) == [0]
        assert index.facets(["type"]) == {"type": [("image", 2), ("text", 1)]}
    if "127.0.0.1" in url:
        collection = request.getfixturevalue("server").collections["notes"]
        assert collection.indexes.keys() == {"uri", "page", "ordinal"}
        assert not collection.points[key(points[1].id)][1].keys() & {TERMS, NUMBERS}


def test_few_indexes_whatever_the_fields(server: Emulator) -> None:
    """A thousand fields take no more indexes than one, and no request for each."""
    with QdrantSink(at(server)) as sink:
        sink.open(DENSE)
        sink.write([point(n, metadata={f"field {n}": n}) for n in range(1000)])
        before = len(server.requests)
        sink.open(DENSE)
        assert not [request for request in server.requests[before:] if request.startswith("PUT")]
    indexes = server.collections["notes"].indexes
    assert len(indexes) == 7
    assert indexes[TERMS] == {"type": "keyword", "prefix": True}


def test_a_server_that_matches_no_prefixes() -> None:
    """All other filters are answered; the message says what a prefix needs."""
    with Emulator(matches_prefixes=False) as old, QdrantSink(at(old)) as sink, QdrantIndex(at(old)) as index:
        sink.open(DENSE)
        sink.write([point(1, metadata={"a": "b"})])
        assert old.collections["notes"].indexes[TERMS] == {"type": "keyword"}
        index.open()
        assert found(index, {"a": "b"}) == found(index, {"a": {"$prefix": ""}}) == [1]
        for ask in (
            lambda: found(index, {"a": {"$prefix": "b"}}),
            lambda: index.facets(["a"], {"a": {"$prefix": "b"}}),
        ):
            with pytest.raises(UsageError, match="upgrade"):
                ask()


def test_counting_reads_only_the_points_that_have_the_field(server: Emulator) -> None:
    """In pages, without their texts, vectors and images."""
    with QdrantSink(at(server)) as sink, QdrantIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write([point(n, metadata={"a": n % 2} if n < 600 else {}) for n in range(3000)])
        index.open()
        before = len(server.requests)
        assert index.facets(["a"]) == {"a": [(0, 300), (1, 300)]}
        assert len(server.requests) - before == 2
