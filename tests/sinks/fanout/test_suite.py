"""A fan-out keeps the promises of one sink."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.core.contracts import Sink
from penstock.core.errors import OwnershipError
from penstock.core.schema import Manifest
from penstock.ledger import Ledger
from penstock.sinks.fanout import FanOut
from penstock.sinks.lance import LanceSink
from penstock.sinks.memory import MemorySink
from penstock.sinks.sqlite import SqliteSink
from penstock.testing.ownership_suite import at_once
from penstock.testing.sink_suite import MakeSink, SinkSuite

pytest.importorskip("apsw")
pytest.importorskip("sqlite_vec")


class TestFanOut(SinkSuite):
    """Without a ledger: two stores of other kinds behave as one."""

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: FanOut([SqliteSink(f"sqlite://{tmp_path}/a.db"), LanceSink(f"lance://{tmp_path}/b")])


class TestFanOutWithALedger(SinkSuite):
    shared = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> Iterator[MakeSink]:
        with Ledger(tmp_path / "ledger.db") as ledger:
            ledger.open()

            def make() -> Sink:
                fan = FanOut([MemorySink(f"memory://{tmp_path}/a"), MemorySink(f"memory://{tmp_path}/b")])
                fan.attach(ledger)
                return fan

            yield make

    def test_pickles_before_open(self, make_sink: MakeSink) -> None:
        """Without its ledger, so no member falls behind."""
        with pickle.loads(pickle.dumps(make_sink())) as sink:
            sink.open(self.manifest)
            assert not sink.lagging

    def test_the_manifest_is_kept(self, make_sink: MakeSink) -> None:
        """As of one sink, but that another ledger's is refused, which a session sees to where there is one."""
        self.opened(make_sink).close()
        with make_sink() as sink, pytest.raises(OwnershipError, match="/a was filled by another ledger"):
            sink.open(Manifest(self.manifest.schema, owners={"": "ledger 2"}))

    def test_one_of_several_creates_the_index(self, make_sink: MakeSink) -> None:
        """All are of this ledger, so whoever comes first, it is theirs."""
        for sink in at_once([lambda: self.opened(make_sink)] * 2):
            assert sink.manifest() == self.manifest
            sink.close()

    def test_no_registration_is_lost(self, make_sink: MakeSink) -> None:
        """A fan-out registers its own ledger alone: see test_two_fan_outs_share_a_member."""

    def test_the_manifest_keeps_owners_and_generations(self, make_sink: MakeSink) -> None:
        """Every member keeps the current generation, and of the owners those that fill it."""
        with self.opened(make_sink) as sink:
            sink.replace_manifest(Manifest(self.manifest.schema, {"": "ledger 1", "wiki": "ledger 2"}, 2, 0))
            assert isinstance(sink, FanOut)
            kept = Manifest(self.manifest.schema, {"": "ledger 1"}, 2, 0)
            assert [member.manifest() for member in sink.sinks] == [kept, kept]


class OneVector(MemorySink):
    named = False


class TestFanOutWithAMemberOfOneVector(SinkSuite):
    """It holds named vectors if all its members do, and refuses them before any member keeps something."""

    shared = False

    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> MakeSink:
        return lambda: FanOut([MemorySink(f"memory://{tmp_path}/a"), OneVector(f"memory://{tmp_path}/b")])
