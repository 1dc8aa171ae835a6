"""Feeds: changes that come one by one, again, and while the ones before are still being worked on."""

from __future__ import annotations

import gc
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from penstock.core.deletions import Missing
from penstock.core.errors import ParseError, SourceError, Transient
from penstock.core.records import Change, Checkpoint, Delete, Item, ListingBegin, ListingEnd, Upsert
from penstock.engine import fetch, scan
from penstock.ledger import Ledger
from tests.live import until

from .harness import World, item, lines, parse, world


@pytest.fixture
def w(tmp_path: Path) -> World:
    return world(tmp_path)


def cursor(w: World) -> str | None:
    with Ledger.reader(w.folder / "ledger.db") as ledger:
        return ledger.cursor("test")


def acknowledged(w: World) -> int:
    with Ledger.reader(w.folder / "ledger.db") as ledger:
        return ledger.counts().acknowledged


class Held:
    """A parser that does not come to an end with the text "slow" until it is let go."""

    def __init__(self) -> None:
        self.reading, self.let_go = threading.Event(), threading.Event()

    def __call__(self, one: Item) -> Any:
        with one.open() as stream:
            if stream.read() == b"slow":
                self.reading.set()
                assert self.let_go.wait(20)
        return parse(one)


def test_a_document_that_changes_again_holds_up_nobody(w: World) -> None:
    """The versions between the one that is worked on and the last one are passed over; nobody else waits."""
    held = Held()

    def changes() -> Iterator[Change]:
        yield Upsert(item("hot", "slow"))
        assert held.reading.wait(20)
        for n in range(100):
            yield Upsert(item("hot", f"version {n}"))
            yield Checkpoint(f"hot {n}")
        yield Upsert(item("other", "text"))
        yield Checkpoint("other")
        until(lambda: "other" in w.held())
        assert cursor(w) is None  # the first version is not in yet
        held.let_go.set()

    w.run(changes(), feed=True, parse=held)
    assert w.held() == {"hot": ["version 99"], "other": ["text"]}
    assert sorted(w.embedder.texts) == ["slow", "text", "version 99"]
    assert cursor(w) == "other"


def test_a_deletion_waits_for_the_version_before_it(w: World) -> None:
    held = Held()

    def changes() -> Iterator[Change]:
        yield Upsert(item("a", "slow"))
        yield Upsert(item("b", "slow"))
        assert held.reading.wait(20)
        yield Upsert(item("a", "again"))
        yield Delete("a")
        yield Delete("b")
        yield Upsert(item("b", "back"))
        yield Checkpoint("end")
        held.let_go.set()

    w.run(changes(), feed=True, parse=held)
    assert w.held() == {"b": ["back"]}
    assert cursor(w) == "end"


def test_a_version_that_turns_out_to_be_the_same_does_not_keep_the_cursor(w: World) -> None:
    held = Held()

    def changes() -> Iterator[Change]:
        yield Upsert(item("a", "slow"))
        assert held.reading.wait(20)
        yield Upsert(item("a", "slow"))
        yield Checkpoint("same")
        held.let_go.set()

    counts = w.run(changes(), feed=True, parse=held)
    assert counts["unchanged"] == 1
    assert cursor(w) == "same"


def test_what_was_put_off_is_not_acknowledged_by_a_cursor_when_the_run_is_stopped(w: World) -> None:
    held = Held()

    def changes() -> Iterator[Change]:
        yield Upsert(item("before", "text"))
        yield Checkpoint("before")
        until(lambda: cursor(w) == "before")
        yield Upsert(item("a", "slow"))
        assert held.reading.wait(20)
        yield Upsert(item("a", "version"))
        yield Checkpoint("lost")
        w.running.stop()
        held.let_go.set()

    began = time.monotonic()
    w.run(changes(), feed=True, parse=held)
    assert time.monotonic() - began < 10
    assert cursor(w) == "before"


