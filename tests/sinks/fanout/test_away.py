"""A member that is unavailable falls behind and catches up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.core.errors import SinkError, Transient
from penstock.ledger import Ledger
from tests.engine.harness import SPACE, expected, listing
from tests.sinks.fanout.world import DOCUMENTS, World, numbered, wait_for


def test_a_member_away_for_a_while_catches_up_in_the_run(world: World) -> None:
    """By itself, while the run goes on, and in the same run gets what comes afterwards directly."""
    a, b = world.stores

    def changes() -> Iterator[Any]:
        told = iter(listing(DOCUMENTS))
        yield from itertools.islice(told, 2)
        wait_for(lambda: a.real.count() > 0)
        b.down = True
        yield from itertools.islice(told, 2)
        wait_for(lambda: a.real.count() >= 20)
        b.down = False
        yield from itertools.islice(told, 2)
        wait_for(lambda: b.real.count() >= 30)
        yield from told

    world.run(DOCUMENTS, changes=changes(), after=False)
    world.all_hold(DOCUMENTS)
    assert world.behind == {}
    assert "is away; the others go on without it" in world.notices[0]
    assert "caught up" in world.notices[-1]


def test_a_blink_is_waited_for(world: World) -> None:
    """Within the grace nobody is left behind."""
    b = world.stores[1]
    b.fails = lambda what, call: what == "write" and sum(1 for name, _ in b.log if name == "write") == 1 and once()
    answers = iter([True, True])

    def once() -> bool:
        return next(answers, False)

    world.run(DOCUMENTS, grace=5.0)
    world.all_hold(DOCUMENTS)
    assert not world.notices
    assert next(answers, None) is None


def test_away_until_the_end_it_catches_up_in_the_next_run(world: World) -> None:
    """With what was written, changed, moved and deleted meanwhile; and nothing is embedded again for it."""
    world.run(DOCUMENTS)
    b = world.stores[1]
    b.down = True
    changed = {uri: text.replace("line 2", "another 2") for uri, text in DOCUMENTS.items() if uri != "doc:1"}
    changed["doc:4"] = "first\n" + changed["doc:4"]
    world.run(changed)
    assert list(world.behind) == [b.url]
    assert world.held(b) == expected(DOCUMENTS)
    embedded = len(world.embedder.texts)
    b.down = False
    b.log.clear()
    world.run(changed)
    world.all_hold(changed)
    assert world.behind == {}
    assert len(world.embedder.texts) == embedded
    assert sum(len(ids) for name, ids in b.log if name == "write") < 36  # what it missed, not all
    assert "caught up: " in world.notices[-1]


def test_a_member_that_never_comes_back_blocks_nobody(world: World) -> None:
    """Not in the first run nor in later ones, and it is said each time there is something to write."""
    world.stores[1].down = True
    for n in range(3):
        documents = {**DOCUMENTS, "doc:new": f"version {n}"}
        world.run(documents)
        assert world.held(world.stores[0]) == expected(documents)
        assert list(world.behind) == [world.stores[1].url]
        assert len([said for said in world.notices if "catches up when it is back" in said]) == 1


def test_what_was_written_but_not_flushed_is_written_again(world: World) -> None:
    """A store that goes away between a write and a flush may have lost what it acknowledged to the writer."""
    b = world.stores[1]
    b.fails = lambda what, call: what == "flush" and call > 4
    world.run(DOCUMENTS, after=False)
    assert world.held(b) != expected(DOCUMENTS)
    b.calm()
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_all_away_waits_for_max_wait(world: World) -> None:
    """Then the run ends with what is away, and the next one goes on; nobody is called behind for it."""
    for store in world.stores:
        store.fails = lambda what, call: what == "write"
    with pytest.raises(Exception, match="the store is away"):
        world.run(DOCUMENTS, max_wait=0.2, after=False)
    assert world.behind == {}
    for store in world.stores:
        store.calm()
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_all_away_for_a_while_is_waited_for(world: World) -> None:
    back = time.monotonic() + 0.4
    for store in world.stores:
        store.fails = lambda what, call: what == "write" and time.monotonic() < back
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_the_one_that_is_up_is_not_there_and_the_other_lacks_something(world: World) -> None:
    """Nothing is read from, nor taken for complete, what lacks something."""
    a, b = world.stores
    b.down = True
    world.run(DOCUMENTS)
    a.down, b.down = True, False
    with pytest.raises(Transient):
        world.run(DOCUMENTS)
    a.down = False
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_one_broken_ends_the_run_with_its_name(world: World) -> None:
    world.stores[1].broken = True
    with pytest.raises(Exception, match=rf"{world.stores[1].url}: the disk is gone"):
        world.run(DOCUMENTS)
    world.stores[1].broken = False
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)


def test_one_broken_while_it_catches_up_ends_the_run_with_its_name(world: World) -> None:
    world.stores[1].down = True
    world.run(DOCUMENTS)
    world.stores[1].calm()
    world.stores[1].broken = True
    with pytest.raises(SinkError, match=rf"{world.stores[1].url}: the disk is gone"):
        world.run(DOCUMENTS)


def test_it_is_in_the_ledger_before_an_acknowledgement_of_the_others(world: World) -> None:
    """Killed right after the write in which one fell behind, the next run knows of it."""
    with world.opened() as (fan, ledger):
        ledger.begin_run(SPACE.fingerprint)
        world.stores[1].down = True
        fan.write([numbered(1)])
        with Ledger(world.folder / "ledger.db") as other:
            other.open(exclusive=False)
            assert other.members() == {world.stores[0].url: None, world.stores[1].url: 1}
