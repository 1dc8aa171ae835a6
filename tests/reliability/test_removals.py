"""Documents taken out for good: they go at once, whatever interrupts it, and nothing brings them back but an undo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import (
    LockedError,
    MassDeletion,
    OwnershipError,
    SinkUnavailable,
    Transient,
    UsageError,
)
from penstock.core.schema import Manifest
from penstock.ledger import Ledger
from penstock.pipeline import Pipeline
from penstock.sinks.lance import LanceSink
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.chaos import Contents, Lines, contents
from penstock.testing.embedders import HashingEmbedder, OtherEmbedder
from penstock.testing.sinks import Died
from penstock.testing.sources import UNREADABLE, FeedSource, ListSource, document
from tests.reliability.test_several import Away
from tests.reliability.world import World, undisturbed

pytestmark = pytest.mark.timeout(120)
DOCUMENTS = {f"doc://{folder}/{n}": f"document {n} of {folder}\nanother line" for folder in "abc" for n in range(4)}
LEFT = {uri: text for uri, text in DOCUMENTS.items() if not uri.startswith("doc://a/")}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, DOCUMENTS)
    assert world.run().ok
    yield world
    world.forget()


def agrees(world: World, removed: int) -> None:
    """Run, plan and verify are of one mind: nothing is to be done, and so many items are passed over."""
    plan = world.pipeline().plan()
    assert (plan.new, plan.changed, plan.deleted, plan.unchanged) == (0, 0, 0, len(LEFT))
    assert world.pipeline().verify().ok
    report = world.run()
    assert (report.documents, report.deleted) == (0, 0)
    assert report.passed_over == {"removed": removed}
    assert report.ok
    assert world.pipeline().verify().ok


def test_a_folder_goes_and_does_not_come_back(world: World) -> None:
    """Neither by a run, nor when its documents change, nor when they are gone and come again."""
    removed = world.pipeline().remove("doc://a")
    assert (removed.documents, removed.chunks, removed.pending) == (4, 8, ())
    assert set(removed.named) == DOCUMENTS.keys() - LEFT.keys()
    assert world.held() == undisturbed(LEFT, world.folder)
    agrees(world, 4)
    world.tell({**DOCUMENTS, "doc://a/0": "changed", "doc://a/new": "new", "doc://a": "itself"})
    agrees(world, 6)
    world.tell(LEFT)
    world.run()
    world.tell(DOCUMENTS)
    agrees(world, 4)
    assert world.held() == undisturbed(LEFT, world.folder)


def test_names_that_only_begin_alike_stay(world: World) -> None:
    more = {**LEFT, "doc://ab": "beside", "doc://a.md": "beside as well", "doc://b/1/2": "beneath"}
    world.tell({**DOCUMENTS, **more})
    world.run()
    world.pipeline().remove("doc://a/", "doc://b/1", "doc://b/1/2", "doc://b/1")
    expected = {uri: text for uri, text in more.items() if not uri.startswith("doc://b/1")}
    assert world.held() == undisturbed(expected, world.folder)


def test_no_limit_of_deletions_applies(world: World) -> None:
    """As for every other reason it does."""
    world.pipeline().remove(*DOCUMENTS)
    assert world.held() == {}
    world.pipeline().remove(*DOCUMENTS, undo=True)
    world.run()
    world.tell({})
    with pytest.raises(MassDeletion):
        world.run()


def test_a_dry_run_removes_nothing(world: World) -> None:
    before = world.held()
    planned = world.pipeline().remove("doc://a", "doc://b/1", dry_run=True)
    assert (planned.documents, planned.chunks) == (5, 10)
    assert planned.uris == ("doc://a", "doc://b/1")
    assert world.held() == before
    assert list(world.pipeline().documents(removed=True)) == []


def test_an_undo_lets_the_next_run_bring_it_in(world: World) -> None:
    world.pipeline().remove("doc://a", "doc://b/1")
    with pytest.raises(UsageError, match="doc://a/1 was removed with doc://a: undo that"):
        world.pipeline().remove("doc://a/1", undo=True)
    with pytest.raises(UsageError, match="doc://c was not removed"):
        world.pipeline().remove("doc://c", undo=True)
    assert world.pipeline().remove("doc://a", undo=True, dry_run=True).uris == ("doc://a",)
    assert [entry.uri for entry in world.pipeline().documents(removed=True)] == ["doc://a", "doc://b/1"]
    assert world.pipeline().remove("doc://a", "doc://b", undo=True).uris == ("doc://a", "doc://b/1")
    report = world.run()
    assert (report.added, report.passed_over) == (5, {})
    assert world.held() == undisturbed(DOCUMENTS, world.folder)


@pytest.mark.parametrize("name", ["doc://nosuch", "doc://b/1/2", "nosuch.md", "/etc", "s3://other/bucket"])
def test_what_the_ledger_does_not_have_is_refused(world: World, name: str) -> None:
    with pytest.raises(UsageError, match="has no document at or beneath"):
        world.pipeline().remove("doc://a", name)
    assert world.held() == undisturbed(DOCUMENTS, world.folder)
    agreed = world.run()
    assert agreed.passed_over == {}


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_name_is_refused(world: World, name: str) -> None:
    with pytest.raises(UsageError, match="expected a path or uri"):
        world.pipeline().remove(name)
    with pytest.raises(UsageError, match="nothing is named"):
        world.pipeline().remove()


@pytest.mark.parametrize("step", ["outdate", "retract", "delete", "flush", "forget", "remove", "settle_removals"])
def test_what_is_killed_the_next_run_finishes(world: World, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without regard to the limit, and a plan before it says so."""
    owner: Any = MemorySink if step in ("delete", "flush") else Ledger

    def die(*args: object) -> None:
        raise Died(step)

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, die)
        with pytest.raises(Died):
            world.pipeline().remove("doc://a", "doc://b")
    plan = world.pipeline().plan()
    assert plan.deleted == (8 if step != "settle_removals" else 0)
    assert not plan.refused
    assert world.pipeline().verify().ok == (step == "settle_removals")
    report = world.run()
    assert report.ok
    assert bool(report.notices) == (step != "settle_removals")
    left = {uri: text for uri, text in LEFT.items() if not uri.startswith("doc://b")}
    assert world.held() == undisturbed(left, world.folder)
    assert world.pipeline().verify().ok


