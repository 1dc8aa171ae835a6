"""Tests of filters by metadata, and of facets: part of `sink_suite.SinkSuite`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import pytest

from penstock.core import fields
from penstock.core.errors import UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Chunk, Metadata, Point, Sparse
from penstock.testing.points import MakeIndex, MakeSink
from penstock.testing.search_suite import Searching

ODD = 'it\'s "one" of 100%_\\ naïve'
"""A name and a value that ends every quotation."""
METADATA: tuple[Metadata, ...] = (
    {},
    {"department": "hr", "year": 2024, "tags": ["new", "draft"], "author": {"name": "Ann", "age": 41}},
    {"department": "hr", "year": 2023.5, "tags": ["draft"], "author": {"name": "Anton", "at": {"firm": "A & B"}}},
    {"department": "it", "year": 2022, "tags": [], "author": {"tags": []}, "draft": True, "mixed": 3},
    {"department": "IT", "year": -1, "tags": "new", "author": "Ann", "draft": False, "mixed": "3"},
    {"department": "hrm", "year": 0, "tags": [1, "1", True], "mixed": [3, "x"], ODD: ODD},
    {"day": "2024-01-05", "modified": "2024-01-05T10:00:00Z", "mixed": True, "numbers": [1, 5.5, 9]},
    {"day": "2024-02-01", "modified": "2024-01-05T10:00:00.500000Z", "mixed": 3.5, "numbers": [4]},
    {"day": "2023-12-31", "modified": "2023-12-31T23:59:59Z", "department": None, "people": [{"name": "Ann"}]},
    {"department": "", "id": "own", "page": "own", "metadata": {"id": "inner"}, "mixed": 1},
    {"department": "[]", "day": "x\ty", "nested": {"ж" * 40: {"字" * 30: "long"}}},
    {"department": ["hr", "it"], "tags": ["neu", "nëw", "Ω"], "year": [1999, 2024], "mixed": False},
)

EVERYWHERE: tuple[Metadata, ...] = (
    {"department": "hr"},
    {"department": {"$ne": "hr"}},
    {"department": ["hr", "it", "nobody"]},
    {"department": {"$nin": ["hr", "it"]}},
    {"department": []},
    {"department": ""},
    {"department": None},
    {"department": {"$exists": True}, "year": {"$exists": False}},
    {"tags": "draft"},
    {"tags": {"$all": ["new", "draft"]}},
    {"tags": "1"},
    {"tags": 1},
    {"tags": True},
    {"tags": None},
    {"tags": ["Ω", "neu"]},
    {"year": 2024},
    {"year": 2024.0},
    {"year": 2023.5},
    {"year": [0, 2022]},
    {"year": {"$gte": 2022, "$lt": 2024}},
    {"year": {"$lt": 0}},
    {"year": {"$lte": 0}},
    {"$not": {"year": {"$gt": 2000}}},
    {"numbers": {"$gt": 4, "$lt": 5}},
    {"numbers": {"$gte": 9}},
    {"numbers": 5.5},
    {"author.name": "Ann"},
    {"author.at.firm": "A & B"},
    {"author.age": {"$gt": 40}},
    {"author": {"$exists": True}},
    {"author": "Ann"},
    {"author.at": {"$exists": True}},
    {"people": {"$exists": True}},
    {"people.name": "Ann"},
    {"nested": {"$exists": True}},
    {f"nested.{'ж' * 40}": {"$exists": True}},
    {f"nested.{'ж' * 40}.{'字' * 30}": "long"},
    {"department": "[]"},
    {"year": list(range(1000, 1400))},
    {"department": ["hr", *map(str, range(400))]},
    {"draft": True},
    {"draft": False},
    {"draft": {"$ne": True}},
    {"draft": 1},
    {"mixed": 3},
    {"mixed": "3"},
    {"mixed": True},
    {"mixed": 1},
    {"mixed": [3, "x", False]},
    {"mixed": {"$gte": 3}},
    {"day": date(2024, 1, 5)},
    {"modified": datetime(2024, 1, 5, 10, tzinfo=UTC)},
    {"day": {"$gte": date(2024, 1, 1), "$lt": date(2024, 2, 1)}},
    {"modified": {"$gt": datetime(2024, 1, 5, 10, tzinfo=UTC)}},
    {"modified": {"$lt": date(2024, 1, 1)}},
    {"metadata.id": "own"},
    {"metadata.page": "own"},
    {"metadata.metadata.id": "inner"},
    {ODD: ODD},
    {"nobody": "has it"},
    {"nobody": {"$ne": "has it"}},
    {"$or": [{"department": "hr", "year": 2024}, {"$not": {"department": None}, "draft": True}]},
    {"department": "hr", "page": {"$gte": 3}, "uri": {"$ne": "doc:9"}},
    {"$not": {"$or": [{"department": "hr"}, {"tags": "new"}, {"page": None}]}},
    {"type": "text"},
    {"type": "image"},
    {"type": {"$ne": "text"}},
    {"type": ["text", "image"], "department": "hr"},
)
"""What every store answers. The order of dates and times is among it, which is the order of time."""
ORDER_OF_TEXTS: tuple[Metadata, ...] = (
    {"department": {"$gt": "hr"}},
    {"department": {"$gte": "IT", "$lt": "hs"}},
    {"$not": {"department": {"$lte": "hr"}}},
    {"mixed": {"$gt": "2"}},
)
PREFIXES: tuple[Metadata, ...] = (
    {"department": {"$prefix": "hr"}},
    {"tags": {"$prefix": "ne"}},
    {"author.name": {"$prefix": "Ann"}},
    {"$not": {"author.name": {"$prefix": "A"}}},
    {ODD: {"$prefix": ODD[:20]}},
    {"department": {"$prefix": ""}},
    {"mixed": {"$prefix": "3"}},
)
PREFIXES_OF_URIS: tuple[Metadata, ...] = ({"uri": {"$prefix": "doc:1"}}, {"$not": {"uri": {"$prefix": "doc:"}}})

INVALID: tuple[Metadata, ...] = (
    {"$no": 1},
    {"author..name": 1},
    {"author\ud800": 1},
    {".".join("abcdefghijklmnopq"): 1},
    {"year": {"$gt": None}},
    {"year": {"$gt": True}},
    {"year": {"$gt": [1]}},
    {"year": {"$near": 1}},
    {"year": 1 << 60},
    {"year": float("nan")},
    {"department": {"$prefix": 3}},
    {"department": {"$exists": "yes"}},
    {"department": {"$in": "hr"}},
    {"tags": {"$all": []}},
    {"department": {"name": "hr"}},
    {"type": "video"},
    {"type": {"$gt": "image"}},
)


class Filtering(Searching):
    """Filters by metadata have one meaning in every store, which is that of `penstock.core.filters.passes`."""

    orders_texts: bool = True
    """Whether the store has texts in an order; if not, filters that ask for it are refused."""
    finds_prefixes: bool = True
    """Whether it finds what a text begins with; if not, such filters are refused."""
    has_facets: bool = True

    def described(self) -> list[Point]:
        """Points with metadata of every kind: texts and images, with pages and without."""
        return [
            point
            for n in range(3 * len(METADATA))
            for point in self.points(
                n,
                uri=f"doc:{n}",
                page=n % 5 or None,
                image=b"" if n % 4 == 0 else None,
                metadata=METADATA[n % len(METADATA)],
            )
        ]

    def test_filters_of_metadata(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        points = self.described()
        with self.searched(make_sink, make_index, points) as index:
            query = self.points(5)[0].vectors[VECTOR]

            def check(where: Metadata) -> None:
                wanted = parse_filter(where)
                assert wanted is not None
                passing = {p.id for p in points if passes(p.chunk, wanted)}
                found = {hit.chunk.id for hit in index.search(query, k=100, where=where)}
                if self.kind is Sparse:
                    assert found <= passing, where
                else:
                    assert found == passing, where

            def refused(where: Metadata) -> None:
                with pytest.raises(UsageError):
                    index.search(query, where=where)

            for where in EVERYWHERE:
                check(where)
            for where in ORDER_OF_TEXTS:
                (check if self.orders_texts else refused)(where)
            for where in PREFIXES:
                # An empty prefix asks no more than whether the field is there, in any store.
                (check if self.finds_prefixes or not self._asks_prefix(where) else refused)(where)
            for where in PREFIXES_OF_URIS:
                (check if self.orders_texts else refused)(where)
            for where in INVALID:
                refused(where)

    @staticmethod
    def _asks_prefix(where: Metadata) -> bool:
        return any(asked != {"$prefix": ""} for asked in where.values())

    def test_changed_metadata_is_filtered_by(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """A point that is written anew is found by its new metadata, and no longer by the old ones."""
        before = self.points(1, 2, 3, metadata={"department": "hr", "tags": ["old"]})
        with self.searched(make_sink, make_index, before) as index, self.opened(make_sink) as sink:
            sink.write(self.points(1, metadata={"department": 7, "added": {"later": [True]}}))
            sink.write(self.points(2))
            sink.flush()
            query = self.points(1)[0].vectors[VECTOR]

            def found(where: Metadata) -> list[int]:
                return sorted(hit.chunk.ordinal for hit in index.search(query, where=where))

            assert found({"department": "hr"}) == found({"tags": "old"}) == found({"tags": {"$exists": True}}) == [3]
            assert found({"department": 7}) == found({"added.later": True}) == [1]
            assert found({"department": None}) == [2]

    def test_facets(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """How many chunks have each value of a field: the most frequent first, a list counting once for each of its
        values."""
        points = self.described()
        names = ["department", "tags", "mixed", "author.name", "year", ODD, "metadata.id", "nobody", "type"]
        with self.searched(make_sink, make_index, points) as index:
            if not self.has_facets:
                with pytest.raises(UsageError):
                    index.facets(names)
                return
            assert _counted(index.facets(names, limit=100)) == _expected(points, names)
            where = {"department": {"$exists": True}, "page": {"$gte": 2}}
            wanted = parse_filter(where)
            assert wanted is not None
            some = [p for p in points if passes(p.chunk, wanted)]
            assert _counted(index.facets(names, where, limit=100)) == _expected(some, names)
            (few,) = index.facets(["tags"], limit=2).values()
            assert len(few) == 2
            assert few[0][1] >= few[1][1] >= 3
            for invalid in (["text"], ["$x"], ["a..b"]):
                with pytest.raises(UsageError):
                    index.facets(invalid)


def _counted(facets: Mapping[str, Any]) -> dict[str, dict[tuple[type, Any], int]]:
    for counts in facets.values():
        numbers = [count for _, count in counts]
        assert numbers == sorted(numbers, reverse=True)
    return {name: {(fields.kind(value), value): n for value, n in counts} for name, counts in facets.items()}


def _expected(points: list[Point], names: list[str]) -> dict[str, dict[tuple[type, Any], int]]:
    return {name: dict(Counter(pair for p in points for pair in _values(p.chunk, name))) for name in names}


def _values(chunk: Chunk, name: str) -> set[tuple[type, Any]]:
    if name == "type":
        return {(str, "text" if chunk.image is None else "image")}
    held = fields.scalars(fields.value_at(chunk.metadata, fields.parse_path(name)))
    return {(fields.kind(value), value) for value in held}
