"""Up to when all that was heard of has been passed on."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest

from penstock.core.records import Change, Item, ListingBegin, ListingEnd, Upsert
from penstock.jobs import heard as jobs
from penstock.jobs.heard import Heard

ITEM = Item("doc:a", "1", lambda: io.BytesIO(b""))


def listed(heard: Heard) -> None:
    heard.begin_listing()
    changes: list[Change] = [ListingBegin(), Upsert(ITEM), ListingEnd()]
    assert list(heard.passing_on(changes)) == changes


def test_nothing_is_known_before_a_listing_is_whole() -> None:
    heard = Heard()
    assert not heard.sound
    assert not heard.in_sync(())
    assert not heard.note_due()
    listed(heard)
    assert heard.sound
    assert heard.in_sync(()) == pytest.approx(time.time(), abs=5)


def test_a_doubt_counts_until_a_later_listing_is_whole() -> None:
    heard = Heard()
    listed(heard)
    heard.doubt()
    assert not heard.sound
    listed(heard)
    assert heard.sound
    heard.begin_listing()
    heard.doubt()  # while it is being listed: that listing may have passed by what was missed
    list(heard.passing_on([ListingEnd()]))
    assert not heard.sound


def test_what_waits_holds_back_the_moment() -> None:
    heard = Heard()
    listed(heard)
    heard.add(["doc:a", "doc:b"])
    assert heard.waiting == 2
    before = heard._since["doc:a"] = heard._since["doc:a"] - 100
    assert heard.in_sync([{"doc:a", "doc:b"}]) == pytest.approx(time.time() - 100, abs=5)
    assert heard.stamp(ITEM).heard == before
    assert heard.in_sync([{}, {"doc:b": 0.0}]) == pytest.approx(time.time(), abs=5)
    heard.in_sync(())  # it was decided that nothing need be done for the other
    assert heard.waiting == 0


def test_the_ledger_is_seldom_written_to_while_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, now = Heard(), [1000.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])

    def notes(seconds: int, changes: Iterator[Change]) -> int:
        count = 0
        for _ in range(seconds):
            now[0] += 1
            list(heard.passing_on([change] if (change := next(changes, None)) else []))
            count += heard.note_due()
        return count

    listed(heard)
    assert 50 <= notes(60, iter([Upsert(ITEM)] * 60)) <= 60
    assert notes(600, iter(())) <= 11