def test_what_comes_together_is_compared_together(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    known = Ledger.known

    def counted(self: Ledger, uris: Any) -> Any:
        asked.append(len(uris))
        return known(self, uris)

    monkeypatch.setattr(Ledger, "known", counted)
    changes: list[Change] = [Upsert(item(f"doc:{n}", f"text {n}")) for n in range(1000)]
    w.run([*changes, Checkpoint("end")], feed=True)
    assert sum(asked) == 1000
    assert len(asked) < 500
    assert cursor(w) == "end"


def test_a_lone_change_does_not_wait_for_company(w: World) -> None:
    took = []

    def changes() -> Iterator[Change]:
        for n in range(3):
            began = time.monotonic()
            yield Upsert(item(f"doc:{n}", f"text {n}"))
            yield Checkpoint(str(n))
            until(lambda n=n: cursor(w) == str(n))
            took.append(time.monotonic() - began)

    w.run(changes(), feed=True, linger=8.0)
    assert min(took) < 2.0


def test_while_more_is_on_its_way_a_change_waits_no_longer_than_a_write_takes(w: World) -> None:
    """A document that is read for long keeps no other from being searchable."""
    held = Held()
    took = []

    def changes() -> Iterator[Change]:
        yield Upsert(item("doc:slow", "slow"))
        assert held.reading.wait(20)
        began = time.monotonic()
        for n in range(5):
            yield Upsert(item(f"doc:{n}", f"text {n}"))
            until(lambda n=n: f"doc:{n}" in w.held())
        took.append(time.monotonic() - began)
        held.let_go.set()

    w.run(changes(), feed=True, linger=15.0, parse=held)
    assert took[0] < 15.0


def test_more_cursors_than_can_wait_pass_some_over(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not the last."""
    monkeypatch.setattr(scan, "MAX_BOUNDARIES", 3)
    held, most = Held(), []

    def changes() -> Iterator[Change]:
        yield Upsert(item("a", "slow"))
        assert held.reading.wait(20)
        for n in range(50):
            yield Upsert(item(f"doc:{n}", "text"))
            yield Checkpoint(str(n))
        until(lambda: len(w.held()) == 50)
        control = w.running._control
        most.append(control.boundaries_sent - control.boundaries_honoured)
        held.let_go.set()

    w.run(changes(), feed=True, parse=held)
    assert most == [3]
    assert cursor(w) == "49"


# ---------------------------------------------------------------- sources that are followed: listed again and again


def listed(documents: dict[str, str]) -> Iterator[Change]:
    yield ListingBegin()
    for uri, text in documents.items():
        yield Upsert(item(uri, text))
    yield ListingEnd()


def test_each_listing_takes_out_what_it_does_not_name(w: World) -> None:
    documents = {f"doc:{n}": f"text {n}" for n in range(6)}

    def changes() -> Iterator[Change]:
        yield from listed(documents)
        until(lambda: len(w.held()) == 6)
        yield Upsert(item("between", "two listings"))
        del documents["doc:0"]
        yield from listed(documents | {"between": "two listings"})
        until(lambda: "doc:0" not in w.held())
        assert "between" in w.held()
        del documents["doc:1"]
        yield from listed(documents)

    w.run(changes(), feed=True)
    assert w.held() == {uri: [text] for uri, text in documents.items()}
    assert len(w.embedder.texts) == 7
    counts = w.run(listed(documents), feed=True)  # numbers of listings and of runs do not collide
    assert counts["unchanged"] == len(documents)
    assert counts["deleted"] == 0


def test_what_came_while_it_was_listed_stays(w: World) -> None:
    """A listing that had passed its folder does not name it."""

    def changes() -> Iterator[Change]:
        yield from listed({"a": "one"})
        yield ListingBegin()
        yield Upsert(item("a", "one"))
        yield Upsert(item("new", "two"))  # told by an event
        yield ListingEnd()
        yield Upsert(item("newer", "three"))
        yield from listed({"a": "one", "new": "two", "newer": "three"})

    w.run(changes(), feed=True)
    assert w.held() == {"a": ["one"], "new": ["two"], "newer": ["three"]}


def test_a_listing_waits_for_what_is_worked_on(w: World) -> None:
    """A document that is in flight when a listing names it is not taken out at its end."""
    held = Held()

    def changes() -> Iterator[Change]:
        yield from listed({"a": "one", "b": "slow"})
        assert held.reading.wait(20)
        yield from listed({"a": "one", "b": "slow"})
        yield from listed({"a": "one", "b": "slow"})
        held.let_go.set()

    w.run(changes(), feed=True, parse=held)
    assert w.held() == {"a": ["one"], "b": ["slow"]}
    assert w.embedder.texts.count("slow") == 1


def test_what_is_held_does_not_keep_the_rest(w: World) -> None:
    documents = {f"doc:{n}": f"text {n}" for n in range(10)}
    asked: list[Missing | None] = []
    approved = threading.Event()

    def hold(missing: Missing | None) -> bool:
        asked.append(missing)
        return missing is None or approved.is_set()

    def changes() -> Iterator[Change]:
        yield from listed(documents)
        until(lambda: len(w.held()) == 10)
        yield from listed({"doc:1": "text 1"})
        yield Upsert(item("more", "goes on"))
        until(lambda: "more" in w.held() and len(asked) == 2)
        assert len(w.held()) == 11
        approved.set()
        yield from listed({"doc:1": "text 1", "more": "goes on"})

    w.run(changes(), feed=True, hold=hold)
    assert w.held() == {"doc:1": ["text 1"], "more": ["goes on"]}
    assert [missing and missing.documents for missing in asked] == [None, 9, 9]


def test_a_move_between_two_listings_embeds_nothing(w: World) -> None:
    def changes() -> Iterator[Change]:
        yield from listed({"old": "the same text"})
        until(lambda: acknowledged(w) == 1)
        yield Upsert(item("new", "the same text"))
        until(lambda: len(w.held()) == 2)
        yield Delete("old")

    w.run(changes(), feed=True)
    assert w.held() == {"new": ["the same text"]}
    assert w.embedder.texts == ["the same text"]


# ---------------------------------------------------------------- metadata that changes alone


def scored(uri: str, text: str, score: int | None, opened: list[str] | None = None) -> Item:
    one = item(uri, text)
    if opened is not None:
        read = one.opener

        def opener() -> Any:
            opened.append(uri)
            return read()

        one = replace(one, opener=opener)
    return replace(one, revision=f"score {score}", metadata={"score": score, "by": "ann"})


def scores(w: World) -> dict[str, Any]:
    points = [point for page in w.sink.ids() for point in w.sink.fetch(page)]
    return {point.chunk.text: point.chunk.metadata.get("score") for point in points}


def test_metadata_alone_is_neither_read_nor_embedded(w: World) -> None:
    opened: list[str] = []
    text = "\n".join(f"line {n}" for n in range(40))
    w.run([Upsert(scored("a", text, 1, opened)), Upsert(scored("b", "beta", 1, opened))], feed=True)
    before = w.held()
    counts = w.run([Upsert(scored("a", text, 2, opened)), Upsert(scored("b", "beta", 1, opened))], feed=True)
    assert opened == ["a", "b"]
    assert (counts["embedded"], counts["moved"], counts["removed"]) == (0, 40, 0)
    assert w.held() == before
    assert scores(w) == {**{f"line {n}": 2 for n in range(40)}, "beta": 1}
    counts = w.run([Upsert(scored("a", text, 2, opened))], feed=True)
    assert (counts["unchanged"], counts["moved"]) == (1, 0)


def test_the_store_is_open_before_metadata_is_read_back(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of metadata may be all that a run finds."""
    w.run([Upsert(scored("a", "alpha", 1))], feed=True)
    opened, fetch_points = [], w.sink.fetch

    def ready() -> Any:
        opened.append(True)
        return lines

    def fetch(ids: Any) -> Any:
        assert opened
        return fetch_points(ids)

    monkeypatch.setattr(w.sink, "fetch", fetch)
    assert w.run([Upsert(scored("a", "alpha", 2))], feed=True, ready=ready)["moved"] == 1


def test_scores_hold_up_nothing_new_and_are_read_back_together(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w.run([Upsert(scored(f"doc:{n}", f"text {n}", 1)) for n in range(60)], feed=True)
    may_read, asked, fetch_points = threading.Event(), [], w.sink.fetch

    def slow_fetch(ids: Any) -> Any:
        assert may_read.wait(20)
        asked.append(len(ids))
        return fetch_points(ids)

    def changes() -> Iterator[Change]:
        for n in range(60):
            yield Upsert(scored(f"doc:{n}", f"text {n}", 2))
        yield Upsert(item("new", "something new"))
        until(lambda: acknowledged(w) == 61)
        may_read.set()

    monkeypatch.setattr(w.sink, "fetch", slow_fetch)
    w.run(changes(), feed=True, workers=1)
    monkeypatch.undo()
    assert len(asked) < 20
    assert set(scores(w).values()) == {2, None}


def test_a_field_that_is_gone_is_taken_out(w: World) -> None:
    w.run([Upsert(scored("a", "alpha", 1))], feed=True)
    w.run([Upsert(scored("a", "alpha", None))], feed=True)
    points = [point for page in w.sink.ids() for point in w.sink.fetch(page)]
    assert [dict(point.chunk.metadata).get("by") for point in points] == ["ann"]
    assert "score" not in points[0].chunk.metadata


def test_points_that_are_missing_are_made_anew(w: World) -> None:
    w.run([Upsert(scored("a", "alpha\nbeta\ngamma", 1))], feed=True)
    ids = [id for page in w.sink.ids() for id in page]
    w.sink.delete(ids[1:2])
    counts = w.run([Upsert(scored("a", "alpha\nbeta\ngamma", 2))], feed=True)
    assert counts["embedded"] == 1
    assert scores(w) == {"alpha": 2, "beta": 2, "gamma": 2}


def test_a_change_of_both_is_read(w: World) -> None:
    w.run([Upsert(scored("a", "alpha", 1))], feed=True)
    w.run([Upsert(scored("a", "another", 2))], feed=True)
    assert scores(w) == {"another": 2}


# ---------------------------------------------------------------- documents that come slowly


class Slow:
    """Content that comes when it is let go, or an error."""

    def __init__(self, content: bytes | Exception, let_go: threading.Event) -> None:
        self.content, self.let_go = content, let_go

    def __call__(self) -> BinaryIO:
        assert self.let_go.wait(20)
        if isinstance(self.content, Exception):
            raise self.content
        return io.BytesIO(self.content)


def slow(uri: str, content: bytes | Exception, let_go: threading.Event) -> Upsert:
    return Upsert(Item(uri, "1", Slow(content, let_go), size=None))


def test_slow_documents_hold_up_none_but_themselves(w: World) -> None:
    never, at_once = threading.Event(), threading.Event()
    at_once.set()

    def changes() -> Iterator[Change]:
        for n in range(6):  # more than there are readers, less than there are fetchers
            yield slow(f"slow:{n}", b"late", never)
        for n in range(20):
            yield slow(f"quick:{n}", b"text", at_once)
        until(lambda: len(w.held()) == 20)
        never.set()

    w.run(changes(), feed=True, fetchers=8, workers=2)
    assert len(w.held()) == 26


def test_what_cannot_be_fetched_is_listed(w: World) -> None:
    at_once = threading.Event()
    at_once.set()
    errors = [SourceError("away"), ParseError("404"), TimeoutError("slow"), RuntimeError("a fault of the source")]
    changes = [slow(f"doc:{n}", error, at_once) for n, error in enumerate(errors)]
    w.run([*changes, slow("doc:9", b"text", at_once)], feed=True, fetchers=2)
    assert w.held() == {"doc:9": ["text"]}
    assert [(failure.uri, failure.stage, failure.permanent) for failure in w.failures] == [
        ("doc:0", "read", False),
        ("doc:1", "parse", True),
        ("doc:2", "read", False),
        ("doc:3", "parse", True),
    ]


def test_what_is_at_hand_passes_by_what_is_fetched(w: World) -> None:
    """Though no fetcher is free, and without waiting for the company of what is fetched."""
    never, took = threading.Event(), []

    def changes() -> Iterator[Change]:
        for n in range(6):
            yield slow(f"slow:{n}", b"late", never)
        began = time.monotonic()
        for n in range(3):
            yield Upsert(replace(item(f"quick:{n}", f"text {n}"), at_hand=True))
            until(lambda n=n: f"quick:{n}" in w.held())
        took.append(time.monotonic() - began)
        never.set()

    w.run(changes(), feed=True, fetchers=2, linger=15.0)
    assert len(w.held()) == 9
    assert took[0] < 15.0


class Busy:
    """A document whose host is busy for some tries."""

    def __init__(self, tries: float, seconds: float = 0.01) -> None:
        self.left, self.seconds = tries, seconds

    def __call__(self) -> BinaryIO:
        self.left -= 1
        if self.left >= 0:
            raise Transient("the host is busy", retry_after=self.seconds)
        return io.BytesIO(b"text")


def test_a_document_whose_host_is_busy_keeps_no_fetcher(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SOONEST", 0.01)
    monkeypatch.setattr(fetch, "LATEST", 0.02)
    busy = [Busy(float("inf")) for _ in range(20)]

    def changes() -> Iterator[Change]:
        for n, content in enumerate(busy):
            yield Upsert(Item(f"busy:{n}", "1", content))
        for n in range(20):
            yield Upsert(Item(f"other:{n}", "1", Busy(n % 3)))
        until(lambda: len(w.held()) == 20)
        for content in busy:
            content.left = 0

    w.run(changes(), feed=True, fetchers=2)
    assert len(w.held()) == 40
    assert w.failures == []


def test_a_host_that_is_busy_for_long_is_a_passing_failure(w: World) -> None:
    w.run([Upsert(Item("doc", "1", Busy(1, fetch.LONGEST_ASIDE + 1)))], fetchers=2)
    assert [(failure.uri, failure.stage, failure.permanent) for failure in w.failures] == [("doc", "read", False)]


def test_what_was_set_aside_does_not_hold_up_a_stop(w: World) -> None:
    def changes() -> Iterator[Change]:
        for n in range(5):
            yield Upsert(Item(f"busy:{n}", "1", Busy(float("inf"), 50.0)))
        yield Upsert(Item("other", "1", Busy(0)))
        until(lambda: "other" in w.held())
        w.running.stop()

    w.run(changes(), feed=True, fetchers=2)
    assert w.held() == {"other": ["text"]}
    assert w.failures == []


def test_large_documents_are_fetched_into_files(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "IN_MEMORY", 100)
    folder = w.folder / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    at_once = threading.Event()
    at_once.set()
    text = b"a line of many\n" * 50
    w.run([slow(f"doc:{n}", text, at_once) for n in range(30)], feed=True, fetchers=4)
    assert {len(texts) for texts in w.held().values()} == {50}
    assert len(w.held()) == 30
    gc.collect()
    assert list(folder.iterdir()) == []


def test_a_document_that_comes_back_as_its_listing_ends_stays(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken out that is being worked on again: its points would be in the index, and in no account."""
    w.run(iter([Upsert(item("doc:a", "alpha")), Upsert(item("doc:b", "beta")), ListingEnd()]))
    unseen, begin = Ledger.unseen, Ledger.begin
    ending, began = threading.Event(), threading.Event()

    def asked(self: Ledger, run: int, after: int = 0, limit: int = 2048) -> Any:
        page = unseen(self, run, after, limit)
        if not ending.is_set():
            ending.set()
            assert began.wait(20)
        return page

    def begun(self: Ledger, uris: Any, run: int) -> Any:
        found = begin(self, uris, run)
        if "doc:a" in uris:
            began.set()
        return found

    monkeypatch.setattr(Ledger, "unseen", asked)
    monkeypatch.setattr(Ledger, "begin", begun)

    def changes() -> Iterator[Change]:
        yield ListingBegin()
        yield Upsert(item("doc:b", "beta"))
        yield ListingEnd()
        assert ending.wait(20)
        yield Upsert(item("doc:a", "alpha again"))

    w.run(changes(), feed=True)
    assert w.held() == {"doc:a": ["alpha again"], "doc:b": ["beta"]}
    with Ledger.reader(w.folder / "ledger.db") as ledger:
        assert ledger.document("doc:a") is not None
        assert ledger.counts().acknowledged == 2
