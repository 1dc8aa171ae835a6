"""What is sent on of a source that is followed, without a run."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from penstock.core.contracts import Hints, Source, Watch
from penstock.core.records import Change, Checkpoint, Delete, Item, ListingBegin, ListingEnd, Upsert
from penstock.jobs import changes
from penstock.jobs.changes import Changes
from penstock.jobs.heard import Heard
from tests.live import until


class Memory:
    """A ledger in which these documents are, and all that was sent on is committed at once."""

    def __init__(self, uris: Sequence[str] = ()) -> None:
        self.uris, self.committed = list(uris), ""

    def uris_under(self, uri: str, limit: int) -> list[str]:
        return [one for one in self.uris if one == uri or one.startswith(f"{uri}/")][:limit]

    def due(self, limit: int) -> dict[str, int]:
        return {}

    def tries(self, uris: Sequence[str]) -> dict[str, int]:
        return {}

    def half_done(self) -> Iterator[str]:
        return iter(())

    def pending_uris(self, limit: int) -> list[str]:
        return []

    def settle_removals(self) -> None: ...

    def cursor(self, source: str) -> str | None:
        return self.committed


class Told(Watch):
    def __init__(self) -> None:
        self.uris: set[str] = set()

    def wait(self, seconds: float) -> Hints:
        time.sleep(0.01)
        uris, self.uris = frozenset(self.uris), set()
        return Hints(uris, False)


class Listed(Source):
    name = "listed"

    def __init__(self, *uris: str) -> None:
        self.items = {uri: Item(uri, "1", io.BytesIO) for uri in uris}
        self.told = Told()
        self.go_on = threading.Event()
        self.go_on.set()
        self.listings = 0

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        self.listings += 1
        self.go_on.wait()
        yield from map(Upsert, list(self.items.values()))
        yield ListingEnd()

    def watch(self) -> Watch:
        return self.told

    def lookup(self, uri: str) -> Item | None:
        return self.items.get(uri)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Change]:
    monkeypatch.setattr(changes, "GONE", 0.05)
    monkeypatch.setattr(Heard, "note_due", lambda heard: False)
    return []


def until_sent(iterator: Iterator[Change], sent: list[Change], last: Change) -> None:
    for change in iterator:
        sent.append(change)
        if change == last:
            return


def test_a_listing_is_passed_on_whole_and_in_order() -> None:
    uris = [f"doc:{n}" for n in range(1000)]
    source = Listed(*uris)
    following = Changes(source, Memory(), every=600.0)
    sent: list[Change] = []
    until_sent(iter(following), sent, ListingEnd())
    following.stop()
    assert sent == [ListingBegin(), *map(Upsert, source.items.values()), ListingEnd()]


def test_what_was_heard_goes_before_the_rest_of_a_listing() -> None:
    source = Listed(*(f"doc:{n}" for n in range(5000)))
    following = Changes(source, Memory(), every=600.0)
    iterator = iter(following)
    assert next(iterator) == ListingBegin()
    source.items["doc:new"] = Item("doc:new", "1", io.BytesIO)
    following._hint(["doc:new"])
    sent: list[Change] = []
    until_sent(iterator, sent, Upsert(source.items["doc:new"]))
    assert len(sent) <= 2
    following.stop()


def test_a_listing_stands_still_for_what_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "GIVES_WAY", 3600.0)
    monkeypatch.setattr(Heard, "note_due", lambda heard: False)
    source = Listed(*(f"doc:{n}" for n in range(5000)))
    first, second = (Upsert(Item(uri, "1", io.BytesIO)) for uri in ("doc:first", "doc:second"))
    source.items |= {one.item.uri: one.item for one in (first, second)}
    source.go_on.clear()
    following = Changes(source, Memory(), every=600.0)
    sent: list[Change] = []
    thread = threading.Thread(target=lambda: sent.extend(following))
    thread.start()
    until(lambda: source.listings)
    following._hint(["doc:first"])
    until(lambda: first in sent)
    source.go_on.set()
    until(lambda: following._listed)
    following._hint(["doc:second"])
    until(lambda: second in sent)
    following.stop()
    thread.join(10)
    assert sent == [first, second]


def test_a_listing_gets_on_while_something_is_heard_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "GIVES_WAY", 0.001)
    source = Listed(*(f"doc:{n}" for n in range(200)))
    following = Changes(source, Memory(), every=600.0)
    for change in following:
        if change == ListingEnd():
            break
        if isinstance(change, Upsert) and change.item.heard is None:
            following.heard.add(["doc:0"])
            following._hint(["doc:0"])
    following.stop()


def test_what_is_gone_and_was_never_indexed_costs_no_commit(sent: list[Change]) -> None:
    """As a draft that was written and renamed; what was indexed is deleted, when all before it is committed."""
    memory = Memory(["doc:known"])
    source = Listed()
    following = Changes(source, memory, every=600.0)
    iterator = iter(following)
    until_sent(iterator, sent, ListingEnd())
    following._hint(["doc:draft"])
    following._hint(["doc:known"])
    for change in iterator:
        sent.append(change)
        if isinstance(change, Checkpoint):
            memory.committed = change.cursor
        if isinstance(change, Delete):
            break
    following.stop()
    assert [type(change) for change in sent[2:]] == [Checkpoint, Delete]
    assert sent[-1] == Delete("doc:known")


def test_a_listing_that_is_asked_for_during_another_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [0]
    due = Changes._due

    def counted(self: Changes, now: float) -> list[str]:
        rounds[0] += 1
        return due(self, now)

    monkeypatch.setattr(Changes, "_due", counted)
    source = Listed("doc:1")
    source.go_on.clear()
    following = Changes(source, Memory(), every=600.0)
    sent: list[Change] = []
    thread = threading.Thread(target=lambda: sent.extend(following))
    thread.start()
    until(lambda: source.listings)
    following.list_now()
    time.sleep(0.5)
    assert rounds[0] < 100  # and not a hundred thousand
    source.go_on.set()
    until(lambda: source.listings == 2)
    following.stop()
    thread.join(10)
    assert sent.count(ListingEnd()) >= 1
