"""One pass into several stores: each is complete in the end, whichever was away, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.compose import open_index
from penstock.core.contracts import Sink
from penstock.core.errors import OwnershipError, Transient
from penstock.ledger import Ledger
from penstock.pipeline import Pipeline
from penstock.sinks.lance import LanceSink
from penstock.sinks.memory import MemorySink, forget
from penstock.sinks.sqlite import SqliteSink
from penstock.testing.chaos import Contents, Lines, contents
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.faults import EmbedFaults, FaultyEmbedder
from penstock.testing.sources import ListSource

pytestmark = pytest.mark.timeout(120)
DOCUMENTS = {f"doc:{n}": "\n".join(f"document {n} line {m}" for m in range(5)) for n in range(10)}


class Away(MemorySink):
    """A store that can be switched off."""

    away = False

    def _reach(self) -> None:
        if type(self).away:
            raise Transient(f"{self.url} is away")

    def manifest(self) -> Any:
        self._reach()
        return super().manifest()

    def open(self, manifest: Any) -> None:
        self._reach()
        super().open(manifest)

    def write(self, points: Any) -> None:
        self._reach()
        super().write(points)

    def delete(self, ids: Any) -> None:
        self._reach()
        super().delete(ids)

    def flush(self) -> None:
        self._reach()
        super().flush()


class Several:
    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, ListSource()
        self.one, self.two = f"lance://{folder}/one", f"memory://two-{folder}"
        self.embedder = FaultyEmbedder(HashingEmbedder(16), EmbedFaults())
        self.tell(DOCUMENTS)

    def tell(self, documents: dict[str, str]) -> None:
        self.source.entries = {uri: text.encode() for uri, text in documents.items()}

    def pipeline(self, *sinks: Sink, model: Any = None) -> Pipeline:
        into = sinks or (LanceSink(self.one), Away(self.two))
        chosen = model or self.embedder
        return Pipeline(self.source, into=into, model=chosen, chunk=Lines(), state=self.folder / "ledger.db")

    def held(self, sink: Sink) -> Contents:
        manifest = sink.manifest()
        assert manifest is not None
        with sink:
            sink.open(manifest)
            return contents(sink)

    def equal(self) -> None:
        """Both hold just what the source has."""
        first, second = self.held(LanceSink(self.one)), self.held(MemorySink(self.two))
        assert first == second
        assert len(first) == sum(text.count(b"\n") + 1 for text in self.source.entries.values())


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Away, "away", False)
    several = Several(tmp_path)
    yield several
    forget(several.two)


def test_both_are_filled_and_each_chunk_is_embedded_once(several: Several) -> None:
    """And both are compared with the ledger."""
    assert several.pipeline().run().ok
    assert len(several.embedder.embedded) == 50
    several.equal()
    assert several.pipeline().verify().ok


def test_a_store_that_was_away_catches_up(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    """With new, changed and deleted documents, from the other store: nothing is embedded again."""
    several.pipeline().run()
    Away.away = True
    changed = {**DOCUMENTS, "doc:3": "something else", "doc:new": "new"}
    del changed["doc:4"]
    several.tell(changed)
    monkeypatch.setattr("penstock.sinks.fanout.group.Member.wait", lambda self, pause: None)
    report = several.pipeline().run()
    assert not report.ok
    assert report.behind == (several.two,)
    assert several.two in report.notices[0]
    Away.away = False
    assert several.pipeline().verify().behind == 1
    several.embedder.embedded.clear()
    assert several.pipeline().run().ok
    assert several.embedder.embedded == []
    several.equal()
    assert several.pipeline().verify().ok


def test_a_second_store_is_added_later_and_left_out_again(several: Several) -> None:
    """It is filled from the first one, and after an absence as well."""
    several.pipeline(LanceSink(several.one)).run()
    several.embedder.embedded.clear()
    assert several.pipeline().run().ok
    assert several.embedder.embedded == []
    several.equal()
    several.tell({**DOCUMENTS, "doc:new": "new\nand newer"})
    several.pipeline(LanceSink(several.one)).run()
    assert len(several.held(MemorySink(several.two))) == 50
    assert several.pipeline().run().ok
    several.equal()


def test_lost_points_are_restored_from_the_other_store(several: Several) -> None:
    """By `repair`; only points that both have lost are embedded again."""
    several.pipeline().run()
    several.embedder.embedded.clear()
    one, two = LanceSink(several.one), MemorySink(several.two)
    ids = sorted(several.held(two))
    two.delete(ids[:5])
    manifest = one.manifest()
    assert manifest is not None
    with one:
        one.open(manifest)
        one.delete(ids[4:8])
        one.flush()
    found = several.pipeline().verify()
    assert found.missing == 9
    assert several.pipeline().verify(repair=True).ok
    assert several.embedder.embedded == [ids[4]]
    several.equal()


def test_both_are_reindexed(several: Several) -> None:
    """The bases of both lead to the new generation; one that was away at the switch follows."""
    several.pipeline().run()
    other = HashingEmbedder(8)
    done = several.pipeline(model=other).reindex()
    assert done.switched
    for url in (several.one, several.two):
        with open_index(url, other) as index:
            assert len(index) == 50
    with (base := MemorySink(several.two)):
        held = base.manifest()
        assert held is not None
        base.replace_manifest(type(held)(held.schema, held.owners))
    assert several.pipeline(model=other).run().ok
    with open_index(several.two, other) as index:
        assert len(index) == 50
    assert several.pipeline(model=other).verify().ok
    several.pipeline(model=other).drop_former()
    with open_index(several.two, other) as index:
        assert len(index) == 50


def test_a_document_that_one_store_chokes_on_does_not_end_every_run(several: Several) -> None:
    class Chokes(MemorySink):
        def write(self, points: Any) -> None:
            if any(point.chunk.uri == "doc:3" for point in points):
                raise ValueError("not this one")
            super().write(points)

    report = several.pipeline(LanceSink(several.one), Chokes(several.two)).run()
    assert (report.failed, report.documents) == (1, len(DOCUMENTS) - 1)
    with Ledger.reader(several.folder / "ledger.db") as ledger:
        causes = {failure.cause for failure in ledger.failures()}
    assert {several.two in cause and "ValueError: not this one" in cause for cause in causes} == {True}
    assert several.pipeline().retry().ok
    several.equal()


def test_a_store_of_another_pipeline_is_refused(several: Several) -> None:
    """By its name; the first is not touched."""
    alone = Pipeline(
        several.source, into=several.two, model=several.embedder, chunk=Lines(), state=several.folder / "x.db"
    )
    alone.run()
    several.pipeline(LanceSink(several.one)).run()
    with pytest.raises(OwnershipError, match="memory://two"):
        several.pipeline().run()
    assert len(several.held(LanceSink(several.one))) == 50


def test_the_command(
    several: Several, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--into` twice; status, verify and retry know both."""
    from penstock.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nwater\n")
    urls = ["lance://./index", "sqlite://./notes.db"]
    assert main(["ingest", "docs", "--into", urls[0], "--into", urls[1]]) == 0
    capsys.readouterr()
    assert main(["status"]) == 0
    said = capsys.readouterr().out
    assert "/index + sqlite:///" in said.replace("\n", " ")
    assert main(["verify"]) == 0
    assert main(["retry"]) == 0
    for url in urls:
        assert main(["search", "water", "--in", url, "--json"]) == 0
    held = SqliteSink(urls[1]).manifest()
    assert held is not None
    assert held == LanceSink(urls[0]).manifest()
