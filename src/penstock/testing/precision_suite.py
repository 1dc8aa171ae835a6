"""Tests of MultiVectors in fewer bits: part of `sink_suite.SinkSuite`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, UsageError
from penstock.core.precision import FP32, PRECISIONS, encoded, floats
from penstock.core.records import VECTOR, MultiVector, Point
from penstock.core.schema import Manifest
from penstock.testing.points import MakeIndex, MakeSink, holds, point, respec, similarity
from penstock.testing.suite_base import SinkBase


class Precisions(SinkBase):
    """What a sink says it keeps, it keeps to the bit, and its index searches; all else it refuses."""

    def in_precision(self, precision: str) -> tuple[Manifest, list[Point]]:
        points = [
            Point(p.chunk, {VECTOR: MultiVector(encoded(p.vectors[VECTOR].values, precision))})
            for p in self.points(*range(60), page=1)
        ]
        return replace(self.manifest, schema=respec(self.manifest.schema, precision=precision)), points

    def precisions(self, make_sink: MakeSink) -> Iterator[str]:
        """Those that the sink keeps, but for fp32; the index of each is removed. One alone, where none can be."""
        if self.kind is not MultiVector:
            pytest.skip("of other vectors there is one precision")
        kept = sorted(make_sink().precisions - {FP32})
        for precision in kept if self.generations else kept[:1]:
            yield precision
            if self.generations:
                make_sink().drop()

    @contextmanager
    def filled(self, make_sink: MakeSink, precision: str) -> Iterator[Sink]:
        manifest, points = self.in_precision(precision)
        with make_sink() as sink:
            sink.open(manifest)
            sink.write(points[:40])
            sink.write(points[20:])
            yield sink

    def test_many_vectors_in_fewer_bits_come_back_as_they_were(self, make_sink: MakeSink) -> None:
        """Vectors of another precision are refused, and precisions that the sink does not keep, before anything is."""
        for precision in self.precisions(make_sink):
            manifest, points = self.in_precision(precision)
            with self.filled(make_sink, precision) as sink:
                with pytest.raises(SinkError, match=f"precision {precision}|dimensions"):
                    sink.write(self.points(1))
                sink.delete([points[59].id])
                holds(sink, points[:59])
            assert make_sink().manifest() == manifest
        for precision in PRECISIONS.keys() - make_sink().precisions:
            with make_sink() as sink, pytest.raises(UsageError, match=f"not {precision}"):
                sink.open(self.in_precision(precision)[0])
            assert make_sink().manifest() is None

    def test_many_vectors_in_fewer_bits_are_searched(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """By a question of fp32, filtered as well. Whether the lengths that rounding makes are divided by is the
        store's."""
        for precision in self.precisions(make_sink):
            with self.filled(make_sink, precision) as sink:
                sink.flush()
            query = point(7, kind=MultiVector, version=1).vectors[VECTOR]
            _, points = self.in_precision(precision)
            scores = {p.id: similarity(query, MultiVector(floats(p.vectors[VECTOR].values))) for p in points}
            wanted = sorted(scores.values(), reverse=True)[:10]
            with make_index() as index:
                index.open()
                for where in (None, {"page": 1}):
                    hits = index.search(query, k=10, where=where)
                    assert [hit.score for hit in hits] == pytest.approx(wanted, abs=0.05)
                    assert [scores[hit.chunk.id] for hit in hits] == pytest.approx(wanted, abs=0.05)
                assert index.search(query, where={"page": 2}) == []
