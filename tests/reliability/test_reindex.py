"""An index built anew beside the one that is searched: complete or not current, and never two spaces in one search."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.compose import open_index
from penstock.core.contracts import Embedder, Index
from penstock.core.errors import (
    LockedError,
    MassDeletion,
    OwnershipError,
    SinkError,
    SpaceMismatch,
    StageError,
    UsageError,
)
from penstock.jobs import following
from penstock.jobs import reindex as reindexing
from penstock.jobs.components import current_ledger
from penstock.jobs.run import run
from penstock.ledger import Ledger
from penstock.pipeline import Pipeline
from penstock.sinks.lance import LanceIndex, LanceSink
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder, OtherEmbedder
from penstock.testing.faults import EmbedFaults, FaultyEmbedder
from penstock.testing.sinks import Died
from penstock.testing.sources import UNLISTED, UNREADABLE, ListSource

pytestmark = pytest.mark.timeout(120)
DOCUMENTS = {f"doc:{n}": "\n".join(f"document {n} line {m}" for m in range(5)) for n in range(20)}


class Live:
    """One index in LanceDB, whose source may change at any time."""

    def __init__(self, folder: Path) -> None:
        self.url, self.state = f"lance://{folder}/index", folder / "ledger.db"
        self.source = ListSource()
        self.tell(DOCUMENTS)

    def tell(self, documents: dict[str, str]) -> None:
        self.source.entries = {uri: text.encode() for uri, text in documents.items()}

    def pipeline(self, model: Embedder) -> Pipeline:
        return Pipeline(self.source, into=self.url, model=model, chunk=Lines(), state=self.state)

    def uris(self, model: Embedder) -> set[str]:
        with open_index(self.url, model) as index:
            return {hit.chunk.uri for hit in index.search("document", k=1000)}


@pytest.fixture
def live(tmp_path: Path) -> Live:
    live = Live(tmp_path)
    assert live.pipeline(HashingEmbedder(16)).run().ok
    return live


def test_the_new_index_is_current_when_it_is_complete(live: Live) -> None:
    """Searches and runs use it by the same url; the old model is refused."""
    done = live.pipeline(OtherEmbedder(16)).reindex()
    assert done.switched
    assert done.points == 100
    assert done.recall == 1.0
    assert live.uris(OtherEmbedder(16)) == set(DOCUMENTS)
    with pytest.raises(SpaceMismatch):
        live.uris(HashingEmbedder(16))
    with pytest.raises(SpaceMismatch):
        live.pipeline(HashingEmbedder(16)).run()
    live.tell({**DOCUMENTS, "doc:new": "a new one"})
    report = live.pipeline(OtherEmbedder(16)).run()
    assert report.counts["embedded"] == 1
    assert live.pipeline(OtherEmbedder(16)).verify().ok
    assert "doc:new" in live.uris(OtherEmbedder(16))
    assert current_ledger(live.state) == live.state.with_name("ledger.1.db")


def test_rollback_and_forward_again(live: Live) -> None:
    """The former index exists until it is dropped, and its ledger knows what it lacks."""
    live.pipeline(OtherEmbedder(16)).reindex()
    live.tell({**DOCUMENTS, "doc:new": "a new one"})
    live.pipeline(OtherEmbedder(16)).run()
    assert live.pipeline(OtherEmbedder(16)).rollback() == live.url
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)
    assert live.pipeline(HashingEmbedder(16)).run().counts["embedded"] == 1
    assert current_ledger(live.state) == live.state
    live.pipeline(HashingEmbedder(16)).rollback()
    assert "doc:new" in live.uris(OtherEmbedder(16))
    with pytest.raises(UsageError, match="still kept"):
        live.pipeline(HashingEmbedder(16)).reindex()


def test_drop_removes_the_former_generation(live: Live) -> None:
    """The base stays, without points; a second re-index builds the next generation, and a drop leaves one index."""
    live.pipeline(OtherEmbedder(16)).reindex()
    assert live.pipeline(OtherEmbedder(16)).drop_former() == [live.url]
    with LanceIndex(live.url) as base:
        base.open()
        assert base.count() == 0
    with pytest.raises(UsageError, match="no generation before"):
        live.pipeline(OtherEmbedder(16)).rollback()
    done = live.pipeline(HashingEmbedder(16)).reindex()
    assert done.switched
    assert done.url.endswith("_2")
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)
    dropped = live.pipeline(HashingEmbedder(16)).drop_former()
    assert [url[-2:] for url in dropped] == ["_1"]
    assert not live.state.with_name("ledger.1.db").exists()
    assert live.pipeline(HashingEmbedder(16)).drop_former() == []
    assert live.pipeline(HashingEmbedder(16)).verify().ok


def test_a_killed_reindex_resumes(live: Live) -> None:
    """Nothing is current before it is complete; nothing is embedded again."""
    broken = FaultyEmbedder(OtherEmbedder(16), EmbedFaults(fatal=frozenset({10}), seconds=0.1))
    broken.batch_rows = 8
    with pytest.raises(StageError):
        live.pipeline(broken).reindex()
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)
    assert live.pipeline(HashingEmbedder(16)).run().counts["embedded"] == 0
    again = FaultyEmbedder(OtherEmbedder(16), EmbedFaults())
    done = live.pipeline(again).reindex()
    assert done.switched
    assert len(again.embedded) < 100
    assert live.uris(OtherEmbedder(16)) == set(DOCUMENTS)


def test_an_unfinished_generation_can_be_dropped(live: Live) -> None:
    """And leaves the current one alone."""
    broken = FaultyEmbedder(OtherEmbedder(16), EmbedFaults(fatal=frozenset({1})))
    broken.batch_rows = 8
    with pytest.raises(StageError):
        live.pipeline(broken).reindex()
    assert [url[-2:] for url in live.pipeline(HashingEmbedder(16)).drop_former()] == ["_1"]
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)


def test_documents_that_the_new_index_would_lose_stop_the_switch(live: Live) -> None:
    """They are named, and the old index stays current, unless the loss is allowed."""
    poison = EmbedFaults(poison="document 3 line 1")
    done = live.pipeline(FaultyEmbedder(OtherEmbedder(16), poison)).reindex()
    assert not done.switched
    assert done.lost == ("doc:3",)
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)
    assert live.pipeline(FaultyEmbedder(OtherEmbedder(16), poison)).reindex(incomplete=True).switched
    assert live.uris(OtherEmbedder(16)) == set(DOCUMENTS)


def test_a_source_that_cannot_be_listed_whole_stops_the_switch(live: Live) -> None:
    """Documents in a folder that cannot be read would be missing in silence."""
    live.tell({uri: text for uri, text in DOCUMENTS.items() if uri != "doc:3"})
    live.source.entries["doc:3"] = UNLISTED
    done = live.pipeline(OtherEmbedder(16)).reindex()
    assert not done.switched
    assert not done.complete
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)


def test_a_document_that_cannot_be_listed_stops_the_switch(live: Live) -> None:
    """Though the listing was complete otherwise."""
    live.source.entries["doc:3"] = UNREADABLE
    done = live.pipeline(OtherEmbedder(16)).reindex()
    assert not done.switched
    assert done.lost == ("doc:3",)
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)


def test_a_source_that_is_nearly_empty_stops_the_switch(live: Live) -> None:
    """It looks like a disk that is not mounted; unless that is allowed."""
    live.tell({"doc:1": DOCUMENTS["doc:1"]})
    with pytest.raises(MassDeletion, match="--incomplete"):
        live.pipeline(OtherEmbedder(16)).reindex()
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)
    live.tell({})
    with pytest.raises(MassDeletion):
        live.pipeline(OtherEmbedder(16)).reindex()
    live.tell({"doc:1": DOCUMENTS["doc:1"]})
    assert live.pipeline(OtherEmbedder(16)).reindex(incomplete=True).switched


def test_a_low_recall_stops_the_switch(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recall is measured against an exact search."""
    search = LanceIndex.search

    def half(self: Index, vector: Any, k: int = 10, where: Any = None, *, using: str | None = None) -> Any:
        return search(self, vector, k, where, using=using)[: k // 2]

    monkeypatch.setattr(LanceIndex, "search", half)
    done = live.pipeline(OtherEmbedder(16)).reindex()
    assert done.recall == pytest.approx(0.5)
    assert not done.switched


def test_both_generations_follow_the_source(live: Live) -> None:
    """Documents come, change and go, the old index is run and searched all the while; then the new one has it all."""
    stop = threading.Event()
    seen: list[str] = []
    wrong: list[BaseException] = []

    def change() -> None:
        n = 0
        try:
            while not stop.wait(0.05) and n < 40:
                n += 1
                documents = {uri: text for uri, text in DOCUMENTS.items() if uri != f"doc:{n % 20}"}
                live.tell({**documents, "doc:busy": f"version {n}"})
                if n % 5 == 0:
                    live.pipeline(HashingEmbedder(16)).run()
        except SpaceMismatch:
            seen.append("switched")
        except BaseException as error:
            wrong.append(error)

    def search() -> None:
        try:
            while not stop.is_set():
                for model in (HashingEmbedder(16), OtherEmbedder(16)):
                    try:
                        with open_index(live.url, model) as index:
                            hits = index.search("document 7 line 2", k=1)
                    except SpaceMismatch:
                        continue
                    seen.append(model.describe().model)
                    if hits and hits[0].score < 0.4:  # of one space, the same words are near each other
                        raise AssertionError(f"{hits[0].score} by {model.describe().model}")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=change), threading.Thread(target=search)]
    for thread in threads:
        thread.start()
    slow = FaultyEmbedder(OtherEmbedder(16), EmbedFaults(seconds=0.1))
    slow.batch_rows = 16
    done = live.pipeline(slow).reindex()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert done.switched
    assert "hashing" in seen
    live.pipeline(OtherEmbedder(16)).run()
    assert live.pipeline(OtherEmbedder(16)).verify().ok
    assert live.uris(OtherEmbedder(16)) == set(live.source.entries)


