"""Hacker News in an index that follows it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.records import Point
from penstock.engine.journal import Failure
from penstock.engine.progress import Report
from penstock.ledger import Ledger, failures
from penstock.sources.hackernews import HackerNews
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.hackernews import HackerNewsServer
from penstock.testing.hackernews_tape import differences, documents, tape
from tests.live import Watched, until

from .harness import uri, url


class Index(Watched):
    """An index of Hacker News, on a disk."""

    def __init__(self, folder: Path, hn: HackerNewsServer, **options: Any) -> None:
        self.hn, self.ledger = hn, folder / "ledger.db"
        into = f"sqlite://{folder}/index.db"
        super().__init__(ps.Pipeline(url(hn, **options), into=into, model=HashingEmbedder(16), state=self.ledger))

    def points(self) -> list[Point]:
        sink = self.pipeline.sink
        if sink.manifest() is None:
            return []
        with ps.open_index(sink.url, self.pipeline.embedder) as index:
            return [Point(hit.chunk, {}) for hit in index.search("text", k=4000)]

    def differences(self, first: int = 0) -> list[str]:
        self.hn.play()
        return differences(self.points(), documents(self.hn.world.items, first=first))

    def failure(self, number: int) -> Failure | None:
        if not self.points():
            return None
        with Ledger.reader(self.ledger) as ledger:
            return next(ledger.failures(uri(number)), None)

    def failures(self) -> dict[str, str]:
        if not self.ledger.exists():
            return {}
        with Ledger.reader(self.ledger) as ledger:
            return {failure.uri: failure.cause for failure in ledger.failures()}


@pytest.fixture
def hn() -> Iterator[HackerNewsServer]:
    with HackerNewsServer() as server:
        yield server


KINDS = ("ok", "redirect", "plain", "pdf", "slow", "missing", "error", "broken")


def test_the_page_of_a_story_is_read_and_a_missing_one_loses_no_story(tmp_path: Path, hn: HackerNewsServer) -> None:
    for number, kind in enumerate(KINDS, 1):
        hn.put(number, title=f"Title {number}", url=hn.page(kind, number))
    hn.put(20, title="Ask HN: Why?", text="A text &#x27;of its own&#x27;.<p>In two parts.")
    index = Index(tmp_path, hn, backfill=20)
    report = index.pipeline.run()
    assert index.differences() == []
    assert report.counts["failed"] == 0
    failures = index.failures()
    assert failures.keys() == {uri(KINDS.index(kind) + 1) for kind in ("missing", "error", "broken")}
    assert "status 404" in failures[uri(6)]
    assert hn.page("missing", 6) in failures[uri(6)]
    fetched = {kind: hn.asked[f"/page/{kind}/{n}"] for n, kind in enumerate(KINDS, 1)}
    assert 2 <= fetched.pop("error") <= 3  # once more, and its host serves others first
    assert set(fetched.values()) == {1}


def test_pages_are_left_alone_where_that_is_asked_for(tmp_path: Path, hn: HackerNewsServer) -> None:
    hn.put(1, title="One", url=hn.page("ok", 1))
    index = Index(tmp_path, hn, backfill=5, pages=0)
    index.pipeline.run()
    assert [point.text.strip() for point in index.points()] == ["One"]
    assert hn.asked["/page/ok/1"] == 0
    assert index.failures() == {}


def test_pages_of_the_own_network_are_refused(tmp_path: Path, hn: HackerNewsServer) -> None:
    hn.put(1, title="One", url=hn.page("ok", 1))
    index = Index(tmp_path, hn, backfill=5, private=0)
    index.pipeline.run()
    assert "not public" in index.failures()[uri(1)]
    assert [point.text.strip() for point in index.points()] == ["One"]
    assert hn.asked["/page/ok/1"] == 0


def test_a_score_costs_no_fetch_and_no_embedding(tmp_path: Path, hn: HackerNewsServer) -> None:
    hn.put(1, title="One", url=hn.page("ok", 1), score=1)
    hn.put(2, title="Two", url=hn.page("missing", 2), score=1)
    hn.put(3, title="Three", url=hn.page("error", 3), score=1)
    index = Index(tmp_path, hn, backfill=5)
    with index:
        until(lambda: not index.differences() and len(index.failures()) == 2)
        before, tries = dict(index.failures()), hn.asked["/page/error/3"]
        for score in range(2, 6):
            hn.edit(1, score=score)
            hn.edit(2, score=score)
            hn.edit(3, score=score)
            hn.put(10 + score, "comment", parent=1, text=f"Answer {score}")
            until(lambda: not index.differences(), describe=index.differences)
        assert index.failures() == before  # of a page that was not asked for again
    assert isinstance(index.report, Report)
    assert index.report.embedded == len(index.points())  # each once
    assert hn.asked["/page/ok/1"] == 1
    assert hn.asked["/page/missing/2"] == 1
    assert hn.asked["/page/error/3"] == tries


def test_a_page_that_is_away_is_fetched_when_it_is_back(
    tmp_path: Path, hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The story is there with its title meanwhile, which is embedded once."""
    monkeypatch.setattr(failures, "FIRST_TRY", 0.2)
    for kind in ("status 503", "status 500", "drop", "cut"):
        hn.fail("/page/ok/1", kind, 2)
    hn.put(1, title="One", url=hn.page("ok", 1), score=1)
    with Index(tmp_path, hn, backfill=5) as index:
        until(lambda: (found := index.failure(1)) is not None and found.attempts >= 2)
        found = index.failure(1)
        assert found is not None
        assert not found.permanent
        assert hn.page("ok", 1) in found.cause
        assert [point.text.strip() for point in index.points()] == ["One"]
        with Ledger.reader(index.ledger) as ledger:
            assert ledger.retries()[0] == 1
        hn.heal()
        until(lambda: not index.differences() and not index.failures(), describe=index.differences)
    assert isinstance(index.report, Report)
    before, *_ = [point.text for point in index.points()]
    assert index.report.embedded == len(index.points()) + (before.strip() != "One")


