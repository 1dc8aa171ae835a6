"""Filters: what can be said, and that their SQL means what they mean."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import UsageError
from penstock.core.filter_parser import DEPTH, parse_filter
from penstock.core.filters import HasValue, Parameters, chunk_fields, leaves, literal, metadata_fields, passes, sql
from penstock.core.records import Chunk

PAGES = st.none() | st.integers(0, 5)
COMPARISONS = st.one_of(
    PAGES,
    st.lists(st.integers(0, 5), max_size=3),
    st.dictionaries(st.sampled_from(["$lt", "$lte", "$gt", "$gte"]), st.integers(0, 5), min_size=1),
    st.builds(lambda value: {"$ne": value}, PAGES),
    st.builds(lambda values: {"$nin": values}, st.lists(st.integers(0, 5), max_size=3)),
)
LEAVES = st.one_of(
    st.builds(lambda how: {"page": how}, COMPARISONS),
    st.builds(lambda uri: {"uri": uri}, st.sampled_from(["a", "it's", "'; --"])),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda terms: {"$and": terms}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda terms: {"$or": terms}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda term: {"$not": term}, inner),
    ),
    max_leaves=6,
)
CHUNKS = [
    Chunk(f"{n:032x}", uri, n, "", (0, 0), page)
    for n, (uri, page) in enumerate((u, p) for u in ("a", "it's", "'; --") for p in (None, 0, 1, 2, 3, 4, 5))
]


def _no_metadata(term: HasValue) -> str:
    pytest.fail(f"asks for metadata: {term}")


@given(FILTERS)
def test_sql_means_the_same(where: dict[str, Any]) -> None:
    """With literals and with parameters, nulls included."""
    wanted = parse_filter(where)
    assert wanted is not None
    meant = [chunk.ordinal for chunk in CHUNKS if passes(chunk, wanted)]
    with sqlite3.connect(":memory:") as db:
        db.execute("CREATE TABLE chunks (ordinal INTEGER, uri TEXT, page INTEGER)")
        db.executemany("INSERT INTO chunks VALUES (?, ?, ?)", [(c.ordinal, c.uri, c.page) for c in CHUNKS])
        values: list[Any] = []
        asked = sql(wanted, Parameters("?", values), _no_metadata)
        for condition, given in ((sql(wanted, literal, _no_metadata), []), (asked, values)):
            found = db.execute(f"SELECT ordinal FROM chunks WHERE {condition} ORDER BY ordinal", given)
            assert [ordinal for (ordinal,) in found] == meant
    db.close()


@pytest.mark.parametrize("nothing", [None, {}])
def test_nothing_asked_is_no_filter(nothing: dict[str, Any] | None) -> None:
    assert parse_filter(nothing) is None


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"$colour": "red"}, "narrowed by '.colour'"),
        ({"page": "3"}, "compared with int, not str"),
        ({"page": True}, "not bool"),
        ({"page": {"$like": 3}}, "unknown comparison"),
        ({"page": {}}, "nothing is asked"),
        ({"page": {"$in": 3}}, "a list"),
        ({"page": [None]}, "not NoneType"),
        ({"$or": []}, "a list of filters"),
        ({"$not": {}}, "asks nothing"),
        ({"$and": [{"page": 1}, {}]}, "asks nothing"),
        ({"$not": 3}, "a filter is a mapping"),
        ({"ordinal": 1 << 63}, "out of range"),
    ],
)
def test_what_cannot_be_meant(where: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_filter(where)


def test_a_filter_of_many_levels_is_refused() -> None:
    for more in ({}, {"ordinal": 2}):
        where: dict[str, Any] = {"page": 1}
        for _ in range(DEPTH):
            where = {"$not": where, **more}
        with pytest.raises(UsageError, match="levels"):
            parse_filter(where)


def test_what_a_filter_asks_for() -> None:
    """Its terms at any depth, and the fields that they name."""
    wanted = parse_filter(
        {"$or": [{"a.b": 1, "page": 2}, {"$not": {"type": "image"}}], "c": {"$prefix": "x"}, "a.b": 3}
    )
    assert [getattr(term, "name", None) or getattr(term, "field", None) for term in leaves(wanted)] == [
        *("a.b", "page", "image", "c", "a.b"),
    ]
    assert metadata_fields(wanted) == ["a.b", "c"]
    assert chunk_fields(wanted) == {"page", "image"}
    assert list(leaves(None)) == metadata_fields(None) == []