def test_an_open_search_keeps_its_generation(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until that is dropped, or it looks again; opened anew it uses the current one."""
    monkeypatch.setattr(following, "CHECK_INTERVAL", 1e9)
    with open_index(live.url, HashingEmbedder(16)) as before:
        live.pipeline(OtherEmbedder(16)).reindex()
        assert before.search("document 17 line 4", k=1)[0].score == pytest.approx(1.0)
    assert live.uris(OtherEmbedder(16)) == set(DOCUMENTS)


def test_a_generation_dropped_while_a_search_opens(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is read again, and leads to the current one."""
    live.pipeline(OtherEmbedder(16)).reindex()
    live.pipeline(OtherEmbedder(16)).drop_former()
    live.pipeline(HashingEmbedder(16)).reindex()
    base = LanceIndex(live.url)
    late = base.manifest()
    real, answers = LanceIndex.manifest, [replace(late, current=1)]
    live.pipeline(HashingEmbedder(16)).drop_former()

    def manifest(self: LanceIndex) -> Any:
        return answers.pop() if answers and self.url == live.url else real(self)

    monkeypatch.setattr(LanceIndex, "manifest", manifest)
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)
    assert not answers


def test_invalid_requests_are_refused(live: Live, tmp_path: Path) -> None:
    """Each before anything is built."""
    with pytest.raises(UsageError, match="is made of that already"):
        live.pipeline(HashingEmbedder(16)).reindex()
    with pytest.raises(SinkError, match="no index"):
        Pipeline(
            live.source, into=f"lance://{tmp_path}/nowhere", model=OtherEmbedder(16), state=tmp_path / "n.db"
        ).reindex()
    foreign = Pipeline(
        live.source, into=live.url, model=OtherEmbedder(16), chunk=Lines(), state=tmp_path / "foreign.db"
    )
    with pytest.raises((OwnershipError, UsageError)):
        foreign.reindex()
    assert not (tmp_path / "index" / "chunks_1.lance").exists()


