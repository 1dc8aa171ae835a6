"""Commands beside a run that follows its source."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.contracts import Hints
from penstock.core.errors import LockedError, ParseError, UsageError
from penstock.core.records import Item, Upsert
from penstock.engine.progress import COUNTERS, Progress
from penstock.jobs import beside as beside_jobs
from penstock.jobs import progress_file
from penstock.jobs.beside import is_live, twice
from penstock.jobs.held import Held
from penstock.jobs.progress_file import ProgressFile
from penstock.jobs.requests import refresh
from penstock.ledger import Ledger
from penstock.sources.files.watch import LocalWatch
from penstock.support import inotify
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import FeedSource
from tests import live
from tests.live import Watched

pytestmark = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")

until = partial(live.until, seconds=60)


class Beside:
    """A folder that is followed, and other pipelines of the same ledger."""

    def __init__(self, folder: Path, source: Any = None, **options: Any) -> None:
        self.docs, self.state = folder / "docs", folder / "ledger.db"
        self.docs.mkdir()
        self.url = f"sqlite://{folder}/index.db"
        self._source, self._options = source or self.docs, options
        self.run = Watched(self.pipeline(), every=600.0)

    def pipeline(self, **others: Any) -> ps.Pipeline:
        options = {"model": HashingEmbedder(16), **self._options, **others}
        return ps.Pipeline(self._source, into=self.url, state=self.state, **options)

    def now(self) -> dict[str, Any]:
        return progress_file.read(self.state) or {}

    def live(self) -> dict[str, Any]:
        return self.now().get("live") or {}

    def ledger(self, ask: Callable[[Ledger], Any]) -> Any:
        with Ledger.reader(self.state) as ledger:
            return ask(ledger)

    def documents(self) -> int:
        return self.ledger(lambda ledger: ledger.counts().done) if self.state.exists() else 0

    def __enter__(self) -> Beside:
        self.run.__enter__()
        until(lambda: is_live(self.state), describe=lambda: self.run.report)
        return self

    def __exit__(self, *exc: object) -> None:
        self.run.__exit__()


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Beside]:
    one = Beside(tmp_path)
    for n in range(5):
        (one.docs / f"{n}.txt").write_text(f"text number {n}")
    with one:
        until(lambda: one.documents() == 5 and one.live().get("listed"))
        yield one


def test_how_it_stands(beside: Beside) -> None:
    began = time.time()
    until(lambda: (beside.live()["in_sync"] or 0) >= began, describe=beside.now)
    (beside.docs / "new.txt").write_text("something new")
    until(lambda: beside.documents() == 6)
    changed = time.time()
    until(lambda: (beside.live()["in_sync"] or 0) >= changed and beside.now()["documents"] == 6, describe=beside.now)
    now = beside.now()
    assert now["freshness"]["heard"]["documents"] == 6
    assert now["freshness"]["changed"]["documents"] >= 1
    assert now["minute"]["documents"] > 0
    assert now["queued"] == 0
    assert now["live"]["heard"] >= began - 1
    assert now["live"]["next_listing"] > time.time() + 60
    document = beside.ledger(lambda ledger: ledger.document(f"file://{beside.docs}/new.txt"))
    assert document.searchable >= began
    assert 0 <= document.since_heard < 60
    assert 0 <= document.since_changed < 60
    # The ledger says it after the run as well: it is noted with a commit soon after the last change.
    until(lambda: beside.ledger(lambda ledger: ledger.in_sync) >= document.searchable, describe=beside.now)


def test_a_source_is_listed_when_somebody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(watch: LocalWatch, seconds: float) -> Hints:
        time.sleep(0.05)
        return Hints(frozenset(), False)

    monkeypatch.setattr(LocalWatch, "wait", deaf)
    with Beside(tmp_path) as one:
        until(lambda: one.live().get("listed"))
        for n in range(2):  # not only once
            (one.docs / f"{n}.txt").write_text(f"text number {n}")
            assert one.ledger(refresh)
            until(lambda n=n: one.documents() == n + 1, describe=one.now)
    assert not one.ledger(refresh)


def test_a_feed_is_not_listed_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.open()
        now = ProgressFile(path, None, lambda moment: {"feed": True})
        now(Progress(0.0, dict.fromkeys(COUNTERS, 0), (), 0, False, 0))
        with pytest.raises(UsageError, match="is not listed"):
            refresh(ledger)
        now.remove()


def test_in_sync_waits_for_what_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is claimed of the time after something was heard of that is not in the index."""
    monkeypatch.setattr(beside_jobs, "SETTLE", 0.1)
    holding, let = threading.Event(), threading.Event()

    def embed(texts: list[str]) -> list[list[float]]:
        if any("slow" in text for text in texts):
            holding.set()
            assert let.wait(60)
        return [[float(len(text)), 1.0] for text in texts]

    embed.version = "1"  # type: ignore[attr-defined]
    one = Beside(tmp_path, model=embed)
    (one.docs / "a.txt").write_text("at once")
    with one:
        until(lambda: one.documents() == 1)
        (one.docs / "b.txt").write_text("a slow one")
        assert holding.wait(60)
        heard = time.time()
        until(lambda: one.now().get("queued") == 1 and (one.now()["oldest"] or 0) > 1.5, describe=one.now)
        assert (one.live()["in_sync"] or 0) <= heard
        assert one.pipeline().verify().outdated == 1  # it is there twice, as it is the same version
        let.set()
        until(lambda: (one.live()["in_sync"] or 0) > heard, describe=one.now)


