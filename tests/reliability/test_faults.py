"""Stores, models and sources that fail: nothing lost, nothing twice, nothing deleted wrongly, every failure listed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from penstock.core.contracts import Sink
from penstock.core.errors import ModelError, SinkError, SourceError, StageError, Transient
from penstock.core.records import Item, Point
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.faults import EmbedFaults, FaultySource, SourceFaults
from penstock.testing.sinks import Died, Faults, FaultySink
from penstock.testing.sources import ABORT, FeedSource, document

from .world import World, contents, undisturbed

DOCUMENTS = {f"doc:{n}": "\n".join(f"document {n} line {m}" for m in range(9)) for n in range(12)}
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock-")]


@pytest.fixture
def w(tmp_path: Path) -> World:
    return World(tmp_path, DOCUMENTS)


def whole(w: World, documents: dict[str, str] = DOCUMENTS) -> bool:
    return w.held() == undisturbed(documents, w.folder)


def small(sink: Sink) -> Sink:
    sink.max_rows, sink.writers = 16, 2
    return sink


# ---------------------------------------------------------------- the store


@pytest.mark.parametrize(
    "faults",
    [
        Faults(transient=frozenset({0, 3})),
        Faults(half=frozenset({0, 2})),
        Faults(after=frozenset({1, 3})),
        Faults(flush=frozenset({0})),
        Faults(max_rows=3),
        Faults(away=(1, 0.5)),
        Faults(transient=frozenset({0}), half=frozenset({1}), after=frozenset({2}), max_rows=9, flush=frozenset({0})),
    ],
    ids=["away for a call", "half a batch", "acknowledgement lost", "flush", "small", "away for a while", "everything"],
)
def test_transient_failures_are_waited_for(w: World, faults: Faults) -> None:
    report = w.pipeline(lambda sink: FaultySink(small(sink), faults)).run()
    assert report.ok
    assert whole(w)
    assert sorted(w.embedded()) == sorted(w.held()), "every chunk was embedded once"


@pytest.mark.parametrize(
    ("faults", "cause"), [(Faults(dies=frozenset({1})), Died), (Faults(broken=frozenset({1})), SinkError)]
)
def test_an_error_names_the_store_and_the_next_run_resumes(w: World, faults: Faults, cause: Any) -> None:
    """Also where it had taken the batch before it died."""
    with pytest.raises(StageError, match="write") as caught:
        w.pipeline(lambda sink: FaultySink(small(sink), faults)).run()
    assert isinstance(caught.value.__cause__, cause)
    if cause is SinkError:
        assert caught.value.item is not None
        assert caught.value.item.startswith("doc:")
    with w.pipeline().ledger as ledger:
        ledger.open()
        acknowledged = ledger.counts().acknowledged
    w.embedded()
    assert w.run().ok
    assert whole(w)
    assert len(w.embedded()) == len(w.held()) - acknowledged


def test_refused_points_are_listed_and_retried(w: World) -> None:
    bad = sorted(undisturbed(DOCUMENTS, w.folder))[::25]
    report = w.pipeline(lambda sink: FaultySink(small(sink), Faults(refuses=dict.fromkeys(bad, "not today")))).run()
    assert not report.ok
    assert sorted(set(undisturbed(DOCUMENTS, w.folder)) - set(w.held())) == bad
    with w.pipeline().ledger as ledger:
        ledger.open()
        assert sorted((f.stage, f.place, f.cause) for f in ledger.failures()) == [
            ("write", id, "not today") for id in bad
        ]
    w.embedded()
    assert w.pipeline().retry().ok
    assert whole(w)
    assert sorted(w.embedded()) == bad


def test_a_store_that_cannot_read_back_is_no_failure_of_the_document(w: World) -> None:
    """A driver's ConnectionError is an OSError, as is that of an unreadable file: they must not be confused."""
    w.run()
    renamed = {f"{uri}-renamed": text for uri, text in DOCUMENTS.items()}
    w.tell(DOCUMENTS | renamed)

    class Forgetful(FaultySink):
        def fetch(self, ids: Any) -> Any:
            raise ConnectionResetError("the store hung up")

    with pytest.raises(StageError, match="the store hung up"):
        w.pipeline(lambda sink: Forgetful(sink, Faults())).run()
    with w.pipeline().ledger as ledger:
        ledger.open()
        assert not list(ledger.failures())


