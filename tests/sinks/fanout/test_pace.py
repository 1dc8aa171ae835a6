"""Pages and pauses of catching up; members that cannot be read; capabilities."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from penstock.core import pieces
from penstock.core.contracts import Sink
from penstock.core.errors import Rejected, Transient, UsageError
from penstock.core.records import Dense, MultiVector, Sparse
from penstock.core.schema import Manifest, single
from penstock.sinks.fanout import FanOut, joining
from penstock.sinks.fanout import sink as fanout
from penstock.sinks.lance import LanceSink
from penstock.sinks.memory import MemorySink
from penstock.sinks.sqlite import SqliteSink
from penstock.testing.sink_suite import everything, point, same
from penstock.testing.sinks import Faults, FaultySink
from tests.engine.harness import SPACE
from tests.sinks.fanout.world import DOCUMENTS, World, acknowledge, numbered

pytest.importorskip("apsw")
pytest.importorskip("sqlite_vec")


def test_it_is_copied_in_pages(world: World) -> None:
    """However much there is, no more than a page is read at once."""
    world.stores = [world.store(n, max_rows=4096) for n in range(2)]
    a, b = world.stores
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        acknowledge(fan, ledger, [numbered(n) for n in range(3000)], run)
        b.down = False
        fan.catch_up()
        assert b.real.count() == 3000
        assert b.most == joining.PAGE
        assert max(len(ids) for name, ids in a.log if name == "fetch") == joining.PAGE
    small = World(world.folder / "small")
    small.stores = [small.store(n, max_rows=4096) for n in range(2)]
    with small.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        small.stores[1].down = True
        large = [point(n, dim=4, text="x" * (1 << 20)) for n in range(40)]
        acknowledge(fan, ledger, large, run)
        small.stores[1].down = False
        fan.catch_up()
        fetched = [len(ids) for name, ids in small.stores[0].log if name == "fetch"]
        assert fetched[0] == pieces.FIRST
        assert set(fetched[1:]) <= {1, 2, 3, 4}
        assert small.stores[1].real.count() == 40


def test_a_long_way_back_does_not_hold_up_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush does a part of it, and the next one goes on where that ended."""
    monkeypatch.setattr(fanout, "SLICE", 0.0)
    b = world.stores[1]
    with world.opened() as (fan, ledger):
        run = ledger.begin_run(SPACE.fingerprint)
        b.down = True
        acknowledge(fan, ledger, [numbered(n) for n in range(100)], run)
        b.down = False
        flushes = 0
        while fan.behind:
            fan.flush()
            flushes += 1
        assert 10 < flushes < 40
        assert b.real.count() == 100


def test_it_is_not_tried_all_the_time(world: World) -> None:
    """Away members are asked again after a while, and then more seldom."""
    b = world.stores[1]
    with world.opened(again=0.2) as (fan, ledger):
        ledger.begin_run(SPACE.fingerprint)
        b.down = True
        fan.write([numbered(1)])
        calls, until = b.calls, time.monotonic() + 1.0
        while time.monotonic() < until:
            fan.flush()
            time.sleep(0.005)
        assert 1 <= b.calls - calls <= 3


@pytest.mark.parametrize("unreadable", [0, 1])
def test_a_member_that_cannot_be_read(world: World, unreadable: int) -> None:
    """Gets what it missed, and its deletions; and where it was the only one up, what the other lacks is embedded
    again."""
    world.stores[unreadable] = world.store(unreadable, readable=False)
    world.run(DOCUMENTS)
    changed = {**DOCUMENTS, "doc:1": "other", "doc:2": DOCUMENTS["doc:2"] + "\nmore"}
    changed.pop("doc:5")
    world.stores[1].down = True
    world.run(changed)
    world.stores[1].down = False
    embedded = len(world.embedder.texts)
    world.run(changed)
    world.all_hold(changed)
    assert world.behind == {}
    assert len(world.embedder.texts) - embedded == (2 if unreadable == 0 else 0)


def test_restores_what_a_member_lost(world: World) -> None:
    """From the others; ids that no other has are returned."""
    world.run(DOCUMENTS)
    a, b = world.stores
    ids = [p.id for p in everything(a.real).values() if p.chunk.uri == "doc:3"]
    b.real.delete(ids)
    with world.opened() as (fan, _):
        assert fan.restore(b.url, [*ids[:6], "00" * 16]) == ["00" * 16]
        fan.flush()
    world.all_hold(DOCUMENTS)


def test_capabilities_are_the_least_of_all(tmp_path: Path) -> None:
    a, b = MemorySink("memory://a"), MemorySink("memory://b")
    a.accepts, b.accepts = frozenset({Dense, Sparse}), frozenset({Dense, MultiVector})
    a.max_rows, b.max_rows, a.max_bytes, b.max_bytes = 10, 20, 2000, 1000
    b.max_text, a.writers, b.writers, a.readable = 77, 2, 3, False
    fan = FanOut([a, b])
    assert fan.accepts == {Dense}
    assert (fan.max_rows, fan.max_bytes, fan.max_text, fan.writers, fan.readable) == (10, 1000, 77, 2, True)
    assert fan.url == "memory://a + memory://b"
    assert fan.generation(2).url == "memory://a_2 + memory://b_2"
    with pytest.raises(UsageError):
        FanOut([])
    with pytest.raises(UsageError):
        FanOut([MemorySink("memory://a"), MemorySink("memory://a")])


def test_without_a_ledger_no_member_falls_behind(tmp_path: Path) -> None:
    """What one cannot take, or not now, is an error as of a single sink."""
    a = MemorySink(f"memory://{tmp_path}/a")
    b = FaultySink(
        MemorySink(f"memory://{tmp_path}/b"), Faults(transient=frozenset({0}), refuses={numbered(1).id: "no"})
    )
    with FanOut([a, b], grace=0) as fan:
        fan.open(Manifest(single(SPACE)))
        with pytest.raises(Transient):
            fan.write([numbered(0)])
        with pytest.raises(Rejected) as refused:
            fan.write([numbered(0), numbered(1)])
        assert refused.value.reasons == {numbered(1).id: f"{b.url}: no"}
        assert fan.notices == []
        assert not fan.lagging


def test_members_are_written_to_at_the_same_time(tmp_path: Path) -> None:
    """Two that take half a second each take half a second together."""
    slow = [FaultySink(MemorySink(f"memory://{tmp_path}/{n}"), Faults(seconds=0.5)) for n in range(2)]
    with FanOut(slow) as fan:
        fan.open(Manifest(single(SPACE)))
        began = time.monotonic()
        fan.write([numbered(1)])
        assert time.monotonic() - began < 0.9


def test_other_kinds_of_stores_catch_up_too(tmp_path: Path) -> None:
    """LanceDB and SQLite, one of them added, the other away for a while."""
    world = World(tmp_path)
    away = world.store(0, max_rows=1024)
    real: list[Sink] = [SqliteSink(f"sqlite://{tmp_path}/a.db"), away, LanceSink(f"lance://{tmp_path}/b")]
    world.run(DOCUMENTS, real[:2])
    away.down = True
    changed = {**DOCUMENTS, "doc:1": "other"}
    world.run(changed, real[:2])
    away.down = False
    world.run(changed, real)
    with world.opened(real) as (fan, _):
        first, *others = [everything(sink) for sink in fan.sinks]
        assert len(first) == 43
        for other in others:
            assert other.keys() == first.keys()
            for id, found in other.items():
                same(found, first[id])