def test_deletions_that_are_held_are_not_in_sync(beside: Beside) -> None:
    for n in range(1, 5):
        (beside.docs / f"{n}.txt").unlink()
    until(lambda: beside.live()["held"] is not None, describe=beside.now)
    held = time.time()
    (beside.docs / "more.txt").write_text("goes on")
    until(lambda: beside.ledger(lambda ledger: ledger.document(f"file://{beside.docs}/more.txt")))
    until(lambda: beside.now()["at"] > held + 2)
    assert (beside.live()["in_sync"] or 0) <= held
    with Ledger.reader(beside.state) as ledger:
        noted = Held.read(ledger)
        assert noted is not None
        noted.approve(ledger)
    until(lambda: (beside.live()["in_sync"] or 0) > held + 2, describe=beside.now)


def test_a_second_run_names_the_first(beside: Beside) -> None:
    with pytest.raises(LockedError, match=r"another run \(process \d+\) is using the ledger"):
        beside.pipeline().watch()
    with pytest.raises(LockedError):
        beside.pipeline().run()


def test_verify_while_everything_changes(beside: Beside) -> None:
    """What is on its way is no difference."""
    ended = threading.Event()

    def write() -> None:
        n = 0
        while not ended.is_set():
            n += 1
            (beside.docs / f"{n % 40}.txt").write_text(f"text number {n}, again and again")
            if n % 7 == 0:
                (beside.docs / f"{(n + 20) % 40}.txt").unlink(missing_ok=True)
            time.sleep(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            found = beside.pipeline().verify()
            assert found.ok, found
            assert found.in_sync is not None
    finally:
        ended.set()
        writer.join()


def test_two_looks_tell_what_is_wrong_from_what_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_jobs, "settled", lambda path: None)
    looks = iter([["a", "b"], ["b", "c"]])
    assert twice(tmp_path / "none.db", lambda count: count("missing", next(looks)), lambda found: not found) == 1


def test_repair(beside: Beside) -> None:
    """The run takes out what belongs to nobody, and embeds again what is missing."""
    with ps.open_index(beside.url, HashingEmbedder(16)) as index:
        lost = index.search("text number 3", k=1)[0].chunk
    pipeline = beside.pipeline()
    manifest = pipeline.sink.manifest()
    assert manifest is not None
    with pipeline.sink as sink:
        sink.open(manifest)
        (point,) = sink.fetch([lost.id])
        sink.delete([lost.id])
        stray = replace(point, chunk=replace(point.chunk, id="f" * 32, uri="doc:nobody"))
        sink.write([stray])
        sink.flush()
    found = beside.pipeline().verify()
    assert (found.missing, found.orphans, found.ok) == (1, 1, False)
    after = beside.pipeline().verify(repair=True)
    assert after.ok, after
    assert after.repaired is not None
    assert "mended by the run" in after.repaired.notices[0]
    with ps.open_index(beside.url, HashingEmbedder(16)) as index:
        assert {hit.chunk.text for hit in index.search("text", k=50)} == {f"text number {n}" for n in range(5)}


def test_altered_points_are_made_again(beside: Beside) -> None:
    pipeline = beside.pipeline()
    manifest = pipeline.sink.manifest()
    assert manifest is not None
    with pipeline.sink as sink:
        sink.open(manifest)
        ids = next(iter(sink.ids()))
        a, b = sink.fetch(ids[:2])
        sink.write([replace(a, vectors=b.vectors)])
        sink.flush()
    assert beside.pipeline().verify(sample=1.0).altered == 1
    assert beside.pipeline().verify(sample=1.0, repair=True).ok