def test_a_store_that_goes_away_is_emptied_by_the_next_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object) -> None:
        raise Transient("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(MemorySink, "delete", away)
        with pytest.raises(SinkUnavailable, match=r"away. The removal is written down: the next run finishes it"):
            world.pipeline().remove("doc://a", max_wait=0)
    assert world.run().ok
    assert world.held() == undisturbed(LEFT, world.folder)


def test_an_index_of_another_ledger_is_left_alone(world: World) -> None:
    into, state = MemorySink(world.url), world.folder / "other.db"
    other = Pipeline(world.source, into=into, model=world.embedder, chunk=Lines(), state=state)
    other.run(adopt=True)
    before = world.held()
    with pytest.raises(OwnershipError, match="was filled by another ledger than"):
        world.pipeline().remove("doc://a")
    assert world.held() == before
    assert list(world.pipeline().documents(removed=True)) == []


def test_a_repair_finishes_it_as_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "forget", _died)
        with pytest.raises(Died):
            world.pipeline().remove("doc://a")
    assert world.pipeline().verify(repair=True).ok
    assert world.held() == undisturbed(LEFT, world.folder)


def test_failures_of_what_is_removed_are_cleared_and_do_not_come_again(world: World) -> None:
    world.listed.entries |= {"doc://a/broken": UNREADABLE, "doc://d": UNREADABLE}
    assert not world.run().ok
    world.pipeline().remove("doc://a", "doc://d")
    assert list(Ledger.reader(world.folder / "ledger.db").failures()) == []
    agrees(world, 6)
    assert world.pipeline().plan().unreadable == 0


