"""Random histories of a corpus, with crashes and faults, against a dictionary: after a run they are equal."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from penstock.core.records import Delete
from penstock.engine.flow import Flow
from penstock.engine.journal import Stale
from penstock.jobs import run as runs
from penstock.pipeline import Pipeline
from penstock.testing.chaos import MOMENTS
from penstock.testing.faults import LEDGER_MOMENTS, SINK_MOMENTS, EmbedFaults, Fuse, wire
from penstock.testing.sinks import Faults, FaultySink
from penstock.testing.sources import FeedSource, document

from .world import World, undisturbed

URIS = [f"doc:{letter}" for letter in "abcdef"]
LINES = st.lists(st.sampled_from(["one", "two", "three", "four", "five", "six", "seven"]), max_size=8)
"""Few words, so that lines repeat, come back, and are found in other documents."""
WHEN = st.tuples(st.none(), st.integers(1, 40)) | st.tuples(st.sampled_from(MOMENTS), st.integers(1, 3))
"""The nth moment of all, or the nth of a kind."""
CALLS = st.frozensets(st.integers(0, 3), max_size=1)


class History(RuleBasedStateMachine):
    """Rules common to listings and feeds."""

    def __init__(self) -> None:
        super().__init__()
        self.linger = patch.object(runs, "LINGER", 0.002)
        self.linger.start()
        self.temporary = tempfile.TemporaryDirectory()
        self.documents: dict[str, str] = {}
        self.settled: dict[str, str] = {}
        self.world = self.make()

    def make(self) -> World:
        return World(Path(self.temporary.name))

    def tell(self, uri: str, text: str | None) -> None:
        """Set a document's text, or delete it."""
        if text is None:
            del self.documents[uri]
        else:
            self.documents[uri] = text

    def teardown(self) -> None:
        self.finish()
        self.world.forget()
        self.temporary.cleanup()
        self.linger.stop()

    # ------------------------------------------------------------ what befalls the corpus

    @rule(uri=st.sampled_from(URIS), lines=LINES)
    def put(self, uri: str, lines: list[str]) -> None:
        """New, or replaced; with no lines, empty."""
        self.tell(uri, "\n".join(lines))

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        uri = data.draw(st.sampled_from(sorted(self.documents)))
        lines = self.documents[uri].splitlines()
        at = data.draw(st.integers(0, len(lines)))
        lines[at : at + data.draw(st.integers(0, 2))] = data.draw(LINES)
        self.tell(uri, "\n".join(lines))

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.tell(data.draw(st.sampled_from(sorted(self.documents))), None)

    @precondition(lambda self: self.documents)
    @rule(data=st.data(), to=st.sampled_from(URIS))
    def rename(self, data: st.DataObject, to: str) -> None:
        """Perhaps over another one, or over itself."""
        uri = data.draw(st.sampled_from(sorted(self.documents)))
        text = self.documents[uri]
        self.tell(uri, None)
        self.tell(to, text)

    @precondition(lambda self: len(self.documents) > 1)
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        one, other = data.draw(st.permutations(sorted(self.documents)))[:2]
        texts = self.documents[one], self.documents[other]
        self.tell(one, texts[1])
        self.tell(other, texts[0])

    @rule()
    def take_back(self) -> None:
        """Go back to the state at the end of the last run: it meets the remains of a crash."""
        for uri in set(self.documents) - set(self.settled):
            self.tell(uri, None)
        for uri, text in self.settled.items():
            if self.documents.get(uri) != text:
                self.tell(uri, text)

    # ------------------------------------------------------------ runs

    @rule(when=WHEN)
    def crash(self, when: tuple[str | None, int]) -> None:
        moment, nth = when
        pipeline = self.world.pipeline()
        fuse = Fuse(moment, nth)
        wire(pipeline.sink, fuse, SINK_MOMENTS, "sink")
        wire(pipeline.ledger, fuse, LEDGER_MOMENTS, "ledger")
        before = self.acknowledged(pipeline)
        try:
            pipeline.run(allow_mass_delete=True)
        except BaseException:
            if not fuse.blown:
                raise
        assert not before.intersection(self.world.embedded()), "an acknowledged chunk was embedded again"

    @rule(when=WHEN)
    def stop(self, when: tuple[str | None, int]) -> None:
        """Ctrl-C at that moment."""
        moment, nth = when
        pipeline = self.world.pipeline()
        flows: list[Flow] = []
        run = Flow.run

        def noted(flow: Flow, *arguments: Any) -> None:
            flows.append(flow)
            run(flow, *arguments)

        fuse = Fuse(moment, nth, blow=lambda _: flows[0].stop() if flows else None)
        wire(pipeline.sink, fuse, SINK_MOMENTS, "sink")
        wire(pipeline.ledger, fuse, LEDGER_MOMENTS, "ledger")
        before = self.acknowledged(pipeline)
        with patch.object(Flow, "run", noted):
            pipeline.run(allow_mass_delete=True)
        assert not before.intersection(self.world.embedded()), "an acknowledged chunk was embedded again"

    @rule(transient=CALLS, half=CALLS, after=CALLS, flush=CALLS, embed=CALLS)
    def run_with_faults(self, embed: frozenset[int], **faults: frozenset[int]) -> None:
        self.world.embedder.faults, self.world.embedder.calls = EmbedFaults(transient=embed), 0
        self.check(self.world.pipeline(lambda sink: FaultySink(sink, Faults(**faults))))

    @rule()
    def finish(self) -> None:
        self.world.embedder.faults = EmbedFaults()
        self.check(self.world.pipeline())

    def check(self, pipeline: Pipeline) -> None:
        before = self.acknowledged(pipeline)
        report = pipeline.run(allow_mass_delete=True)
        assert report.ok
        assert not before.intersection(self.world.embedded()), "an acknowledged chunk was embedded again"
        assert self.world.held() == undisturbed(self.documents, Path(self.temporary.name))
        assert self.world.pipeline().verify().ok
        self.settled = dict(self.documents)

    def acknowledged(self, pipeline: Pipeline) -> set[str]:
        """Ids that the next run must not embed; it discards those that it removes from the index."""
        ledger = pipeline.ledger
        if not ledger.path.exists() or self.world.sink().manifest() is None:
            return set()
        with closing(sqlite3.connect(ledger.path)) as db:
            ids = {id for (id,) in db.execute("SELECT lower(hex(id)) FROM chunks WHERE acked > 0")}
        retract = ledger.retract

        def retracted(stale: Sequence[Stale]) -> None:
            ids.difference_update(chunk.id.hex() for chunk in stale)
            retract(stale)

        ledger.retract = retracted  # type: ignore[method-assign]
        return ids