def test_a_store_that_cannot_be_opened_is_no_failure_of_the_documents(w: World) -> None:
    class Closed(FaultySink):
        def open(self, manifest: Any) -> None:
            raise PermissionError(13, "Permission denied", "index")

    with pytest.raises(StageError, match="Permission denied"):
        w.pipeline(lambda sink: Closed(sink, Faults())).run()
    with w.pipeline().ledger as ledger:
        ledger.open()
        assert not list(ledger.failures())


@pytest.mark.heavy
@pytest.mark.timeout(600)  # the pauses alone may take 45 seconds
def test_a_store_that_comes_back_after_half_a_minute(w: World) -> None:
    began = time.monotonic()
    assert w.pipeline(lambda sink: FaultySink(small(sink), Faults(away=(1, 30.0)))).run().ok
    assert time.monotonic() - began > 29
    assert whole(w)


# ---------------------------------------------------------------- the model


def test_a_busy_model_is_asked_again(w: World) -> None:
    w.embedder.faults = EmbedFaults(transient=frozenset({0, 1}))
    report = w.run()
    assert report.ok
    assert report.counts["retries"] == 2
    assert whole(w)
    assert sorted(w.embedded()) == sorted(w.held())


def test_a_model_that_stays_away_ends_the_run(w: World) -> None:
    w.embedder.faults = EmbedFaults(transient=frozenset(range(1000)))
    with pytest.raises(StageError, match=r"embed at doc:.*429") as caught:
        w.run(max_wait=0.2)
    assert isinstance(caught.value.__cause__, Transient)
    w.embedder.faults = EmbedFaults()
    assert w.run().ok
    assert whole(w)


ALL = frozenset(range(10_000))


@pytest.mark.parametrize("faults", [EmbedFaults(broken=ALL), EmbedFaults(short=ALL), EmbedFaults(fatal=frozenset({2}))])
def test_an_error_names_the_model(w: World, faults: EmbedFaults) -> None:
    """And the documents have not failed: they are tried again."""
    w.embedder.batch_tokens = 64
    w.embedder.faults = faults
    with pytest.raises(StageError, match="embed at doc:"):
        w.run()
    w.embedder.faults = EmbedFaults()
    assert w.run().ok
    assert whole(w)


def test_an_error_in_the_middle_names_the_model(w: World) -> None:
    w.tell({f"doc:{n}": f"document {n}" for n in range(200)})
    w.embedder.batch_tokens = 64
    w.embedder.faults = EmbedFaults(broken=ALL - {0, 1})
    with pytest.raises(StageError, match="embed at doc:"):
        w.run()
    w.embedder.faults = EmbedFaults()
    assert w.run().ok
    assert len(w.held()) == 200


@pytest.mark.parametrize("faults", [EmbedFaults(broken=frozenset({2})), EmbedFaults(short=frozenset({2}))])
def test_a_model_that_fails_once_loses_nothing(w: World, faults: EmbedFaults) -> None:
    """The batch is tried again, each document of it alone."""
    w.embedder.faults = faults
    assert w.run().ok
    assert whole(w)


def test_documents_embedded_while_a_service_is_cut_off_are_tried_again(w: World) -> None:
    """Without its being said: an embedder of the user's may raise what the network gives it."""

    class CutOff(HashingEmbedder):
        def embed(self, chunks: Any) -> Any:
            if any(chunk.uri in ("doc:3", "doc:4") for chunk in chunks):
                raise ConnectionResetError("connection reset by peer")
            return super().embed(chunks)

    w.embedder.real = CutOff(8)
    report = w.run()
    assert (report.failed, report.failing) == (2, 2)
    w.embedder.real = HashingEmbedder(8)
    assert w.run().ok
    assert whole(w)


def test_documents_that_break_a_component_do_not_end_every_run(w: World) -> None:
    """Though they come first, and are so many that the component seems broken."""
    bad = {f"bad:{n:02}": f"document {n} of the bad" for n in range(25)}
    w.tell(bad | DOCUMENTS)

    class Picky(HashingEmbedder):
        def embed(self, chunks: Any) -> Any:
            if any("of the bad" in chunk.text for chunk in chunks):
                raise ValueError("not these")
            return super().embed(chunks)

    w.embedder.real = Picky(8)
    for _ in range(8):
        with suppress(StageError):
            report = w.run()
            break
    assert report.failing == len(bad)
    assert len(w.held()) == len(undisturbed(DOCUMENTS, w.folder))