def test_a_run_that_goes_on_is_not_disturbed(world: World) -> None:
    with Ledger.writer(world.folder / "ledger.db"), pytest.raises(LockedError):
        world.pipeline().remove("doc://a")
    assert list(world.pipeline().documents(removed=True)) == []


def test_an_index_that_is_gone_is_filled_without_them(world: World) -> None:
    world.forget()
    world.pipeline().remove("doc://a")
    world.run()
    assert world.held() == undisturbed(LEFT, world.folder)


def test_a_feed_that_names_it_again_is_not_heard(tmp_path: Path) -> None:
    feed = FeedSource([document("doc:a", b"one"), document("doc:b", b"two")])
    world = World(tmp_path, source=feed)
    try:
        world.run()
        assert world.pipeline().remove("doc:a").documents == 1
        feed.script += [document("doc:a", b"another one"), document("doc:c", b"three")]
        report = world.run()
        assert (report.added, report.passed_over) == (1, {"removed": 1})
        assert {entry.uri for entry in world.pipeline().documents()} == {"doc:b", "doc:c"}
        assert len(world.held()) == 2
    finally:
        world.forget()


def held(sink: Any) -> Contents:
    manifest = sink.manifest()
    assert manifest is not None
    with sink:
        sink.open(Manifest(manifest.schema, manifest.owners))
        return contents(sink)


def test_a_store_that_is_away_loses_them_when_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several: the others lose them at once."""
    monkeypatch.setattr(Away, "away", False)
    monkeypatch.setattr("penstock.sinks.fanout.group.Member.wait", lambda self, pause: None)
    one, two = f"lance://{tmp_path}/one", f"memory://two-{tmp_path}"
    source = ListSource({uri: text.encode() for uri, text in DOCUMENTS.items()})

    def pipeline() -> Pipeline:
        into = (LanceSink(one), Away(two))
        return Pipeline(source, into=into, model=HashingEmbedder(8), chunk=Lines(), state=tmp_path / "ledger.db")

    try:
        assert pipeline().run().ok
        assert len(held(Away(two))) == 24
        Away.away = True
        assert pipeline().remove("doc://a").documents == 4
        assert len(held(LanceSink(one))) == 16
        Away.away = False
        assert pipeline().run().ok
        assert held(Away(two)) == held(LanceSink(one)) == undisturbed(LEFT, tmp_path)
        assert pipeline().verify().ok
    finally:
        forget(two)


def test_other_namespaces_keep_theirs(tmp_path: Path) -> None:
    url = f"memory://shared-{tmp_path}"
    source = ListSource({uri: text.encode() for uri, text in DOCUMENTS.items()})

    def pipeline(name: str) -> Pipeline:
        state = tmp_path / f"{name}.db"
        return Pipeline(source, into=url, model=HashingEmbedder(8), chunk=Lines(), state=state, namespace=name)

    try:
        assert all(pipeline(name).run().ok for name in ("one", "two"))
        pipeline("one").remove("doc://a")
        assert MemorySink(url).count() == 24 + 16
        assert all(pipeline(name).run().ok for name in ("one", "two"))
        assert MemorySink(url).count() == 24 + 16
    finally:
        forget(url)


class Generations:
    """An index that is built anew."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url, self.state = folder, f"lance://{folder}/index", folder / "ledger.db"
        self.source = ListSource({uri: text.encode() for uri, text in DOCUMENTS.items()})

    def pipeline(self, model: Any) -> Pipeline:
        return Pipeline(self.source, into=self.url, model=model, chunk=Lines(), state=self.state)

    def uris(self, generation: int) -> set[str]:
        sink = LanceSink(self.url)
        return {uri for _, (uri, *_) in _chunks(sink.generation(generation) if generation else sink)}


