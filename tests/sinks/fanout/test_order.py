"""No older version of a point comes after a newer one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence

import pytest

from penstock.core import pieces
from penstock.core.records import Point
from penstock.ledger import Ledger
from penstock.sinks.fanout import FanOut, joining
from penstock.sinks.fanout import sink as fanout
from penstock.testing.sink_suite import holds
from tests.engine.harness import SPACE
from tests.sinks.fanout.world import World, acknowledge, numbered


def test_no_older_version_after_a_newer_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers write new versions of the same ids all the while one catches up, a page of one point at a time."""
    monkeypatch.setattr(joining, "PAGE", 1)
    monkeypatch.setattr(pieces, "FIRST", 1)
    monkeypatch.setattr(fanout, "SLICE", 0.0)
    a, b = world.stores
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        acknowledge(fan, ledger, [numbered(n) for n in range(40)], run)
        b.down = False
        stop = threading.Event()
        versions = [0] * 40

        def write(numbers: range) -> None:
            for version in itertools.count(1):
                for n in numbers:
                    fan.write([numbered(n, version)])
                    versions[n] = version
                    if stop.is_set():
                        return

        threads = [threading.Thread(target=write, args=(range(start, 40, 2),)) for start in range(2)]
        for thread in threads:
            thread.start()
        try:
            until = time.monotonic() + 20
            while fan.behind and time.monotonic() < until:
                fan.flush()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not fan.behind
        assert sum(len(ids) for name, ids in b.log if name == "write") > 80, "it joined while it was being written to"
        fan.flush()
        for store in (a, b):
            holds(store.real, [numbered(n, version) for n, version in enumerate(versions)])


def test_no_newer_version_between_reading_and_writing_a_page(world: World) -> None:
    """A write meanwhile waits until the page is written."""
    a, b = world.stores
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        acknowledge(fan, ledger, [numbered(1)], run)
        b.down = False
        fetch = a.fetch
        writer = threading.Thread(target=lambda: fan.write([numbered(1, 1)]))

        def slowly(ids: Sequence[str]) -> Sequence[Point]:
            found = fetch(ids)
            writer.start()
            writer.join(0.1)
            return found

        a.fetch = slowly  # type: ignore[method-assign]
        fan.catch_up()
        writer.join()
        fan.flush()
        for store in (a, b):
            holds(store.real, [numbered(1, 1)])


@pytest.mark.parametrize("flushed", [False, True], ids=["not flushed", "flushed too early"])
def test_a_newer_version_that_cannot_be_read_yet(world: World, monkeypatch: pytest.MonkeyPatch, flushed: bool) -> None:
    """Written while one catches up: the version that can be read does not come after it. A flush that another thread
    began when the write had begun, and ended before it was there, does not count."""
    monkeypatch.setattr(pieces, "FIRST", 1)
    monkeypatch.setattr(fanout, "SLICE", 0.0)
    a, b = world.stores
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        acknowledge(fan, ledger, [numbered(n) for n in range(5)], run)
        b.down = False
        fan.flush()
        assert fan.behind
        new = [numbered(n, 1) for n in range(5)]
        write = a.write

        def late(points: Sequence[Point]) -> None:
            flusher = threading.Thread(target=fan._group.flush)
            flusher.start()
            flusher.join()
            write(points)

        with monkeypatch.context() as patch:
            if flushed:
                patch.setattr(a, "write", late)
            fan.write(new)
        fan.catch_up()
        fan.flush()
        assert not fan.behind
        for store in (a, b):
            holds(store.real, new)


def test_nothing_is_given_up_during_a_run(world: World) -> None:
    """What no other member can give is embedded again, but only the next run can see to that."""
    world.stores[0] = world.store(0, readable=False)
    b = world.stores[1]
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        acknowledge(fan, ledger, [numbered(n) for n in range(5)], run)
        b.down = False
        fan.flush()
        assert fan.behind
        assert ledger.counts().acknowledged == 5
        fan.catch_up()
        assert not fan.behind
        assert ledger.counts().acknowledged == 0
        assert list(ledger.unfinished()) == ["file:///docs/0.md"]


def test_who_has_something_to_catch_up_with(world: World) -> None:
    """Known before anything is opened: one that is behind, and one that is new."""
    a, b = world.stores
    with Ledger(world.folder / "ledger.db") as ledger:
        ledger.open()
        ledger.enlist({a.url: None})
        for stores, lagging in (([a], False), ([a, b], True)):
            fan = FanOut(stores)
            fan.attach(ledger)
            assert fan.lagging is lagging
        ledger.enlist({a.url: None, b.url: 3})
        assert fan.lagging
        assert fan.behind == {b.url: 3}
        ledger.caught_up(b.url)
        assert not fan.lagging
