"""Freshness: from when a change was heard of, and from when it was made, by clocks that may be set."""

from __future__ import annotations

import io
from dataclasses import replace

from penstock.core.records import Item
from penstock.engine.freshness import HOUR, LATEST, Freshness

ITEM = Item("doc:a", "1", lambda: io.BytesIO(b""))


class Clocks:
    def __init__(self) -> None:
        self.passed, self.offset = 1000.0, 1_800_000_000.0

    def wall(self) -> float:
        return self.passed + self.offset

    def monotonic(self) -> float:
        return self.passed


def begun() -> tuple[Clocks, Freshness]:
    clocks = Clocks()
    return clocks, Freshness(clocks.wall, clocks.monotonic)


def test_the_two_numbers_of_a_document() -> None:
    clocks, freshness = begun()
    clocks.passed += 10
    item = replace(ITEM, modified=clocks.wall() - 3.0)
    fresh = freshness.of(item, clocks.monotonic() - 2.0, new=True)
    assert (fresh.searchable, fresh.heard, round(fresh.changed or 0, 6)) == (clocks.wall(), 2.0, 3.0)
    described = freshness.describe()
    assert described["heard"] == {"documents": 1, "p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0}
    assert described["changed"]["p50"] == 3.0


def test_when_it_was_changed_may_not_be_known() -> None:
    """What was changed before the run began tells nothing of how quick the run is; a new item was changed when it was
    made, and of an older one nobody knows."""
    clocks, freshness = begun()
    clocks.passed += 10
    now = clocks.monotonic()
    assert freshness.of(replace(ITEM, modified=clocks.wall() - 3600), now, new=True).changed is None
    made = replace(ITEM, created=clocks.wall() - 1)
    assert freshness.of(made, now, new=True).changed == 1.0
    assert freshness.of(made, now, new=False).changed is None
    assert freshness.of(ITEM, now, new=True).changed is None
    assert freshness.describe()["heard"]["documents"] == 4
    assert freshness.describe()["changed"]["documents"] == 1


def test_a_clock_that_is_set_yields_no_absurd_values() -> None:
    """By an hour, forward or back, in a run that has gone on for a day: times from before are not compared with it."""
    for hour in (3600.0, -3600.0):
        clocks, freshness = begun()
        clocks.passed += 86_400
        before = replace(ITEM, modified=clocks.wall() - 1.0)
        assert freshness.of(before, clocks.monotonic() - 1, new=True).changed == 1.0
        clocks.offset += hour
        clocks.passed += 1
        fresh = freshness.of(before, clocks.monotonic() - 2, new=True)
        assert (fresh.heard, fresh.changed) == (2.0, None)
        clocks.passed += 5
        after = replace(ITEM, modified=clocks.wall() - 0.5)
        assert freshness.of(after, clocks.monotonic(), new=True).changed == 0.5


def test_other_clocks_are_a_little_ahead() -> None:
    clocks, freshness = begun()
    clocks.passed += 10
    for ahead, changed in ((0.5, 0.0), (30.0, None)):
        item = replace(ITEM, modified=clocks.wall() + ahead)
        assert freshness.of(item, clocks.monotonic(), new=True).changed == changed


def test_percentiles_are_of_the_latest() -> None:
    """A thousand at most, and none older than an hour: memory does not grow with the run."""
    clocks, freshness = begun()
    for n in range(LATEST + 500):
        freshness.of(ITEM, clocks.monotonic() - n, new=True)
    heard = freshness.describe()["heard"]
    assert heard["documents"] == LATEST
    assert (heard["p50"], heard["max"]) == (1000.0, 1499.0)
    clocks.passed += HOUR + 1
    assert freshness.describe()["heard"] == {"documents": 0, "p50": None, "p95": None, "p99": None, "max": None}
