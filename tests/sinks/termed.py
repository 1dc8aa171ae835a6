"""What holds in every store that filters by the terms of metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import UsageError
from penstock.core.records import VECTOR, Metadata, Point
from penstock.core.schema import Manifest
from penstock.sinks.terms import LONGEST, term
from penstock.testing.sink_suite import SinkSuite, holds, point

LONG = "x" * LONGEST
OLD = Manifest(replace(SinkSuite().manifest.schema, filterable=False))


def found(index: Index, where: Metadata) -> list[int]:
    return sorted(hit.chunk.ordinal for hit in index.search(point(1).vectors[VECTOR], k=100, where=where))


def fields_of_any_name(sink: Sink, index: Index) -> None:
    """Names with the signs that terms are made of, and long ones, are fields apart."""
    names = ["a", "a=", 'a="b', "=image", "=", "a\0b", "é 🌊", "x" * 64, "x" * 65, "x" * 66, "7", "' --"]
    points = [point(100 + n, metadata={name: "b", "same": n}) for n, name in enumerate(names)]
    points += [point(190, metadata={"a.c": 1}), point(191, metadata={"a": {"c": 1}}), point(192, metadata={"": 1})]
    sink.write(points)
    sink.flush()
    assert {p.id: dict(p.chunk.metadata) for p in sink.fetch([p.id for p in points])} == {
        p.id: dict(p.chunk.metadata) for p in points
    }
    for n, name in enumerate(names[1:], 101):
        assert found(index, {name: "b"}) == found(index, {name: {"$exists": True}}) == [n], name
    assert found(index, {"a": "b"}) == [100]
    assert found(index, {"a": {"$exists": True}}) == [100, 191]
    assert found(index, {"a.c": {"$gte": 1}}) == found(index, {"a.c": 1}) == [191]
    assert found(index, {"type": "image"}) == []


def long_texts(sink: Sink, index: Index) -> None:
    """They are equal only to themselves."""
    likeness = term(("long",), f"{LONG}y").partition('"')[2]
    values = [LONG[:-1], LONG, f"{LONG}y", f"{LONG}z", likeness, "x" * 10_000]
    sink.write([point(200 + n, metadata={"long": value}) for n, value in enumerate(values)])
    sink.flush()
    for n, value in enumerate(values, 200):
        assert found(index, {"long": value}) == [n]
    assert dict(index.facets(["long"])["long"]) == dict.fromkeys(values, 1)


def numbers_of_any_size(sink: Sink, index: Index) -> None:
    """Those that no double holds, and infinity, are written; they are in the order of numbers."""
    values: Sequence[float] = [-0.0, 2**53, 2**63 - 1, 10**400, -(10**400), float("inf"), 1e300, float("nan")]
    sink.write([point(n, metadata={"number": value}) for n, value in enumerate(values)])
    sink.flush()
    assert found(index, {"number": 0}) == found(index, {"number": 0.0}) == [0]
    assert found(index, {"number": 2**53}) == found(index, {"number": 2.0**53}) == [1]
    assert found(index, {"number": 1e300}) == [6]
    assert found(index, {"number": {"$gt": 1e18}}) == [2, 3, 5, 6]
    assert found(index, {"number": {"$lt": 0}}) == [4]


def an_earlier_version(sink: Sink, index: Index) -> list[Point]:
    """Its index is written and read as before. Its metadata are not filtered by, its types are."""
    points = [point(n, metadata={"a": 1}, image=b"" if n else None) for n in range(3)]
    sink.open(OLD)
    sink.write(points)
    sink.flush()
    holds(sink, points)
    index.open()
    for where in ({"a": 1}, {"$not": {"b": None}}):
        with pytest.raises(UsageError, match="penstock reindex"):
            found(index, where)
    with pytest.raises(UsageError, match="penstock reindex"):
        index.facets(["a"])
    assert found(index, {"type": "text"}) == [0]
    assert index.facets(["type"]) == {"type": [("image", 2), ("text", 1)]}
    return points
