"""Runs whose documents are parsed and embedded by workers: the index is that of a run in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import OwnershipError, UsageError
from penstock.engine.journal import Begun
from penstock.engine.progress import Progress
from penstock.ledger import Ledger
from penstock.workers.place import Place, Work
from penstock.workers.produce import PartJournal, Setup
from penstock.workers.shard import Listed, encode
from penstock.workers.worker import Worker
from tests.workers.world import SOON, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def fill(world: World, documents: int = 150, paragraphs: int = 3) -> None:
    for number in range(documents):
        world.tell(f"{number}.txt", *(f"document {number} paragraph {n} " + "word " * 30 for n in range(paragraphs)))


def test_the_index_is_that_of_one_process(world: World) -> None:
    fill(world)
    report, workers = world.run()
    assert report.ok
    assert report.complete
    assert report.counts["documents"] == 150
    assert len(world.embedded()) == report.counts["embedded"] == report.counts["written"] == 450
    assert sum(worker.shards for worker in workers) == 7  # 4 of 16 documents, and 3 of 32 at most
    assert world.agrees()
    assert not Place.at(world.place).parts()
    assert not Place.at(world.place).shards()


def test_what_changes_is_embedded_alone(world: World) -> None:
    fill(world)
    world.run()
    world.embedded()
    for number in range(5):
        path = world.docs / f"{number}.txt"
        path.write_text(path.read_text() + "\n\nanother paragraph " + "x " * 60)
        (world.docs / f"{number + 10}.txt").unlink()
        (world.docs / f"{number + 20}.txt").rename(world.docs / f"moved-{number}.txt")
    report, _ = world.run()
    assert report.counts["moved"] == 15
    assert report.counts["deleted"] == 10
    assert sorted({*world.embedded()}) == [world.uri(f"{number}.txt") for number in range(5)]
    assert report.counts["embedded"] == 5
    assert world.agrees()


def test_nothing_changed_needs_no_worker(world: World) -> None:
    fill(world, 10)
    world.run()
    before = Place.at(world.place).work()
    report = world.coordinate()  # nobody works
    assert report.ok
    assert report.complete
    assert report.counts["unchanged"] == 10
    assert Place.at(world.place).work() == before


def test_a_vector_that_the_index_lacks_after_all_is_made(world: World) -> None:
    """The index was to have it, by its content, and has lost it."""
    fill(world, 5)
    world.run()
    lost = next(id for id, (chunk, _) in world.held().items() if chunk.uri == world.uri("1.txt"))
    with world._components("index").sink as sink:
        sink.open(sink.manifest())
        sink.delete([lost])
    world.embedded()
    (world.docs / "1.txt").rename(world.docs / "moved.txt")
    report, _ = world.run()
    assert report.ok, report
    assert report.counts["moved"] == 2
    assert {*world.embedded()} == {world.uri("moved.txt")}
    assert world.agrees()


def test_a_chunk_that_has_moved_within_its_document_and_is_lost_is_made(world: World) -> None:
    """It is found under its own name, and is not there."""
    world.tell("1.txt", "first " + "word " * 30, "second " + "word " * 30)
    world.run(workers=1)
    lost = [id for id, (chunk, _) in world.held().items() if chunk.text.startswith("second")]
    with world._components("index").sink as sink:
        sink.open(sink.manifest())
        sink.delete(lost)
    world.tell("1.txt", "before " + "word " * 30, "first " + "word " * 30, "second " + "word " * 30)
    report, _ = world.run(workers=1)
    assert report.ok
    assert world.agrees()


def test_a_chunk_that_was_taken_to_be_there_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an earlier worker had it in a part, and the store did not take it."""
    fill(world, 3)
    digests = PartJournal.digests

    def all_of_them(journal: PartJournal, document: int, ids: Sequence[bytes]) -> dict[bytes, int]:
        found = digests(journal, document, ids)
        return found if journal._shard.afresh else {**found, ids[0]: Anything()}  # type: ignore[dict-item]

    monkeypatch.setattr(PartJournal, "digests", all_of_them)
    monkeypatch.setattr(
        PartJournal,
        "begin",
        lambda journal, uris, run: {uri: Begun(journal._numbers[uri], 1, had=True) for uri in uris},
    )
    report, _ = world.run(workers=1)
    assert report.ok
    assert world.agrees()


