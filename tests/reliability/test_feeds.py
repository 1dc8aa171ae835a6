"""Sources that go on for ever, and are stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import penstock as ps
from penstock.core.records import Change, Item
from penstock.engine import flow
from penstock.engine.progress import Progress
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import document


class Endless(ps.Source):
    """One document, and then nothing more."""

    feed = True
    name = "endless:"

    def __init__(self, stops: bool) -> None:
        self._stops, self.stopped, self.let_go = stops, threading.Event(), threading.Event()
        self.closed_under = False
        self._waiting = False

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        yield document("doc:a", b"one")
        self._waiting = True
        (self.stopped if self._stops else self.let_go).wait(30)
        self._waiting = False

    def stop(self) -> None:
        self.stopped.set()

    def lookup(self, uri: str) -> Item | None:
        return None

    def close(self) -> None:
        self.closed_under |= self._waiting


@pytest.mark.parametrize("stops", [True, False])
def test_a_source_that_sleeps_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: bool) -> None:
    """At once where it listens for that; one that does not is left alone, and is not closed under its thread."""
    monkeypatch.setattr(flow, "GRACE", 0.5 if not stops else 20.0)
    source = Endless(stops)
    pipeline = ps.Pipeline(source, into=f"sqlite://{tmp_path}/a.db", model=HashingEmbedder(8), state=tmp_path / "l.db")

    def interrupt(now: Progress) -> None:
        if now.counts["documents"] and not source.stopped.is_set():
            raise KeyboardInterrupt

    began = time.monotonic()
    report = pipeline.run(interrupt)
    assert report.status == "stopped"
    assert report.documents == 1
    assert time.monotonic() - began < 10
    assert not source.closed_under
    source.let_go.set()
