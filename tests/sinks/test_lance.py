"""`lance://` keeps the promises of a sink."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.records import MultiVector
from penstock.sinks.lance import LanceIndex, LanceSink
from penstock.testing.sink_suite import MakeIndex, MakeSink, SinkSuite


class TestLance(SinkSuite):
    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: LanceSink(f"lance://{tmp_path}/in dex?table=notes")

    @pytest.fixture
    def make_index(self, tmp_path: Path) -> MakeIndex:
        return lambda: LanceIndex(f"lance://{tmp_path}/in dex?table=notes")


class TestLanceMultiVector(TestLance):
    kind = MultiVector