class Anything(int):
    """Equal to every digest."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def test_a_worker_asks_what_is_to_be_done_once_it_has_a_shard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run, with other settings, may have begun since it asked last."""
    place = Place.at(world.place)
    schema = world._components("index").schema()
    first, second = (Work("ledger", run, {"chunk": chunk}, schema, "", "0.1.0") for run, chunk in ((1, "a"), (2, "b")))
    place.begin(first)
    place.put_shard(200_000, encode(200_000, [Listed("file:///0", "f")]), b"")
    take, asked = Worker._take, list[Work]()

    def begun_meanwhile(worker: Worker) -> Any:
        place.begin(second)
        return take(worker)

    def setup(work: Work, stack: ExitStack) -> Setup:
        asked.append(work)
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "_take", begun_meanwhile)
    assert Worker(place, setup, SOON).work().status == "stopped"
    assert asked == [second]


def test_failures_are_the_run_s_own(world: World) -> None:
    fill(world, 3)
    (world.docs / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing of a document")
    (world.docs / "binary.bin").write_bytes(bytes(range(256)) * 20)
    report, _ = world.run()
    assert not report.ok
    assert (report.counts["failed"], report.counts["skipped"], report.counts["documents"]) == (1, 1, 3)
    world.alone()
    with Ledger.reader(world.folder / "index.ledger") as one, Ledger.reader(world.folder / "alone.ledger") as other:
        assert [(f.uri, f.stage, f.cause, f.permanent) for f in one.failures()] == [
            (f.uri, f.stage, f.cause, f.permanent) for f in other.failures()
        ]
        assert one.counts() == other.counts()
    assert world.coordinate().counts["parked"] == 1


def test_the_index_fills_as_parts_come(world: World) -> None:
    fill(world, 200)
    seen: list[tuple[int, int]] = []

    def watch(now: Progress) -> None:
        seen.append((now.counts["written"], now.counts["embedded"]))

    worker = world._pool.submit(world.work, seconds=0.002)
    world.coordinate(watch)
    worker.result(60)
    assert any(0 < written < 600 for written, _ in seen)


def test_a_run_says_that_it_waits_for_workers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.workers.roster.ALONE", 0.0)
    monkeypatch.setattr("penstock.workers.roster.EVERY", 0.1)
    fill(world, 1)
    said: list[str] = []
    workers: list[Any] = []

    def watch(now: Progress) -> None:
        if now.waiting and not said:
            said.append(now.waiting)
            workers.append(world._pool.submit(world.work))

    assert world.coordinate(watch).ok
    assert said == [f"a worker: start `penstock work {world.place}`, on as many machines as you like"]


def test_a_worker_of_another_model_is_told(world: World) -> None:
    fill(world, 2)
    said: list[str] = []

    def watch(now: Progress) -> None:
        if "other" in now.waiting and not said:
            said.append(now.waiting)
            right.append(world._pool.submit(world.work))

    right: list[Any] = []
    wrong = world._pool.submit(world.work, model="other")
    assert world.coordinate(watch).ok
    with pytest.raises(Exception, match="every machine needs the same model"):
        wrong.result(60)
    assert said
    assert "logging" in said[0]


def test_another_pipeline_s_place_is_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    fill(world, 2)
    stops = iter([KeyboardInterrupt()])

    def stop(now: Progress) -> None:
        if Place.at(world.place).shards() and (one := next(stops, None)) is not None:
            raise one

    assert world.coordinate(stop).status == "stopped"
    other = World(tmp_path / "other")
    other.place = world.place
    fill(other, 1)
    with pytest.raises(OwnershipError, match="another pipeline"):
        other.coordinate()
    report, _ = world.run(workers=1)
    assert report.ok
    assert world.agrees()


def test_components_of_one_s_own_cannot_be_told(world: World) -> None:
    components = world._components("index")
    components.settings = None
    from penstock.jobs.run import Options, run

    fill(world, 1)
    with pytest.raises(UsageError, match="as words"):
        run(components, options=Options(place=Place.at(world.place)))


@pytest.mark.parametrize("place", ["/srv/work", "s3://b/work", "shards://", "shardss3://b/w", "shards+://x"])
def test_a_place_is_a_url(place: str) -> None:
    with pytest.raises(UsageError, match="expected a folder"):
        Place.at(place)