def test_one_chunk_that_cannot_be_embedded_is_listed_and_retried(w: World) -> None:
    w.embedder.faults = EmbedFaults(poison="document 3 line 5")
    report = w.run()
    assert (report.counts["failed"], report.failing) == (1, 1)
    assert len(w.held()) == len(undisturbed(DOCUMENTS, w.folder)) - 1
    w.embedder.faults = EmbedFaults()
    again = w.run()
    assert (again.unchanged, again.parked) == (len(DOCUMENTS) - 1, 1), "the same content would fail again"
    w.embedded()
    assert w.pipeline().retry().ok
    assert whole(w)
    assert len(w.embedded()) == 1


# ---------------------------------------------------------------- the source


@pytest.mark.parametrize(
    "faults", [SourceFaults(abort=5), SourceFaults(cut=5), SourceFaults(abort=0), SourceFaults(cut=0)]
)
def test_a_listing_that_ends_early_deletes_nothing(w: World, faults: SourceFaults) -> None:
    w.run()
    w.source = FaultySource(w.listed, faults)
    if faults.abort is not None:
        with pytest.raises(StageError, match=r"scan.*connection was lost"):
            w.run(allow_mass_delete=True)
    else:
        assert not w.run(allow_mass_delete=True).complete
    assert whole(w)


def test_documents_of_a_broken_listing_are_kept(w: World) -> None:
    w.source = FaultySource(w.listed, SourceFaults(cut=5))
    w.run()
    assert len({row[0] for row in w.held().values()}) == 5
    w.embedded()
    w.source = w.listed
    w.run()
    assert whole(w)
    assert len(w.embedded()) == 7 * 9


def test_unreadable_entries_are_listed_and_kept(w: World) -> None:
    w.run()
    w.source = FaultySource(w.listed, SourceFaults(unreadable=frozenset({"doc:3", "doc:new"})))
    plan = w.pipeline().plan()
    report = w.run()
    assert report.complete
    assert (plan.deleted, report.counts["deleted"], plan.unreadable) == (0, 0, 1)
    assert whole(w)
    assert w.pipeline().verify().gone == 0
    with w.pipeline().ledger as ledger:
        ledger.open()
        assert [(f.uri, f.stage, f.permanent) for f in ledger.failures()] == [("doc:3", "list", False)]
    w.source = w.listed
    w.run()
    with w.pipeline().ledger as ledger:
        ledger.open()
        assert not list(ledger.failures())


def test_a_document_that_cannot_be_opened_is_read_by_the_next_run(w: World) -> None:
    """By itself: reading failed, not the document."""
    w.source = FaultySource(w.listed, SourceFaults(unopenable=frozenset({"doc:3"})))
    report = w.run()
    assert (report.counts["failed"], report.failing) == (1, 1)
    with w.pipeline().ledger as ledger:
        ledger.open()
        (failure,) = ledger.failures()
        assert (failure.uri, failure.permanent) == ("doc:3", False)
        assert "Permission denied" in failure.cause
    w.source = w.listed
    assert w.run().ok
    assert whole(w)


def test_one_document_that_cannot_be_looked_up_does_not_keep_others_from_a_retry(w: World) -> None:
    w.embedder.faults = EmbedFaults(poison="line 5")
    w.run()
    w.embedder.faults = EmbedFaults()
    w.source = FaultySource(w.listed, SourceFaults(unsure=frozenset({"doc:0"})))
    report = w.pipeline().retry()
    assert report.failing == 1
    assert report.counts["documents"] == len(DOCUMENTS) - 1
    w.source = w.listed
    assert w.pipeline().retry().ok
    assert whole(w)


def test_nor_does_one_whose_source_is_busy(w: World) -> None:
    class Busy(FaultySource):
        def lookup(self, uri: str) -> Item | None:
            if uri == "doc:0":
                raise Transient("429 Too Many Requests")
            return super().lookup(uri)

    w.embedder.faults = EmbedFaults(poison="line 5")
    w.run()
    w.embedder.faults = EmbedFaults()
    w.source = Busy(w.listed)
    report = w.pipeline().retry()
    assert report.failing == 1
    assert report.counts["documents"] == len(DOCUMENTS) - 1


def test_a_retry_deletes_a_document_that_is_gone(w: World) -> None:
    w.embedder.faults = EmbedFaults(poison="document 3 line 5")
    w.run()
    rest = {uri: text for uri, text in DOCUMENTS.items() if uri != "doc:3"}
    w.tell(rest)
    assert w.pipeline().retry().ok
    assert whole(w, rest)


