"""Metadata reaches the index, and so does its change, without anything being embedded again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.errors import UsageError
from penstock.core.records import Chunk, Item
from penstock.ledger import Ledger
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.embedders import HashingEmbedder

Metadata = Mapping[str, Any] | Callable[[Item], Mapping[str, Any]] | None


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"memory://metadata-{folder}"
        for n in range(6):
            self.write(f"{'hr' if n % 2 else 'it'}/{2020 + n}/{n}.md", f"# Title {n}\n\nWhat note {n} says.\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def pipeline(self, metadata: Metadata = None) -> ps.Pipeline:
        docs, state = self.folder / "docs", self.folder / "ledger.db"
        return ps.Pipeline(docs, into=self.url, model=HashingEmbedder(8), state=state, metadata=metadata)

    def chunks(self) -> dict[str, Chunk]:
        sink = MemorySink(self.url)
        manifest = sink.manifest()
        assert manifest is not None
        with sink:
            sink.open(manifest)
            return {p.chunk.metadata["name"]: p.chunk for page in sink.ids() for p in sink.fetch(page)}


@pytest.fixture
def w(tmp_path: Path) -> Any:
    world = World(tmp_path)
    yield world
    forget(world.url)


def test_each_chunk_says_where_it_is_from(w: World) -> None:
    assert w.pipeline().run().ok
    path = w.folder / "docs/hr/2021/1.md"
    found = w.chunks()["1.md"].metadata
    assert found["folder"] == str(path.parent)
    assert found["extension"] == "md"
    assert found["size"] == path.stat().st_size
    assert found["media_type"] == "text/markdown"
    assert found["modified"].endswith("Z")


def test_other_metadata_reaches_the_index_without_a_text_embedded_again(w: World) -> None:
    """All documents get it, once; the old values are found nowhere."""
    w.pipeline({"team": "all", "old": 1}).run()
    assert {c.metadata["team"] for c in w.chunks().values()} == {"all"}
    plan = w.pipeline({"from_path": "docs/{team}/{year:int}/*"}).plan()
    assert (plan.changed, plan.unchanged, plan.chunks) == (6, 0, 0)
    report = w.pipeline({"from_path": "docs/{team}/{year:int}/*"}).run()
    assert (report.embedded, report.moved, report.documents) == (0, 6, 6)
    assert any("read again" in notice for notice in report.notices)
    found = {name: c.metadata for name, c in w.chunks().items()}
    assert (found["3.md"]["team"], found["3.md"]["year"]) == ("hr", 2023)
    assert not any("old" in metadata for metadata in found.values())
    report = w.pipeline({"from_path": "docs/{team}/{year:int}/*"}).run()
    assert (report.unchanged, report.written, report.notices) == (6, 0, ())


def test_what_was_read_again_is_not_read_a_third_time(w: World) -> None:
    """What one run has not come to, the next one does, and no more."""
    w.pipeline().run()

    def slow(item: Item) -> Mapping[str, Any]:
        if item.uri.endswith("/5.md") and not (w.folder / "go").exists():
            raise OSError("away")
        return {"late": True}

    first = w.pipeline(slow).run()
    assert (first.documents, first.failing) == (5, 1)
    (w.folder / "go").touch()
    assert w.pipeline(slow).verify().outdated == 1
    second = w.pipeline(slow).run()
    assert (second.documents, second.unchanged, second.embedded, second.failing) == (1, 5, 0, 0)
    assert all(c.metadata["late"] for c in w.chunks().values())


def test_a_function_that_fails_for_one_document_fails_it_alone(w: World) -> None:
    """What no store can hold is a failure with its cause; the chunks that the document has stay in the index."""
    w.pipeline().run()

    def odd(item: Item) -> Any:
        return {"when": object()} if item.uri.endswith("/0.md") else ["no"] if item.uri.endswith("/1.md") else {"x": 1}

    report = w.pipeline(odd).run()
    assert (report.failed, report.documents) == (2, 4)
    with Ledger.reader(w.folder / "ledger.db") as ledger:
        causes = {f.uri[-4:]: (f.stage, f.cause) for f in ledger.failures()}
    assert causes["0.md"][0] == "metadata"
    assert "'when' is a object" in causes["0.md"][1]
    assert "not a list" in causes["1.md"][1]
    assert len(w.chunks()) == 6


def test_what_the_user_gives_comes_last(w: World) -> None:
    w.pipeline({"media_type": "mine", "size": "large"}).run()
    assert {(c.metadata["media_type"], c.metadata["size"]) for c in w.chunks().values()} == {("mine", "large")}


def test_metadata_in_a_toml_is_remembered(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dates of TOML as well; the ledger runs the pipeline again with it."""
    monkeypatch.chdir(w.folder)
    (w.folder / "penstock.toml").write_text(
        'source = "docs"\ninto = "memory://metadata-toml"\nstate = "toml.db"\nmodel = "none"\n'
        '[metadata]\nfrom_path = "docs/{team}/**"\nsince = 2026-11-30\nnested = {deep = [1, 2]}\n'
    )
    pipeline = ps.Pipeline.from_toml("penstock.toml")
    settings = pipeline._components.settings
    assert settings is not None
    assert '"from_path": "docs/{team}/**"' in settings
    given = pipeline._components.metadata
    assert given is not None
    assert dict(given(Item("file:///x/docs/hr/a.md", "", open))) == {  # type: ignore[arg-type]
        "team": "hr",
        "since": "2026-11-30",
        "nested": {"deep": [1, 2]},
    }


@pytest.mark.parametrize("wrong", [3, "team=hr", {"a": b"1"}, {"a": float("nan")}, {"from_path": "x"}])
def test_metadata_that_is_none_is_refused_at_once(w: World, wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"metadata|from_path"):
        w.pipeline(wrong)


def test_a_fresh_checkout_writes_nothing(w: World) -> None:
    """All times are new, and one file is larger by a line: only the chunks of that line are written."""
    w.pipeline().run()
    before = w.chunks()
    for path in (w.folder / "docs").rglob("*.md"):
        os.utime(path, (1, 1))
    report = w.pipeline().run()
    assert (report.documents, report.kept, report.written) == (6, 6, 0)
    assert w.chunks() == before
    w.write("it/2020/0.md", "# Title 0\n\nWhat note 0 says now.\n")
    report = w.pipeline().run()
    assert (report.embedded, report.written) == (1, 1)
    assert w.chunks()["0.md"].metadata["size"] > before["0.md"].metadata["size"]


def test_an_adopted_index_keeps_what_is_as_it_was(w: World) -> None:
    """Its metadata is read back with it, so that nothing is written anew."""
    w.pipeline({"team": "hr"}).run()
    (w.folder / "ledger.db").unlink()
    report = w.pipeline({"team": "hr"}).run(adopt=True)
    assert (report.embedded, report.kept, report.written) == (0, 6, 0)


def test_a_document_that_will_be_read_again_is_not_explained_as_indexed(w: World) -> None:
    """What a run would do and what is explained are one rule."""
    w.pipeline().run()
    name = w.folder / "docs/hr/2021/1.md"
    assert w.pipeline().explain(name).ok
    explained = w.pipeline({"team": "hr"}).explain(name)
    assert (explained.verdict, explained.ok) == ("changed", False)
    assert "other metadata" in explained.reason
    w.pipeline({"team": "hr"}).run()
    assert w.pipeline({"team": "hr"}).explain(name).ok
