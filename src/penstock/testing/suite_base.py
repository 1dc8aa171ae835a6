"""The fixtures and attributes by which tests of a sink reach it: part of `sink_suite.SinkSuite`."""

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
    """How to reach a sink, and points for it."""

    kind: type[Vector] = Dense
    """The vectors of the points. Subclass once more for each other kind that the sink accepts."""
    shared = True
    """Other processes can open the same index."""
    secret: str | None = None
    """The password or key of the sinks that `make_sink` returns, if they have one."""
    several_writers = True
    """Several processes may write at a time ..."""
    same_ids = True
    """... and the same ids."""
    generations = True
    """The sink implements `generation`."""

    @pytest.fixture
    def make_sink(self) -> MakeSink:
        """Returns a new sink, not open, of the same index each time, which does not exist when a test begins."""
        pytest.fail("the suite needs a fixture make_sink")

    @pytest.fixture
    def make_index(self) -> MakeIndex:
        """Returns a new index, not open, of what `make_sink` writes to. Leave it out where there is no search."""
        pytest.skip("no search here")

    @pytest.fixture
    def aliased(self) -> Aliased:
        """Returns the generation that an alias of that name stands for, where the store has aliases."""
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
        """An open sink, where it can be read back."""
        sink = self.opened(make_sink)
        if not sink.readable:
            sink.close()
            pytest.skip("this sink only takes points")
        return sink