def test_a_feed_that_aborts_resumes_after_its_last_cursor(tmp_path: Path) -> None:
    changes = [document(uri, text.encode()) for uri, text in DOCUMENTS.items()]
    w = World(tmp_path, source=FeedSource([*changes[:7], ABORT, *changes[7:]], marks=3))
    with pytest.raises(StageError, match="aborted") as caught:
        w.run()
    assert isinstance(caught.value.__cause__, SourceError)
    assert w.run().ok
    assert whole(w)


def test_a_stopped_feed_never_deletes_a_document_in_flight(tmp_path: Path) -> None:
    """The deletion waits for the version before it; stopped while it waits, it must not overtake it."""
    w = World(tmp_path, source=FeedSource([document("doc:a", b"one\ntwo"), document("doc:b", b"three")], marks=1))
    w.run()
    from penstock.core.records import Delete

    w.source.script += [document("doc:a", b"one\nfour"), Delete("doc:a"), document("doc:b", b"five")]  # type: ignore[attr-defined]
    writing, stopped = threading.Event(), threading.Event()

    class Slow(FaultySink):
        def write(self, points: list[Point]) -> None:  # type: ignore[override]
            writing.set()
            assert stopped.wait(10)
            time.sleep(1.0)  # longer than the committer waits for more
            super().write(points)

    from penstock.engine import flow as flows

    pipeline = w.pipeline(lambda sink: Slow(sink, Faults()))
    run = flows.Flow.run

    def run_and_stop(self: Any, *arguments: Any) -> None:
        def stop() -> None:
            writing.wait(10)
            time.sleep(0.3)  # until the scan has come to the deletion
            self.stop()
            stopped.set()

        stopper = threading.Thread(target=stop)
        stopper.start()
        run(self, *arguments)
        stopper.join()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows.Flow, "run", run_and_stop)
        assert pipeline.run().status == "stopped"
    assert w.run().ok
    assert sorted(row[2] for row in contents(w.sink()).values()) == ["five"]
    assert w.pipeline().verify().ok


# ---------------------------------------------------------------- those who watch


def test_a_progress_callback_that_fails_ends_the_run_and_leaves_nothing_behind(w: World) -> None:
    """`penstock ingest | head`: the pipe is closed, the screen is gone."""

    def closed(progress: Any) -> None:
        raise BrokenPipeError("closed")

    w.embedder.faults, w.embedder.batch_rows = EmbedFaults(seconds=0.05), 2
    with pytest.raises(BrokenPipeError):
        w.run(progress=closed)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock-")]
    assert w.run().ok
    assert whole(w)


def test_a_feed_that_sleeps_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    """Ctrl-C while the source waits for events: earlier ones are committed, and the wait ends."""
    events = [document(uri, text.encode()) for uri, text in DOCUMENTS.items()]
    news = threading.Event()

    class Sleeping(FeedSource):
        def changes(self, cursor: str | None = None) -> Iterator[Any]:
            yield from super().changes(cursor)
            news.wait(20)

    w = World(tmp_path, source=Sleeping(events, marks=4))
    from penstock.engine import flow as flows

    run = flows.Flow.run

    def run_and_stop(self: Any, *arguments: Any) -> None:
        stopper = threading.Timer(2.0, self.stop)
        stopper.start()
        run(self, *arguments)
        stopper.join()

    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows.Flow, "run", run_and_stop)
        assert w.run().status == "stopped"
    assert time.monotonic() - began < 10
    assert whole(w)
    news.set()
    for thread in threading.enumerate():
        if thread.name.startswith("penstock-"):
            thread.join(10)


def test_a_model_that_cannot_be_loaded_leaves_no_store_open(w: World) -> None:
    """The store is opened while the model is loaded: it is closed after it was opened, and not before."""
    events: list[str] = []

    class Slow(FaultySink):
        def open(self, manifest: Any) -> None:
            time.sleep(0.5)
            super().open(manifest)
            events.append("open")

        def close(self) -> None:
            events.append("close")

    def broken() -> None:
        raise ModelError("no such model")

    w.embedder.open = broken  # type: ignore[method-assign]
    with pytest.raises(StageError, match="no such model"):
        w.pipeline(lambda sink: Slow(sink, Faults())).run()
    assert events[-1] == "close"
    time.sleep(0.7)
    assert events[-1] == "close"
