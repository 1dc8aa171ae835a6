"""Sparse vectors, and their suite for stores that find only points which share an index with the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from penstock.core.records import VECTOR, Point, Sparse
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite, point, similarity


def sparse(n: int, indices: Sequence[int], values: Sequence[float]) -> Point:
    """The nth point, with this vector."""
    return replace(point(n), vectors={VECTOR: Sparse(np.array(indices, np.int32), np.array(values, np.float32))})


class Overlapping(SinkSuite):
    kind = Sparse

    def test_search_within(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """As for other kinds, except that a hit's product with the query is not zero."""
        points = self.points(*range(200))
        query = points[5].vectors[VECTOR]
        with self.searched(make_sink, make_index, points) as index:
            found = index.search(query, k=200, where={"uri": "file:///docs/1.md"})
        shared = [p for p in points if p.chunk.uri == "file:///docs/1.md" and similarity(query, p.vectors[VECTOR]) > 0]
        assert 0 < len(shared) < 50
        assert {hit.chunk.id for hit in found} == {p.id for p in shared}