def _chunks(sink: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    manifest = sink.manifest()
    assert manifest is not None
    with sink:
        sink.open(manifest)
        for page in sink.ids():
            yield from ((point.id, (point.chunk.uri, point.chunk.text)) for point in sink.fetch(page))


def test_a_reindex_does_not_bring_them_back(tmp_path: Path) -> None:
    live = Generations(tmp_path)
    live.pipeline(HashingEmbedder(16)).run()
    live.pipeline(HashingEmbedder(16)).remove("doc://a")
    done = live.pipeline(OtherEmbedder(16)).reindex()
    assert done.switched
    assert live.uris(1) == LEFT.keys()
    report = live.pipeline(OtherEmbedder(16)).run()
    assert (report.added, report.passed_over) == (0, {"removed": 4})
    assert [entry.uri for entry in live.pipeline(OtherEmbedder(16)).documents(removed=True)] == ["doc://a"]


def test_an_undo_counts_for_a_generation_that_was_only_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before it made its index, it is not this pipeline's yet."""
    live = Generations(tmp_path)
    live.pipeline(HashingEmbedder(16)).run()
    live.pipeline(HashingEmbedder(16)).remove("doc://a", "doc://b/1")
    with monkeypatch.context() as patch:
        patch.setattr("penstock.jobs.reindex._fill", _died)
        with pytest.raises(Died):
            live.pipeline(OtherEmbedder(16)).reindex()
    live.pipeline(HashingEmbedder(16)).remove("doc://a", undo=True)
    live.pipeline(OtherEmbedder(16)).reindex()
    assert live.uris(1) == DOCUMENTS.keys() - {"doc://b/1"}


def _died(*args: object) -> None:
    raise Died


def test_an_index_that_is_taken_over_loses_them(world: World) -> None:
    """Here by a ledger that knows of the removal, and whose index another one filled in the meantime."""
    world.pipeline().remove("doc://a", "doc://b")
    world.forget()
    other = Pipeline(
        world.source, into=MemorySink(world.url), model=world.embedder, chunk=Lines(), state=world.folder / "other.db"
    )
    assert other.run().added == 12
    report = world.run(adopt=True)
    assert report.passed_over == {"removed": 8}
    assert world.held() == undisturbed({uri: DOCUMENTS[uri] for uri in DOCUMENTS if "/c/" in uri}, world.folder)


def test_a_rollback_does_not_bring_them_back(tmp_path: Path) -> None:
    """They go from the generation that is kept as well, and an undo is one for both."""
    live = Generations(tmp_path)
    live.pipeline(HashingEmbedder(16)).run()
    assert live.pipeline(OtherEmbedder(16)).reindex().switched
    live.pipeline(OtherEmbedder(16)).remove("doc://a")
    assert live.uris(0) == live.uris(1) == LEFT.keys()
    live.pipeline(OtherEmbedder(16)).rollback()
    assert live.pipeline(HashingEmbedder(16)).run().passed_over == {"removed": 4}
    live.pipeline(HashingEmbedder(16)).remove("doc://a", undo=True)
    assert live.pipeline(HashingEmbedder(16)).run().added == 4
    live.pipeline(HashingEmbedder(16)).rollback()
    assert live.pipeline(OtherEmbedder(16)).run().added == 4


def test_a_generation_that_is_being_filled_loses_them_with_its_next_run(tmp_path: Path) -> None:
    live = Generations(tmp_path)
    live.pipeline(HashingEmbedder(16)).run()
    assert live.pipeline(OtherEmbedder(16)).reindex().switched
    with Ledger.writer(live.state):
        removed = live.pipeline(OtherEmbedder(16)).remove("doc://a")
    assert removed.pending == (live.url,)
    assert live.uris(0) == DOCUMENTS.keys()
    assert live.uris(1) == LEFT.keys()
    live.pipeline(OtherEmbedder(16)).rollback()
    assert live.pipeline(HashingEmbedder(16)).run().ok
    assert live.uris(0) == LEFT.keys()
