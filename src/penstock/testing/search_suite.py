"""Tests of searches: part of `sink_suite.SinkSuite`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from penstock.core.contracts import Index
from penstock.core.errors import SinkError, UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Metadata, Point, Sparse
from penstock.testing.points import DIM, URI, MakeIndex, MakeSink, point, similarity
from penstock.testing.suite_base import SinkBase

FILTERS: tuple[Metadata, ...] = (
    {"page": 3},
    {"page": None},
    {"page": {"$ne": None}},
    {"page": {"$ne": 3}},
    {"page": [1, 2, 6]},
    {"page": []},
    {"page": {"$nin": [1, 2]}},
    {"page": {"$gt": 2, "$lte": 5}},
    {"$not": {"page": {"$gte": 2}}},
    {"ordinal": {"$lt": 4}},
    {"uri": "doc:1'%_\\"},
    {"uri": {"$in": ["doc:0'%_\\", "doc:2'%_\\", "nowhere"]}, "page": {"$lt": 3}},
    {"$or": [{"page": 1}, {"$and": [{"ordinal": {"$gte": 20}}, {"$not": {"page": [2, 3]}}]}]},
    {"$not": {"$or": [{"page": None}, {"uri": "doc:1'%_\\"}]}},
    {"id": {"$in": [f"{n:032x}" for n in (3, 14, 99)]}},
)
"""One of every form. The points that they filter have pages 1 to 6, or none."""


class Searching(SinkBase):
    """Scores and their order, filters, what an open index sees."""

    def searched(self, make_sink: MakeSink, make_index: MakeIndex, points: Sequence[Point]) -> Index:
        with self.opened(make_sink) as sink:
            sink.write(points)
            sink.flush()
        index = make_index()
        index.open()
        return index

    def test_search_finds_the_nearest_first(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Scores are cosines (for many vectors their MaxSim), in order; hits carry the whole chunk."""
        points = self.points(*range(200), metadata={"a": [1]}, page=2, headings=("H",))
        with self.searched(make_sink, make_index, points) as index:
            assert index.count() == 200
            assert index.manifest() == self.manifest
            query = point(7, kind=self.kind, version=1).vectors[VECTOR]
            hits = index.search(query, k=10)
            wanted = sorted(points, key=lambda p: -similarity(query, p.vectors[VECTOR]))[:10]
            assert [h.score for h in hits] == pytest.approx(
                [similarity(query, p.vectors[VECTOR]) for p in wanted], abs=1e-4
            )
            assert [h.chunk for h in hits] == [p.chunk for p in wanted]
            assert len(index.search(query, k=1000)) == 200 or self.kind is Sparse
            assert sorted(p.id for p in index.fetch([points[3].id, "absent"])) == [points[3].id]

    def test_search_within(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """`where` narrows before the nearest are chosen; quotes in a uri are literal; other fields are refused."""
        odd = self.points(*range(300, 303), uri=URI, page=9)
        with self.searched(make_sink, make_index, self.points(*range(200)) + odd) as index:
            query = self.points(5)[0].vectors[VECTOR]
            assert {h.chunk.id for h in index.search(query, where={"uri": URI})} == {p.id for p in odd}
            assert {h.chunk.id for h in index.search(query, where={"page": 9, "uri": URI})} == {p.id for p in odd}
            assert len(index.search(query, k=200, where={"uri": "file:///docs/1.md"})) == 50
            assert index.search(query, where={"uri": "' OR '1'='1"}) == []
            with pytest.raises(UsageError):
                index.search(query, where={"$no such": 1})

    @pytest.mark.parametrize("where", FILTERS, ids=str)
    def test_filters(self, make_sink: MakeSink, make_index: MakeIndex, where: Metadata) -> None:
        """Every form of filter finds the points that pass it, absent pages included, and no others."""
        points = [p for n in range(30) for p in self.points(n, page=n % 7 or None, uri=f"doc:{n // 10}'%_\\")]
        wanted = parse_filter(where)
        assert wanted is not None
        with self.searched(make_sink, make_index, points) as index:
            found = index.search(self.points(5)[0].vectors[VECTOR], k=100, where=where)
        passing = {p.id for p in points if passes(p.chunk, wanted)}
        assert {hit.chunk.id for hit in found} == passing or (
            self.kind is Sparse and {h.chunk.id for h in found} < passing
        )

    def test_invalid_filters(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """They are refused; an empty result would hide the mistake."""
        with self.searched(make_sink, make_index, self.points(1)) as index:
            invalid: tuple[Metadata, ...] = (
                {"page": "3"},
                {"uri": {"$like": "x"}},
                {"$or": []},
                {"page": {}},
                {"ordinal": True},
            )
            for where in invalid:
                with pytest.raises(UsageError):
                    index.search(self.points(1)[0].vectors[VECTOR], where=where)

    def test_search_sees_what_is_written(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """An open index finds points written since, and none that were deleted."""
        with self.searched(make_sink, make_index, self.points(1, 2)) as index, self.opened(make_sink) as sink:
            sink.write(self.points(3))
            sink.delete([p.id for p in self.points(1)])
            sink.flush()
            hits = index.search(self.points(3)[0].vectors[VECTOR])
            assert [h.chunk.ordinal for h in hits] == [3, 2]
            assert index.count() == 2

    def test_search_refuses_another_dimension(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """A query of another model is an error."""
        if self.kind is Sparse:
            pytest.skip("sparse vectors have no fixed length")
        with self.searched(make_sink, make_index, self.points(1)) as index, pytest.raises(SinkError):
            index.search(point(1, kind=self.kind, dim=DIM + 1).vectors[VECTOR])

    def test_opening_no_index_is_an_error(self, make_index: MakeIndex) -> None:
        """`open` raises where nothing was written."""
        with make_index() as index, pytest.raises(SinkError):
            index.open()
