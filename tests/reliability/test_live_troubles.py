"""What a run that follows its source meets in weeks: all that is away, full disks, documents that break their parser,
clocks that step. It goes on by itself; nothing is lost, and nothing is embedded twice."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core import retry
from penstock.core.contracts import Sink
from penstock.core.errors import LockedError, SinkError, SinkUnavailable, SourceError, UsageError
from penstock.core.records import Change, Item
from penstock.core.schema import Manifest
from penstock.engine import commit, control
from penstock.engine.journal import Failure
from penstock.engine.progress import Progress, Report
from penstock.jobs import changes, progress_file
from penstock.jobs import feed as feeds
from penstock.jobs import live as following
from penstock.jobs.components import Components
from penstock.jobs.retries import RETRIES, Retries
from penstock.ledger import Ledger, failures
from penstock.parsers import Parsers
from penstock.sinks.memory import MemorySink
from penstock.sinks.sqlite import SqliteSink
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.faults import EmbedFaults, FaultyEmbedder
from penstock.testing.sinks import Faults, FaultySink
from penstock.testing.sources import FeedSource, ListSource, document
from tests import disks, live
from tests.live import Watched
from tests.parsers import hostile

until = partial(live.until, seconds=60)
HALF_AN_HOUR = 120
"""Tries in half an hour, at the longest of the pauses between them."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour takes about a second."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.01)
    for module in (changes, feeds, following):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.005)
        monkeypatch.setattr(module, "LONGEST_PAUSE", 0.01)
    for module in (changes, feeds):
        monkeypatch.setattr(module, "TICK", 0.05)
    monkeypatch.setattr(failures, "FIRST_TRY", 0.1)
    monkeypatch.setattr(progress_file, "EVERY", 0.05)


class Followed(Watched):
    """A pipeline that follows a list, listed all the time, or a feed."""

    def __init__(
        self,
        folder: Path,
        source: Any,
        *,
        wrap: Callable[[Sink], Sink] = lambda sink: sink,
        state: Path | None = None,
        sink: Sink | None = None,
        **options: Any,
    ) -> None:
        self.source, self.state = source, state or folder / "ledger.db"
        self.sink = sink or MemorySink(f"memory://{folder}")
        self.embedder = FaultyEmbedder(HashingEmbedder(8), EmbedFaults())
        pipeline = ps.Pipeline(source, into=wrap(self.sink), model=self.embedder, state=self.state, **options)
        super().__init__(pipeline, every=0.05)
        self.waited: set[str] = set()
        """What the run has said to wait for."""

    def _progress(self, now: Progress) -> None:
        self.waited.add(now.waiting)
        super()._progress(now)

    def texts(self) -> set[str]:
        return {each.chunk.text for each in self._points()}

    def _points(self) -> Iterator[Any]:
        sink = type(self.sink)(self.sink.url)
        if (manifest := sink.manifest()) is None:
            return
        sink.open(manifest)
        try:
            for page in list(sink.ids()):
                yield from sink.fetch(page)
        finally:
            sink.close()

    def becomes(self, texts: set[str]) -> None:
        until(lambda: self.texts() == texts, describe=self.texts)

    def says(self, words: str) -> None:
        until(lambda: words in str(progress_file.read(self.state)), describe=lambda: progress_file.read(self.state))

    def failures(self) -> dict[str, Failure]:
        try:
            with Ledger.reader(self.state) as ledger:
                return {failure.uri: failure for failure in ledger.failures()}
        except UsageError:  # it is about to be made
            return {}

    def embedded_once(self) -> bool:
        ids = self.embedder.embedded
        return len(ids) == len(set(ids))


def listed(*names: str) -> ListSource:
    return ListSource({f"doc:{name}": name.encode() for name in names})


# ---------------------------------------------------------------- what is away


class Away(FaultySink):
    """Away while `away` is set, with that error."""

    def __init__(self, real: Sink, error: Exception) -> None:
        super().__init__(real, Faults())
        self.error, self.away, self.tries = error, threading.Event(), 0

    def reach(self) -> None:
        if self.away.is_set():
            self.tries += 1
            raise self.error

    def write(self, points: Sequence[Any]) -> None:
        self.reach()
        super().write(points)

    def delete(self, ids: Sequence[str]) -> None:
        self.reach()
        super().delete(ids)

    def flush(self) -> None:
        self.reach()
        super().flush()

    def maintain(self) -> None:
        self.reach()
        super().maintain()


