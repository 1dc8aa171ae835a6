"""Points that one member refuses, or all."""

from __future__ import annotations

from pathlib import Path

from penstock.core.schema import Manifest, single
from penstock.ledger import Ledger
from penstock.sinks.fanout import FanOut
from penstock.sinks.memory import MemorySink
from penstock.testing.sink_suite import everything, holds
from penstock.testing.sinks import Faults, FaultySink
from tests.engine.harness import SPACE
from tests.sinks.fanout.world import DOCUMENTS, World, first_id, numbered


def test_what_one_refuses_the_others_keep(world: World) -> None:
    """It is a failure that names the member, is not missed in it, and is gone when it is taken after all."""
    world.run(DOCUMENTS)
    bad = first_id(world)
    world.run({})
    a, b = world.stores
    b.refuses = {bad}
    counts = world.run(DOCUMENTS)
    assert counts["written"] == 48
    assert everything(a.real).keys() - everything(b.real).keys() == {bad}
    assert [(f.uri, f.stage, f.cause, f.place) for f in world.failures] == [
        ("doc:3", "write", f"{b.url}: not here", bad)
    ]
    assert f"{b.url} refused 1 points" in world.notices[-1]
    with Ledger(world.folder / "ledger.db") as ledger:
        ledger.open()
        comparison = ledger.compare(b.real.ids())
        assert [id.hex() for _, id in comparison.missing()] == [bad]
        assert not list(comparison.missing(b.url))
        comparison.close()
    moved = {**DOCUMENTS, "doc:3": DOCUMENTS["doc:3"] + "\nmore"}
    world.run(moved)
    assert world.failures, "a document that is read again without it being taken keeps its failure"
    b.calm()
    world.run({**moved, "doc:3": "in front\n" + moved["doc:3"]})
    assert not world.failures
    world.all_hold({**moved, "doc:3": "in front\n" + moved["doc:3"]})


def test_what_was_refused_and_is_gone_is_forgotten(world: World) -> None:
    world.run(DOCUMENTS)
    bad = first_id(world)
    world.run({})
    world.stores[1].refuses = {bad}
    world.run(DOCUMENTS)
    for gone in ({uri: text for uri, text in DOCUMENTS.items() if uri != "doc:3"}, {}):
        world.run(gone)
        assert not world.failures
        with Ledger(world.folder / "ledger.db") as ledger:
            ledger.open()
            assert ledger.refused(world.stores[1].url) == 0


def test_what_all_refuse_is_refused(world: World) -> None:
    """As by one sink: the chunk is lost to the document, with all the causes."""
    world.run(DOCUMENTS)
    bad = first_id(world)
    world.run({})
    for store in world.stores:
        store.refuses = {bad}
    counts = world.run(DOCUMENTS)
    assert counts["written"] == 47
    assert counts["failed"] == 1
    a, b = world.stores
    assert [f.cause for f in world.failures] == [f"{a.url}: not here; {b.url}: not here"]


def test_refused_while_catching_up(world: World) -> None:
    world.stores[1].down = True
    world.run(DOCUMENTS)
    bad = first_id(world)
    world.stores[1].calm()
    world.stores[1].refuses = {bad}
    world.run(DOCUMENTS)
    assert world.behind == {}
    assert [f.place for f in world.failures] == [bad]
    assert world.stores[1].real.count() == 47


def test_a_batch_too_large_for_one_is_split_for_that_one(tmp_path: Path) -> None:
    """And a single point that is too large for it is refused by it alone."""
    a = MemorySink(f"memory://{tmp_path}/a")
    picky = FaultySink(MemorySink(f"memory://{tmp_path}/b"), Faults(max_rows=3))
    with Ledger(tmp_path / "ledger.db") as ledger, FanOut([a, picky]) as fan:
        ledger.open()
        fan.attach(ledger)
        fan.open(Manifest(single(SPACE)))
        fan.write([numbered(n) for n in range(10)])
        holds(fan, [numbered(n) for n in range(10)])
        assert picky.real.count() == 10
        picky.faults = Faults(max_rows=0)
        fan.write([numbered(11)])
        assert (a.count(), picky.count()) == (11, 10)
        assert [f.cause for f in ledger.failures()] == [f"{picky.url}: 1 points in one batch, 0 at most"]