def test_a_refusal_of_a_page_is_final(tmp_path: Path, hn: HackerNewsServer) -> None:
    hn.fail("/page/ok/1", "status 403", 1)
    hn.put(1, title="One", url=hn.page("ok", 1))
    index = Index(tmp_path, hn, backfill=5)
    index.pipeline.run()
    found = index.failure(1)
    assert found is not None
    assert found.permanent
    assert "status 403" in found.cause
    assert hn.asked["/page/ok/1"] == 1


def test_a_story_that_is_gone_when_its_page_is_tried_again_goes(
    tmp_path: Path, hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FIRST_TRY", 0.2)
    hn.fail("/page/ok/1", "status 503", 1_000)
    hn.put(1, title="One", url=hn.page("ok", 1))
    with Index(tmp_path, hn, backfill=5) as index:
        until(lambda: index.failure(1) is not None)
        hn.delete(1)
        hn.forget_changes()  # nobody says it
        until(lambda: not index.points() and not index.failures())


def test_comments_do_not_wait_for_pages(tmp_path: Path) -> None:
    """Of which more hang than are fetched at once."""
    fetchers = HackerNews.fetchers
    with HackerNewsServer(hosts=fetchers + 4) as hn:
        for number in range(1, fetchers + 4):
            hn.put(number, title=f"Title {number}", url=hn.page("hang", number))
        with Index(tmp_path, hn, backfill=100) as index:
            until(lambda: sum(hn.asked[f"/page/hang/{n}"] for n in range(1, fetchers + 4)) == fetchers)
            for number in range(50, 60):
                hn.put(number, "comment", parent=1, text=f"Answer {number}")
            until(lambda: {point.metadata["number"] for point in index.points()} >= set(range(50, 60)))


def test_it_is_narrowed_by_author_time_and_type(tmp_path: Path, hn: HackerNewsServer) -> None:
    hn.put(1, title="One", by="ada", score=5, time=1_700_000_000)
    hn.put(2, "comment", parent=1, text="Two", by="ada", time=1_700_100_000)
    hn.put(3, "comment", parent=2, text="Three", by="bob", time=1_700_200_000)
    hn.put(4, "job", title="Four", by="bob", time=1_700_300_000)
    index = Index(tmp_path, hn, backfill=10)
    index.pipeline.run()
    with ps.open_index(index.pipeline.sink.url, index.pipeline.embedder) as one:

        def numbers(**where: Any) -> set[int]:
            return {hit.chunk.metadata["number"] for hit in one.search("text", k=10, where=where)}

        assert numbers(by="ada") == {1, 2}
        assert numbers(**{"metadata.type": "comment"}) == {2, 3}
        assert numbers(time={"$gte": datetime(2023, 11, 17, tzinfo=UTC)}) == {3, 4}
        assert numbers(time={"$lt": "2023-11-16T12:00:00Z"}, by="ada") == {1, 2}
        assert numbers(root=1, depth=2) == {3}
        assert numbers(score={"$gte": 5}) == {1}


def test_what_happens_is_followed(tmp_path: Path, hn: HackerNewsServer) -> None:
    hn.put(1, title="One", url=hn.page("ok", 1))
    with Index(tmp_path, hn, backfill=5) as index:
        until(lambda: not index.differences())
        hn.put(2, "comment", parent=1, text="First")
        hn.null(3)
        hn.put(4, "comment", parent=2, text="Second")
        until(lambda: not index.differences(), describe=index.differences)
        hn.put(3, title="Late")
        hn.edit(1, title="One more")
        hn.delete(2)
        hn.kill(4)
        until(lambda: not index.differences(), describe=index.differences)
        hn.revive(4)
        until(lambda: not index.differences(), describe=index.differences)
        assert {point.metadata["number"] for point in index.points()} == {1, 3, 4}


def test_a_day_with_faults_ends_in_the_state_of_the_oracle(tmp_path: Path) -> None:
    """Small: benchmarks/hackernews.py has the day whole."""
    with HackerNewsServer(tape(hours=1, items=150, seed=3), speed=600, faults=0.05, seed=3) as hn:
        hn.world.top = 999
        with Index(tmp_path, hn, poll=0.2, start=1000) as index:
            until(lambda: hn.at_end, 60)
            until(lambda: not index.differences(), 60, index.differences)