def test_a_table_of_the_next_name_is_left_alone(live: Live, tmp_path: Path) -> None:
    """Neither written to nor dropped, if it is of another pipeline: the generation after it is built."""
    taken = Pipeline(
        live.source, into=f"{live.url}?table=chunks_1", model=OtherEmbedder(16), state=tmp_path / "taken.db"
    )
    taken.run()
    done = live.pipeline(OtherEmbedder(16)).reindex()
    assert done.switched
    assert done.url.endswith("_2")
    live.pipeline(OtherEmbedder(16)).rollback()
    assert [url[-2:] for url in live.pipeline(HashingEmbedder(16)).drop_former()] == ["_2"]
    assert live.pipeline(HashingEmbedder(16)).drop_former() == []
    assert taken.verify().ok


def test_an_unfinished_generation_of_another_model_is_refused(live: Live) -> None:
    """With a third model neither the half-built index nor the current one is touched."""
    run(live.pipeline(OtherEmbedder(16))._components.at(1))
    with pytest.raises(UsageError, match="begun with other"):
        live.pipeline(HashingEmbedder(8)).reindex()
    live.pipeline(HashingEmbedder(16)).drop_former()
    assert live.pipeline(HashingEmbedder(8)).reindex().switched


def test_a_drop_is_refused_during_a_reindex(live: Live) -> None:
    """The builder holds its ledger."""
    held = live.pipeline(OtherEmbedder(16))._components.at(1)
    run(held)
    with held.ledger:
        held.ledger.open()
        with pytest.raises(LockedError):
            live.pipeline(HashingEmbedder(16)).drop_former()
    assert reindexing.measured_recall(held.sink) == 1.0


