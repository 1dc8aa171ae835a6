"""What the tests of a sink start from: how to reach one, and points for it. Part of `sink_suite.SinkSuite`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.core.contracts import Sink
from penstock.core.records import Dense, Point, Vector
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.testing.points import DIM, MakeIndex, MakeSink, point

Aliased = Callable[[str], int] | None


class SinkBase:
    kind: type[Vector] = Dense
    shared = True
    secret: str | None = None
    several_writers = True
    same_ids = True
    places = True

    @pytest.fixture
    def make_sink(self) -> MakeSink:
        pytest.fail("the suite needs a fixture make_sink")

    @pytest.fixture
    def make_index(self) -> MakeIndex:
        pytest.skip("no search here")

    @pytest.fixture
    def aliased(self) -> Aliased:
        return None

    @property
    def manifest(self) -> Manifest:
        spec = VectorSpec("a model", DIM, "f" * 32, kind=self.kind.__name__)
        return Manifest(single(spec, "256 tokens"), owners={"": "ledger 1"})

    def points(self, *numbers: int, **fields: Any) -> list[Point]:
        return [point(n, kind=self.kind, **fields) for n in numbers]

    def opened(self, make_sink: MakeSink) -> Sink:
        sink = make_sink()
        sink.open(self.manifest)
        return sink

    def readable(self, make_sink: MakeSink) -> Sink:
        sink = self.opened(make_sink)
        if not sink.readable:
            sink.close()
            pytest.skip("this sink only takes points")
        return sink