def test_a_store_is_maintained_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its driver raises then ends no run."""
    monkeypatch.setattr(commit, "COMMITS", 2)
    maintained: list[int] = []

    class Store(FaultySink):
        def maintain(self) -> None:
            maintained.append(len(maintained))
            raise RuntimeError("the compaction fell over")

    source = FeedSource([document("doc:0", b"text 0")])
    one = Followed(tmp_path, source, wrap=lambda sink: Store(sink, Faults()))
    with one:
        for n in range(1, 6):
            one.becomes({f"text {m}" for m in range(n)})
            source.script.append(document(f"doc:{n}", f"text {n}".encode()))
        until(lambda: len(maintained) >= 2)
    assert isinstance(one.report, Report)
    assert any("the compaction fell over" in notice for notice in one.report.notices)


def test_a_store_that_is_maintained_beside_writes_stops_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until that is not enough: then nobody writes meanwhile."""
    monkeypatch.setattr(commit, "COMMITS", 1)
    calls: list[str] = []

    class Store(FaultySink):
        def maintain_beside(self) -> bool:
            calls.append("beside")
            return len(calls) != 3

        def maintain(self) -> None:
            calls.append("alone")

    source = FeedSource([document("doc:0", b"text 0")])
    one = Followed(tmp_path, source, wrap=lambda sink: Store(sink, Faults()))
    with one:
        for n in range(1, 7):
            one.becomes({f"text {m}" for m in range(n)})
            source.script.append(document(f"doc:{n}", f"text {n}".encode()))
        until(lambda: len(calls) >= 5)
    assert calls[:5] == ["beside", "beside", "beside", "alone", "beside"]


