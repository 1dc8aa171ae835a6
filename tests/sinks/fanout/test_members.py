"""Deletions that a member missed; members that are added, emptied and removed."""

from __future__ import annotations

import pytest

from penstock.core.errors import OwnershipError, SpaceMismatch, Transient
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.ledger import Ledger, Row
from penstock.sinks.fanout import FanOut
from penstock.sinks.fanout import sink as fanout
from penstock.testing.sink_suite import everything
from tests.engine.harness import SPACE, expected
from tests.sinks.fanout.world import DOCUMENTS, World, first_id, numbered


def test_deletions_missed_while_away(world: World) -> None:
    """They are noted and made up for; what was deleted and written again stays."""
    world.run(DOCUMENTS)
    _a, b = world.stores
    b.down = True
    few = {uri: text for uri, text in DOCUMENTS.items() if uri in ("doc:0", "doc:5")}
    world.run(few)
    world.run({**few, "doc:3": DOCUMENTS["doc:3"]})
    assert world.held(b) == expected(DOCUMENTS)
    b.down = False
    world.run({**few, "doc:3": DOCUMENTS["doc:3"]})
    world.all_hold({**few, "doc:3": DOCUMENTS["doc:3"]})


def test_deletions_that_were_not_flushed(world: World) -> None:
    """A deletion that a store took, and lost before its flush."""
    world.run(DOCUMENTS)
    _a, b = world.stores
    b.log.clear()
    b.fails = lambda what, call: what == "flush" and any(name == "delete" for name, _ in b.log)
    world.run({"doc:0": DOCUMENTS["doc:0"]}, after=False)
    assert world.held(b) != expected({"doc:0": DOCUMENTS["doc:0"]})
    b.calm()
    world.run({"doc:0": DOCUMENTS["doc:0"]})
    world.all_hold({"doc:0": DOCUMENTS["doc:0"]})