def test_remove(beside: Beside) -> None:
    removed = beside.pipeline().remove(beside.docs / "2.txt")
    assert (removed.documents, removed.chunks, removed.pending) == (1, 1, ())
    assert beside.documents() == 4
    (beside.docs / "2.txt").write_text("it stays out")
    (beside.docs / "last.txt").write_text("heard after it")
    until(lambda: beside.documents() == 5)
    until(lambda: beside.now()["queued"] == 0)
    with ps.open_index(beside.url, HashingEmbedder(16)) as index:
        assert "it stays out" not in {hit.chunk.text for hit in index.search("text", k=50)}
    assert beside.pipeline().verify().ok


def test_retry(tmp_path: Path) -> None:
    """Also what has failed for good as it is, which the run does not try by itself."""
    broken = threading.Event()
    broken.set()

    def parse(stream: Any, item: Any) -> Iterator[str]:
        if broken.is_set() and "bad" in item.uri:
            raise ParseError("it is bad")
        yield stream.read().decode()

    parse.version = "1"  # type: ignore[attr-defined]
    one = Beside(tmp_path, parsers={"text/plain": parse})
    for name in ("good", "bad", "bad too"):
        (one.docs / f"{name}.txt").write_text(name)
    with one:
        until(lambda: one.documents() == 1 and one.ledger(lambda ledger: ledger.counts().failed) == 2)
        report = one.pipeline().retry()
        assert (report.documents, report.failed, report.failing, report.ok) == (0, 2, 2, False)
        broken.clear()
        report = one.pipeline().retry()
        assert (report.documents, report.failed, report.failing, report.ok) == (2, 0, 0, True)
        assert one.documents() == 3


def test_a_feed_is_asked_as_well(tmp_path: Path) -> None:
    """For what failed, was removed and is missing: it does not tell these by itself."""
    texts = {"doc:a": b"alpha", "doc:b": b"beta", "doc:c": b"gamma"}
    source = FeedSource([Upsert(Item(uri, uri, partial(io.BytesIO, text), len(text))) for uri, text in texts.items()])
    broken = threading.Event()
    broken.set()

    def parse(stream: Any, item: Any) -> Iterator[str]:
        if broken.is_set() and item.uri == "doc:b":
            raise ParseError("it is bad")
        yield stream.read().decode()

    parse.version = "1"  # type: ignore[attr-defined]
    one = Beside(tmp_path, source=source, parsers={"text/plain": parse})
    with one:
        until(lambda: one.documents() == 2, describe=one.now)
        broken.clear()
        assert one.pipeline().retry().documents == 1
        assert one.pipeline().remove("doc:a").documents == 1
        assert one.documents() == 2
        pipeline = one.pipeline()
        manifest = pipeline.sink.manifest()
        assert manifest is not None
        with pipeline.sink as sink:
            sink.open(manifest)
            sink.delete(next(iter(sink.ids()))[:1])
            sink.flush()
        assert one.pipeline().verify().missing == 1
        after = one.pipeline().verify(repair=True)
        assert not after.missing
        until(lambda: (one.live()["in_sync"] or 0) > 0)


def test_the_run_may_end_meanwhile(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the command does it itself."""
    monkeypatch.setattr("penstock.jobs.changes.removals", lambda memory: iter(()))
    stopper = threading.Timer(0.5, beside.run.__exit__)
    stopper.start()
    removed = beside.pipeline().remove(beside.docs / "2.txt")
    stopper.join()
    assert removed.uris == (f"file://{beside.docs}/2.txt",)
    assert beside.documents() == 4
    assert beside.pipeline().verify().outdated == 0
    beside.run.__enter__()


def test_what_is_not_heard_is_not_in_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens the moment is that of the last listing."""
    monkeypatch.setattr(LocalWatch, "wait", lambda self, seconds: (_ for _ in ()).throw(OSError(5, "broken")))
    one = Beside(tmp_path)
    (one.docs / "a.txt").write_text("alpha")
    with one:
        until(lambda: one.documents() == 1 and one.live().get("trouble"))
        until(lambda: one.live()["in_sync"], describe=one.now)
        now = one.live()
        assert now["in_sync"] <= now["listed"]