def test_a_store_is_maintained_after_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a first listing, which few commits are enough for."""
    monkeypatch.setattr(commit, "MANY", 60)
    maintained = threading.Event()

    class Store(FaultySink):
        def maintain_beside(self) -> bool:
            maintained.set()
            return True

    text = " ".join(f"word{n}" for n in range(20_000))
    one = Followed(tmp_path, FeedSource([document("doc:0", text.encode())]), wrap=lambda sink: Store(sink, Faults()))
    with one:
        assert maintained.wait(30)
    assert isinstance(one.report, Report)
    assert one.report.written > 60


FULL = "lance://index: LanceError(IO): No space left on device (os error 28)"


@pytest.mark.parametrize(
    "error", [SinkUnavailable("connection refused"), SinkError(FULL)], ids=["away", "its disk is full"]
)
def test_a_store_that_is_away_for_half_an_hour(tmp_path: Path, error: Exception) -> None:
    stores: list[Away] = []

    def wrap(sink: Sink) -> Sink:
        stores.append(Away(sink, error))
        return stores[-1]

    one = Followed(tmp_path, listed("alpha", "beta", "gamma"), wrap=wrap)
    [store] = stores
    with one:
        one.becomes({"alpha", "beta", "gamma"})
        store.away.set()
        one.source.entries |= {f"doc:{n}": f"new {n}".encode() for n in range(50)} | {"doc:alpha": b"other"}
        del one.source.entries["doc:gamma"]
        one.says(str(error))
        until(lambda: store.tries >= HALF_AN_HOUR)
        assert one.texts() == {"alpha", "beta", "gamma"}
        store.away.clear()
        one.becomes({"other", "beta", *(f"new {n}" for n in range(50))})
    assert one.embedded_once()
    assert len(one.embedder.embedded) == 54
    assert one.pipeline.verify().ok


@pytest.mark.parametrize("what", ["store", "source"])
def test_what_is_away_at_the_start_is_waited_for(tmp_path: Path, what: str) -> None:
    """As after a restart of the machine. Where nothing was there before, it is an error at once."""
    away, tries = threading.Event(), 0

    def reach() -> None:
        nonlocal tries
        if away.is_set():
            tries += 1
            raise SinkUnavailable("connection refused") if what == "store" else SourceError("nothing is mounted")

    class Store(FaultySink):
        def manifest(self) -> Any:
            if what == "store":
                reach()
            return super().manifest()

    class Source(ListSource):
        def open(self) -> None:
            if what == "source":
                reach()

    one = Followed(tmp_path, Source({"doc:a": b"alpha"}), wrap=lambda sink: Store(sink, Faults()))
    away.set()
    with pytest.raises(SinkUnavailable if what == "store" else SourceError):
        one.pipeline.watch()
    assert not one.state.exists()
    away.clear()
    with one:
        one.becomes({"alpha"})
    away.set()
    tries = 0
    with one:
        until(lambda: tries > 5)
        one.says("connection refused" if what == "store" else "nothing is mounted")
        one.source.entries["doc:b"] = b"beta"
        away.clear()
        one.becomes({"alpha", "beta"})


@pytest.mark.parametrize("error", [SourceError("the share is not mounted"), RuntimeError("a driver fell over")])
@pytest.mark.parametrize("feed", [False, True], ids=["listed", "feed"])
def test_a_source_that_is_away_for_half_an_hour(tmp_path: Path, error: Exception, feed: bool) -> None:
    away, tries = threading.Event(), 0

    class Source(FeedSource if feed else ListSource):  # type: ignore[misc]
        def changes(self, cursor: str | None = None) -> Iterator[Change]:
            nonlocal tries
            if away.is_set():
                tries += 1
                raise error
            yield from super().changes(cursor)

    source = Source([document("doc:a", b"alpha")] if feed else {"doc:a": b"alpha"})
    one = Followed(tmp_path, source)
    with one:
        one.becomes({"alpha"})
        away.set()
        if feed:
            source.script.append(document("doc:b", b"beta"))
        else:
            source.entries["doc:b"] = b"beta"
        one.says(str(error))
        until(lambda: tries >= HALF_AN_HOUR)
        away.clear()
        one.becomes({"alpha", "beta"})
    assert one.embedded_once()


def test_a_disk_that_is_full_and_freed(tmp_path: Path) -> None:
    """That of ledger and index. What could not be written waits; nobody has to begin again."""
    with disks.small_disk(tmp_path / "small", "8m") as small:
        source = listed("alpha", "beta")
        one = Followed(tmp_path, source, state=small / "ledger.db", sink=SqliteSink(f"sqlite://{small}/index.db"))
        with one:
            one.becomes({"alpha", "beta"})
            filling = disks.fill(small)
            source.entries |= {f"doc:{n}": f"new {n} {'x' * 500}".encode() for n in range(500)}
            del source.entries["doc:alpha"]
            until(lambda: any("full" in waiting for waiting in one.waited), describe=lambda: one.report)
            filling.unlink()
            one.becomes({"beta", *(f"new {n} {'x' * 500}" for n in range(500))})
        assert one.embedded_once()
        assert one.pipeline.verify().ok


def test_a_disk_that_is_full_when_the_index_is_opened(tmp_path: Path) -> None:
    full = [True, True]

    class Small(MemorySink):
        def open(self, manifest: Manifest) -> None:
            if full:
                full.pop()
                raise OSError(errno.ENOSPC, "No space left on device")
            super().open(manifest)

    one = Followed(tmp_path, listed("alpha"), wrap=lambda sink: Small(sink.url))
    with one:
        one.becomes({"alpha"})
    assert not full


def test_two_runs_follow_one_source(tmp_path: Path) -> None:
    """The second is told of the first, which goes on."""
    one = Followed(tmp_path, listed("alpha"))
    with one:
        one.becomes({"alpha"})
        with pytest.raises(LockedError, match=r"another run .* is using the ledger"):
            ps.Pipeline(one.source, into=MemorySink(one.sink.url), model=one.embedder, state=one.state).watch()
        one.source.entries["doc:b"] = b"beta"
        one.becomes({"alpha", "beta"})


# ---------------------------------------------------------------- documents that fail


def test_documents_that_break_their_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is listed, tried once more, and then left alone; the others are indexed meanwhile."""
    monkeypatch.setattr(Components, "parser", lambda self: Parsers(self.parsers, timeout=1.0))
    bad = {
        "raises": b"raise too much",
        "hangs": b"hang",
        "crashes": f"die {int(signal.SIGSEGV)}".encode(),
        "is killed": f"die {int(signal.SIGKILL)}".encode(),
        "exits": b"exit",
    }
    good = {f"doc:{n}.txt": f"text {n}".encode() for n in range(200)}
    source = ListSource(good | {f"bad:{name}.txt": text for name, text in bad.items()})
    one = Followed(tmp_path, source, parsers={"text/plain": hostile.parse})

    def settled() -> bool:
        found = one.failures()
        return len(found) == len(bad) and all(failure.permanent for failure in found.values())

    with one:
        until(settled, describe=one.failures)
        assert one.texts() == {text.decode().partition(" ")[2] for text in good.values()}
        source.entries["bad:crashes.txt"] = b"text all is well"
        until(lambda: "all is well" in one.texts())
        until(lambda: len(one.failures()) == len(bad) - 1, describe=one.failures)
        found = one.failures()
        assert all(failure.attempts <= 3 for failure in found.values())
        assert found["bad:hangs.txt"].attempts == 2
    assert one.embedded_once()


