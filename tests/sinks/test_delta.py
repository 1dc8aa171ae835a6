"""`delta://` keeps the promises of a sink, and leaves tables that other engines read."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.records import MultiVector
from penstock.sinks.delta import DeltaSink
from penstock.testing.sink_suite import MakeSink, SinkSuite


class TestDelta(SinkSuite):
    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: DeltaSink(f"delta://{tmp_path}/la ke/chunks#é%zz")


class TestDeltaMultiVector(TestDelta):
    kind = MultiVector