class Listing(History):
    def tell(self, uri: str, text: str | None) -> None:
        super().tell(uri, text)
        self.world.tell(self.documents)

    @precondition(lambda self: self.documents)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        """Another fingerprint, the same content."""
        self.world.listed.touch(data.draw(st.sampled_from(sorted(self.documents))))

    @rule()
    def lose_the_index(self) -> None:
        self.world.forget()

    @rule()
    def lose_the_ledger(self) -> None:
        """And take the index over."""
        for file in self.world.folder.glob("ledger.db*"):
            file.unlink()
        if self.world.sink().manifest() is not None:
            before = set(self.world.held())
            self.world.run(adopt=True, allow_mass_delete=True)
            assert not before.intersection(self.world.embedded()), "what was taken over was embedded again"
            assert self.world.held() == undisturbed(self.documents, Path(self.temporary.name))


class Feed(History):
    def make(self) -> World:
        self.feed = FeedSource([], marks=3)
        return World(Path(self.temporary.name), source=self.feed)

    def tell(self, uri: str, text: str | None) -> None:
        super().tell(uri, text)
        self.feed.script.append(Delete(uri) if text is None else document(uri, text.encode()))


MACHINES = pytest.mark.parametrize("machine", [Listing, Feed])
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Shrinking takes minutes here, and a history of fourteen steps is short enough."""
COMMON: Any = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "stateful_step_count": 14,
    "phases": PHASES,
}


@MACHINES
def test_the_index_equals_the_source_after_any_history(machine: type[History]) -> None:
    """A few histories, the same ones each time."""
    run_state_machine_as_test(machine, settings=settings(max_examples=25, derandomize=True, database=None, **COMMON))


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@MACHINES
def test_the_index_equals_the_source_after_many_histories(machine: type[History]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=400, print_blob=True, **COMMON))