def test_a_component_that_is_broken_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A one-off run ends. One that goes on tries its documents again, however often they failed."""
    monkeypatch.setattr(control, "BROKEN_AFTER", 3)
    broken = threading.Event()
    broken.set()

    def owner(item: Item) -> dict[str, str]:
        if broken.is_set():
            raise RuntimeError("no licence")
        return {"owner": "them"}

    one = Followed(tmp_path, listed(*map(str, range(20))), metadata=owner)
    with one:
        until(lambda: any(each.attempts > 2 for each in one.failures().values()), describe=one.failures)
        assert any("no licence" in failure.cause for failure in one.failures().values())
        broken.clear()
        one.becomes({*map(str, range(20))})


def test_thousands_of_failing_documents_do_not_hold_up_a_new_one(tmp_path: Path) -> None:
    with Ledger.writer(tmp_path / "ledger.db") as ledger:
        run = ledger.begin_run("space")
        uris = [f"doc:{n}" for n in range(5000)]
        ledger.begin(uris, run)
        ledger.record((Failure(uri, "read", "busy", permanent=False, attempt=1) for uri in uris), run)
        ledger._db.execute("UPDATE failures SET next = 0")  # type: ignore[union-attr]
        retries = Retries(ledger)
        first = retries.due()
        assert len(set(first)) == RETRIES
        assert retries.due() == []  # until they have come to an end
        ledger.record((Failure(uri, "read", "busy", permanent=False, attempt=2) for uri in first[:5]), run)
        again = retries.due()
        assert len(again) == 5
        assert not set(again) & set(first)


def test_a_feed_tells_again_what_failed_for_a_while(tmp_path: Path) -> None:
    """Its cursor is past that document."""
    source = FeedSource([document("doc:a", b"alpha"), document("doc:b", b"beta")])
    one = Followed(tmp_path, source)
    away = threading.Event()
    away.set()
    change = source.script[1]
    whole = change.item.opener

    def opener() -> Any:
        if away.is_set():
            raise OSError(5, "Input/output error")
        return whole()

    object.__setattr__(change.item, "opener", opener)
    with one:
        one.becomes({"alpha"})
        until(lambda: any(each.attempts >= 2 for each in one.failures().values()))
        away.clear()
        one.becomes({"alpha", "beta"})
        until(lambda: not one.failures())


# ---------------------------------------------------------------- clocks that step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock of failures, which a test sets."""
    now = [1_700_000_000.0]
    monkeypatch.setattr(failures.time, "time", lambda: now[0])
    monkeypatch.setattr(failures, "FIRST_TRY", 30.0)
    return now


def failed(ledger: Ledger, uris: Sequence[str]) -> None:
    run = ledger.begin_run("space")
    ledger.begin(uris, run)
    ledger.record((Failure(uri, "read", "busy", permanent=False, attempt=1) for uri in uris), run)


def test_a_clock_that_is_set_back_an_hour_defers_no_try(tmp_path: Path, clock: list[float]) -> None:
    with Ledger.writer(tmp_path / "ledger.db") as ledger:
        failed(ledger, ["doc:a"])
        assert not ledger.due(16)
        clock[0] -= 3600
        assert ledger.due(16) == {"doc:a": 1}
        assert not ledger.due(16)  # once
        clock[0] -= 3600  # while it is being tried
        clock[0] += failures.CLAIMED + 1
        assert ledger.due(16) == {"doc:a": 1}


def test_a_clock_that_is_set_forward_an_hour_has_few_tried_at_once(tmp_path: Path, clock: list[float]) -> None:
    with Ledger.writer(tmp_path / "ledger.db") as ledger:
        failed(ledger, [f"doc:{n}" for n in range(1000)])
        clock[0] += 3600
        assert len(ledger.due(16)) == 16


def test_progress_of_a_run_that_died_before_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ledger.db.now").write_text('{"at": 1700003600.0}')
    monkeypatch.setattr(progress_file.time, "time", lambda: 1_700_000_000.0)
    assert progress_file.read(tmp_path / "ledger.db") is None
