"""Filters by metadata in Weaviate: what is indexed of them, hard values, collections of earlier versions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.testing.filter_suite import EVERYWHERE, METADATA
from penstock.testing.sink_suite import holds, point
from tests.sinks.counted import equal_counts, too_many_values
from tests.sinks.weaviate import DENSE, SECRET, at, vector_of

pytest.importorskip("weaviate")
from penstock.sinks.weaviate import WeaviateIndex, WeaviateSink
from penstock.sinks.weaviate.tokens import Order, tokens
from penstock.sinks.weaviate.wire import Server
from penstock.testing.emulators.weaviate import Emulator

EARLIER = Manifest(replace(DENSE.schema, filterable=False))
SIGNS = {"<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}


def numbered(metadata: Sequence[Mapping[str, Any]]) -> list[Point]:
    return [point(n, metadata=one, image=b"" if n % 3 == 0 else None) for n, one in enumerate(metadata)]


@pytest.mark.parametrize("unequal", [True, False])
def test_fields_mean_the_same_in_old_servers_and_new(unequal: bool) -> None:
    """Whatever NotEqual makes of what is absent: each filter of the suite, and its negation."""
    points = numbered(METADATA)
    with (
        Emulator(SECRET, absent_is_unequal=unequal) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("WEAVIATE_API_KEY", SECRET)
        with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
            sink.open(DENSE)
            sink.write(points)
            index.open()
            for asked in EVERYWHERE:
                for where in (asked, {"$not": asked}):
                    wanted = parse_filter(where)
                    assert wanted is not None
                    found = {hit.chunk.id for hit in index.search(vector_of(points[0]), k=100, where=where)}
                    assert found == {p.id for p in points if passes(p.chunk, wanted)}, where


def test_the_order_of_numbers() -> None:
    """Of any two, subnormal ones, zeros of both signs and integers past 2^53 among them."""
    rng = np.random.default_rng(5)
    asked = [0, -0.0, 1, -1, 0.1, 5e-324, -5e-324, 1e308, -1e308, 2**53, -(2**53), 1.5, 63, 64, 65]
    asked += [float(value) for value in rng.standard_normal(20) * 10.0 ** rng.integers(-9, 9, 20)]
    held = [*asked, 2**53 + 1, -(2**53) - 1, 2**200, -(10**400), 10**400, math.inf, -math.inf]
    order = Order.of_numbers(("n",))
    for value in held:
        found = set(tokens({"n": value}))
        for other in asked:
            position = order.position(other)
            assert position is not None
            for sign, means in (
                ("<", value < other),
                ("<=", value <= other),
                (">", value > other),
                (">=", value >= other),
            ):
                assert (not found.isdisjoint(order.beyond(sign, position, sign[0]))) is means, (value, sign, other)


def test_hard_names_and_values(server: Emulator) -> None:
    """Spaces that the index trims, long texts, names like paths, numbers and texts that look alike, NaN."""
    metadata: list[Mapping[str, Any]] = [
        {" a ": " a ", "long": "x" * 40_000},
        {"a": "a", "long": "x" * 40_001, "list": ["a", ["b"], {"c": 1}]},
        {"a": {"str": {"1": "x"}}, "n": [-3, 8, "2"]},
        {"a": 1, "n": math.nan, "long": ""},
        {"a": [2**53, True], "n": [2**60 + 1, math.inf]},
        {"-": 1, "\0": "\0", "n": 1e300},
    ]
    asked: list[Mapping[str, Any]] = [
        {" a ": " a "},
        {" a ": "a"},
        {"a": ["a", 1]},
        {"a": "1"},
        {"a": True},
        {"a": 2**53},
        {"a.str": {"$exists": True}},
        {"a.str.1": {"$exists": True}},
        {"long": "x" * 40_000},
        {"long": ""},
        {"list": "b"},
        {"list": "a"},
        {"-": {"$exists": True}},
        {"\0": "\0"},
        *({"n": {sign: n}} for n in (-3, 0, 2, 8, 1e299, 2.0**60) for sign in ("$eq", *SIGNS.values())),
    ]
    points = numbered(metadata)
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write(points)
        index.open()
        for one in asked:
            for where in (one, {"$not": one}):
                wanted = parse_filter(where)
                assert wanted is not None
                found = {hit.chunk.ordinal for hit in index.search(vector_of(points[0]), where=where)}
                assert found == {p.chunk.ordinal for p in points if passes(p.chunk, wanted)}, where
        for where in ({"a": {"$gt": "b"}}, {"a": {"$prefix": "b"}}):
            with pytest.raises(UsageError, match=r"^a: Weaviate has no order of texts"):
                index.search(vector_of(points[0]), where=where)
            with pytest.raises(UsageError, match="no order of texts"):
                index.facets(["a"], where)


def test_the_schema_does_not_grow(server: Emulator) -> None:
    """Whatever the fields are called, and however many there are; a list of numbers has as many tokens as two."""
    with WeaviateSink(at(server)) as sink:
        sink.open(DENSE)
        before = [one["name"] for one in server.collections["Notes"].schema["properties"]]
        sink.write([point(n, metadata={f"field {n}": n, str(n): str(n)}) for n in range(50)])
        assert [one["name"] for one in server.collections["Notes"].schema["properties"]] == before
        [kept] = sink._opened()[0].collection.query.fetch_objects(limit=1, return_properties=["field_tokens"]).objects
        assert "-" in kept.properties["field_tokens"]
    assert len(tokens({"n": [*range(1000)]})) == len(tokens({"n": [0, 1]})) + 998


def test_collections_of_earlier_versions(server: Emulator) -> None:
    """They are written and read as they are; metadata, types and facets are refused, with what to do."""
    points = [point(n, page=n or None, metadata={"a": n}) for n in range(3)]
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(EARLIER)
    names = {one["name"] for one in server.collections["Notes"].schema["properties"]}
    assert not names & {"field_tokens", "has_image"}
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write(points)
        holds(sink, points)
        index.open()
        assert len(index.search(vector_of(points[0]), where={"page": None})) == 1
        for where in ({"a": 1}, {"type": "text"}, {"$not": {"type": "image", "page": 1}}):
            with pytest.raises(UsageError, match="penstock reindex"):
                index.search(vector_of(points[0]), where=where)
        for name in ("a", "type"):
            with pytest.raises(UsageError, match="penstock reindex"):
                index.facets([name])


def test_facets_read_no_images_and_no_texts(server: Emulator) -> None:
    """Unless the filter asks for the text."""
    points = [point(n, text=f"text {n % 2}", metadata={"a": n % 2}) for n in range(450)]
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write(points)
        index.open()
        assert index.facets(["a", "type"]) == {"a": [(0, 225), (1, 225)], "type": [("text", 450)]}
        assert index.facets(["a"], {"$not": {"text": "text 1"}}) == {"a": [(0, 225)]}
        assert index.facets([]) == {}


def test_values_of_equal_counts(server: Emulator) -> None:
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        index.open()
        equal_counts(sink, index)


def test_a_field_of_too_many_values(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        index.open()
        too_many_values(sink, index, monkeypatch)


def test_facets_are_counted_page_by_page(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """All names in one pass, which ends where a field has too many values: no chunk is kept."""
    monkeypatch.setattr("penstock.sinks.weaviate.index.PAGE", 10)
    read, pages = list[int](), Server.pages

    def reading(*args: Any) -> Iterator[list[Any]]:
        for page in pages(*args):
            read.append(len(page))
            yield page

    monkeypatch.setattr(Server, "pages", reading)
    with WeaviateSink(at(server)) as sink, WeaviateIndex(at(server)) as index:
        sink.open(DENSE)
        sink.write([point(n, metadata={"a": n, "b": n % 2}) for n in range(100)])
        index.open()
        assert index.facets(["b", "type"]) == {"b": [(0, 50), (1, 50)], "type": [("text", 100)]}
        assert read == [10] * 10
        read.clear()
        monkeypatch.setattr("penstock.sinks.facets.MOST_VALUES", 15)
        with pytest.raises(UsageError, match="too many different values"):
            index.facets(["b", "a"])
        assert read == [10, 10]