def test_many_deletions_without_a_flush(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of them is bounded."""
    monkeypatch.setattr(fanout, "UNFLUSHED", 20)
    with world.opened() as (fan, _ledger):
        for n in range(50):
            fan.delete([f"{n:032x}"] * 8)
            assert len(fan._group.unflushed) <= 28


def test_a_member_added_later_gets_everything(world: World) -> None:
    """And loses what is not of this pipeline's ledger, without another's in the same store."""
    a, b = world.stores
    world.run(DOCUMENTS, [a])
    b.real.open(Manifest(single(SPACE)))
    b.real.write([numbered(1), numbered(2)])
    embedded = len(world.embedder.texts)
    theirs = numbered(2).id
    world.run(DOCUMENTS, mine=lambda id: id != theirs)
    assert everything(b.real).keys() - everything(a.real).keys() == {theirs}
    b.real.delete([theirs])
    world.all_hold(DOCUMENTS)
    assert len(world.embedder.texts) == embedded
    assert b.real.manifest() == a.real.manifest()


def test_a_member_added_to_a_pipeline_of_one_sink(world: World) -> None:
    """Whose ledger knows of no members: the one that it filled is right."""
    a, b = world.stores
    world.run(DOCUMENTS, [a])
    with Ledger(world.folder / "ledger.db") as ledger:
        ledger.open()
        ledger._open().execute("DELETE FROM members")
    b.down = True
    world.run(DOCUMENTS, [b, a])  # away when it is added
    b.down = False
    world.run(DOCUMENTS, [b, a])
    world.all_hold(DOCUMENTS)


def test_the_one_sink_of_before_is_away_when_a_member_is_added(world: World) -> None:
    """Nobody can be brought up to date, and nothing is forgotten."""
    a, _b = world.stores
    world.run(DOCUMENTS, [a])
    with Ledger(world.folder / "ledger.db") as ledger:
        ledger.open()
        ledger._open().execute("DELETE FROM members")
    a.down = True
    with pytest.raises(Transient):
        world.run(DOCUMENTS)
    a.down = False
    embedded = len(world.embedder.texts)
    world.run(DOCUMENTS)
    world.all_hold(DOCUMENTS)
    assert len(world.embedder.texts) == embedded


@pytest.mark.parametrize("emptied", [0, 1])
def test_a_member_that_was_emptied_gets_everything(world: World, emptied: int) -> None:
    """Though the ledger has it for complete, or for behind since lately."""
    world.run(DOCUMENTS)
    store = world.stores[emptied]
    store.down = True
    world.run({**DOCUMENTS, "doc:new": "new"})
    store.calm()
    store.real.drop()
    embedded = len(world.embedder.texts)
    world.run({**DOCUMENTS, "doc:new": "new"})
    world.all_hold({**DOCUMENTS, "doc:new": "new"})
    world.stores[1 - emptied].real.drop()
    world.run({**DOCUMENTS, "doc:new": "newer"})
    world.all_hold({**DOCUMENTS, "doc:new": "newer"})
    assert len(world.embedder.texts) == embedded + 1


def test_a_member_that_is_left_out_for_a_while(world: World) -> None:
    """A run without it is one that it misses."""
    a, _b = world.stores
    world.run(DOCUMENTS)
    other = {**DOCUMENTS, "doc:1": "other"}
    world.run(other, [a])
    world.run(other)
    world.all_hold(other)


def test_the_one_that_was_up_is_gone_for_good(world: World) -> None:
    """What only it held is embedded again, and no more than that."""
    _a, b = world.stores
    world.run(DOCUMENTS)
    b.down = True
    changed = {**DOCUMENTS, "doc:1": "other", "doc:2": DOCUMENTS["doc:2"] + "\nmore"}
    changed.pop("doc:5")
    world.run(changed)
    b.down = False
    embedded = len(world.embedder.texts)
    world.run(changed, [b])
    assert world.held(b) == expected(changed)
    assert world.embedder.texts[embedded:]
    assert set(world.embedder.texts[embedded:]) <= {"other", "more"}
    assert "no store holds 2 points any more" in world.notices[0]


def test_taken_over_from_another_ledger(world: World) -> None:
    """The first is read back by the caller, the second is brought up to date with it."""
    _a, b = world.stores
    world.run(DOCUMENTS)
    b.real.delete([first_id(world)])
    b.real.write([numbered(1)])
    (world.folder / "ledger.db").unlink()
    with pytest.raises(OwnershipError, match="was filled by another ledger"):
        world.run(DOCUMENTS)
    with world.opened(adopt=True) as (fan, ledger):
        assert fan.count() == 48
        ledger.reset()
        fan.adopt()
        run = ledger.begin_run(SPACE.fingerprint)
        for page in fan.ids():
            points = fan.fetch(page)
            begun = ledger.begin(sorted({p.chunk.uri for p in points}), run)
            rows = [Row(begun[p.chunk.uri].document, bytes.fromhex(p.id), 1, 1, 1) for p in points]
            ledger.acknowledge(rows, run)
        fan.replace_manifest(Manifest(single(SPACE), {"": ledger.id}))
        fan.catch_up()
        assert b.real.manifest() == Manifest(single(SPACE), {"": ledger.id})
    world.all_hold(DOCUMENTS)


def test_one_of_another_space_or_ledger_is_told_by_name(world: World) -> None:
    _a, b = world.stores
    b.real.open(Manifest(single(VectorSpec("another", 4, "other"))))
    with pytest.raises(SpaceMismatch, match=b.url):
        world.run(DOCUMENTS)
    b.real.drop()
    b.real.open(Manifest(single(SPACE), {"": "another ledger"}))
    with pytest.raises(OwnershipError, match=f"{b.url} was filled by another ledger"):
        world.run(DOCUMENTS)
    b.real.replace_manifest(Manifest(single(SPACE), {"wiki": "another ledger"}))
    with pytest.raises(OwnershipError, match=f"{b.url} was filled by another ledger"):
        world.run(DOCUMENTS)


def test_no_manifest_where_one_cannot_be_asked(world: World) -> None:
    """A new member's "there is no index" is not the answer while the one that has it is away."""
    a, b = world.stores
    a.real.open(Manifest(single(SPACE)))
    a.down = True
    with pytest.raises(Transient):
        FanOut([a, b]).manifest()
    a.down = False
    assert FanOut([b, a]).manifest() == Manifest(single(SPACE))