def test_one_namespace_cannot_reindex_a_shared_index(tmp_path: Path) -> None:
    """The points of the others would be missing."""
    url, source = f"lance://{tmp_path}/shared", ListSource({"doc:1": b"one"})
    for name in ("docs", "wiki"):
        Pipeline(source, into=url, model=HashingEmbedder(16), state=tmp_path / f"{name}.db", namespace=name).run()
    again = Pipeline(source, into=url, model=OtherEmbedder(16), state=tmp_path / "docs.db", namespace="docs")
    with pytest.raises(OwnershipError, match="wiki"):
        again.reindex()


def test_killed_right_after_the_switch(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest counts: the next run, and the commands that ask the ledger alone, find the new generation."""

    def dies(ledger: Ledger, number: int) -> None:
        if number:
            raise Died("right after the manifest was replaced")

    with monkeypatch.context() as patched:
        patched.setattr("penstock.jobs.reindex.point_ledger", dies)
        with pytest.raises(Died):
            live.pipeline(OtherEmbedder(16)).reindex()
    assert live.uris(OtherEmbedder(16)) == set(DOCUMENTS)
    assert live.pipeline(OtherEmbedder(16)).run().counts["embedded"] == 0
    assert current_ledger(live.state) == live.state.with_name("ledger.1.db")


@pytest.mark.parametrize("step", ["drop", "reset"])
def test_killed_during_a_drop(live: Live, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A half-dropped generation cannot become current, and a second drop removes the rest."""
    live.pipeline(OtherEmbedder(16)).reindex()
    live.pipeline(OtherEmbedder(16)).drop_former()
    live.pipeline(HashingEmbedder(16)).reindex()

    def dies(*_: Any) -> None:
        raise Died(step)

    with monkeypatch.context() as patched:
        patched.setattr(LanceSink if step == "drop" else Ledger, step, dies)
        with pytest.raises(Died):
            live.pipeline(HashingEmbedder(16)).drop_former()
    with pytest.raises(UsageError, match="no generation before"):
        live.pipeline(HashingEmbedder(16)).rollback()
    live.pipeline(HashingEmbedder(16)).drop_former()
    assert not (Path(live.url.removeprefix("lance://")) / "chunks_1.lance").exists()
    assert live.uris(HashingEmbedder(16)) == set(DOCUMENTS)
    assert live.pipeline(OtherEmbedder(16)).reindex().switched
